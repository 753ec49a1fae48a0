"""What one device does on JAX: a step beside the cost model, and populations beside one dA.

A step is measured at several batch sizes, and beside it stands what `experiments/cost_model.py`
assumes of an NVIDIA H100. A population trains many dAs in one compiled program: how much longer
than one of them, at a batch size that leaves the device waiting?
"""

import dataclasses
import time

import keras
import numpy as np

import sda
from experiments import cost_model, parts
from experiments.scaling import HIDDEN, NETWORKS, TITLES, VISIBLE, step

NAME = "one_gpu"


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much to run."""

    batches: tuple = (20, 100, 1000, 10_000)
    rows: int = 200_000
    repeats: int = 7
    members: tuple = (1, 8, 32)
    population_batch: int = 20
    population_rows: int = 50_000
    epochs: int = 8
    widths: tuple = (500, HIDDEN)


QUICK = Scale((20,), 200, 1, (1, 2), 20, 200, 2, (8,))


def plan(scale, seed):
    """Return the settings of the parts."""
    of_step = {"seed": seed, "kind": "step", "rows": scale.rows, "repeats": scale.repeats}
    of_population = {
        "seed": seed,
        "kind": "population",
        "batch": scale.population_batch,
        "rows": scale.population_rows,
        "epochs": scale.epochs,
    }
    steps = [
        {**of_step, "network": network, "batch": batch}
        for network in NETWORKS
        for batch in scale.batches
    ]
    populations = [
        {**of_population, "members": members, "units": units}
        for units in scale.widths
        for members in (None, *scale.members)
    ]
    return steps + populations


def compute(kind, seed, **settings):
    """Return the seconds of one part: of a step, or of an epoch of a population."""
    if kind == "step":
        network = settings.pop("network")
        return {"seconds": step(network, **settings)}
    return population(seed=seed, **settings)


def population(members, units, batch, rows, epochs, seed):
    """Return the seconds of an epoch of `members` dAs, or of one by its own pretrainer for None.

    Its share of a training of so many epochs, when that of one epoch is taken off: what is compiled
    in both, and made once.
    """
    x = np.random.default_rng(seed).random((rows, VISIBLE), "float32")

    def seconds(epochs):
        pretrainers = []
        for k in range(members or 1):
            stack = sda.StackedDenoisingAutoencoder([units], 0.1 + 0.5 * k / (members or 1), seed=k)
            stack.build((None, VISIBLE))
            optimizer = keras.optimizers.SGD(0.02)
            pretrainers.append(
                sda.GreedyPretrainer(stack, optimizer, epochs=epochs, batch_size=batch, seed=k)
            )
        start = time.perf_counter()
        if members is None:
            pretrainers[0].fit(x, verbose=0)
        else:
            sda.population.fit(pretrainers, x)
        return time.perf_counter() - start

    seconds(1)  # what the process compiles once
    once, all_epochs = seconds(1), seconds(1 + epochs)
    return {"seconds": (all_epochs - once) / epochs, "first_epoch": once}


def report(found, out):
    """Write the tables."""
    header = ["network", "batch", "a step, µs", "cost model, µs", "million examples/s", "TFLOP/s"]
    of_members = ["network", "members", "a step, µs", "times one alone", "speed of all, times one"]
    rows = {
        kind: [row(part, found) for part in found if part["settings"]["kind"] == kind]
        for kind, row in (("step", _step_row), ("population", _population_row))
    }
    text = [
        f"# {__doc__.splitlines()[0]}",
        "## Steps",
        "Medians of epochs, with all that `sda` does in one. The cost model's column is what it "
        "assumes of an H100.",
        parts.table(header, rows["step"]),
        "## Populations",
        "dAs that differ in corruption level and seed, trained in one compiled program by "
        "`sda.population.fit`, beside one that its own pretrainer trains.",
        parts.table(of_members, rows["population"]),
        parts.machines(found),
    ]
    (out / "results.md").write_text("\n\n".join(text) + "\n")


def _step_row(part, _):
    settings, seconds = part["settings"], part["result"]["seconds"]
    network, batch = NETWORKS[settings["network"]], settings["batch"]
    predicted = cost_model.step_seconds(network, batch, 1, cost_model.H100)
    flops = network.flops_a_weight * network.weights * batch
    return [
        TITLES[settings["network"]],
        f"{batch:,}",
        f"{1e6 * seconds:.0f}",
        f"{1e6 * predicted:.0f}",
        f"{batch / seconds / 1e6:.2f}",
        f"{flops / seconds / 1e12:.1f}",
    ]


def _population_row(part, found):
    settings, seconds = part["settings"], part["result"]["seconds"]
    title, steps = f"dA {VISIBLE}-{settings['units']}", -(-settings["rows"] // settings["batch"])
    members, a_step = settings["members"], f"{1e6 * seconds / steps:.0f}"
    if members is None:
        return [title, "alone", a_step, "", ""]
    alone = [p for p in found if p["settings"] == {**settings, "members": None}]
    ratio = seconds / alone[0]["result"]["seconds"]
    return [title, members, a_step, f"{ratio:.2f}", f"{members / ratio:.1f}"]


def main(arguments=None):
    parser = parts.Parser(NAME, __doc__)
    a = parser.parse_args(arguments)
    if keras.backend.backend() != "jax":
        parser.error(f"needs the backend jax. Received: {keras.backend.backend()}")
    parts.complete(plan(QUICK if a.quick else Scale(), a.seed), compute, report, a.out)
    print(f"Results are in {a.out}/")


if __name__ == "__main__":
    main()
