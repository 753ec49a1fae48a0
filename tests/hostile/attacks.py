"""Files made to do harm, one small builder each, and the words with which they are refused.

A builder takes a `Ground` and writes the file to `ground.path`. What it would do shows in one of
three ways: it touches `ground.canary`, it opens `ground.secret`, or it takes more memory than the
test leaves.
"""

import bz2
import codecs
import functools
import gzip
import hashlib
import io
import json
import marshal
import pathlib
import pickle
import struct
import tempfile
import zipfile
import zlib

import h5py
import keras
import numpy as np

import sda

HUGE = 10**12
# More than a file may become without being looked at.
BOMB = bytes(80 * 2**20)


class Ground:
    """Where an attack is tried.

    Args:
        folder: `Path` of an empty folder.
        name: Name of the hostile file in it.
    """

    def __init__(self, folder, name):
        self.path = folder / name
        self.canary = folder / "canary"
        self.secret = folder / "secret.h5"
        with h5py.File(self.secret, "w") as file:
            file["x"] = np.full((5, 4), 0.5, "float32")


@keras.saving.register_keras_serializable(package="bystander")
class Toucher(keras.layers.Layer):
    """What a program may have registered for itself: no file should be able to call it."""

    def __init__(self, touch, **kwargs):
        super().__init__(**kwargs)
        pathlib.Path(touch).touch()


# What others may have registered without a package, or with ours.
keras.saving.get_custom_objects()["touch"] = Toucher
keras.saving.get_custom_objects()["bystander>touch_too"] = Toucher
keras.saving.get_custom_objects()["sda>Touch"] = Toucher


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, ground):
        self.ground = ground

    def __reduce__(self):
        return pathlib.Path.touch, (self.ground.canary,)


# Model files: an honest one with a part exchanged


@functools.cache
def honest():
    """The members of the file of an honest stack, by name."""
    stack = sda.StackedDenoisingAutoencoder([3], seed=1)
    stack.build((None, 4))
    return _members(stack)


@functools.cache
def honest_classifier():
    stack = sda.StackedDenoisingAutoencoder([3], seed=1)
    stack.build((None, 4))
    classifier = stack.classifier(2)
    classifier.compile("sgd", "sparse_categorical_crossentropy")
    return _members(classifier)


def _members(model):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.keras")
        model.save(path)
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


def write_model(ground, members=None, **compression):
    with zipfile.ZipFile(ground.path, "w", **compression) as archive:
        for name, content in (members or honest()).items():
            archive.writestr(name, content)


def with_config(change, members=honest):
    """A builder of a model file whose config `change(config, ground)` has been at."""

    def build(ground):
        config = json.loads(members()["config.json"])
        config = change(config, ground) or config
        write_model(ground, {**members(), "config.json": json.dumps(config)})

    return build


def with_activation(make):
    """A builder of a stack whose decoder's activation is what `make(ground)` says."""

    def change(config, ground):
        config["config"]["autoencoders"][0]["config"]["decoder_activation"] = make(ground)

    return with_config(change)


def with_layer(make):
    """A builder of a classifier with one more layer, right behind the input."""

    def change(config, ground):
        config["config"]["layers"].insert(1, make(ground))

    return with_config(change, honest_classifier)


def stock(class_name, module="keras.layers", **config):
    return {"module": module, "class_name": class_name, "config": config, "registered_name": None}


def function(name, module):
    return {
        "module": module,
        "class_name": "function",
        "config": name,
        "registered_name": name,
    }


def code(ground):
    """A function of x that touches the canary, marshalled as Keras does it."""
    lines = f"lambda x: open({str(ground.canary)!r}, 'w').close() or x"
    body = marshal.dumps(compile(lines, "", "eval").co_consts[0])
    return codecs.encode(body, "base64").decode("ascii")


def lambda_layer(ground):
    function = {"code": code(ground), "defaults": None, "closure": None}
    function = {"class_name": "__lambda__", "config": function}
    return stock("Lambda", function=function, name="lambda")


def lambda_function(ground):
    return {"class_name": "__lambda__", "config": {"value": [code(ground), None, None]}}


def units(value, in_encoder=True):
    def change(config, ground):
        settings = config["config"]["autoencoders"][0]["config"]
        settings["units"] = value
        if in_encoder:
            settings["encoder"]["config"]["units"] = value
        else:
            del settings["encoder"]

    return with_config(change)


def wide_and_wide(config, ground):
    layer = config["config"]["autoencoders"][0]
    layer["config"]["units"] = 100_000
    del layer["config"]["encoder"]
    layer["build_config"] = config["build_config"] = {"input_shape": [None, 100_000]}


def built_later(config, ground):
    layer = config["config"]["autoencoders"][0]
    layer["config"]["units"] = 100_000
    del layer["build_config"], layer["config"]["encoder"]
    config["build_config"] = {"input_shape": [None, 100_000]}


def encoder_built_later(config, ground):
    del config["config"]["autoencoders"][0]["config"]["encoder"]["build_config"]


def wide_encoder(config, ground):
    encoder = config["config"]["autoencoders"][0]["config"]["encoder"]
    encoder["config"]["units"] = 100_000
    encoder["build_config"] = {"input_shape": [None, 100_000]}


def dense(units, inputs, number):
    shape = [None, inputs]
    return {
        **stock("Dense", units=units, name=f"dense_{units}_{inputs}"),
        "build_config": {"input_shape": shape},
        "shared_object_id": number,
    }


def shared_and_wide(config, ground):
    """The small one is met first."""
    config["config"]["layers"][1:1] = [dense(2, 4, 7), dense(2, 10**7, 7)]


def shared_and_turned(config, ground):
    """As many weights as the encoder has, but other units: those of an untied decoder."""
    layer = config["config"]["autoencoders"][0]
    encoder = layer["config"]["encoder"]
    encoder["shared_object_id"] = 7
    layer["config"]["code_layers"] = [dense(4, 3, 7)]


def units_of_another_class(config, ground):
    """Keras goes by the number alone: the encoder would be the wide layer."""
    layer = config["config"]["autoencoders"][0]
    layer["config"]["code_layers"] = [dense(300, 4, 7)]
    layer["config"]["encoder"] = {**stock("Dropout", units=3, rate=0.0), "shared_object_id": 7}


def shared_within_itself(config, ground):
    layer = config["config"]["autoencoders"][0]
    layer["shared_object_id"] = layer["config"]["encoder"]["shared_object_id"]


def shared_by_another_reader(config, ground):
    layer = config["config"]["autoencoders"][0]
    del layer["module"], layer["config"]["encoder"]
    layer["shared_object_id"] = 7
    layer["build_config"] = {"input_shape": [None, 10**5]}
    config["config"]["autoencoders"] = [layer] * 100


def low_rank(config, ground):
    config["config"]["layers"][1]["config"]["lora_rank"] = HUGE


def wide_input(config, ground):
    config["config"]["layers"][0]["config"]["batch_shape"] = [None, HUGE]


def many_thresholds(config, ground):
    config["compile_config"]["metrics"] = [
        stock("AUC", module="keras.metrics", num_thresholds=10**9)
    ]


def many_metrics(config, ground):
    # Each is 200 MB; HUGE of one of them is refused already.
    config["compile_config"]["metrics"] = [
        stock("MeanIoU", module="keras.metrics", num_classes=7000, name=f"iou_{i}")
        for i in range(40)
    ]


def calls_of_calls(config, ground):
    """Models in models, each called ten times; the batch size has Keras trace every call."""
    inner = keras.layers.Activation("relu")
    for depth in range(5):
        x = inputs = keras.Input((4,))
        for _ in range(10 if depth else 1):
            x = inner(x)
        inner = keras.Model(inputs, x)
    config = json.loads(inner.to_json())
    config["config"]["layers"][0]["config"]["batch_shape"] = [3, 4]
    return config


def no_autoencoders(config, ground):
    config["config"]["autoencoders"] = [stock("Dropout", rate=0.5, name="dropout")]


def weights_in_preprocessing(config, ground):
    dense = json.loads(honest_classifier()["config.json"])["config"]["layers"][1]
    config["config"]["preprocessing"] = [dense]


def without_a_class(config, ground):
    return [config]


def deep_config(ground):
    write_model(ground, {**honest(), "config.json": "[" * 10**5 + "]" * 10**5})


def with_weights(build):
    """A builder of a model file whose weights are what `build(ground, file)` writes."""

    def build_model(ground):
        content = io.BytesIO(honest()["model.weights.h5"])
        with h5py.File(content, "a") as file:
            build(ground, file)
        write_model(ground, {**honest(), "model.weights.h5": content.getvalue()})

    return build_model


# The place of the kernel in the file of a stack.
KERNEL = "autoencoders/denoising_autoencoder/encoder/vars/0"


def replace(file, path, value):
    if path in file:
        del file[path]
    file[path] = value


def kernel_by_external_link(ground, file):
    replace(file, KERNEL, h5py.ExternalLink(str(ground.secret), "/x"))


def kernel_by_soft_link(ground, file):
    replace(file, "elsewhere", np.zeros((4, 3), "float32"))
    replace(file, KERNEL, h5py.SoftLink("/elsewhere"))


def group_by_external_link(ground, file):
    replace(file, "autoencoders", h5py.ExternalLink(str(ground.secret), "/"))


def kernel_in_another_file(ground, file):
    del file[KERNEL]
    file.create_dataset(KERNEL, (4, 3), "float32", external=[(str(ground.secret), 0, 48)])


def virtual_kernel(ground, file):
    del file[KERNEL]
    layout = h5py.VirtualLayout((4, 3), "float32")
    layout[:] = h5py.VirtualSource(str(ground.secret), "x", (5, 4))[:4, :3]
    file.create_virtual_dataset(KERNEL, layout)


def huge_kernel(ground, file):
    del file[KERNEL]
    file.create_dataset(KERNEL, (HUGE, 3), "float32", chunks=(1000, 3), compression="gzip")


def many_large_kernels(ground, file):
    # Each is below what is looked at; together they are not.
    for i in range(40):
        file.create_dataset(f"more/{i}", (2**20, 15), "float32")


def kernel_in_chunks(ground, file):
    del file[KERNEL]
    file.create_dataset(KERNEL, (4, 3), "float32", compression="gzip")


def newer_group(ground, file):
    # One changed byte in the heap of such a group crashes HDF5.
    group = file.create_group("more", track_order=True)
    for i in range(12):
        group[str(i)] = np.zeros(1, "float32")


def zeros_in_an_archive(ground):
    # 60 MB of one kB, and as much again when Keras reads them.
    content = io.BytesIO(honest()["model.weights.h5"])
    with h5py.File(content, "a") as file:
        file["more"] = np.zeros((15, 2**20), "float32")
    members = {**honest(), "model.weights.h5": content.getvalue()}
    write_model(ground, members, compression=zipfile.ZIP_DEFLATED)


def kernel_of_strings(ground, file):
    replace(file, KERNEL, ["a", "b"])


def circle(ground, file):
    file["autoencoders/again"] = file["autoencoders"]


def named_type(ground, file):
    file["type"] = np.dtype("float32")


def not_hdf5(ground):
    write_model(ground, {**honest(), "model.weights.h5": b"\x89HDF\r\n\x1a\n" + bytes(100)})


def root_far_away(ground):
    weights = bytearray(honest()["model.weights.h5"])
    weights[64:72] = b"\xff" * 8
    write_model(ground, {**honest(), "model.weights.h5": bytes(weights)})


def half_the_weights(ground):
    weights = honest()["model.weights.h5"]
    write_model(ground, {**honest(), "model.weights.h5": weights[: len(weights) // 2]})


def pickled_weights(ground):
    members = {**honest(), "model.weights.npz": pickled_npz(ground)}
    del members["model.weights.h5"]
    write_model(ground, members)


def more_members(**members):
    def build(ground):
        write_model(ground, {**honest(), **{name: b"x" for name in members.values()}})

    return build


def config_twice(ground):
    write_model(ground)
    evil = with_layer(lambda_layer)
    evil(ground)
    with zipfile.ZipFile(ground.path) as archive:
        config = archive.read("config.json")
    write_model(ground)
    with zipfile.ZipFile(ground.path, "a") as archive:
        archive.writestr("config.json", config)


def config_bomb(ground):
    write_model(ground, {**honest(), "config.json": BOMB}, compression=zipfile.ZIP_DEFLATED)


def long_config(ground):
    config = honest()["config.json"] + b" " * 2**23
    write_model(ground, {**honest(), "config.json": config}, compression=zipfile.ZIP_DEFLATED)


def weights_bomb(ground):
    write_model(ground, {**honest(), "model.weights.h5": BOMB}, compression=zipfile.ZIP_DEFLATED)


def other_compression(ground):
    write_model(ground, compression=zipfile.ZIP_BZIP2)


def patched(ground, signature, offset, value):
    """Overwrite a field of the headers of all members."""
    content = bytearray(ground.path.read_bytes())
    start = content.find(signature)
    while start >= 0:
        content[start + offset : start + offset + len(value)] = value
        start = content.find(signature, start + 4)
    ground.path.write_bytes(content)


def encrypted(ground):
    write_model(ground)
    patched(ground, b"PK\1\2", 8, struct.pack("<H", 1))
    patched(ground, b"PK\3\4", 6, struct.pack("<H", 1))


def overlapping(ground):
    # The directory says that each member is the whole file.
    write_model(ground)
    size = struct.pack("<I", ground.path.stat().st_size)
    patched(ground, b"PK\1\2", 20, size)
    patched(ground, b"PK\1\2", 24, size)


def bare_pickle(ground):
    ground.path.write_bytes(pickle.dumps(Payload(ground)))


def model_folder(ground):
    ground.path.mkdir()
    for name, content in honest().items():
        (ground.path / name).write_bytes(content)


def number_of_many_digits(ground):
    write_model(ground, {**honest(), "config.json": b"[1" + b"0" * 10**4 + b"]"})


def not_json(ground):
    write_model(ground, {**honest(), "config.json": b"import os"})


MODEL_FILES = {
    # Code
    "a Lambda layer": (with_layer(lambda_layer), "keras.layers.Lambda"),
    "a lambda for an activation": (with_activation(lambda_function), "__lambda__"),
    "a function of the system": (
        with_activation(lambda ground: function("system", "os")),
        "os.system",
    ),
    "a function of Keras that downloads": (
        with_activation(lambda ground: function("load_data", "keras.datasets.mnist")),
        "keras.datasets.mnist.load_data",
    ),
    "a function of Keras that resolves names": (
        with_activation(lambda ground: function("deserialize", "keras.layers")),
        "keras.layers.deserialize",
    ),
    "a class that starts programs": (
        with_layer(lambda ground: stock("Popen", "subprocess", args=["touch", str(ground.canary)])),
        "subprocess.Popen",
    ),
    "a wrapped PyTorch module": (
        with_layer(lambda ground: stock("TorchModuleWrapper", module_="")),
        "keras.layers.TorchModuleWrapper",
    ),
    "a class of the program's own": (
        with_layer(
            lambda ground: {
                **stock("Toucher", "anything", touch=str(ground.canary)),
                "registered_name": "bystander>Toucher",
            }
        ),
        "bystander>Toucher",
    ),
    "a class of the program's own, disguised": (
        with_layer(
            lambda ground: {
                **stock("Dropout", touch=str(ground.canary)),
                "registered_name": "bystander>Toucher",
            }
        ),
        "bystander>Toucher",
    ),
    "a class of the program's own, by its name": (
        with_activation(lambda ground: "bystander>Toucher"),
        "bystander>Toucher",
    ),
    "a function without a package": (with_activation(lambda ground: "touch"), "touch, which"),
    "a function without a package, as one of Keras's": (
        with_activation(lambda ground: function("touch", "builtins")),
        "touch",
    ),
    "a function by the end of its name": (
        with_activation(lambda ground: function("touch_too", "builtins")),
        "builtins.touch_too",
    ),
    "a class in place of one of Keras's": (
        with_layer(lambda ground: {**stock("Dropout", rate=0.5), "registered_name": "touch"}),
        "touch",
    ),
    "a class of the program's own under our name": (
        with_activation(lambda ground: {"class_name": "sda>Touch", "config": {}, "module": None}),
        "sda>Touch",
    ),
    "a class of ours that is not there": (
        with_layer(lambda ground: {**stock("Nothing"), "registered_name": "sda>Nothing"}),
        "sda>Nothing",
    ),
    "weights in a pickle": (pickled_weights, "the members"),
    "a pickle": (bare_pickle, "not a zip file"),
    # Other files
    "a vocabulary": (
        with_layer(lambda ground: stock("StringLookup", vocabulary=str(ground.secret))),
        "keras.layers.StringLookup",
    ),
    "a SavedModel": (
        with_layer(lambda ground: stock("TFSMLayer", filepath=str(ground.secret))),
        "keras.layers.TFSMLayer",
    ),
    # HDF5 keeps such a link in a group of the newer kind alone.
    "an external link": (with_weights(kernel_by_external_link), "a newer kind"),
    "an external link to a group": (with_weights(group_by_external_link), "a newer kind"),
    "a soft link": (with_weights(kernel_by_soft_link), "SoftLink"),
    "external storage": (with_weights(kernel_in_another_file), "external storage"),
    "a virtual dataset": (with_weights(virtual_kernel), "virtual dataset"),
    "a folder": (model_folder, "no such file"),
    "assets": (more_members(a="assets/vocabulary.txt"), "the members"),
    # Paths
    "a path out of the archive": (more_members(a="../canary"), "'../canary'"),
    "a path with backslashes": (more_members(a="a\\..\\..\\canary"), "canary"),
    "a path from the root": (more_members(a="/tmp/canary"), "'/tmp/canary'"),
    "a path with a drive": (more_members(a="C:/canary"), "'C:/canary'"),
    "two configs": (config_twice, "two members named 'config.json'"),
    # Memory
    "a billion units": (units(10**9), "shape|weights"),
    "units without end": (units(HUGE), "shape"),
    "units that are text": (units("10"), "`units`"),
    "wide on wide": (with_config(wide_and_wide), "weights declared and not there"),
    "wide on wide, built later": (with_config(built_later), "before it was built"),
    "units of a dA, one number": (units(10**9, in_encoder=False), "shape|weights"),
    "an encoder, built later": (with_config(encoder_built_later), "before it was built"),
    "a wide encoder": (with_config(wide_encoder), "weights declared and not there"),
    "a shared layer that is wide elsewhere": (
        with_config(shared_and_wide, honest_classifier),
        "weights declared and not there",
    ),
    "a shared layer, turned": (with_config(shared_and_turned), "two numbers of units"),
    "units of another class": (with_config(units_of_another_class), "two numbers of units"),
    "a shared layer within itself": (with_config(shared_within_itself), "within itself"),
    "a shared layer for the older reader": (
        with_config(shared_by_another_reader),
        "weights declared and not there",
    ),
    "a low rank without end": (with_config(low_rank, honest_classifier), "shape"),
    "an input without end": (with_config(wide_input, honest_classifier), "shape"),
    "a metric with a billion thresholds": (
        with_config(many_thresholds, honest_classifier),
        "keras.metrics.AUC the last",
    ),
    "many metrics": (
        with_config(many_metrics, honest_classifier),
        "keras.metrics.MeanIoU the last",
    ),
    "models in models": (with_config(calls_of_calls), "called more than 10000 times"),
    "a shape bomb": (with_weights(huge_kernel), "of which the file holds"),
    "many small shape bombs": (with_weights(many_large_kernels), "bytes out of"),
    "an array in chunks": (with_weights(kernel_in_chunks), "in chunks"),
    "a group of the newer kind": (with_weights(newer_group), "a newer kind"),
    "zeros in an archive": (zeros_in_an_archive, "bytes out of"),
    "a zip bomb for a config": (config_bomb, "bytes out of"),
    "a zip bomb for weights": (weights_bomb, "bytes out of"),
    "a long config": (long_config, "bytes of config"),
    "a deep config": (deep_config, "recursion"),
    "a number of many digits": (number_of_many_digits, "digits"),
    "a circle of groups": (with_weights(circle), "two paths"),
    # What is broken
    "an encrypted archive": (encrypted, "encrypted"),
    "another compression": (other_compression, "method 12"),
    "members that overlap": (overlapping, "overlap|Overlap"),
    "text for a config": (not_json, "Expecting value"),
    "a list for a config": (with_config(without_a_class), "names no class"),
    "dAs that are none": (with_config(no_autoencoders), "`autoencoders`"),
    "weights before the first dA": (with_config(weights_in_preprocessing), "`preprocessing`"),
    "a matrix of strings": (with_weights(kernel_of_strings), "plain arrays"),
    "a named type": (with_weights(named_type), "plain arrays"),
    "no HDF5": (not_hdf5, "HDF5"),
    "half the weights": (half_the_weights, "HDF5"),
    "a group beyond all files": (root_far_away, "too large"),
}


# Files of weights


def weights_file(build):
    def build_file(ground):
        ground.path.write_bytes(honest()["model.weights.h5"])
        with h5py.File(ground.path, "a") as file:
            build(ground, file)

    return build_file


WEIGHTS_FILES = {
    "an external link": (weights_file(kernel_by_external_link), "a newer kind"),
    "an external link to a group": (weights_file(group_by_external_link), "a newer kind"),
    "a soft link": (weights_file(kernel_by_soft_link), "SoftLink"),
    "external storage": (weights_file(kernel_in_another_file), "external"),
    "a virtual dataset": (weights_file(virtual_kernel), "virtual"),
    "a shape bomb": (weights_file(huge_kernel), "bomb|of which the file holds"),
    "a pickle": (bare_pickle, "HDF5|Unable"),
}


# Training data in HDF5: the dataset "x"


def data(build):
    def build_file(ground):
        with h5py.File(ground.path, "w") as file:
            build(ground, file)

    return build_file


def linked_data(ground, file):
    file["x"] = h5py.ExternalLink(str(ground.secret), "/x")


def softly_linked_data(ground, file):
    file["y"] = np.zeros((5, 4), "float32")
    file["x"] = h5py.SoftLink("/y")


def data_in_another_file(ground, file):
    file.create_dataset("x", (5, 4), "float32", external=[(str(ground.secret), 0, 80)])


def virtual_data(ground, file):
    layout = h5py.VirtualLayout((5, 4), "float32")
    layout[:] = h5py.VirtualSource(str(ground.secret), "x", (5, 4))
    file.create_virtual_dataset("x", layout)


def data_behind_a_plugin(ground, file):
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((5, 4))
    # Zstandard's number; optional, or HDF5 would not write without it.
    creation.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
    space = h5py.h5s.create_simple((5, 4))
    h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space, creation)


def filtered_data(*filters):
    def build(ground, file):
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((5, 4))
        for number, *values in filters:
            creation.set_filter(number, h5py.h5z.FLAG_OPTIONAL, tuple(values))
        space = h5py.h5s.create_simple((5, 4))
        dataset = h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F32LE, space, creation)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.zeros((5, 4), "float32"))

    return build


def chunk_of(content, mask=0, **filters):
    """A dataset whose only chunk, of 80 bytes, is something else."""

    def build(ground, file):
        x = file.create_dataset("x", (5, 4), "float32", chunks=(5, 4), **filters)
        x.id.write_direct_chunk((0, 0), content, mask)

    return build


def many_rows(ground, file):
    file.create_dataset("x", (HUGE, 4), "float32", chunks=(1000, 4), compression="gzip")


def wide_rows(ground, file):
    file.create_dataset("x", (5, HUGE), "float32", chunks=(1, 1000))


def damaged_rows(ground):
    with h5py.File(ground.path, "w") as file:
        x = file.create_dataset("x", (5, 4), "float32", chunks=(5, 4), fletcher32=True)
        x[:] = 0.5
        start = x.id.get_chunk_info(0).byte_offset
    content = bytearray(ground.path.read_bytes())
    content[start] ^= 1
    ground.path.write_bytes(content)


def unwritten_rows(ground, file):
    file.create_dataset("x", (HUGE, 4), "float32")


def one_large_chunk(ground, file):
    file.create_dataset(
        "x", (5, 4), "float32", chunks=(2**26, 4), maxshape=(None, 4), compression="gzip"
    )


def strings(ground, file):
    file["x"] = [["a"] * 4] * 5


def records(ground, file):
    file["x"] = np.zeros((5, 4), dtype=[("a", "f4"), ("b", "f4")])


def no_shape(ground, file):
    file["x"] = h5py.Empty("f4")


def group_for_data(ground, file):
    file.create_group("x")


HDF5_DATA = {
    "an external link": (data(linked_data), "external link"),
    "a soft link": (data(softly_linked_data), "SoftLink"),
    "external storage": (data(data_in_another_file), "external storage"),
    "a virtual dataset": (data(virtual_data), "virtual dataset"),
    "a filter that is a plugin": (data(data_behind_a_plugin), r"\[32015\]"),
    "two compressions": (data(filtered_data((1, 9), (1, 9))), "multiply"),
    "two kinds of compression": (data(filtered_data((1, 9), (32000,))), "multiply"),
    "scale-offset": (data(filtered_data((6, 2, 0))), r"\[6\]"),
    "N-bit": (data(filtered_data((5,))), r"\[5\]"),
    "a chunk that is too short": (
        data(chunk_of(zlib.compress(bytes(79)), compression="gzip")),
        "of 79 bytes, not 80",
    ),
    "a chunk that is too long": (
        data(chunk_of(zlib.compress(bytes(200)), compression="gzip")),
        "of 81 bytes, not 80",
    ),
    "a short chunk that is not compressed": (
        data(chunk_of(bytes(79), 2, compression="gzip", shuffle=True)),
        "of 79 bytes, not 80",
    ),
    "a short chunk of LZF": (
        data(chunk_of(b"\0a\xe0\x44\0", compression="lzf")),
        "of 78 bytes, not 80",
    ),
    "a chunk that is no DEFLATE": (data(chunk_of(bytes(80), compression="gzip")), "Error -3"),
    "rows without end": (data(many_rows), "of which the file holds 0 bytes"),
    "a row without end": (data(wide_rows), "of which the file holds 0 bytes"),
    "rows that nobody wrote": (data(unwritten_rows), "of which the file holds 0 bytes"),
    "one large chunk": (data(one_large_chunk), "of which the file holds 0 bytes"),
    "a wrong checksum": (damaged_rows, "to be whole"),
    "strings": (data(strings), "dtype object"),
    "records": (data(records), "dtype"),
    "no shape": (data(no_shape), "a dataset with a shape"),
    "a group": (data(group_for_data), "a dataset with a shape"),
}


# Arrays: the array "x" of an .npz file, or an .npy file


def pickled_npz(ground):
    content = io.BytesIO()
    np.savez(content, x=np.array([Payload(ground)], dtype=object))
    return content.getvalue()


def npy(shape, body, descr="<f4"):
    """An .npy file with any header."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return content.getvalue() + body


def npz_of(content, name="x.npy", **compression):
    def build(ground):
        with zipfile.ZipFile(ground.path, "w", **compression) as archive:
            archive.writestr(name, content)

    return build


def npz_with_objects(ground):
    ground.path.write_bytes(pickled_npz(ground))


def npz_behind_a_pickle(ground):
    npz_of(npy((2,), bytes(8)))(ground)
    ground.path.write_bytes(pickle.dumps(Payload(ground)) + ground.path.read_bytes())


def npz_with_two(ground):
    with zipfile.ZipFile(ground.path, "w") as archive:
        archive.writestr("x.npy", npy((2,), bytes(8)))
        archive.writestr("x.npy", npy((3,), bytes(12)))


DEFLATED = {"compression": zipfile.ZIP_DEFLATED}
NPZ_FILES = {
    "objects": (npz_with_objects, "dtype object"),
    "a pickle": (bare_pickle, "not a zip file"),
    "a pickle before the archive": (npz_behind_a_pickle, "before the archive"),
    "a zip bomb": (npz_of(npy((len(BOMB) // 4,), BOMB), **DEFLATED), "bytes out of"),
    "a shape bomb": (npz_of(npy((HUGE,), bytes(8))), "shape"),
    "a negative shape": (npz_of(npy((-2, -1), bytes(8))), "shape"),
    "another compression": (
        npz_of(npy((2,), bytes(8)), compression=zipfile.ZIP_LZMA),
        "method 14",
    ),
    "a path out of the archive": (npz_of(npy((2,), bytes(8)), "../x.npy"), "'../x.npy'"),
    "two arrays of one name": (npz_with_two, "two members named 'x.npy'"),
    "strings": (npz_of(npy((2,), bytes(8), "<U1")), "dtype <U1"),
    "records with objects": (npz_of(npy((1,), bytes(12), [("a", "O")])), "dtype"),
    "a header that is code": (
        npz_of(b"\x93NUMPY\1\0" + struct.pack("<H", 21) + b"__import__('os').abc\n"),
        "malformed|header|node",
    ),
    "no array": (npz_of(b"hello"), "plain NumPy arrays"),
}


def npy_of(content):
    return lambda ground: ground.path.write_bytes(content)


def npy_with_objects(ground):
    np.save(ground.path, np.array([Payload(ground)], dtype=object), allow_pickle=True)


NPY_FILES = {
    "objects": (npy_with_objects, "dtype object"),
    "a pickle": (bare_pickle, "magic"),
    "a shape bomb": (npy_of(npy((HUGE,), bytes(8))), "shape"),
    "something behind the array": (npy_of(npy((2,), bytes(12))), "shape"),
    "an array cut short": (npy_of(npy((2,), bytes(4))), "shape"),
    "an unknown version": (npy_of(b"\x93NUMPY\3\0" + bytes(8)), "version"),
}


# Text


def text_of(content):
    return lambda ground: ground.path.write_bytes(content)


TEXT_FILES = {
    "a call": (text_of(b"1 2\n__import__('os') 2\n"), "could not convert"),
    "a pickle": (bare_pickle, "text file"),
    "what would be inflated": (text_of(gzip.compress(b"1 2\n")), "text file"),
    "what would be inflated as bzip2": (text_of(bz2.compress(b"1 2\n")), "text file"),
    "rows of different lengths": (text_of(b"1 2\n3\n"), "number of columns"),
    "nothing": (text_of(b""), "no numbers"),
}


# Checkpoints: whoever changes one can write the digest anew


def checkpoint(build):
    """Turn a function of (ground, binary file), which writes an `.npz`, into a checkpoint of it."""

    def write(ground):
        content = io.BytesIO()
        build(ground, content)
        digest = hashlib.sha256(b"1\n" + content.getvalue()).hexdigest().encode()
        ground.path.parent.mkdir()
        ground.path.with_name("lock").touch()
        ground.path.write_bytes(b"sda-checkpoint 1 " + digest + b"\n" + content.getvalue())

    return write


def text(value):
    return np.frombuffer(json.dumps(value).encode(), "uint8")


def checkpoint_with_objects(ground, file):
    array = np.array([Payload(ground)], dtype=object)
    np.savez(file, json=text({"array": 0}), array_0=array)


def checkpoint_bomb(ground, file):
    np.savez_compressed(file, json=text(None), array_0=np.zeros(2**27, "uint8"))


def checkpoint_with_a_path(ground, file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../canary", b"")


CHECKPOINTS = {
    "a pickle": (checkpoint(checkpoint_with_objects), "dtype object"),
    "a zip bomb": (checkpoint(checkpoint_bomb), "bytes out of"),
    "a path out of the archive": (checkpoint(checkpoint_with_a_path), "canary"),
    "no archive": (checkpoint(lambda ground, file: file.write(b"{}")), "not a zip file"),
    "no text": (checkpoint(lambda ground, file: np.savez(file, a=np.zeros(1))), "KeyError"),
    "another kind of value": (
        checkpoint(lambda ground, file: np.savez(file, json=text({"call": "os.system"}))),
        "KeyError",
    ),
    "no settings": (checkpoint(lambda ground, file: np.savez(file, json=text([1]))), "TypeError"),
}
