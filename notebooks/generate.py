"""Run the percent-format scripts here and write the notebooks that they become.

`python -m notebooks.generate` writes every .ipynb; with names, only those; with `--check`, it runs
them and writes nothing.
"""

import argparse
import concurrent.futures
import os
import pathlib

import jupytext
import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).parent
# A notebook is for reading: its outputs stay small.
MOST_BYTES = 500_000
# At the batch sizes of notebooks a second thread mostly waits: rather two notebooks at a time.
ONE_THREAD = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def generate(script, write):
    """Execute one script as a notebook; write it beside the script if asked to."""
    notebook = jupytext.read(script)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    for i, cell in enumerate(notebook.cells):
        # What would be different every time: random names, and times of the run.
        cell.id = f"cell-{i}"
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            # Warnings of the backend say nothing about the subject.
            cell.outputs = joined(o for o in cell.outputs if o.get("name") != "stderr")
    text = nbformat.writes(notebook)
    if len(text) > MOST_BYTES:
        raise SystemExit(f"{script.name}: {len(text)} bytes of notebook, {MOST_BYTES} at most")
    if write:
        script.with_suffix(".ipynb").write_text(text + "\n")
    print(f"{script.name}: ran, {len(text) // 1000} KB", flush=True)


def joined(outputs):
    """Return the outputs of a cell: what was printed in one piece, each picture once."""
    joined = []
    for output in outputs:
        output.get("data", {}).pop("image/jpeg", None)  # beside the PNG, from Pillow
        if output.output_type == "stream" and joined and joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="notebooks without extension; default: all")
    parser.add_argument("--check", action="store_true", help="run, but write nothing")
    arguments = parser.parse_args()
    scripts = [s for s in sorted(FOLDER.glob("*.py")) if s.stem not in ("__init__", "generate")]
    scripts = [s for s in scripts if not arguments.names or s.stem in arguments.names]
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(generate, s, not arguments.check) for s in scripts]:
            future.result()


if __name__ == "__main__":
    main()
