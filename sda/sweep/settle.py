"""The models of a sweep's best run, under their names, whoever did it."""

import re
import shutil
import time

from sda.files.locks import alone
from sda.files.opening import open_plain
from sda.files.writing import leftovers, replacing
from sda.sweep import workers
from sda.sweep.studies import reading

# Held by the worker that writes the table, the figures and the best models.
LOCK = "best.lock"
OWN = r"\.(best|best_classifier|results|comparison|curves)\."


class Best:
    """Keeps the models of the best run in a sweep's folder: best.keras, best_classifier.keras.

    Args:
        path: `pathlib.Path` of the folder.
        storage: That of the sweep.
        grace: Seconds without a sign of life after which a worker is taken for dead.
    """

    def __init__(self, path, storage, grace):
        self.path = path
        self.storage = storage
        self.grace = grace

    def keep(self, study, asked, value, stack, classifier):
        """Save the models of a run that is the best so far."""
        told = [t.value for t in study.get_trials() if t.state.name == "COMPLETE"]
        if told and value > min(told):
            return
        folder = self.path / "stacks"
        folder.mkdir(exist_ok=True)
        for model, kind in ((stack, ""), (classifier, "_classifier")):
            if model is not None:
                with replacing(folder / f"{asked.number}{kind}.keras") as temporary:
                    model.save(temporary)

    def settle(self, study):
        """Put the best models of all under their names, and delete those that no longer are."""
        folder = self.path / "stacks"
        if not folder.exists():
            return
        with alone(self.path / LOCK):
            with reading(self.storage):
                trials = study.get_trials()
                complete = {t.number: t.value for t in trials if t.state.name == "COMPLETE"}
            self._clear(folder, trials)
            if not complete:
                return
            best = min(complete, key=lambda number: (complete[number], number))
            for kind in ("", "_classifier"):
                source = folder / f"{best}{kind}.keras"
                target = self.path / f"best{kind}.keras"
                if source.exists():
                    with (
                        open_plain(source, links=False) as model,
                        replacing(target) as temporary,
                        open(temporary, "wb") as copy,
                    ):
                        shutil.copyfileobj(model, copy)
                else:  # it is in the folder of another machine
                    target.unlink(missing_ok=True)
                for other in trials:
                    if other.state.is_finished() and other.number != best:
                        (folder / f"{other.number}{kind}.keras").unlink(missing_ok=True)

    def _clear(self, folder, trials):
        """Delete what workers that are gone had begun to write. Whoever calls it has the lock."""
        for path in leftovers(self.path):
            if re.match(OWN, path.name):
                path.unlink(missing_ok=True)
        ended = {str(t.number): t for t in trials if t.state.is_finished()}
        for path in folder.glob("*.tmp.keras"):
            found = ended.get(path.name.lstrip(".").partition(".")[0].partition("_")[0])
            old = time.time() - path.lstat().st_mtime > self.grace
            if found is not None and (old or workers.is_gone(found)):
                path.unlink(missing_ok=True)
