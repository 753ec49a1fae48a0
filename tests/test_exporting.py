"""What is exported computes what Keras computes, without noise, for any number of examples."""

import importlib.util
import re

import keras
import numpy as np
import pytest
from keras import ops
from keras.layers import Activation, Dense, Flatten

import sda
from sda.saving.export import NEEDS

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(0)
X = RNG.random((33, 12)).astype("float32")
PIXELS = RNG.integers(0, 256, (33, 12)).astype("uint8")
# All that the layers of a stack need; nothing random is among it.
PLAIN = {
    "Add", "AddV2", "Cast", "Concat", "Const", "Constant", "Gather", "Gemm", "MatMul", "Mul",
    "Relu", "Reshape", "Sigmoid", "Softmax", "Tanh", "Transpose", "Unsqueeze",
}  # fmt: skip
# What a SavedModel keeps besides, of variables and functions.
STRUCTURE = {
    "AssignVariableOp", "BiasAdd", "Identity", "IdentityN", "NoOp", "Pack", "Placeholder",
    "ReadVariableOp", "Shape", "StatefulPartitionedCall", "StridedSlice", "XlaCallModule",
}  # fmt: skip


def needs(kind):
    """Skip where the backend, or a package that is missing, cannot write the format."""
    if (kind, BACKEND) not in NEEDS:
        pytest.skip(f"{BACKEND} writes no {kind}")
    for package in NEEDS[kind, BACKEND]:
        pytest.importorskip(package)
    return pytest.importorskip("onnxruntime" if kind == "onnx" else "tensorflow")


def run_onnx(path, x, outputs=("output",)):
    session = needs("onnx").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(list(outputs), {"input": x})[0]


def run_saved_model(path, x):
    # Its variables live as long as it does.
    model = needs("tf_saved_model").saved_model.load(str(path))
    return model.serve(x)["output"].numpy()


RUN = {"onnx": run_onnx, "tf_saved_model": run_saved_model}
FORMATS = {"onnx": "model.onnx", "tf_saved_model": "model"}
each_format = pytest.mark.parametrize("kind", FORMATS)


def trained(units=(8, 5), **settings):
    """A stack with weights that are not those of the beginning."""
    stack = sda.StackedDenoisingAutoencoder(list(units), corruption=0.9, seed=1, **settings)
    stack.build((None, 12))
    for autoencoder in stack.autoencoders:
        autoencoder.encoder.bias.assign(np.linspace(-1, 1, autoencoder.units))
    return stack


def classifier():
    model = trained().classifier(3, dropout=0.8)
    model.layers[-1].kernel.assign(np.random.default_rng(1).normal(size=(5, 3)))
    return model


def noisy():
    """A model of the user's own, with corruption and a whole dA in it."""
    return keras.Sequential([
        keras.Input((12,)), sda.MaskingNoise(0.9, seed=1),
        sda.dA(8, 0.9, contraction=0.1, sparsity="l1", seed=1), Dense(3),
    ])  # fmt: skip


def around_a_model():
    """A stack around layers that reshape, and activations on their own."""
    mlp = keras.Sequential([
        keras.Input((3, 4)), Flatten(), Dense(8), Activation("tanh"), Dense(5, "relu"), Dense(2),
    ])  # fmt: skip
    return sda.StackedDenoisingAutoencoder.from_model(mlp)


MODELS = {
    "stack": trained,
    "first layer": lambda: trained().encoder_model(0),
    "classifier": classifier,
    "noisy": noisy,
    "around a model": around_a_model,
}


def in_keras(model, x):
    return ops.convert_to_numpy(model(x))


@each_format
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_what_is_exported_computes_what_keras_computes(kind, make, tmp_path):
    needs(kind)
    model, path = make(), tmp_path / FORMATS[kind]
    x = X.reshape(-1, 3, 4) if make is around_a_model else X
    sda.export(model, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    expected = in_keras(model, x)
    for examples in (1, 7, 33):
        found = RUN[kind](path, x[:examples])
        np.testing.assert_allclose(found, expected[:examples], atol=1e-5)
    operations = OPERATIONS[kind](path)
    assert operations <= PLAIN | STRUCTURE
    assert operations & {"MatMul", "Gemm", "XlaCallModule"}


def onnx_operations(path):
    import onnx

    return {node.op_type for node in onnx.load(path).graph.node}


def saved_operations(path):
    model = needs("tf_saved_model").saved_model.load(str(path))
    graph = model.signatures["serving_default"].graph.as_graph_def()
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    if BACKEND == "jax":
        # The computation is bytecode, in which operations have their names.
        code = b"".join(n.attr["module"].s for n in nodes if n.op == "XlaCallModule")
        assert code
        assert not re.search(b"rng|random|threefry", code, re.IGNORECASE)
    return {n.op for n in nodes}


OPERATIONS = {"onnx": onnx_operations, "tf_saved_model": saved_operations}


@each_format
def test_inputs_and_outputs_have_names_and_any_number_of_examples(kind, tmp_path):
    needs(kind)
    path = tmp_path / FORMATS[kind]
    sda.export(classifier(), path)
    if kind == "onnx":
        session = needs(kind).InferenceSession(str(path))
        described = [(v.name, v.shape) for v in (*session.get_inputs(), *session.get_outputs())]
        assert described == [("input", ["batch", 12]), ("output", ["batch", 3])]
    else:
        signature = needs(kind).saved_model.load(str(path)).signatures["serving_default"]
        (spec,) = signature.structured_input_signature[1].values()
        assert (spec.name, spec.shape.as_list()) == ("input", [None, 12])
        assert {n: s.shape[1] for n, s in signature.structured_outputs.items()} == {"output": 3}


@each_format
def test_pixels_are_scaled(kind, tmp_path):
    needs(kind)
    stack, path = trained(preprocessing=keras.layers.Rescaling(1 / 255)), tmp_path / FORMATS[kind]
    sda.export(stack, path)
    rows = PIXELS.astype("float32")
    expected = trained().encode(rows / 255)
    np.testing.assert_allclose(RUN[kind](path, rows), expected, atol=1e-5)


def test_mixed_precision_goes_into_a_saved_model(tmp_path):
    needs("tf_saved_model")
    stack = trained(dtype="mixed_bfloat16")
    sda.export(stack, tmp_path / "model")
    found = run_saved_model(tmp_path / "model", X).astype("float32")
    np.testing.assert_allclose(found, trained().encode(X), atol=0.02)


def test_a_file_is_written_over_and_kept_where_that_fails(tmp_path, monkeypatch):
    needs("onnx")
    path = tmp_path / "model.onnx"
    sda.export(classifier(), path)
    sda.export(trained(), path)
    expected = in_keras(trained(), X)
    np.testing.assert_allclose(run_onnx(path, X), expected, atol=1e-5)

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(keras.Model, "export", full)
    with pytest.raises(OSError, match="No space left"):
        sda.export(classifier(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    np.testing.assert_allclose(run_onnx(path, X), expected, atol=1e-5)


# The encoder as a model


@pytest.mark.parametrize("layer", [0, 1, -1, -2])
def test_the_encoder_of_a_layer_is_made_of_the_layers_of_the_stack(layer):
    stack = trained()
    model = stack.encoder_model(layer)
    np.testing.assert_allclose(in_keras(model, X), stack.encode(X, layer), rtol=1e-5)
    depth = layer % 2 + 1
    assert [la is a.encoder for la, a in zip(model.layers, stack.autoencoders, strict=False)] == [
        True
    ] * depth
    assert {type(la).__module__.split(".")[0] for la in model.layers} == {"keras"}


def test_a_copy_of_the_encoder_has_weights_of_its_own():
    stack = trained()
    model = stack.encoder_model(copy=True)
    expected = stack.encode(X)
    np.testing.assert_allclose(in_keras(model, X), expected, rtol=1e-5)
    model.set_weights([0 * w for w in model.get_weights()])
    np.testing.assert_array_equal(stack.encode(X), expected)


def test_the_encoder_of_a_layer_that_is_not_there():
    with pytest.raises(ValueError, match=r"Expected `layer` to be an integer from -2 to 1"):
        trained().encoder_model(2)
    with pytest.raises(ValueError, match="Expected a stack that knows the shape of its input"):
        sda.StackedDenoisingAutoencoder([3]).encoder_model()


# Errors


def two_outputs():
    inputs = keras.Input((12,))
    return keras.Model(inputs, [Dense(2)(inputs), Dense(3)(inputs)])


def two_inputs():
    inputs = [keras.Input((2,)), keras.Input((2,))]
    return keras.Model(inputs, keras.layers.Add()(inputs))


NO_PATH = "`path` to be that of an .onnx file, or of a folder without a suffix"
BAD = {
    "suffix": (trained, "model.keras", f"{NO_PATH}; path=.*model.keras"),
    "a folder": (trained, "folder.onnx", f"{NO_PATH}; path=.*folder.onnx"),
    "a file": (trained, "file", "`path` to be that of a new folder; path=.*file"),
    "not empty": (trained, "full", "`path` to be that of a new folder; path=.*full"),
    "a layer": (lambda: sda.dA(3), "m.onnx", "`model` to be a stack, or a; model=<Denoising"),
    "not built": (
        lambda: keras.Sequential([Dense(3)]), "m.onnx", "built keras.Model with one; model=<Seq",
    ),
    "an unbuilt stack": (
        lambda: sda.StackedDenoisingAutoencoder([3]), "m.onnx", "a stack that knows; an unbuilt",
    ),
    "two inputs": (two_inputs, "m.onnx", "keras.Model with one input; model=<Functional"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "name", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_exported_is_refused(make, name, message, tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "file").write_text("precious")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    expected, received = message.split("; ")
    pattern = f"(?s)^Expected .*{re.escape(expected)}.*Received: .*{received}"
    with pytest.raises(ValueError, match=pattern):
        sda.export(make(), tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_several_outputs_and_half_precision_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there")
    with pytest.raises(ValueError, match=r"Expected `model` to have one output\. Received: 2"):
        sda.export(two_outputs(), tmp_path / "model.onnx")
    half = trained(dtype="mixed_bfloat16")
    with pytest.raises(ValueError, match=r"compute in float32 for ONNX.*\['bfloat16'"):
        sda.export(half, tmp_path / "model.onnx")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    package = NEEDS["onnx", BACKEND][-1]
    with pytest.raises(ImportError, match=f"`{package if BACKEND == 'torch' else 'onnx'}`.*pip"):
        sda.export(trained(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(BACKEND != "torch", reason="the others write it")
def test_pytorch_says_what_to_do_for_a_saved_model(tmp_path):
    with pytest.raises(ValueError, match=r"TensorFlow or JAX.*'torch'.*KERAS_BACKEND=tensorflow"):
        sda.export(trained(), tmp_path / "model")
