"""Weights in the lists of the Theano tutorials, in and out."""

import pickle
import re

import keras
import numpy as np
import pytest
from keras import ops

import sda
from sda.saving import tutorial_params

RNG = np.random.default_rng(0)
X = RNG.random((7, 6))
UNITS = [5, 4]


def arrays(*shapes):
    return [RNG.normal(size=shape) for shape in shapes]


# What `[dA.params for dA in sda.dA_layers]` and `sda.params` are in the tutorial.
DAS = [arrays((6, 5), (5,), (6,)), arrays((5, 4), (4,), (5,))]
LOGISTIC = arrays((4, 3), (3,))
SDA = [*DAS[0][:2], *DAS[1][:2], *LOGISTIC]
FLAT = [*DAS[0], *DAS[1]]


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def stack():
    return sda.StackedDenoisingAutoencoder(UNITS, corruption=0.3, seed=1)


def built():
    made = stack()
    made.build((None, 6))
    return made


def assert_same(some, others):
    assert len(some) == len(others)
    for a, b in zip(some, others, strict=True):
        np.testing.assert_array_equal(a, np.asarray(b, "float32"))


def test_a_dA_computes_with_them_what_the_tutorial_computes():
    W, b, b_prime = DAS[0]
    for layer in (sda.dA(5, seed=1), built().autoencoders[0]):
        tutorial_params.assign(layer, DAS[0])
        expected = sigmoid(sigmoid(X @ W + b) @ W.T + b_prime)
        z = ops.convert_to_numpy(layer(X.astype("float32")))
        np.testing.assert_allclose(z, expected, rtol=1e-5)
        assert_same(tutorial_params.of(layer), DAS[0])


@pytest.mark.parametrize("make", [stack, built])
@pytest.mark.parametrize("given", [DAS, FLAT], ids=["a list a layer", "flat"])
def test_a_stack_computes_with_them_what_the_tutorial_computes(make, given):
    model = make()
    tutorial_params.assign(model, given)
    (W1, b1, c1), (W2, b2, c2) = DAS
    h = sigmoid(sigmoid(X @ W1 + b1) @ W2 + b2)
    x = X.astype("float32")
    np.testing.assert_allclose(model.encode(x), h, rtol=1e-5)
    z = sigmoid(sigmoid(h @ W2.T + c2) @ W1.T + c1)
    np.testing.assert_allclose(model.reconstruct(x), z, rtol=1e-5)
    assert_same(tutorial_params.of(model), FLAT)


def test_a_classifier_takes_those_of_a_whole_sda_and_shares_them_with_the_stack():
    model = built()
    classifier = model.classifier(3, dropout=0.2)
    tutorial_params.assign(classifier, SDA)
    h = sigmoid(sigmoid(X @ SDA[0] + SDA[1]) @ SDA[2] + SDA[3])
    a = np.exp(h @ SDA[4] + SDA[5])
    found = ops.convert_to_numpy(classifier(X.astype("float32")))
    np.testing.assert_allclose(found, a / a.sum(axis=1, keepdims=True), rtol=1e-4)
    np.testing.assert_allclose(model.encode(X.astype("float32")), h, rtol=1e-5)
    assert_same(tutorial_params.of(classifier), SDA)


def test_through_an_npz_file(tmp_path):
    first, second = built(), stack()
    np.savez(tmp_path / "params.npz", *tutorial_params.of(first))
    tutorial_params.assign(second, tmp_path / "params.npz")
    assert_same(tutorial_params.of(second), tutorial_params.of(first))


class Shared:
    """What Theano and PyTensor call a shared variable."""

    def __init__(self, value):
        self.value = value

    def get_value(self):
        return self.value


def test_shared_variables_of_theano_are_taken_by_their_value():
    model = stack()
    tutorial_params.assign(model, [[Shared(w) for w in params] for params in DAS])
    assert_same(tutorial_params.of(model), FLAT)


def test_what_comes_out_is_a_copy():
    model = built()
    before = tutorial_params.of(model)
    for array in tutorial_params.of(model):
        array += 1
    assert_same(tutorial_params.of(model), before)


def spoiled(value):
    return [*FLAT[:-1], np.full_like(FLAT[-1], value)]


FEWER = "`params` to be 6 arrays of shapes [(6, 5), (5,), (6,), (5, 4), (4,), (5,)]"
BAD = {
    "fewer": (FLAT[:-1], f"{FEWER}; 5 of shapes [(6, 5), (5,)"),
    "those of the SdA": (SDA[:-2], f"{FEWER}; 4 of shapes"),
    "none": ([], f"{FEWER}; 0 of shapes []"),
    "transposed": ([DAS[0][0].T, *FLAT[1:]], f"{FEWER}; 6 of shapes [(5, 6), (5,)"),
    "columns": ([FLAT[0], FLAT[1][:, None], *FLAT[2:]], f"{FEWER}; 6 of shapes [(6, 5), (5, 1)"),
    "NaN": (spoiled(np.nan), "`params` to hold finite numbers; params[5] from nan to nan"),
    "beyond float32": (spoiled(1e300), "`params` to hold finite numbers; params[5] from 1e+300"),
    "text": ([*FLAT[:-1], np.array(list("abcde"))], "finite numbers; params[5] of dtype <U1"),
    "an array": (FLAT[0], "`params` to be a list of arrays, or the path; params=array"),
    "nothing": (None, "`params` to be a list of arrays, or the path; params=None"),
}


@pytest.mark.parametrize(("params", "message"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_refused_before_anything_changes(params, message):
    expected, received = (re.escape(part) for part in message.split("; "))
    model = built()
    before = tutorial_params.of(model)
    with pytest.raises(ValueError, match=f"(?s)^Expected .*{expected}.*Received: .*{received}"):
        tutorial_params.assign(model, params)
    assert_same(tutorial_params.of(model), before)


def test_an_unbuilt_stack_stays_unbuilt_where_shapes_do_not_fit():
    model = stack()
    for params in ([], [np.float32(1)], FLAT[:-1], [*FLAT[:3], FLAT[3].T, *FLAT[4:]]):
        with pytest.raises(ValueError, match="Expected `params` to be 6 arrays"):
            tutorial_params.assign(model, params)
    assert not model.built
    with pytest.raises(ValueError, match="Expected `model` to be built"):
        tutorial_params.of(model)


class Attack:
    ran = False

    def __reduce__(self):
        return (setattr, (Attack, "ran", True))


def test_pickles_are_not_read(tmp_path):
    (tmp_path / "best_model.pkl").write_bytes(pickle.dumps(Attack()))
    (tmp_path / "renamed.npz").write_bytes(pickle.dumps(Attack()))
    np.savez(tmp_path / "objects.npz", *[np.array([Attack()], dtype=object)] * 6)
    model = built()
    with pytest.raises(ValueError, match=r"Pickles run code.*numpy\.savez.*best_model\.pkl"):
        tutorial_params.assign(model, tmp_path / "best_model.pkl")
    for name in ("renamed.npz", "objects.npz"):
        with pytest.raises(ValueError, match="Expected `path`"):
            tutorial_params.assign(model, tmp_path / name)
    np.savez(tmp_path / "named.npz", W=FLAT[0], b=FLAT[1])
    with pytest.raises(ValueError, match=r"Expected an \.npz file that.*\['W', 'b'\]"):
        tutorial_params.assign(model, tmp_path / "named.npz")
    assert not Attack.ran


@pytest.mark.parametrize(
    "model",
    [
        sda.dA(5, tied=False),
        sda.StackedDenoisingAutoencoder([5, 4], tied=[True, False]),
        keras.layers.Dense(3),
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, use_bias=False)]),
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.PReLU()]),
        keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5)]),
        "stack",
    ],
    ids=str,
)
def test_models_that_the_tutorial_has_not_are_refused(model):
    for call in (tutorial_params.of, lambda model: tutorial_params.assign(model, FLAT)):
        with pytest.raises(ValueError, match="Expected `model` to be a tied dA, a stack"):
            call(model)
