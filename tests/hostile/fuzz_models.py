"""Loads mutated model files: python tests/hostile/fuzz_models.py --mutations 5000

Each file is loaded by `sda.load_model`, and has to be accepted or refused in the house's words. A
third of the mutations is of the weights, a third of the config, and a third of the archive.
`--out tests/hostile/fuzz_models.json` writes the counts.
"""

import copy
import functools
import io
import json
import pathlib
import sys
import tempfile
import zipfile

import fuzzing
import h5py
import keras
import numpy as np

import sda

ODD = (None, True, 0, 1, -1, 3, 2**31, 2**63, 10**30, 0.5, 1e308, float("nan"), "", "a", [], {})
WORDS = [
    *("Dense", "Dropout", "Functional", "Sequential", "Lambda", "Adam", "AUC", "MeanIoU"),
    *("function", "relu", "float64", "bfloat16", "__tensor__", "__numpy__", "__keras_tensor__"),
    *("keras", "keras.layers", "keras.metrics", "builtins", "sda>DenoisingAutoencoder"),
    *("sda>StackedDenoisingAutoencoder", "sda>MaskingNoise"),
]


def models():
    noises = [sda.ComposedNoise([sda.GaussianNoise(0.1), sda.MaskingNoise(0.2)]), 0.5]
    stack = sda.StackedDenoisingAutoencoder([5, 3], noises, tied=[True, False], seed=1)
    stack.build((None, 4))
    yield stack
    classifier = stack.classifier(2, dropout=0.5)
    classifier.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy", "AUC"])
    yield classifier
    inputs = keras.Input((4,))
    encoder = keras.layers.Dense(3, "sigmoid")
    inner = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization()])
    outputs = [inner(inner(encoder(inputs))), sda.DenoisingAutoencoder(encoder=encoder)(inputs)]
    yield keras.Model(inputs, outputs)


def saved():
    """Return the archives of some honest models, in one archive."""
    content = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(content, "w") as archive:
        for number, model in enumerate(models()):
            path = pathlib.Path(folder, f"{number}.keras")
            model.save(path)
            archive.write(path, path.name)
    return content.getvalue()


@functools.cache
def honest():
    with zipfile.ZipFile(io.BytesIO(fuzzing.made(saved))) as archive:
        return [archive.read(name) for name in archive.namelist()]


def mutate(draw):
    content, part = draw.choice(honest()), draw.randrange(3)
    if part == 0:
        return fuzzing.mutated(content, draw)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if part == 1:
        members["model.weights.h5"] = fuzzing.mutated(members["model.weights.h5"], draw)
    else:
        config = json.loads(members["config.json"])
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            mutate_config(config, draw)
        members["config.json"] = json.dumps(config).encode()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return content.getvalue()


def mutate_config(config, draw):
    """Change one value in a config, wherever it is."""
    places = list(_places(config))
    parent, key = draw.choice(places)
    kind = draw.random()
    if kind < 0.45:
        parent[key] = draw.choice(ODD)
    elif kind < 0.6:
        parent[key] = draw.choice(WORDS)
    elif kind < 0.8:
        other, its = draw.choice(places)
        parent[key] = copy.deepcopy(other[its])
    elif kind < 0.9 and isinstance(parent[key], list):
        parent[key] *= draw.choice((2, 5))
    else:
        del parent[key]


def _places(value):
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])


def main():
    versions = {
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
    }
    return fuzzing.run("model files", ".keras", mutate, sda.load_model, versions)


if __name__ == "__main__":
    sys.exit(main())
