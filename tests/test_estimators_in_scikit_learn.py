"""The estimators in every respect, on PyTorch.

It takes hundreds of fits. On TensorFlow and JAX each compiles its steps, for a second or two; on
PyTorch it takes some milliseconds. What is tested on TensorFlow too is in test_estimators.py.
"""

import copy
import importlib
import pickle
import sys

import keras
import numpy as np
import pytest

import sda

pytest.importorskip("sklearn")

from joblib import parallel_config
from joblib.externals.loky import get_reusable_executor
from scipy import sparse
from scipy.linalg import subspace_angles
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from test_estimators import (
    BY_HAND,
    CHECKED,
    ESTIMATORS,
    SHORT,
    SMALL,
    copied_and_trained_on,
    labels,
    outputs,
    pretrain,
    same,
    stack_by_hand,
    targets,
    values,
    weights,
    x,
)

from sda.estimators import SdAClassifier, SdARegressor, SdATransformer

pytestmark = pytest.mark.slow

# The same by hand, and what the mathematics says


def test_the_regressor_standardises_its_targets():
    y = np.stack([values, -values / 1000 + x[:, 2]], axis=1)
    regressor = SdARegressor(**BY_HAND, epochs=3, batch_size=10, loss="absolute_error").fit(x, y)
    stack = stack_by_hand()
    pretrain(stack)
    model = stack.regressor(2)
    model.compile("adam", "mae")
    mean, deviation = y.mean(axis=0), y.std(axis=0)
    sda.fit(model, x, (y - mean) / deviation, batch_size=10, epochs=3, seed=3, verbose=0)
    by_hand = model.predict(x, verbose=0) * deviation + mean
    np.testing.assert_allclose(regressor.predict(x), by_hand, rtol=1e-4)


def n_calls_are_n_epochs(make, settings, y=None, **arguments):
    whole, in_parts = make(**settings).fit(x, y), make(**settings)
    for _ in range(3):
        in_parts.partial_fit(x, y, **arguments)
    assert same(weights(in_parts), weights(whole))
    assert in_parts.histories_ == whole.histories_
    assert getattr(in_parts, "history_", None) == getattr(whole, "history_", None)
    assert same(outputs(in_parts), outputs(whole))


def test_n_calls_of_partial_fit_are_n_epochs():
    one_layer = {**SMALL, "hidden_layer_sizes": 5}
    n_calls_are_n_epochs(SdATransformer, {**one_layer, "pretraining_epochs": 3})
    n_calls_are_n_epochs(SdAClassifier, {**one_layer, "epochs": 3}, labels, classes=[0, 1, 2])
    n_calls_are_n_epochs(SdARegressor, {**one_layer, "epochs": 3}, values)


def test_a_linear_dA_without_noise_spans_the_principal_components():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 8)) + 0.1 * rng.normal(size=(300, 8))
    rows = StandardScaler().fit_transform(rows)
    transformer = SdATransformer(
        3,
        activation="linear",
        corruption=0.0,
        pretraining_learning_rate=0.02,
        pretraining_epochs=60,
        random_state=0,
    ).fit(rows)
    kernel = transformer.stack_.autoencoders[0].encoder.get_weights()[0]
    pca = PCA(3).fit(rows)
    assert np.degrees(subspace_angles(kernel, pca.components_.T)).max() < 3
    rebuilt = transformer.inverse_transform(transformer.transform(rows))
    np.testing.assert_allclose(rebuilt, pca.inverse_transform(pca.transform(rows)), atol=0.1)


# The checks, and what they leave out

# A step on many rows, after pretraining under noise, is not many steps on one row each.
NOT_EQUIVALENT = "pretraining has no weights, and batches differ: see the test of its own"
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": NOT_EQUIVALENT,
    "check_sample_weight_equivalence_on_sparse_data": NOT_EQUIVALENT,
}


@pytest.mark.parametrize("name", CHECKED)
def test_scikit_learns_own_checks(name):
    results = estimator_checks.check_estimator(
        CHECKED[name], expected_failed_checks=EXPECTED, on_skip=None
    )
    assert len(results) > 40
    others = {r["check_name"]: r["status"] for r in results if r["status"] != "passed"}
    # The array API has an environment variable of its own; then it is not for NumPy arrays.
    others.pop("check_array_api_input", None)
    assert others == ({} if name == "transformer" else dict.fromkeys(EXPECTED, "xfail"))


@pytest.mark.parametrize("make", [SdAClassifier, SdARegressor])
@pytest.mark.parametrize("check", EXPECTED)
def test_a_weight_of_two_is_a_row_twice(make, check):
    """The two checks left out above, where a step sees all rows and rounding is in float64.

    scikit-learn's own networks pass them under other settings too: MLPClassifier with
    solver="lbfgs", MLPRegressor with solver="sgd" (PER_ESTIMATOR_CHECK_PARAMS there).
    """
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        estimator = make(5, pretraining_epochs=0, batch_size=100, epochs=5, optimizer="sgd")
        getattr(estimator_checks, check)(make.__name__, estimator)
    finally:
        keras.config.set_floatx(before)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_seed_gives_the_same_weights_twice(name):
    estimator = clone(ESTIMATORS[name])
    first = weights(estimator.fit(x, targets[name]))
    assert same(weights(estimator.fit(x, targets[name])), first)
    assert not same(weights(estimator.set_params(random_state=1).fit(x, targets[name])), first)


def test_other_sources_of_a_seed():
    drawn = [
        weights(SdATransformer(3, pretraining_epochs=1, random_state=state).fit(x))
        for state in (np.random.RandomState(5), np.random.RandomState(5), None, None)
    ]
    assert same(drawn[0], drawn[1])
    assert not same(drawn[1], drawn[2])
    assert not same(drawn[2], drawn[3])


OTHER = {
    "hidden_layer_sizes": [5, 4],
    "activation": "tanh",
    "corruption": 0.5,
    "noise": "gaussian",
    "decoder_activation": ["linear", "linear"],
    "tied": False,
    "reconstruction_loss": ["squared_error", "mse"],
    "pretraining_optimizer": "sgd",
    "pretraining_learning_rate": 0.1,
    "pretraining_epochs": 1,
    "pretraining_batch_size": 7,
    "dropout": 0.5,
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "epochs": 2,
    "batch_size": 7,
    "early_stopping": True,
    "random_state": 1,
    "loss": "absolute_error",
    "unlabelled": 2,
}
# Tested below; these do not show in the weights of a first fit.
ELSEWHERE = {
    "codes_storage",
    "layers",
    "n_iter_no_change",
    "validation_fraction",
    "verbose",
    "warm_start",
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_no_parameter_is_ignored(name):
    base = clone(ESTIMATORS[name])
    fitted = weights(base.fit(x, targets[name]))
    names = set(base.get_params()) - ELSEWHERE
    assert names <= set(OTHER)
    for parameter in sorted(names):
        other = clone(base).set_params(**{parameter: OTHER[parameter]})
        assert not same(weights(other.fit(x, targets[name])), fitted), parameter


def test_stopping_early_holds_rows_out(capsys):
    y = labels.copy()
    settings = {**SHORT, "hidden_layer_sizes": 3, "epochs": 40, "learning_rate": 0.5}
    classifier = SdAClassifier(
        **settings, early_stopping=True, validation_fraction=0.2, n_iter_no_change=2, verbose=2
    ).fit(x, y)
    accuracy = classifier.history_["val_accuracy"]
    assert len(accuracy) == 3 + int(np.argmax(accuracy)) < 40
    assert "val_loss" in classifier.histories_[0]
    assert "val_accuracy" in capsys.readouterr().out
    # The best weights are back: the held-out rows are scored as they were then.
    _, held_out = train_test_split(np.arange(50), test_size=0.2, random_state=0, stratify=y)
    assert classifier.score(x[held_out], y[held_out]) == pytest.approx(max(accuracy))
    # Nothing was learned from them.
    spoilt = x.copy()
    spoilt[held_out] = x[held_out] + 1e-3
    again = clone(classifier).set_params(epochs=1, n_iter_no_change=1, verbose=0)
    assert same(weights(clone(again).fit(x, y)), weights(again.fit(spoilt, y)))
    with pytest.raises(ValueError, match="early_stopping"):
        again.partial_fit(x, y)


def test_warm_start_goes_on_from_the_last_weights():
    still = {"pretraining_optimizer": "sgd", "pretraining_learning_rate": 1e-12}
    transformer = clone(ESTIMATORS["transformer"]).fit(x)
    before = weights(transformer)
    transformer.set_params(warm_start=True, corruption=0.1, **still).fit(x)
    assert all(
        np.allclose(a, b, atol=1e-6) for a, b in zip(before, weights(transformer), strict=True)
    )
    assert transformer.stack_.autoencoders[0].corruption.rate == 0.1
    with pytest.raises(ValueError, match="`hidden_layer_sizes`"):
        transformer.set_params(hidden_layer_sizes=[5, 4]).fit(x)
    assert transformer.transform(x).shape == (50, 3)

    classifier = clone(ESTIMATORS["classifier"]).fit(x, labels)
    before = weights(classifier)
    classifier.set_params(warm_start=True, optimizer="sgd", learning_rate=1e-12)
    classifier.fit(x, labels)
    assert all(
        np.allclose(a, b, atol=1e-6) for a, b in zip(before, weights(classifier), strict=True)
    )
    with pytest.raises(ValueError, match="`y` to hold the classes"):
        classifier.fit(x, labels + 1)
    regressor = clone(ESTIMATORS["regressor"]).set_params(warm_start=True).fit(x, values)
    with pytest.raises(ValueError, match="`y` of shape"):
        regressor.fit(x, np.stack([values, values], axis=1))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_copies_go_on_where_the_original_was(name):
    copied_and_trained_on(name, lambda estimator: pickle.loads(pickle.dumps(estimator)))
    copied = copied_and_trained_on(name, copy.deepcopy)
    assert pickle.loads(pickle.dumps(clone(copied))).get_params()["random_state"] == 0


def test_predictions_have_the_shape_of_the_targets():
    regressor = clone(ESTIMATORS["regressor"])
    for y in (values, values[:, None], np.stack([values, -values, values], axis=1)):
        assert regressor.fit(x, y).predict(x).shape == y.shape


def test_rows_of_a_sparse_matrix_are_rows():
    rows = np.where(np.abs(x) > 1, x, 0)
    for name, estimator in ESTIMATORS.items():
        dense = clone(estimator).fit(rows, targets[name])
        compressed = clone(estimator).fit(sparse.csc_array(rows), targets[name])
        assert same(weights(dense), weights(compressed))
        np.testing.assert_array_equal(
            outputs(compressed, sparse.csr_matrix(rows)), outputs(dense, rows)
        )


def test_searches_pipelines_and_copies():
    search = GridSearchCV(
        make_pipeline(StandardScaler(), SdAClassifier(**SHORT)),
        {
            "sdaclassifier__corruption": [0.1, sda.GaussianNoise(0.3)],
            "sdaclassifier__optimizer": [keras.optimizers.SGD(0.5)],
        },
        cv=2,
        error_score="raise",
    )
    y = labels.copy()
    y[::5] = -1
    search.fit(x, y)
    assert search.best_estimator_[-1].classes_.tolist() == [0, 1, 2]
    assert search.predict(x).shape == (50,)
    assert isinstance(search.best_estimator_[-1].model_.optimizer, keras.optimizers.SGD)


def test_a_search_in_several_processes():
    search = GridSearchCV(
        SdAClassifier(**SHORT), {"corruption": [0.1]}, cv=2, n_jobs=2, error_score="raise"
    )
    with parallel_config("loky"):
        search.fit(x, labels)
    get_reusable_executor().shutdown()
    alone = clone(search).set_params(n_jobs=1).fit(x, labels)
    scores = [s.cv_results_["mean_test_score"] for s in (search, alone)]
    np.testing.assert_allclose(*scores)
    assert same(weights(search.best_estimator_), weights(alone.best_estimator_))


def test_frames_in_and_out():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(x, columns=list("abcdef"), index=np.arange(50) + 7)
    transformer = clone(ESTIMATORS["transformer"]).set_params(layers="all")
    transformer.set_output(transform="pandas").fit(frame)
    codes = transformer.transform(frame)
    names = [f"sdatransformer_h1_{j}" for j in range(5)]
    names += [f"sdatransformer_h2_{j}" for j in range(3)]
    assert list(codes.columns) == names == transformer.get_feature_names_out().tolist()
    assert list(codes.index) == list(frame.index)
    assert transformer.feature_names_in_.tolist() == list("abcdef")
    with pytest.raises(ValueError, match="`layers`"):
        transformer.transform(frame, layers=0)
    assert transformer.set_output(transform="default").transform(frame, layers=0).shape == (50, 5)


def test_what_is_a_label():
    classifier = SdAClassifier(4, pretraining_epochs=1, epochs=1, random_state=0)
    assert classifier.fit(x, np.where(labels > 0, 1, -1)).classes_.tolist() == [-1, 1]
    assert classifier.fit(x, labels - 1).classes_.tolist() == [0, 1]
    classifier.set_params(unlabelled=None)
    assert classifier.fit(x, labels - 1).classes_.tolist() == [-1, 0, 1]
    classifier.set_params(unlabelled="?")
    assert classifier.fit(x, np.array(["?", "a", "b"])[labels]).classes_.tolist() == ["a", "b"]
    assert classifier.score(x, np.array(["?", "a", "b"])[labels]) <= 1
    with pytest.raises(ValueError, match=r"Expected `y` to hold labels. Received: '\?' in every"):
        classifier.fit(x, np.full(50, "?"))
    with pytest.raises(ValueError, match=r"Expected `y` to hold labels. Received: none"):
        classifier.score(x, np.full(50, "?"))


def test_labels_in_parts():
    classifier = SdAClassifier(4, pretraining_epochs=1, random_state=0)
    with pytest.raises(ValueError, match="`classes`"):
        classifier.partial_fit(x, labels)
    # A first part without any label pretrains; all classes are equally likely.
    classifier.partial_fit(x, np.full(50, -1), classes=[2, 1, 0])
    np.testing.assert_allclose(classifier.predict_proba(x), 1 / 3, rtol=1e-6)
    before = classifier.stack_.get_weights()
    classifier.partial_fit(x, labels)
    assert not same(classifier.stack_.get_weights(), before)
    assert len(classifier.history_["loss"]) == 1
    for y, classes, message in (
        (labels + 5, None, r"labels from \[0, 1, 2\]. Received: \[5, 6, 7\]"),
        (np.full(50, -1), None, "Received: none"),
        (labels, [0, 1], "`classes` to be those of the first call"),
    ):
        with pytest.raises(ValueError, match=message):
            classifier.partial_fit(x, y, classes)


def test_the_precision_is_that_of_the_input():
    transformer = clone(ESTIMATORS["transformer"]).fit(x)
    assert transformer.transform(x).dtype == np.float32
    assert transformer.transform(x.astype(float)).dtype == np.float64
    classifier = clone(ESTIMATORS["classifier"]).fit(x.astype(float), labels)
    assert classifier.predict_proba(x.astype(float)).dtype == np.float64
    # Bytes are numbers here, not pixels.
    bytes_ = np.arange(60, dtype="uint8").reshape(10, 6)
    np.testing.assert_array_equal(
        transformer.transform(bytes_), transformer.transform(bytes_.astype("float32"))
    )


def test_pixels_under_cross_entropy():
    pixels = np.random.default_rng(0).uniform(size=(30, 6))
    transformer = SdATransformer(**SMALL, decoder_activation="sigmoid")
    by_hand = sda.StackedDenoisingAutoencoder([5, 3], seed=0)
    pretrainer = sda.GreedyPretrainer(by_hand, "adam", epochs=2, batch_size=25, seed=0)
    pretrainer.fit(pixels, verbose=0)
    assert same(weights(transformer.fit(pixels)), by_hand.get_weights())
    for fit in (transformer.fit, transformer.partial_fit):
        with pytest.raises(ValueError, match=r"to lie in \[0, 1\]"):
            fit(pixels + 1)
    assert same(weights(transformer), by_hand.get_weights())


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("hidden_layer_sizes", []),
        ("hidden_layer_sizes", 0),
        ("hidden_layer_sizes", [5, 2.5]),
        ("layers", 2),
        ("layers", "top"),
        ("layers", []),
        ("corruption", 1.5),
        ("corruption", [0.1, 0.2, 0.3]),
        ("noise", "salt"),
        ("noise", ["masking"]),
        ("pretraining_epochs", -1),
        ("pretraining_batch_size", 0),
        ("pretraining_optimizer", "best"),
        ("pretraining_learning_rate", 0),
        ("codes_storage", "cloud"),
        ("early_stopping", "yes"),
        ("validation_fraction", 1),
        ("n_iter_no_change", 0),
        ("warm_start", 1),
        ("verbose", "auto"),
        ("dropout", 1.0),
        ("optimizer", "best"),
        ("learning_rate", -1.0),
        ("epochs", 0),
        ("batch_size", 0),
        ("loss", "best"),
        ("loss", None),
    ],
)
def test_a_parameter_out_of_range_is_named(parameter, value):
    for name, estimator in ESTIMATORS.items():
        if parameter in estimator.get_params():
            wrong = clone(estimator).set_params(**{parameter: value})
            with pytest.raises(ValueError, match=f"Expected .*`{parameter}`.*Received"):
                wrong.fit(x, targets[name])
            assert not hasattr(wrong, "stack_")


def test_noise_has_one_source():
    wrong = SdATransformer(3, corruption=sda.SwapNoise(0.1), noise="gaussian")
    with pytest.raises(ValueError, match="`noise` to be left alone"):
        wrong.fit(x)
    transformer = SdATransformer(
        [4, 3, 2], corruption=[0.1, 0.2, 0.3], noise=["swap", "gaussian", "salt_and_pepper"]
    ).set_params(pretraining_epochs=0)
    kinds = [type(a.corruption) for a in transformer.fit(x).stack_.autoencoders]
    assert kinds == [sda.SwapNoise, sda.GaussianNoise, sda.SaltAndPepperNoise]


def test_codes_and_weights_out_of_shape():
    transformer = clone(ESTIMATORS["transformer"]).fit(x)
    with pytest.raises(ValueError, match=r"Expected `X` to hold the 3 codes .* shape \(50, 5\)"):
        transformer.inverse_transform(transformer.transform(x, layers=0))
    classifier = clone(ESTIMATORS["classifier"])
    for weight in (np.ones(49), -np.ones(50), np.zeros(50)):
        with pytest.raises(ValueError, match="Expected `sample_weight`"):
            classifier.fit(x, labels, sample_weight=weight)
    # Only their ratios count.
    ones, sevens = (clone(classifier).fit(x, labels, np.full(50, w)) for w in (1, 7))
    np.testing.assert_allclose(outputs(ones), outputs(sevens), rtol=1e-5)


def test_without_scikit_learn_an_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "sda.estimators")
    with pytest.raises(ImportError, match=r'pip install "keras-sda\[sklearn\]"'):
        importlib.import_module("sda.estimators")


@pytest.mark.parametrize("names", [list("abcdef"), [5, 3, 1, 0, 2, 4]], ids=["words", "numbers"])
def test_columns_in_another_order_are_refused(names):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(x, columns=names)
    other = frame[names[::-1]]
    transformer = SdATransformer(**SMALL).fit(frame)
    np.testing.assert_array_equal(transformer.transform(frame), transformer.transform(frame.copy()))
    with pytest.raises(ValueError, match="order"):
        transformer.transform(other)
    with pytest.raises(ValueError, match="order"):
        transformer.partial_fit(other)
    with pytest.raises(ValueError, match="order"):
        SdAClassifier(**SHORT).fit(frame, labels).predict(other)
    assert transformer.fit(other).transform(other).shape == (50, 3)
