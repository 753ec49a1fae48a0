"""A three-layer schedule and its fine-tuning, as a script that may be killed at any moment."""

import hashlib
import json
import os
import pathlib
import time

import keras
import numpy as np

import sda
from sda.training import pace

EPOCHS = 5
STEPS = 3
LAYERS = 3
# The moments of the schedule: one a dispatch.
MOMENTS = (LAYERS + 1) * EPOCHS * STEPS


def data():
    generator = np.random.default_rng(0)
    return generator.random((30, 12), "float32"), generator.integers(3, size=30)


class Pace(keras.callbacks.Callback):
    """Writes down which moment of the schedule has passed, and takes its time."""

    def __init__(self, phase, path, pause):
        super().__init__()
        self.phase = phase
        self.path = str(path)
        self.pause = pause

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        moment = (self.phase * EPOCHS + self.epoch) * STEPS + batch
        with open(self.path, "a") as file:
            file.write(f"{moment}\n")
        time.sleep(self.pause)


def run(folder, pause=0.0):
    """Pretrain and fine-tune with checkpoints in `folder`; write what came out to `result.json`."""
    folder = pathlib.Path(folder)
    pace.DISPATCH_FLOPS = 0  # one step a dispatch
    x, y = data()
    stack = sda.StackedDenoisingAutoencoder([8, 7, 6], corruption=[0.1, 0.2, 0.3], seed=1)

    def callbacks(phase):
        monitored = {"monitor": "val_loss", "patience": 2}
        return [
            keras.callbacks.ReduceLROnPlateau(factor=0.5, min_delta=1e9, **monitored),
            keras.callbacks.EarlyStopping(restore_best_weights=True, patience=EPOCHS),
            Pace(phase, folder / "moments", pause),
        ]

    histories = sda.GreedyPretrainer(
        stack, keras.optimizers.Adam(0.01), epochs=EPOCHS, batch_size=10, callbacks=callbacks,
        seed=1, checkpoint_dir=folder / "pretraining", checkpoint_every=0.05,
    ).fit(x, validation_data=x[:10], verbose=0)  # fmt: skip
    classifier = stack.classifier(3, dropout=0.2)
    classifier.compile(keras.optimizers.SGD(0.1, 0.9), "sparse_categorical_crossentropy")
    histories.append(
        sda.fit(
            classifier,
            x,
            y,
            batch_size=10,
            epochs=EPOCHS,
            validation_data=(x[:10], y[:10]),
            callbacks=callbacks(LAYERS),
            seed=1,
            steps_per_execution=1,
            verbose=0,
            checkpoint_dir=folder / "finetuning",
            checkpoint_every=0,
        )
    )
    variables = [*stack.variables, *classifier.variables, *classifier.optimizer.variables]
    digest = hashlib.sha256()
    for variable in variables:
        digest.update(keras.ops.convert_to_numpy(variable.value).tobytes())
    result = {"weights": digest.hexdigest(), "histories": [h.history for h in histories]}
    temporary = folder / "result.tmp"
    temporary.write_text(json.dumps(result))
    os.replace(temporary, folder / "result.json")
