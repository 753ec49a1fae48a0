"""The measurements as text: a table a work, for the terminal and for Markdown."""

from sda.runs import machine_name


def lines(results):
    """Return the results as lines of Markdown."""
    found = [
        "# Benchmark",
        "",
        f"{machine_name(results['machine'])}, {results['threads']} threads; "
        + ", ".join(f"{name} {version}" for name, version in results["versions"].items())
        + f"; digits: {results['digits']}; seed {results['seed']}.",
        "",
        f"Medians of {results['effort']['rounds']} interleaved rounds, after warm-up. Ratios are "
        "medians of the ratios within a round. The limit is the matrix products of a step and "
        "nothing else, on the fastest framework. Compiling is what the first epoch took longer.",
    ]
    for title in dict.fromkeys(work["title"] for work in results["works"]):
        found += ["", *summary_lines(title, [w for w in results["works"] if w["title"] == title])]
    for work in results["works"]:
        found += ["", *work_lines(work)]
    if results.get("scaling"):
        found += ["", *scaling_lines(results["scaling"])]
    return found


LABELS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch", "numpy": "NumPy"}
LOOPS = ("loop", "by_hand")


def summary_lines(title, works):
    """Return what there is to say about one network at all batch sizes, in one table."""
    backends = [name.split("/")[0] for name in works[0]["ratios"]]
    pairs = [(b, f"{b}/fit", "Keras fit") for b in backends]
    pairs += [(b, b, f"the faster {LABELS[b]} loop") for b in backends]
    if {"tensorflow", "torch"} <= set(backends):
        pairs.append(("tensorflow", "torch", "the faster PyTorch loop"))
    rows = [[title, *(f"batch {work['batch']:,}" for work in works)]]
    rows.append(["---"] + ["---:"] * len(works))
    for backend, other, words in pairs:
        names = [other] if "/" in other else [f"{other}/{loop}" for loop in LOOPS]
        rows.append(
            [f"sda on {LABELS[backend]}, against {words}"]
            + [_factor(_least(work["ratios"][f"{backend}/sda"], names)) for work in works]
        )
    shares = [
        max((work["contestants"][f"{b}/sda"]["share_of_limit"], b) for b in backends)
        for work in works
    ]
    rows.append(
        ["share of the limit, fastest backend"]
        + [f"{share:.0%} ({LABELS[backend]})" for share, backend in shares]
    )
    return list(_aligned(rows))


def _least(ratios, names):
    return min((ratios[name] for name in names if name in ratios), default=None)


def work_lines(work):
    """Return one work's table."""
    ours = list(work["ratios"])
    header = ["", "examples/s", "share of limit", "compiling, s"]
    header += [f"{name} is faster by" for name in ours]
    rows = [header, ["---"] + ["---:"] * (len(header) - 1)]
    for name, result in work["contestants"].items():
        rows.append(
            [
                name,
                f"{result['examples_per_second']:,.0f}",
                f"{result['share_of_limit']:.0%}",
                f"{result['compile_seconds']:.1f}",
                *(_factor(work["ratios"][ours_name].get(name)) for ours_name in ours),
            ]
        )
    memory = ", ".join(f"{b} {peak / 2**20:,.0f}" for b, peak in work["peak_memory_bytes"].items())
    return [
        f"## {work['title']}, batch {work['batch']}",
        "",
        *_aligned(rows),
        "",
        f"Limit: {work['limit']:,.0f} examples/s, {work['limit_gflops']:,.0f} GFLOP/s. Peak memory "
        f"of the workers so far, MiB: {memory}.",
    ]


def scaling_lines(scaling):
    """Return the exponents of time and the bytes an example."""
    rows = [["", "time ~ examples^", "time ~ (product of widths)^", "bytes an example", "constant"]]
    rows.append(["---"] + ["---:"] * 4)
    for backend, found in scaling.items():
        memory = found["memory"]
        rows.append(
            [
                backend,
                f"{found['examples']['exponent']:.2f}",
                f"{found['product_of_widths']['exponent']:.2f}",
                f"{memory['bytes_per_example']:,.0f}",
                f"{memory['constant_bytes'] / 2**20:,.0f} MiB",
            ]
        )
    return [
        "## Scaling of sda",
        "",
        *_aligned(rows),
        "",
        "Bytes an example and the constant are those of the peak memory of pretraining; the data "
        f"take {memory['bytes_per_example_of_data']:,} bytes an example, the codes of a layer "
        f"{memory['bytes_per_example_of_codes']:,}.",
    ]


def _factor(ratio):
    return "" if ratio is None else f"{ratio:.2f} x"


def _aligned(rows):
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        if set(row[0]) == {"-"}:
            cells = ["-" * width for width in widths[:1]]
            cells += ["-" * (width - 1) + ":" for width in widths[1:]]
        yield "| " + " | ".join(cells) + " |"
