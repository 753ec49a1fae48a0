"""What two replicas of TensorFlow's MirroredStrategy learn: `python mirrored.py FOLDER`.

Two virtual processors take the place of two GPUs; they exist only if made before anything else.
"""

import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import sda

ROWS = 105  # the last batch, of 5, cannot be halved


class CutOff(keras.callbacks.Callback):
    """Cuts off the first run that it sees."""

    cut = 0

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1 and not CutOff.cut:
            CutOff.cut += 1
            raise InterruptedError


def train(rate=0.0, checkpoint_dir=None, callbacks=None):
    """Pretrain with masking noise of `rate`, and fine-tune; return weights, losses, predictions."""
    generator = np.random.default_rng(0)
    x, y = generator.random((ROWS, 12), "float32"), generator.integers(3, size=ROWS)
    stack = sda.StackedDenoisingAutoencoder([8, 6], corruption=rate, seed=1)
    histories = sda.GreedyPretrainer(
        stack,
        keras.optimizers.SGD(0.1, momentum=0.5),
        epochs=3,
        batch_size=10,
        seed=1,
        checkpoint_dir=checkpoint_dir,
        callbacks=callbacks,
    ).fit(x, validation_data=x[:30], verbose=0)
    model = stack.classifier(3)
    model.compile(
        keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    settings = {"batch_size": 10, "epochs": 3, "seed": 2, "verbose": 0}
    histories.append(sda.fit(model, x, y, validation_data=(x[:30], y[:30]), **settings))
    found = {f"weights_{i}": w for i, w in enumerate(model.get_weights())}
    found |= {"codes": stack.encode(x), "predictions": model.predict(x, verbose=0)}
    for i, history in enumerate(histories):
        found |= {f"{name}_{i}": values for name, values in history.history.items()}
    return found


def masks(strategy):
    """Return what the replicas make of ones, each for itself, in two calls."""
    noise = sda.MaskingNoise(0.5, seed=1)
    step = tf.function(lambda: noise(tf.ones((50, 40)), training=True))
    values = [strategy.experimental_local_results(strategy.run(step)) for _ in range(2)]
    return np.array([[part.numpy() for part in of_call] for of_call in values])


def refusal():
    try:
        sda.GreedyPretrainer(sda.StackedDenoisingAutoencoder([8]), batch_size=5).fit(
            np.ones((9, 3))
        )
    except ValueError as error:
        return str(error)


def main(folder):
    folder = pathlib.Path(folder)
    (processor,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        processor, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        np.savez(folder / "without_noise.npz", **train())
        np.savez(folder / "with_noise.npz", **train(0.3))
        cut_off = {"checkpoint_dir": folder / "checkpoints", "callbacks": lambda k: [CutOff()] * k}
        try:
            train(0.3, **cut_off)
        except InterruptedError:
            np.savez(folder / "resumed.npz", **train(0.3, **cut_off))
        np.savez(folder / "masks.npz", masks(strategy))
        (folder / "refusal.txt").write_text(refusal())


if __name__ == "__main__":
    main(sys.argv[1])
