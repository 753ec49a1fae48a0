"""What `mixed_bfloat16` costs and gives: error and speed beside float32, round by round.

A stack 784-500-500 is pretrained and fine-tuned on 20,000 digits under either policy, in turns. Run
it once for each backend (`KERAS_BACKEND`): the parts of the others stay. An epoch's time is the
median of those after the first, which compiles.
"""

import dataclasses
import statistics

import keras

import sda
from experiments import parts, recipes
from experiments.record import EpochClock

NAME = "precision"
POLICIES = ("float32", "mixed_bfloat16")
ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is trained."""

    rows: int = 20_000
    units: tuple = (500, 500)
    epochs: int = 4
    batch_size: int = 128
    pretraining_rate: float = 0.3
    finetuning_rate: float = 1.0


QUICK = Sizes(rows=200, units=(20, 10), epochs=2, batch_size=20)


def plan(sizes, seed):
    """Return the settings of the parts: the policies by turns, for each round another seed."""
    return [
        {
            "seed": seed + turn,
            "policy": policy,
            "backend": keras.backend.backend(),
            **dataclasses.asdict(sizes),
        }
        for turn in range(ROUNDS)
        for policy in POLICIES
    ]


def compute(data):
    """Return the function that trains one part."""
    (x, y), _, (x_test, y_test) = data

    def part(seed, policy, backend, **sizes):
        sizes = Sizes(**sizes)
        rows, labels = x[: sizes.rows], y[: sizes.rows]
        clocks = [EpochClock() for _ in sizes.units]
        keras.config.set_dtype_policy(policy)
        try:
            stack = sda.StackedDenoisingAutoencoder(sizes.units, 0.3, seed=seed)
            histories = sda.GreedyPretrainer(
                stack,
                keras.optimizers.SGD(sizes.pretraining_rate),
                epochs=sizes.epochs,
                batch_size=sizes.batch_size,
                callbacks=lambda k: [clocks[k]],
                seed=seed,
            ).fit(rows, verbose=0)
            model = stack.classifier(10)
            recipe = recipes.Finetuning(sizes.epochs, sizes.batch_size, sizes.finetuning_rate)
            model.compile(keras.optimizers.SGD(recipe.rate), "sparse_categorical_crossentropy")
            clock = EpochClock()
            sda.fit(
                model, rows, labels, recipe.batch_size, recipe.epochs, verbose=0,
                callbacks=[clock], seed=seed,
            )  # fmt: skip
            return {
                "denoising_loss": [round(h.history["loss"][-1], 3) for h in histories],
                "test_error": recipes.error(model, x_test, y_test),
                "pretraining_examples_per_second": round(len(rows) / clocks[0].median()),
                "finetuning_examples_per_second": round(len(rows) / clock.median()),
            }
        finally:
            keras.config.set_dtype_policy("float32")

    return part


def report(found, out):
    """Write the table of all backends that the file has parts of."""
    everything = [p for p in parts.read(out) if _sizes(p) == _sizes(found[0])]
    rows = []
    for backend in sorted({p["settings"]["backend"] for p in everything}):
        mine = {
            policy: [
                p
                for p in everything
                if (p["settings"]["backend"], p["settings"]["policy"]) == (backend, policy)
            ]
            for policy in POLICIES
        }
        for policy, those in mine.items():
            rows.append([backend, policy, *_cells(those, mine["float32"])])
    header = [
        "backend", "policy", "denoising loss, first layer", "test error, %",
        "pretraining, examples/s", "times float32", "fine-tuning, examples/s", "times float32",
    ]  # fmt: skip
    text = f"""# Precision

{parts.table(header, rows)}

784-500-500 on {found[0]["settings"]["rows"]:,} digits, {found[0]["settings"]["epochs"]} epochs a
layer and of fine-tuning, {found[0]["settings"]["batch_size"]} examples an update. Losses and errors
are means ± standard deviations over the seeds, speeds medians, ratios medians within a seed.

{parts.machines(everything)}
"""
    (out / "results.md").write_text(text)


def _sizes(part):
    names = [field.name for field in dataclasses.fields(Sizes)]
    return [part["settings"][name] for name in names]


def _cells(those, float32):
    cells = [
        parts.mean(p["result"]["denoising_loss"][0] for p in those),
        parts.mean(p["result"]["test_error"] for p in those),
    ]
    for name in ("pretraining_examples_per_second", "finetuning_examples_per_second"):
        by_seed = {p["seed"]: p["result"][name] for p in float32}
        ratios = [p["result"][name] / by_seed[p["seed"]] for p in those if p["seed"] in by_seed]
        speed = statistics.median(p["result"][name] for p in those) if those else 0
        cells += [f"{speed:,.0f}", f"{statistics.median(ratios):.2f}" if ratios else ""]
    return cells


def main(arguments=None):
    a = parts.Parser(NAME, __doc__).parse_args(arguments)
    data = recipes.digits(a.quick)
    parts.complete(plan(QUICK if a.quick else Sizes(), a.seed), compute(data), report, a.out)


if __name__ == "__main__":
    main()
