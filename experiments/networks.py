"""Networks pretrained under a noise or not at all, fine-tuned at several rates; kept on disk."""

import dataclasses
import json
import time

import keras

import sda
from experiments import recipes
from experiments.record import matmul_precision, write_json
from sda.streams import STREAMS, spawn

NOISES = {
    "masking": sda.MaskingNoise,
    "salt and pepper": sda.SaltAndPepperNoise,
    "gaussian": sda.GaussianNoise,
}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What all networks of an experiment have in common.

    Lengths are numbers of examples, so that a small training set is seen as often as a large one:
    `pretraining_examples` for each layer, `finetuning_examples` for each rate. Fine-tuning has
    momentum, a rate that falls to 0, Gaussian noise on the input and smoothed labels; the weights
    that are best on validation are kept.
    """

    units: tuple = (1000, 1000, 1000)
    pretraining_examples: int = 1_000_000
    pretraining_batch_size: int = 100
    pretraining_rate: float = 0.1
    finetuning_examples: int = 400_000
    finetuning_batch_size: int = 100
    finetuning_momentum: float = 0.9
    finetuning_noise: float = 0.2
    finetuning_smoothing: float = 0.1
    finetuning_rates: tuple = (0.2, 0.5)


def network(data, classes, seed, protocol, noise=None, level=0.0, emphasis=(1.0, 1.0), **identity):
    """Return the stack, the classifier that is best on validation, and what became known of it.

    A network that was trained before is loaded.

    Args:
        data: Training and validation pairs of (x, y).
        classes: Integer.
        seed: Integer.
        protocol: A `Protocol`, as a dictionary.
        noise: A name of `NOISES`, or None for a network that is not pretrained.
        level: Float, the noise's rate or standard deviation.
        emphasis: α and β of the pretraining loss.
        identity: What else tells this network from others, such as the name of its data.

    Returns:
        `(stack, classifier, record)`: a `StackedDenoisingAutoencoder`, a `keras.Model`, and a
        dictionary with the validation "error" in percent, the "rate" and "epochs" of fine-tuning,
        the validation "errors" of all rates, and seconds.
    """
    settings = {
        "streams": STREAMS,
        **{"seed": seed, "protocol": protocol, "noise": noise, "level": level},
        **{"emphasis": emphasis, "backend": keras.backend.backend()},
        **matmul_precision(),
        **identity,
    }
    folder = recipes.CACHE / recipes.cache_key(settings)
    if (folder / "record.json").exists():
        stack, classifier = (
            keras.models.load_model(folder / f"{name}.keras") for name in ("stack", "classifier")
        )
        return stack, classifier, json.loads((folder / "record.json").read_text())["outcome"]
    stack, classifier, outcome = _train(
        data, classes, seed, Protocol(**protocol), noise, level, emphasis
    )
    folder.mkdir(parents=True, exist_ok=True)
    stack.save(folder / "stack.keras")
    classifier.save(folder / "classifier.keras")
    write_json(folder / "record.json", {"settings": settings, "outcome": outcome})
    return stack, classifier, outcome


def _train(data, classes, seed, protocol, noise, level, emphasis):
    train, valid = data
    x = train[0]
    start = time.perf_counter()
    recipe = sda.Recipe(
        units=protocol.units,
        corruption=NOISES[noise](level) if noise else 0.0,
        loss=sda.losses.CrossEntropy(*emphasis),
        learning_rate=protocol.pretraining_rate,
        epochs=_epochs(protocol.pretraining_examples, x),
        batch_size=protocol.pretraining_batch_size,
        seed=seed,
    )
    stack = recipe.stack()
    stack.build((None, x.shape[1]))
    if noise:
        recipe.pretrainer(stack, seed=spawn(seed, 1)).fit(x, verbose=0)
    seconds = {"pretraining_seconds": round(time.perf_counter() - start, 1)}
    epochs = _epochs(protocol.finetuning_examples, x)
    tries = []
    for rate in protocol.finetuning_rates:
        start = time.perf_counter()
        model = stack.classifier(classes, copy=True, noise=protocol.finetuning_noise)
        recipe = recipes.Finetuning(
            epochs,
            protocol.finetuning_batch_size,
            rate,
            protocol.finetuning_momentum,
            linear_decay=True,
            smoothing=protocol.finetuning_smoothing,
            patience=epochs,
        )
        history = recipes.finetune(model, recipe, train, valid, spawn(seed, 2), verbose=0)
        outcome = {
            "error": recipes.error(model, *valid),
            "rate": rate,
            "epochs": len(history.history["loss"]),
            "finetuning_seconds": round(time.perf_counter() - start, 1),
        }
        print(f"    rate {rate}: {outcome['error']:.2f} %, {outcome['epochs']} epochs", flush=True)
        tries.append((outcome["error"], len(tries), model, outcome))
    *_, model, outcome = min(tries, key=lambda t: t[:2])
    errors = [error for error, *_ in tries]
    return stack, model, {**outcome, "errors": errors, **seconds}


def _epochs(examples, x):
    return max(1, round(examples / len(x)))
