"""What several devices gain: steps and sums measured here, and what the cost model makes of them.

Two processes, a core each, talk over the loopback address. Measured are a step alone and a step
that both share, the sum of their gradients, and what a larger batch and local steps, with weights
averaged now and then, do to the loss. `experiments/cost_model.py` says what the first two should be
and what many GPUs would do; docs/scaling.md draws the conclusions.
"""

import argparse
import dataclasses
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import time

import keras
import numpy as np

import sda
from experiments import cost_model, parts, recipes
from experiments.cost_model import H100, Machine, Network
from experiments.record import EpochClock
from sda.streams import spawn

NAME = "scaling"
VISIBLE, HIDDEN = 784, 1000
SIZES = (VISIBLE, HIDDEN, HIDDEN, HIDDEN, 10)
NETWORKS = {"dA": Network.dA(VISIBLE, HIDDEN), "classifier": Network.classifier(SIZES)}
TITLES = {"dA": "dA 784-1000", "classifier": "fine-tuning 784-1000-1000-1000-10"}
# Of the losses.
RATE, BATCH = 0.1, 100
WORKERS = 8
# Of the predictions.
DEVICES = (2, 8, 64, 1024)
PASSES = 15


# In the processes


def worker(arguments):
    """Measure steps and sums as one of `processes`; the first one prints the result."""
    if arguments.processes > 1:
        keras.distribution.initialize(arguments.address, arguments.processes, arguments.rank)
    elif hasattr(os, "sched_setaffinity"):
        # A core, as each of two has. Two are not tied to theirs: the threads in which a process
        # computes and talks would wait for each other's turn there.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    found = {
        kind: {b: step(kind, b, arguments.repeats) for b in arguments.batches}
        for kind in arguments.kinds
    }
    found["sum"] = {n: allreduce((n,), arguments.repeats) for n in arguments.sums}
    for kind in arguments.kinds:
        found["sum"][kind] = allreduce(NETWORKS[kind].arrays, arguments.repeats)
    if arguments.rank == 0:
        print(json.dumps(found))


def step(kind, batch, repeats, rows=None):
    """Return the seconds of a step: the median over epochs, of which the first one is left out.

    An epoch has `rows`, in the order they have; by default, as many as take some seconds on a core.
    """
    steps = rows // batch if rows else max(4, min(100, 20_000 // batch))
    x = np.random.default_rng(0).random((steps * batch, VISIBLE), "float32")
    clock = EpochClock()
    stack = sda.StackedDenoisingAutoencoder(
        SIZES[1:2] if kind == "dA" else SIZES[1:-1], 0.25, seed=1
    )
    if kind == "dA":
        sda.GreedyPretrainer(
            stack, keras.optimizers.SGD(0.01), epochs=repeats + 1, batch_size=batch, seed=1,
            callbacks=lambda k: [clock],
        ).fit(x, shuffle=rows is None, verbose=0)  # fmt: skip
    else:
        stack.build((None, VISIBLE))
        model = stack.classifier(10)
        model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
        y = np.arange(len(x)) % 10
        sda.fit(
            model, x, y, batch, repeats + 1, verbose=0, callbacks=[clock], shuffle=rows is None,
            seed=1,
        )  # fmt: skip
    return clock.median() / steps


def allreduce(sizes, repeats, times=50):
    """Return the seconds in which all processes add up float32 arrays of these sizes, in a loop.

    A loop of the compiled program, as that of the training steps is: a sum by itself, which the
    process waits for, takes half as long or less.
    """
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = keras.distribution.distribution().device_mesh.backend_mesh
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    mine = [np.ones((jax.local_device_count(), size), "float32") for size in sizes]
    arrays = [jax.make_array_from_process_local_data(sharding, a) for a in mine]

    def add(arrays):
        def once(_, sums):
            # What is added depends on the last sum, so that no sum is left out.
            return [(a + 1e-9 * s).sum(axis=0) for a, s in zip(arrays, sums, strict=True)]

        zeros = [jax.numpy.zeros(size) for size in sizes]
        return jax.lax.fori_loop(0, times, once, zeros)

    add = jax.jit(add, out_shardings=NamedSharding(mesh, PartitionSpec()))
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(add(arrays))
        seconds.append((time.perf_counter() - start) / times)
    return statistics.median(seconds[1:])


def measure(processes, batches, sums, repeats):
    """Return what the first of `processes` measures."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", f"experiments.{NAME}", "--worker", "--address", address]
    command += ["--processes", str(processes), "--repeats", str(repeats), "--kinds", *NETWORKS]
    command += ["--batches", *map(str, batches), "--sums", *map(str, sums)]
    running = [
        subprocess.Popen(
            [*command, "--rank", str(rank)],
            stdout=subprocess.PIPE,
            text=True,
            # The one that has several processes.
            env={**os.environ, "KERAS_BACKEND": "jax"},
        )
        for rank in range(processes)
    ]
    try:
        said = [process.communicate(timeout=1800)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    if any(process.returncode for process in running):
        raise RuntimeError(f"Expected {processes} processes to end well. What they said is above")
    return json.loads(said[0].splitlines()[-1])


# Losses


def dA(seed):
    stack = sda.StackedDenoisingAutoencoder([HIDDEN], 0.25, seed=seed)
    stack.build((None, VISIBLE))
    return stack


def pretrain(stack, x, rate, batch, epochs, seed):
    sda.GreedyPretrainer(
        stack, keras.optimizers.SGD(rate), epochs=epochs, batch_size=batch, seed=seed
    ).fit(x, verbose=0)


def denoising_loss(stack, held_out):
    """Return the cross-entropy of digits rebuilt from a noisy version, the same for all stacks."""
    noisy = np.where(np.random.default_rng(0).random(held_out.shape) < 0.25, 0, held_out)
    z = np.clip(stack.reconstruct(noisy.astype("float32")), 1e-7, 1 - 1e-7)
    return float(-np.mean(np.sum(held_out * np.log(z) + (1 - held_out) * np.log(1 - z), axis=1)))


def of_batch(x, held_out, batch, epochs, seed):
    """Return the best loss after `epochs` in batches of `batch`, over rates that grow with it."""
    tries = {}
    for scale in (1.0, 0.5, 0.25):
        rate = RATE * batch / BATCH * scale
        stack = dA(seed)
        pretrain(stack, x, rate, batch, epochs, seed)
        tries[rate] = denoising_loss(stack, held_out)
    rate = min(tries, key=tries.get)
    return {"loss": tries[rate], "rate": rate, "losses": tries}


def of_local_steps(x, held_out, every, epochs, seed):
    """Return the loss after `epochs` of workers that share the rows, and average their weights.

    Each of `WORKERS` takes `every` steps on batches of its own; then all go on from the mean.
    """
    shared = dA(seed)
    mine = len(x) // WORKERS
    rounds = max(1, mine // (BATCH * every))
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(x))
        for r in range(rounds):
            weights = []
            for k in range(WORKERS):
                worker = dA(spawn(seed, epoch, r, k))  # a noise of its own
                worker.set_weights(shared.get_weights())
                start = k * mine + r * BATCH * every
                rows = order[start : start + min(BATCH * every, mine)]
                pretrain(worker, x[rows], RATE, BATCH, 1, spawn(seed, epoch, r, k, 1))
                weights.append(worker.get_weights())
            shared.set_weights([np.mean(group, axis=0) for group in zip(*weights, strict=True)])
    return {"loss": denoising_loss(shared, held_out)}


# The experiment


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much to run."""

    batches: tuple = (20, 100, 500, 2500)
    sums: tuple = (1_000, 100_000, 1_000_000)
    repeats: int = 7
    rows: int = 50_000
    epochs: int = 10
    loss_batches: tuple = (20, 100, 500, 2500, 10_000)
    every: tuple = (1, 10, 60)


QUICK = Scale((4, 8), (100, 10_000), 1, 400, 1, (100, 200), (1,))


def plan(scale, seed):
    """Return the settings of the parts."""
    timed = {"seed": seed, "kind": "times", "sums": scale.sums, "repeats": scale.repeats}
    loss = {"seed": seed, "epochs": scale.epochs, "rows": scale.rows}
    halves = sorted({b // k for b in scale.batches for k in (1, 2)})
    return [
        {**timed, "processes": 1, "batches": halves},
        {**timed, "processes": 2, "batches": scale.batches},
        *({**loss, "kind": "batch", "batch": b} for b in scale.loss_batches),
        *({**loss, "kind": "local", "every": every} for every in scale.every),
    ]


def compute(data):
    """Return the function that measures one part."""
    (x, _), (held_out, _), _ = data

    def part(kind, seed, **settings):
        if kind == "times":
            return measure(**settings)
        rows = settings.pop("rows")
        of = {"batch": of_batch, "local": of_local_steps}[kind]
        return of(x[:rows], held_out[:2000], seed=seed, **settings)

    return part


def fitted(alone, together):
    """Return the `Machine` that the times measured here make of a process and the loopback."""
    small, large = min(alone["dA"]), max(alone["dA"])
    network = NETWORKS["dA"]
    flops = network.flops_a_weight * network.weights
    a_step, per_example = alone["dA"][small], alone["dA"][large] - alone["dA"][small]
    sums = {n: seconds for n, seconds in together["sum"].items() if isinstance(n, int)}
    least, most = min(sums), max(sums)
    # Two messages, each a half of the array, one way and back.
    bandwidth = cost_model.BYTES * (most - least) / (sums[most] - sums[least])
    return Machine(
        flops=flops * (large - small) / per_example,
        memory=math.inf,  # part of the overhead
        overhead=a_step - small * per_example / (large - small),
        link=bandwidth,
        latency=sums[least] / 2,
        together=False,
    )


def times(found):
    """Return the measured times of one process and of two, their keys numbers again."""
    of = {}
    for part in found:
        if part["settings"]["kind"] == "times":
            of[part["settings"]["processes"]] = {
                kind: {int(n) if n.isdigit() else n: s for n, s in values.items()}
                for kind, values in part["result"].items()
            }
    return of.get(1), of.get(2)


def report(found, out):
    """Write the tables and the picture."""
    text = [f"# {__doc__.splitlines()[0]}"]
    alone, together = times(found)
    if alone and together:
        text += _measured(alone, together)
    losses = {
        kind: [part for part in found if part["settings"]["kind"] == kind]
        for kind in ("batch", "local")
    }
    if losses["batch"]:
        text += [
            "## Larger batches",
            "Denoising loss of the dA on digits held out, after as many examples; the best of "
            "rates that grow with the batch, by factors 1, 1/2 and 1/4.",
            parts.table(["batch", "updates", "rate", "loss"], map(_batch_row, losses["batch"])),
        ]
    if losses["local"]:
        text += [
            "## Local steps",
            f"{WORKERS} workers with {BATCH} examples a step each, at the rate {RATE:g} of one "
            "worker; weights averaged every so many steps.",
            parts.table(
                ["steps between averages", "loss"],
                [[p["settings"]["every"], f"{p['result']['loss']:.2f}"] for p in losses["local"]],
            ),
        ]
    text += _predicted()
    text += ["![Predicted speed](speedup.png)", parts.machines(found)]
    (out / "results.md").write_text("\n\n".join(text) + "\n")
    draw(out / "speedup.png")


def _batch_row(part):
    settings, result = part["settings"], part["result"]
    updates = settings["rows"] // settings["batch"] * settings["epochs"]
    loss = f"{result['loss']:.2f}"
    return [f"{settings['batch']:,}", f"{updates:,}", f"{result['rate']:g}", loss]


def _measured(alone, together):
    machine = fitted(alone, together)
    rows = []
    for kind, network in NETWORKS.items():
        for batch, seconds in sorted(together[kind].items()):
            half, sum_ = alone[kind][batch // 2], together["sum"][kind]
            rows.append(
                [
                    TITLES[kind],
                    batch,
                    *(f"{1000 * s:.2f}" for s in (alone[kind][batch], half, sum_)),
                    f"{1000 * seconds:.2f}",
                    f"{(half + sum_) / seconds:.2f}",
                    f"{cost_model.step_seconds(network, batch, 2, machine) / seconds:.2f}",
                    f"{alone[kind][batch] / seconds:.2f}",
                ]
            )
    header = [
        "network",
        "batch",
        "alone, ms",
        "half of it alone, ms",
        "sum of gradients, ms",
        "two processes, ms",
        "half + sum, of that",
        "cost model, of that",
        "speedup",
    ]
    return [
        "## Measured",
        "Milliseconds of a step, medians. The cost model knows of this machine what the dA's "
        f"smallest and largest steps alone give ({machine.flops / 1e9:.0f} GFLOP/s, "
        f"{1e6 * machine.overhead:.0f} µs a step) and the smallest and largest sums of one array "
        f"({machine.link / 1e9:.2f} GB/s, {1e6 * machine.latency:.0f} µs a message).",
        parts.table(header, rows),
    ]


def _predicted():
    rows = []
    for kind, network in NETWORKS.items():
        for batch in (20, 1000, 10_000, 100_000):
            rows.append(
                [
                    TITLES[kind],
                    f"{batch:,}",
                    f"{batch / cost_model.step_seconds(network, batch, 1, H100) / 1e6:.2f}",
                    *(
                        f"{cost_model.speedup(network, batch, p, H100):.1f}" if p <= batch else ""
                        for p in DEVICES
                    ),
                    cost_model.most_useful(network, batch, H100),
                ]
            )
    header = ["network", "batch", "million examples/s, one GPU", *(f"{p} GPUs" for p in DEVICES)]
    return [
        "## Predicted",
        "Speedup of GPUs that share a batch (H100, eight a host; the assumptions stand in "
        "`experiments/cost_model.py`), and up to how many each does half of what one alone does. "
        "Not measured.",
        parts.table([*header, "useful up to"], rows),
        f"Time of {PASSES} passes over the rows with one dA, predicted: one GPU; GPUs that share "
        "batches of 1,000, and of 100 examples a GPU; GPUs that take 100 steps of 100 examples by "
        "themselves before they average. Reading the rows is not in it.",
        parts.table(
            ["examples", "GPUs", "batch 1,000", "batch 100 a GPU", "local steps"],
            [
                [f"{rows:,}", devices, *map(_duration, _passes(rows, devices))]
                for rows in (10**6, 10**7, 10**8, 10**9)
                for devices in (1, *DEVICES)
            ],
        ),
    ]


def _passes(rows, devices):
    """Return the seconds of `PASSES` in batches of 1,000, of 100 a device, and of local steps."""
    network, rows = NETWORKS["dA"], PASSES * rows
    shared = [
        rows / batch * cost_model.step_seconds(network, batch, devices, H100)
        if devices <= batch
        else None
        for batch in (1000, 100 * devices)
    ]
    local = cost_model.local_seconds(network, 100, devices, H100, every=100)
    return [*shared, rows / (100 * devices) * local]


def _duration(seconds):
    if seconds is None:
        return ""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} s"


def draw(path):
    """Draw the predicted speed against the number of GPUs."""
    from matplotlib.figure import Figure

    devices = [2**k for k in range(11)]
    figure = Figure(figsize=(8.5, 3.8), layout="constrained")
    for axis, (kind, network) in zip(
        figure.subplots(1, 2, sharey=True), NETWORKS.items(), strict=True
    ):
        axis.plot(devices, devices, "--", color="grey", label="trials of their own")
        for colour, batch in zip(sda.plotting.HUES, (100, 1000, 10_000, 100_000), strict=False):
            there = [p for p in devices if p <= batch]
            speed = [cost_model.speedup(network, batch, p, H100) for p in there]
            axis.plot(there, speed, color=colour, label=f"one batch of {batch:,}")
        axis.set(xscale="log", yscale="log", title=TITLES[kind], xlabel="GPUs")
        axis.set_xticks([1, 4, 16, 64, 256, 1024], ["1", "4", "16", "64", "256", "1,024"])
        axis.set_yticks([0.1, 1, 10, 100, 1000], ["0.1", "1", "10", "100", "1,000"])
        axis.minorticks_off()
        axis.grid(color=sda.plotting.FAINT)
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("speed, as a multiple of one GPU's")
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def main(arguments=None):
    if arguments is None and "--worker" in sys.argv:
        return worker(_worker_arguments())
    a = parts.Parser(NAME, __doc__).parse_args(arguments)
    parts.complete(
        plan(QUICK if a.quick else Scale(), a.seed), compute(recipes.digits(a.quick)), report, a.out
    )
    print(f"Results are in {a.out}/")


def _worker_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--address")
    for name in ("--processes", "--rank", "--repeats"):
        parser.add_argument(name, type=int)
    for name in ("--batches", "--sums"):
        parser.add_argument(name, type=int, nargs="+")
    parser.add_argument("--kinds", nargs="+")
    return parser.parse_args()


if __name__ == "__main__":
    main()
