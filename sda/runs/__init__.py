"""The folder of a run: what was asked for, what happened, what came out.

RUN/pretrain/settings.toml    what `sda pretrain --config` repeats the run from
RUN/pretrain/run.json         seed, versions, machine, when, how long, whether it ended
RUN/pretrain/log.txt          what happened when
RUN/pretrain/curves.csv       one line an epoch of a layer
RUN/pretrain/results.json     what was measured at the end, if anything
RUN/pretrain/stack.keras      the model
RUN/finetune/…                the same of the fine-tuning, with classifier.keras
"""

from sda.files.writing import write_json
from sda.runs.machine import circumstances, machine_name
from sda.runs.phase import PHASES, Phase, finished, phases
from sda.runs.scoring import columns, load_stack, read_rows, read_test_rows, score

__all__ = [
    "PHASES",
    "Phase",
    "circumstances",
    "columns",
    "finished",
    "load_stack",
    "machine_name",
    "phases",
    "read_rows",
    "read_test_rows",
    "score",
    "write_json",
]
