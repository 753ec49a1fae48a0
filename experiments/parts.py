"""An experiment in parts: each is computed once, written at once, and skipped by the next run."""

import argparse
import datetime
import json
import pathlib
import shutil
import statistics
import time

import keras

from experiments import recipes
from experiments.record import circumstances
from sda.runs import machine_name

RESULTS = pathlib.Path(__file__).parent / "results"


class Parser(argparse.ArgumentParser):
    """Reads what every experiment takes: --seed, --quick, --out, --fresh, --matmul-precision.

    Args:
        name: Name of the experiment's module.
        doc: Its docstring.
    """

    def __init__(self, name, doc):
        super().__init__(prog=f"python -m experiments.{name}", description=doc.splitlines()[0])
        self.name = name
        self.add_argument("--seed", type=int, default=1, help="the first one where several are run")
        self.add_argument("--quick", action="store_true", help="seconds, on tiny networks: a trial")
        self.add_argument(
            "--out",
            type=pathlib.Path,
            help=f"folder for what comes out; default: experiments/results/{name}, "
            f"with --quick runs/quick/{name}",
        )
        self.add_argument(
            "--fresh",
            action="store_true",
            help="train all of it again: parts and stacks that earlier runs left are deleted first",
        )
        self.add_argument(
            "--matmul-precision",
            choices=("highest", "high", "medium"),
            default="highest",
            help="PyTorch only, of float32 products: medium lets a processor multiply in bfloat16",
        )

    def parse_args(self, args=None, namespace=None):
        arguments = super().parse_args(args, namespace)
        if arguments.out is None:
            arguments.out = (pathlib.Path("runs/quick") if arguments.quick else RESULTS) / self.name
        if arguments.fresh:
            # Those of presets and selections lie in folders below.
            for path in arguments.out.rglob("results.json"):
                path.unlink()
            shutil.rmtree(recipes.CACHE, ignore_errors=True)
        if arguments.matmul_precision != "highest":
            if keras.backend.backend() != "torch":
                self.error(
                    "--matmul-precision needs the backend torch. "
                    f"Received: {keras.backend.backend()}"
                )
            import torch

            torch.set_float32_matmul_precision(arguments.matmul_precision)
        return arguments


def complete(plan, compute, report, out, arms=None):
    """Compute the parts of `plan` that `out`/results.json lacks; return all parts of the plan.

    A part is a dictionary of its `settings`, its `result`, the `seconds` it took, and the
    circumstances. Parts with other settings stay in the file and out of the report.

    Args:
        plan: List of the settings of each part: dictionaries that JSON can hold, "seed" among them.
        compute: Function of a part's settings, as keywords; returns its result, a dictionary for
            JSON.
        report: Function of (the parts there are, `out`) that writes tables and pictures; called
            after every part.
        out: Folder, made where needed.
        arms: None, or a list: only parts whose setting "arm" is in it are computed. The report is
            of all.
    """
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    plan = [json.loads(json.dumps(settings)) for settings in plan]
    there = chosen(plan, out)
    missing = [settings for settings in plan if settings not in [p["settings"] for p in there]]
    if arms is not None:
        missing = [settings for settings in missing if settings["arm"] in arms]
    print(f"{len(there)} of {len(plan)} parts are in {out}", flush=True)
    start = time.monotonic()
    for done, settings in enumerate(missing):
        left = ""
        if done:
            seconds = (time.monotonic() - start) / done * (len(missing) - done)
            left = f", about {datetime.timedelta(seconds=round(seconds))} left"
        print(f"\n[{done + 1}/{len(missing)}{left}] {_brief(settings)}", flush=True)
        begin = time.perf_counter()
        result = compute(**settings)
        part = {
            "settings": settings,
            "result": json.loads(json.dumps(result)),
            "seconds": round(time.perf_counter() - begin, 1),
            **circumstances(settings["seed"]),
        }
        # Read again: another process may have written its parts in the meantime.
        _write([*read(out), part], out)
        print(f"    {_brief(part['result'])}, {part['seconds']:.0f} s", flush=True)
        there = chosen(plan, out)
        report(there, out)
    if not missing:
        report(there, out)
    return there


def chosen(plan, out):
    """Return the parts of `plan` that `out`/results.json has, in the order of the plan."""
    parts = read(out)
    return [part for settings in plan for part in parts if part["settings"] == settings]


def table(header, rows):
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def mean(values, form="{:.2f}"):
    """Return one value, or the mean ± standard deviation of several, as text."""
    values = list(values)
    if len(values) < 2:
        return form.format(values[0]) if values else ""
    return f"{form.format(statistics.mean(values))} ± {form.format(statistics.stdev(values))}"


def machines(parts):
    """Return one sentence about the seeds, versions and machines of `parts`."""
    seeds = sorted({part["seed"] for part in parts})
    places = {
        f"{', '.join(f'{k} {v}' for k, v in part['versions'].items())}; "
        + machine_name(part["machine"])
        + (f", products at {precision}" if (precision := part.get("matmul_precision")) else "")
        for part in parts
    }
    return f"Seeds {', '.join(map(str, seeds))}. {'. '.join(sorted(places))}."


def _brief(content):
    """Return what fits a line of the terminal: numbers and words, no lists or dictionaries."""
    return ", ".join(
        f"{key.replace('_', ' ')} {value}"
        for key, value in content.items()
        if isinstance(value, (int, float, str))
    )


def read(out):
    """Return all parts that `out`/results.json has, also those of other plans."""
    path = pathlib.Path(out) / "results.json"
    return json.loads(path.read_text()) if path.exists() else []


def _write(parts, out):
    """Write one part a line, through a temporary file, so that no reader sees half of it."""
    lines = ",\n".join(json.dumps(part, ensure_ascii=False) for part in parts)
    temporary = pathlib.Path(out) / "results.tmp"
    temporary.write_text(f"[\n{lines}\n]\n")
    temporary.replace(pathlib.Path(out) / "results.json")
