"""`python -m experiments.benchmark`: measure, print tables, and write JSON, Markdown and plots."""

import argparse
import dataclasses
import json
import os
import pathlib
import tempfile
import time

import numpy as np

from experiments.benchmark import plots, report, scaling
from experiments.benchmark.digits import load_digits
from experiments.benchmark.rounds import Effort, measure
from experiments.benchmark.team import BACKENDS, installed, team
from experiments.benchmark.work import Work, plan
from experiments.record import circumstances, write_json

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "benchmark"


def run(
    out=RESULTS, backends=None, works=None, effort=None, sizes=None, seed=1, quick=False, scale=True
):
    """Run the benchmark; return the results that it wrote to `out`/results.json.

    Args:
        out: Folder, made where needed.
        backends: List of backends, or None for all that are installed.
        works: List of `Work`, or None for the default plan.
        effort: `Effort`, or None for the usual one.
        sizes: `scaling.Sizes`, or None for the usual ones.
        seed: Integer for the weights, and the data where they are random.
        quick: Whether to stay within seconds: for tests, the numbers mean nothing.
        scale: Whether to look at larger and larger problems too.
    """
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    backends = backends or installed()
    if works is None:
        works = QUICK_WORKS if quick else plan((1, 20, 128, 1024), (500, 1000, 2000), full=False)
    effort = effort or (Effort(2, 0.01, 512) if quick else Effort())
    sizes = sizes or (scaling.QUICK if quick else scaling.Sizes())
    name, *digits = load_digits(quick, seed)
    results = {
        **circumstances(seed),
        "backend": backends,
        "threads": len(os.sched_getaffinity(0)),
        "digits": name,
        "effort": dataclasses.asdict(effort),
    }
    with tempfile.TemporaryDirectory(prefix="sda-benchmark-") as folder:
        data = pathlib.Path(folder) / "digits.npz"
        np.savez(data, x=digits[0], y=digits[1])
        with team(backends, data, folder, seed) as workers:
            for worker in workers.values():
                results["versions"].update(worker.call("versions"))
            results["devices"] = {b: worker.call("device") for b, worker in workers.items()}
            before = measured_before(results, out)
            results.update(works=[], scaling=before.get("scaling", {}))
            measure_works(
                results, works, before.get("works", []), workers, digits, seed, effort, out
            )
            for backend, worker in workers.items() if scale else ():
                if backend != "numpy" and backend not in results["scaling"]:
                    print(f"Scaling on {backend}", flush=True)
                    found = scaling.times(worker, sizes)
                    found["memory"] = scaling.memory(backend, data, folder, seed, sizes)
                    results["scaling"][backend] = found
                    write(results, out)
    write(results, out)
    if results["scaling"]:
        print("\n".join(["", *report.scaling_lines(results["scaling"])]))
    return results


QUICK_WORKS = [Work("dA", 32, 8), Work("fine-tuning", 24, 8)]


def measured_before(results, out):
    """Return what an interrupted run under the same circumstances has written, or nothing."""
    path = out / "results.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    results = json.loads(json.dumps(results))
    return found if all(found.get(key) == value for key, value in results.items()) else {}


def measure_works(results, works, before, workers, digits, seed, effort, out):
    """Measure the works one after another, and write what there is after each.

    Those that are among the list `before` of results are taken from there.
    """
    start = time.monotonic()
    names = [field.name for field in dataclasses.fields(Work)]
    before = {Work(*map(result.get, names)): result for result in before}
    for k, work in enumerate(works):
        if work in before:
            results["works"].append(before[work])
            continue
        minutes = (time.monotonic() - start) / 60
        print(f"[{k + 1}/{len(works)}, {minutes:.1f} min] {work.title}, batch {work.batch}")
        result = measure(work, workers, digits, seed, effort)
        results["works"].append(result)
        write(results, out)
        print("\n".join(["", *report.work_lines(result), ""]), flush=True)


def write(results, out):
    """Write the JSON, the table and the pictures of the results so far."""
    write_json(out / "results.json", results)
    (out / "results.md").write_text("\n".join(report.lines(results)) + "\n")
    plots.speed(results["works"], out / "speed.png")
    if results.get("scaling"):
        plots.scaling(results["scaling"], out / "scaling.png")


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmark", description=__doc__)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, help="default: all installed")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 20, 128, 1024])
    parser.add_argument("--widths", nargs="+", type=int, default=[500, 1000, 2000])
    parser.add_argument("--full", action="store_true", help="every width at every batch")
    parser.add_argument("--rounds", type=int, default=5, help="measurements a contestant")
    parser.add_argument("--seconds", type=float, default=0.5, help="about, a measurement")
    parser.add_argument("--no-scaling", action="store_true", help="leave out larger problems")
    parser.add_argument("--quick", action="store_true", help="seconds, on tiny networks: a trial")
    parser.add_argument("--out", default=RESULTS, help="folder for results and pictures")
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args(arguments)
    if a.quick:
        run(a.out, a.backends, seed=a.seed, quick=True)
    else:
        works = plan(a.batches, a.widths, a.full)
        run(
            a.out,
            a.backends,
            works,
            Effort(a.rounds, a.seconds),
            seed=a.seed,
            scale=not a.no_scaling,
        )
    print(f"Results and pictures are in {a.out}/")


if __name__ == "__main__":
    main()
