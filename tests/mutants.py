"""Asks whether the tests would see a fault: python tests/mutants.py --sample 100

A mutant is the package with one small fault: another comparison, sum, number, condition or
constant, or a statement left out. A fixed random sample of them is drawn over the rooms below; each
is run against its room's tests on PyTorch, in a copy of the checkout. One that no test fails on has
survived: a test is missing, or the fault changes nothing. `--out tests/mutants.json` writes what
was found after each, and goes on from there.
"""

import argparse
import ast
import copy
import json
import math
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
SECONDS = 900
# The tests of each room; the first that fails ends a run, so the quick ones stand first.
TESTS = {
    "losses": "losses penalties missing tables",
    "layers": "corruption noise_types autoencoder layers chain ranges preprocessing missing "
    "penalties sharing",
    "models": "stack finetuning missing sharing pairs preprocessing pretraining",
    "training": "fit feeds written_out_steps chain keras_callbacks parity checkpoint",
    "pretraining": "pretraining pairs population corruption_schedule preprocessing checkpoint",
    "checkpoints": "prefixes identity checkpoint resume",
}
# Drivers of other backends are not run here.
LEFT_OUT = ("jax", "jax_mesh", "jax_population", "tensorflow")
OTHERS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.Pow: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def faults(tree):
    """Yield (line, what changes, function that changes it in a copy of the tree) of a module."""
    # Texts of errors and docstrings are not what this is about.
    words = {id(n) for raised in ast.walk(tree) if isinstance(raised, ast.Raise)
             for n in ast.walk(raised)}  # fmt: skip
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in words:
            continue
        for what, change in _changes(node):
            yield node.lineno, what, _at(number, change)


def _at(number, change):
    def apply(tree):
        tree = copy.deepcopy(tree)
        change(next(n for i, n in enumerate(ast.walk(tree)) if i == number))
        return tree

    return apply


def _changes(node):
    """Yield (description, function that changes such a node in place)."""
    if isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            other = OTHERS[type(operator)]

            def compare(n, i=i, other=other):
                n.ops[i] = other()

            yield f"{type(operator).__name__} -> {other.__name__}", compare
    elif isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in OTHERS:
        other = OTHERS[type(node.op)]
        yield f"{type(node.op).__name__} -> {other.__name__}", lambda n: setattr(n, "op", other())
    elif isinstance(node, (ast.If, ast.IfExp)):

        def negate(n):
            n.test = ast.copy_location(ast.UnaryOp(ast.Not(), n.test), n.test)

        yield "condition -> not condition", negate
    elif isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, bool):
            yield f"{value} -> {not value}", lambda n: setattr(n, "value", not value)
        elif isinstance(value, (int, float)):
            yield f"{value} -> {value + 1}", lambda n: setattr(n, "value", value + 1)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):

        def leave_out(n):
            n.value = ast.copy_location(ast.Constant(None), n.value)

        yield f"{ast.unparse(node.value)[:60]} -> nothing", leave_out


def all_mutants():
    """Return (path, line, what, apply) of every mutant, in a fixed order."""
    found = []
    for room in sorted(TESTS):
        for path in sorted((ROOT / "sda" / room).glob("*.py")):
            if path.stem in LEFT_OUT:
                continue
            found += [
                (path.relative_to(ROOT), *fault) for fault in faults(ast.parse(path.read_text()))
            ]
    return found


def run(folder, path, change):
    """Return "killed", "survived" or "timed out" of one mutant in the copy `folder`."""
    target, room = folder / path, path.parts[1]
    before = target.read_text()
    target.write_text(ast.unparse(change(ast.parse(before))))
    environment = {
        **os.environ,
        "KERAS_BACKEND": "torch",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    tests = [f"tests/test_{name}.py" for name in TESTS[room].split()]
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-x", "-m", "not slow", *tests]
    # A session of its own, so that what it started can be ended with it.
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return "timed out", ""
    finally:
        target.write_text(before)
    failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if process.returncode == 0:
        return "survived", ""
    if process.returncode not in (1, 2):
        raise RuntimeError(f"pytest ended with {process.returncode}:\n{output[-2000:]}")
    return "killed", failed[0].split(" - ")[0] if failed else output.splitlines()[-1]


def interval(killed, n, z=1.96):
    """Return the 95 % interval of a share (Wilson, JASA 22 (1927), 209-212)."""
    share = killed / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return middle - half, middle + half


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    mutants = all_mutants()
    sample = random.Random(args.seed).sample(mutants, args.sample)
    done = json.loads(args.out.read_text())["mutants"] if args.out and args.out.exists() else []
    known = {(d["file"], d["line"], d["change"]): d for d in done}
    found = []
    with tempfile.TemporaryDirectory(prefix="sda-mutants-") as name:
        folder = pathlib.Path(name) / "checkout"
        for part in ("sda", "sda_cli", "experiments", "notebooks", "tests", "docs"):
            shutil.copytree(ROOT / part, folder / part)
        for file in (file for file in ROOT.iterdir() if file.is_file()):
            shutil.copy(file, folder)
        for path, line, what, change in sample:
            key = (str(path), line, what)
            if key not in known:
                outcome, by = run(folder, path, change)
                known[key] = dict(zip(("file", "line", "change"), key, strict=True))
                known[key] |= {"outcome": outcome, "by": by}
            found.append(known[key])
            print(len(found), *key, known[key]["outcome"], known[key]["by"], flush=True)
            if args.out:
                args.out.write_text(json.dumps(_summary(len(mutants), args.seed, found), indent=1))
    print(json.dumps(_summary(len(mutants), args.seed, found)["score"]))


def _summary(of, seed, found):
    killed = sum(one["outcome"] != "survived" for one in found)
    low, high = interval(killed, len(found))
    score = {"caught": killed, "of": len(found), "interval_95": [round(low, 3), round(high, 3)]}
    return {"seed": seed, "possible": of, "score": score, "mutants": found}


if __name__ == "__main__":
    main()
