"""Mutated files, read by child processes that are bounded in time and in memory.

What `fuzz_hdf5.py` and `fuzz_models.py` share.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import platform
import random
import resource
import signal
import sys
import tempfile
import time

# Of computing; and of waiting, which others on the machine may be the cause of.
SECONDS, PATIENCE = 20, 200
MEMORY = 2**31
# How many files a child reads, one after the other.
TURNS = 25
# A reader that takes more than this of a file of some kB was fooled.
MUCH = 2**29
OUTCOMES = ("accepted", "refused", "unclear", "memory", "hang", "crash")
BYTES = (0, 1, 0x7F, 0x80, 0xFF)
NUMBERS = (0, 1, 2**7, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)


def mutated(content, draw):
    """Return bytes of which one to eight places have changed, by `draw`, a `random.Random`."""
    content = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 1, 2, 4, 8))):
        place, kind = draw.randrange(len(content)), draw.random()
        if kind < 0.4:
            content[place] ^= 1 << draw.randrange(8)
        elif kind < 0.7:
            content[place] = draw.choice((*BYTES, draw.randrange(256)))
        elif kind < 0.9:
            width = draw.choice((2, 4, 8))
            number = draw.choice(NUMBERS) % 256**width
            content[place : place + width] = number.to_bytes(width, "little")
        elif kind < 0.97:
            other = draw.randrange(len(content))
            length = draw.randrange(1, 64)
            content[place : place + length] = content[other : other + length]
        else:
            del content[max(place, 1) :]
    return bytes(content)


def tried(numbers, write, read, path):
    """Yield for each number how it ends when a child reads the file that is written of it.

    A child goes on to the next number for as long as it lives, up to `TURNS` of them.

    Args:
        numbers: Sequence of integers.
        write: Function of a number, which writes the file at `path`.
        read: Function of the path. A `ValueError` in the house's words is a refusal.
        path: `Path` of the file.

    Yields:
        A number, one of `OUTCOMES`, the bytes that it took, and what else the child said.
    """
    said = path.with_name("said")
    while numbers:
        said.write_text("")
        child = os.fork()
        if not child:
            os._exit(_read(numbers[:TURNS], write, read, path, said))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        ended = [json.loads(line) for line in said.read_text().splitlines()]
        yield from ended
        numbers = numbers[len(ended) :]
        if code and numbers:
            hangs = code in (-signal.SIGALRM, -signal.SIGPROF)
            yield numbers[0], "hang" if hangs else "crash", 0, f"status {code}"
            numbers = numbers[1:]


def _read(numbers, write, read, path, said):
    """What a child does. Its exit status is 0; if not, the number after the last was too much."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    used = _most_used()
    for number in numbers:
        write(number)
        # These end the process, wherever it is.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(PATIENCE)
        outcome, words = _outcome(read, path)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        taken, used = _most_used() - used, _most_used()
        outcome = "memory" if taken > MUCH else outcome
        with open(said, "a") as file:
            file.write(json.dumps([number, outcome, taken, words]) + "\n")
    return 0


def _outcome(read, path):
    try:
        read(path)
    except BaseException as error:
        message = str(error)
        if isinstance(error, ValueError) and message.startswith("Expected "):
            return "refused", ""
        outcome = "memory" if isinstance(error, MemoryError) else "unclear"
        return outcome, f"{type(error).__name__}: {message[:300]}"
    return "accepted", ""


def _most_used():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(description, suffix, mutate, read, versions):
    """Do what the command line asks for, print the counts, and write them.

    Args:
        description: String, what is fuzzed.
        suffix: String, that of the files.
        mutate: Function of a `random.Random` to the bytes of a mutated file.
        read: Function of the path of such a file.
        versions: Dictionary of what the outcome depends on.

    Returns:
        The exit status: 0 where each file was accepted or refused, within its bounds.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--mutations", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="do this mutation alone")
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the files that were not read")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file for the counts")
    asked = parser.parse_args()
    numbers = range(asked.mutations) if asked.only is None else [asked.only]
    counts, findings, most = collections.Counter(), [], 0
    start = time.monotonic()
    # Ctrl-C ends it, with the counts so far.
    with contextlib.suppress(KeyboardInterrupt), _folder() as folder:
        path = pathlib.Path(folder, f"file{suffix}")

        def write(number):
            path.write_bytes(mutate(random.Random(f"{asked.seed}/{number}")))

        for number, outcome, taken, words in tried(numbers, write, read, path):
            counts[outcome] += 1
            most = max(most, taken)
            if outcome not in ("accepted", "refused"):
                findings.append({"mutation": number, "outcome": outcome, "words": words})
                print(number, outcome, words, flush=True)
                if asked.keep:
                    asked.keep.mkdir(parents=True, exist_ok=True)
                    write(number)
                    path.replace(asked.keep / f"{number}{suffix}")
    report = {
        "what": description,
        "mutations": counts.total(),
        "seed": asked.seed,
        "counts": {outcome: counts[outcome] for outcome in OUTCOMES},
        "most_megabytes": round(most / 2**20),
        "seconds": round(time.monotonic() - start),
        "bounds": {"seconds": SECONDS, "megabytes": MUCH // 2**20},
        "versions": {"python": platform.python_version(), **versions},
        "findings": findings[:20],
    }
    text = json.dumps(report, indent=2) + "\n"
    print(text, end="")
    if asked.out:
        asked.out.write_text(text)
    return int(bool(findings))


def _folder():
    # A child that is still at it may write to it.
    return tempfile.TemporaryDirectory(ignore_cleanup_errors=True)


def made(build):
    """Return what a child returns of `build()`, as bytes: what it imports and computes is its own.

    A process whose backend has been at work cannot be forked.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "made")
        child = os.fork()
        if not child:
            try:
                path.write_bytes(build())
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise RuntimeError("Expected the honest files to be made. Received: see above")
        return path.read_bytes()
