"""Twelve runs that differ in the third layer, with shared lower layers and without: what it costs.

Two sweeps of the same runs take turns, run by run, so that both see the same machine. One keeps
trained layers in a store and takes from it what another run has trained; the other trains all
layers of every run. Runs are judged by the denoising of digits held out, which costs next to
nothing: fine-tuning, which cannot be shared, is left out.
"""

import pathlib

import sda
from experiments import parts, recipes
from experiments.record import circumstances, write_json

NAME = "shared_prefixes"
VARY = {"units_3": [250, 500, 1000], "corruption_3": [0.1, 0.2, 0.3, 0.4]}
FIXED = {
    "units": [500, 500, 500],
    "corruption": [0.1, 0.2, 0.3],
    "epochs": 10,
    "learning_rate": 0.3,
    "batch_size": 100,
}
QUICK = {**FIXED, "units": [16, 12, 8], "epochs": 1}
QUICK_VARY = {"units_3": [6, 8, 10], "corruption_3": [0.1, 0.2, 0.3, 0.4]}
ROWS = 10000
RUNS_OF_A_SWEEP = 12
# Two shared layers, and a third for each run.
TRAINED = 14
# With the trained layers: large, and of no use afterwards.
RUNS = pathlib.Path("runs")


def sweeps(vary, fixed, seed, folder):
    """Return the sweep that shares layers, and the one that does not."""
    return {
        arm: sda.sweep.Sweep(
            folder / arm,
            vary,
            {**fixed, "seed": seed},
            objective="denoising",
            cache_bytes=2**33 if arm == "shared" else 0,
        )
        for arm in ("shared", "separate")
    }


def compute(made, x, held_out):
    """Run both sweeps, a run of each in turn; return their tables."""
    tables = {}
    for _ in range(RUNS_OF_A_SWEEP):
        for arm, sweep in made.items():
            tables[arm] = sweep.run(x, validation_data=held_out, limit=1)
    return tables


def summary(tables):
    """Return what both sweeps cost, their ratios, and whether their weights are the same bits."""
    cost = {
        arm: {
            "cpu_seconds": round(sum(row["cpu_seconds"] for row in rows), 1),
            "seconds": round(sum(row["seconds"] for row in rows), 1),
        }
        for arm, rows in tables.items()
    }
    shared, separate = cost["shared"], cost["separate"]
    return {
        **cost,
        "cpu_ratio": round(shared["cpu_seconds"] / separate["cpu_seconds"], 3),
        "wall_ratio": round(shared["seconds"] / separate["seconds"], 3),
        "layers_trained": sum(row["layers_trained"] for row in tables["shared"]),
        "identical": [row["digest"] for row in tables["shared"]]
        == [row["digest"] for row in tables["separate"]],
    }


def report(found, out):
    """Write results.md from what results.json has."""
    total, tables = found["summary"], found["tables"]
    rows = [
        [
            shared["run"],
            *(shared[name] for name in VARY),
            f"{shared['denoising']:.3f}",
            shared["layers_trained"],
            f"{shared['cpu_seconds']:.1f}",
            f"{separate['cpu_seconds']:.1f}",
            "yes" if shared["digest"] == separate["digest"] else "no",
        ]
        for shared, separate in zip(tables["shared"], tables["separate"], strict=True)
    ]
    header = ["run", *VARY, "denoising", "layers trained", "CPU s, shared", "CPU s, separate"]
    verdict = (
        f"The sweep that shares layers took {total['shared']['cpu_seconds']} CPU seconds, "
        f"{total['cpu_ratio']:.0%} of the {total['separate']['cpu_seconds']} of separate runs "
        f"({total['wall_ratio']:.0%} of their time on the clock). It trained "
        f"{total['layers_trained']} layers instead of {3 * len(rows)}. The weights of all stacks "
        f"are {'the same, bit for bit' if total['identical'] else 'NOT the same'}."
    )
    if total["layers_trained"] != TRAINED:
        verdict += (
            f" It began with layers in its store, where {TRAINED} had to be trained: delete "
            f"{RUNS / NAME} and begin anew."
        )
    text = [
        f"# {__doc__.splitlines()[0]}",
        verdict,
        parts.table([*header, "same bits"], rows),
        f"{found['rows']:,} digits. Fixed: "
        + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found["fixed"].items())
        + ". Runs of both sweeps took turns. `denoising` is the squared error of digits held out, "
        "a quarter masked, after the stack's repair.",
        parts.machines([found]),
    ]
    (out / "results.md").write_text("\n\n".join(text) + "\n")


def main(arguments=None):
    a = parts.Parser(NAME, __doc__).parse_args(arguments)
    (x, _), (held_out, _), _ = recipes.digits(a.quick)
    x = x[:ROWS]
    vary, fixed = (QUICK_VARY, QUICK) if a.quick else (VARY, FIXED)
    folder = a.out / "sweeps" if a.quick else RUNS / NAME
    tables = compute(sweeps(vary, fixed, a.seed, folder), x, held_out)
    found = {
        "summary": summary(tables),
        "tables": tables,
        "rows": len(x),
        "fixed": fixed,
        **circumstances(a.seed),
    }
    a.out.mkdir(parents=True, exist_ok=True)
    write_json(a.out / "results.json", found)
    report(found, a.out)
    print((a.out / "results.md").read_text())


if __name__ == "__main__":
    main()
