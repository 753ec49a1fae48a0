"""The estimators on each backend: the same as by hand, a real task, and copies.

All else that is asked of them is in test_estimators_in_scikit_learn.py.
"""

import keras
import numpy as np
import pytest

import sda

pytest.importorskip("sklearn")

import joblib
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.utils import estimator_checks

from sda.estimators import SdAClassifier, SdARegressor, SdATransformer

# Batches of 25 of the 50 rows: another size for the last one would be compiled too.
SMALL = {
    "hidden_layer_sizes": [5, 3],
    "pretraining_epochs": 2,
    "pretraining_batch_size": 25,
    "random_state": 0,
}
SHORT = {**SMALL, "epochs": 3, "batch_size": 25, "learning_rate": 0.01}
ESTIMATORS = {
    "transformer": SdATransformer(**SMALL),
    "classifier": SdAClassifier(**SHORT),
    "regressor": SdARegressor(**SHORT),
}
x = np.random.default_rng(0).normal(size=(50, 6)).astype("float32")
labels = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0.5)
values = x[:, 0] * 100 + 7
targets = {"transformer": None, "classifier": labels, "regressor": values}


def weights(estimator):
    model = getattr(estimator, "model_", estimator.stack_)
    return model.get_weights()


def same(some, others):
    return len(some) == len(others) and all(map(np.array_equal, some, others))


def outputs(estimator, rows=x):
    for method in ("transform", "predict_proba", "predict"):
        if hasattr(estimator, method):
            return getattr(estimator, method)(rows)


# The same by hand


def stack_by_hand(seed=3):
    # Table columns: a linear decoder below, and the codes' cross-entropy above.
    return sda.StackedDenoisingAutoencoder(
        [5, 3], [0.2, 0.1], decoder_activation=["linear", "sigmoid"], seed=seed
    )


def pretrain(stack, rows=x, seed=3):
    settings = {"optimizer": keras.optimizers.Adam(0.01), "epochs": [2, 1], "batch_size": 10}
    return sda.GreedyPretrainer(stack, **settings, seed=seed).fit(rows, verbose=0)


BY_HAND = {
    "hidden_layer_sizes": (5, 3),
    "corruption": [0.2, 0.1],
    "pretraining_learning_rate": 0.01,
    "pretraining_epochs": [2, 1],
    "pretraining_batch_size": 10,
    "random_state": 3,
}


def test_the_transformer_is_a_pretrained_stack():
    transformer = SdATransformer(**BY_HAND).fit(x)
    stack = stack_by_hand()
    histories = pretrain(stack)
    assert same(weights(transformer), stack.get_weights())
    assert transformer.histories_ == [history.history for history in histories]
    # The layers of the codes, and the way back from them.
    first, top = stack.encode(x, 0), stack.encode(x)
    np.testing.assert_array_equal(transformer.transform(x), top)
    np.testing.assert_array_equal(transformer.transform(x, layers="all"), np.hstack([first, top]))
    np.testing.assert_array_equal(transformer.transform(x, layers=[-1, 0]), np.hstack([top, first]))
    for layers, depth in ((-1, -1), (0, 0), ("all", -1), ([-1, 0], -1)):
        transformer.set_params(layers=layers)
        rebuilt = transformer.inverse_transform(transformer.transform(x))
        np.testing.assert_allclose(rebuilt, stack.reconstruct(x, depth), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_classifier_learns_from_rows_without_labels_as_by_hand():
    y = np.array(["no", "yes", "maybe"], object)[labels]
    y[10:] = -1
    classifier = SdAClassifier(**BY_HAND, dropout=0.2, epochs=3, batch_size=5, optimizer="sgd")
    classifier.fit(x, y)
    stack = stack_by_hand()
    pretrain(stack)
    model = stack.classifier(3, dropout=0.2)
    model.compile("sgd", "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    classes, encoded = np.unique(y[:10].astype(str), return_inverse=True)
    history = sda.fit(model, x[:10], encoded, batch_size=5, epochs=3, seed=3, verbose=0)
    assert same(weights(classifier), model.get_weights())
    assert classifier.history_ == history.history
    assert classifier.classes_.tolist() == classes.tolist()
    proba = classifier.predict_proba(x)
    np.testing.assert_allclose(proba, model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)
    assert classifier.predict(x).tolist() == classes[proba.argmax(axis=1)].tolist()
    # The rows without labels do not count in the score.
    right = classifier.predict(x[:10]) == y[:10]
    assert classifier.score(x, y) == right.mean()
    assert classifier.score(x, y, sample_weight=np.arange(50)) == np.average(
        right, weights=np.arange(10)
    )


# A real task


@pytest.mark.slow
def test_on_digits_it_is_about_as_good_as_a_multilayer_perceptron():
    digits, y = load_digits(return_X_y=True)
    train, test, y_train, y_test = train_test_split(
        digits / 16, y, train_size=42 * 32, random_state=0, stratify=y
    )
    classifier = SdAClassifier(
        64, pretraining_epochs=5, epochs=20, learning_rate=0.01, random_state=0
    ).fit(train, y_train)
    perceptron = MLPClassifier(64, max_iter=60, random_state=0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        perceptron.fit(train, y_train)
    assert classifier.score(test, y_test) > perceptron.score(test, y_test) - 0.02
    assert classifier.score(test, y_test) > 0.95


# Copies


def copied_and_trained_on(name, copy_of):
    """Train a copy and the original, and compare; return the copy."""
    estimator = clone(ESTIMATORS[name])
    if name == "classifier":
        estimator.set_params(dropout=[0.1, 0.0, 0.2], optimizer=keras.optimizers.SGD(0.1, 0.9))
        estimator.partial_fit(x, labels, classes=[0, 1, 2])
        # What was set since does not matter to what was built before.
        estimator.set_params(optimizer="adam")
    else:
        estimator.partial_fit(x, targets[name])
    copied = copy_of(estimator)
    np.testing.assert_array_equal(outputs(copied), outputs(estimator))
    for trained in (estimator, copied):
        trained.partial_fit(x, targets[name])
    # The noise, the dropout and the state of the optimizers were the same.
    assert same(weights(copied), weights(estimator))
    return copied


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transformer", "classifier"])
def test_a_file_goes_on_where_the_original_was(name, tmp_path):
    def through_a_file(estimator):
        joblib.dump(estimator, tmp_path / "estimator.joblib")
        return joblib.load(tmp_path / "estimator.joblib")

    copied = copied_and_trained_on(name, through_a_file)
    if name == "classifier":
        # Its stack and its model still share their layers.
        dense = [la for la in copied.model_.layers if isinstance(la, keras.layers.Dense)]
        assert dense[0] is copied.stack_.autoencoders[0].encoder


# scikit-learn's own checks: all of them run on PyTorch, which does not compile each fit

CHECKED = {
    "transformer": SdATransformer(5, pretraining_epochs=1, random_state=0),
    "classifier": SdAClassifier(5, pretraining_epochs=1, epochs=15, learning_rate=0.02),
    "regressor": SdARegressor(5, pretraining_epochs=1, epochs=15, learning_rate=0.02),
}
# Rounding, and the backend's arrays.
CHECKS = {
    "transformer": ["check_methods_subset_invariance", "check_readonly_memmap_input"],
    "classifier": ["check_methods_subset_invariance"],
}


@pytest.mark.parametrize(("name", "check"), [(n, c) for n in CHECKS for c in CHECKS[n]])
def test_some_of_scikit_learns_own_checks(name, check):
    getattr(estimator_checks, check)(type(CHECKED[name]).__name__, CHECKED[name])
