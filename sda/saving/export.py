"""Export of trained models to ONNX and SavedModel, for programs that know neither sda nor Keras."""

import importlib.util
import os
import pathlib
import tempfile
import warnings

import keras

from sda.models.stack import StackedDenoisingAutoencoder

# What Keras needs to write a format, by the backend in use.
NEEDS = {
    ("onnx", "tensorflow"): ("onnx", "tf2onnx"),
    ("onnx", "jax"): ("onnx", "jax2onnx"),
    ("onnx", "torch"): ("onnx",),
    ("tf_saved_model", "tensorflow"): (),
    ("tf_saved_model", "jax"): ("tensorflow",),
}


def export(model, path):
    """Write what a model computes in inference, without corruption, dropout and Python.

    The stack's `preprocessing` is part of it: what is exported takes the rows that training took.

    The input is called `input`, the output `output`; the number of examples is free.

    Args:
        model: A stack, of which the encoder is exported up to the codes of the top layer; or any
            built `keras.Model` with one input and one output, such as `stack.encoder_model(0)` or a
            classifier.
        path: Path of an `.onnx` file, which is overwritten if it exists, or of a folder for a
            TensorFlow SavedModel, whose name has no suffix.

    Raises:
        ValueError: If `model` is not built, or `path` or the precision does not suit the format, or
            the backend cannot write it.
        ImportError: If a package is missing that the format needs.

    Example:

    >>> stack = sda.StackedDenoisingAutoencoder([8, 5], seed=1)
    >>> stack.build((None, 12))
    >>> sda.export(stack, "encoder.onnx")  # doctest: +SKIP
    >>> sda.export(stack.classifier(3), "classifier")  # doctest: +SKIP
    """
    path = pathlib.Path(os.fspath(path))
    kind = {".onnx": "onnx", "": "tf_saved_model"}.get(path.suffix)
    if kind is None or (kind == "onnx" and path.is_dir()):
        raise ValueError(
            "Expected `path` to be that of an .onnx file, or of a folder without a suffix. "
            f"Received: path={str(path)!r}"
        )
    if kind == "tf_saved_model" and path.exists() and (path.is_file() or any(path.iterdir())):
        raise ValueError(
            f"Expected `path` to be that of a new folder. Received: path={str(path)!r}, which is "
            "there already"
        )
    if isinstance(model, StackedDenoisingAutoencoder):
        model = model.encoder_model()
    if not isinstance(model, keras.Model) or len(getattr(model, "inputs", None) or ()) != 1:
        raise ValueError(
            "Expected `model` to be a stack, or a built keras.Model with one input. "
            f"Received: model={model!r}"
        )
    _check_backend(kind)
    if kind == "onnx" and any(la.compute_dtype != "float32" for la in model._flatten_layers()):
        raise ValueError(
            "Expected `model` to compute in float32 for ONNX. Received: "
            f"{sorted({la.compute_dtype for la in model._flatten_layers()})}; give its weights "
            "(`get_weights`) to one that was made without a dtype policy"
        )
    serving = _named(model)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        written = pathlib.Path(folder) / path.name
        with warnings.catch_warnings():
            # Of the exporters' own future, and of what tracing might miss in other models.
            warnings.simplefilter("ignore")
            serving.export(str(written), format=kind, verbose=False)
        if kind == "onnx":
            _name_output(str(written))
        os.replace(written, path)


def _check_backend(kind):
    """Raise unless the backend, and the packages that are there, can write the format."""
    backend = keras.backend.backend()
    if (kind, backend) not in NEEDS:
        raise ValueError(
            "Expected TensorFlow or JAX as Keras's backend for a SavedModel. Received: "
            f"{backend!r}. Export to ONNX, or save the model (`model.save('model.keras')`) and "
            "export it in a process with KERAS_BACKEND=tensorflow"
        )
    for package in NEEDS[kind, backend]:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f"Expected the package `{package}` to be installed, to export from {backend}. "
                f"Run `pip install {package}`.",
                name=package,
            )


def _named(model):
    """Return the model with an input and an output of known names."""
    inputs = keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype, name="input")
    outputs = model(inputs)
    if keras.tree.is_nested(outputs):
        raise ValueError(
            f"Expected `model` to have one output. Received: {len(keras.tree.flatten(outputs))}"
        )
    serving = keras.Model(inputs, {"output": outputs})
    # Keras exports to ONNX only what was called.
    serving(keras.ops.zeros((1, *inputs.shape[1:]), inputs.dtype))
    return serving


def _name_output(path):
    """Give the output of an ONNX file, and the axis of the examples, their names."""
    import onnx

    proto = onnx.load(path)
    (output,) = proto.graph.output
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = ["output" if name == output.name else name for name in names]
    output.name = "output"
    for value in (*proto.graph.input, output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
