"""A program of several processes on JAX, and what it does alone: `python trained_together.py …`.

Arguments: the folder of this process, and of several processes the address of the first, how many
there are, and the number of this one.
"""

import json
import os
import pathlib
import re
import signal
import sys

import keras
import numpy as np

import sda
from sda.rows.reading import as_rows
from sda.training.loop import Trainer
from sda.training.run import Run

ROWS = 105  # the last batch, of 5, cannot be halved
EPOCHS = 3


class Death(keras.callbacks.Callback):
    """Ends the process as `kill -9` does, at the end of the second epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def data():
    generator = np.random.default_rng(0)
    return generator.random((ROWS, 12), "float32"), generator.integers(3, size=ROWS)


def train(checkpoint_dir, dies_in_layer=None):
    """Pretrain and fine-tune; return weights, losses, codes and predictions."""
    x, y = data()
    stack = sda.StackedDenoisingAutoencoder([8, 6], corruption=[0.3, 0.2], seed=1)
    histories = sda.GreedyPretrainer(
        stack,
        keras.optimizers.SGD(0.1, momentum=0.5),
        epochs=EPOCHS,
        batch_size=10,
        seed=1,
        checkpoint_dir=checkpoint_dir / "pretraining",
        callbacks=lambda k: [Death()] if k == dies_in_layer else [],
    ).fit(x, validation_data=x[:30], verbose=0)
    model = stack.classifier(3, dropout=0.2)
    model.compile(
        keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    histories.append(
        sda.fit(
            model,
            x,
            y,
            batch_size=10,
            epochs=EPOCHS,
            seed=2,
            verbose=0,
            validation_data=(x[:30], y[:30]),
            checkpoint_dir=checkpoint_dir / "finetuning",
        )
    )
    codes = stack.encode(x)
    # Keras's own functions for whole models want each process on its own again.
    keras.distribution.set_distribution(None)
    found = {f"weights_{i}": w for i, w in enumerate(model.get_weights())}
    found |= {"codes": codes, "predictions": model.predict(x, verbose=0)}
    for i, history in enumerate(histories):
        found |= {f"{name}_{i}": values for name, values in history.history.items()}
    return found


def collectives():
    """Return what the devices send each other in the compiled program of a dA's steps."""
    x, _ = data()
    stack = sda.StackedDenoisingAutoencoder([8], seed=1)
    stack.build((None, 12))
    trainer = Trainer(Run(sda.GreedyPretrainer(stack).layer_model(0), (as_rows(x),), 10))
    driver, feed = trainer.driver, trainer.epochs.feed
    state = tuple([v.value for v in group] for group in driver._train_variables())
    rows, _ = feed._sent(feed._read((np.arange(20).reshape(2, 10), 2)), 10)
    program = driver._train.lower(state, rows, None, 2).compile().as_text()
    names = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    return re.findall(rf"= (.*) ({names})(?:-start)?\(", program)


def refused(function):
    """Return what is said by the error that `function()` raises."""
    try:
        function()
    except (OSError, ValueError) as error:
        return str(error)
    raise AssertionError("nothing was raised")


def refusals(rank):
    """What goes wrong, and is said before anything is changed."""
    x, y = data()

    def compiled():
        model = sda.StackedDenoisingAutoencoder([8], seed=1)
        model.build((None, 12))
        model = model.classifier(3)
        model.compile("sgd", "sparse_categorical_crossentropy")
        return model

    def fit(model, x=x, y=y, batch_size=10, seed=1, **settings):
        sda.fit(model, x, y, batch_size, seed=seed, verbose=0, **settings)

    together = keras.distribution.distribution()
    said = {
        "batch size": refused(lambda: fit(compiled(), batch_size=5)),
        "seeds": refused(lambda: fit(compiled(), seed=rank)),
        "rows": refused(lambda: fit(compiled(), x=x[rank:], y=y[rank:])),
        "cache": refused(
            lambda: sda.GreedyPretrainer(
                sda.StackedDenoisingAutoencoder([8], seed=1),
                batch_size=10,
                seed=1,
                cache=sda.LayerCache("unused"),
            ).fit(x)
        ),
        # The folder is that of the first process: it alone notices.
        "folder": refused(lambda: fit(compiled(), checkpoint_dir="/dev/null/no folder")),
    }
    keras.distribution.set_distribution(None)
    made_before = compiled()
    said["no distribution"] = refused(lambda: fit(made_before))
    keras.distribution.set_distribution(together)
    said["made before"] = refused(lambda: fit(made_before))
    return said


def main(folder, address=None, processes="1", rank="0"):
    folder, rank = pathlib.Path(folder), int(rank)
    if address:
        keras.distribution.initialize(address, int(processes), rank)
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(auto_shard_dataset=False)
        )
        (folder / "imported.txt").write_text(sda.__file__)
        (folder / "refusals.json").write_text(json.dumps(refusals(rank)))
        (folder / "collectives.json").write_text(json.dumps(collectives()))
    together = keras.distribution.distribution()
    np.savez(folder / "found.npz", **train(folder))
    keras.distribution.set_distribution(together)
    try:
        train(folder / "cut_off", dies_in_layer=1 if rank else None)
    except RuntimeError as error:
        (folder / "error.txt").write_text(str(error))
        # Not the end that JAX would wait for, together with the process that died.
        os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
