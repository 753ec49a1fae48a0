"""What is in the folder of one training of a run."""

import csv
import io
import json
import pathlib
import tomllib

from sda.files.opening import read_plain
from sda.runs import kinds
from sda.runs.kinds import damaged

# Bytes that a text of a run may have.
TEXT_BYTES = 2**24


class Record:
    """Reads the folder of a phase, whoever wrote it: what is not as a run leaves it is refused.

    Args:
        run: Path of the run's folder.
        name: String, what the folder in it is called: "pretrain", "finetune", …
    """

    def __init__(self, run, name):
        self.run = pathlib.Path(run)
        self.name = name
        self.path = self.run / name

    @property
    def exists(self):
        return (self.path / "run.json").is_file()

    def file(self, name):
        """Return the path of a file of the phase.

        Raises:
            ValueError: If it is there and no regular file, or if it or the phase is a link, which
                would lead out of the run.
        """
        path = self.path / name
        for there, is_right in ((self.path, self.path.is_dir()), (path, path.is_file())):
            if there.is_symlink() or (there.exists() and not is_right):
                raise damaged(there, "a link" if there.is_symlink() else "no regular file")
        return path

    def _read(self, name):
        return read_plain(self.file(name), TEXT_BYTES, links=False).decode()

    @property
    def is_finished(self):
        return self.exists and self.record.get("status") == "finished"

    @property
    def checkpoints(self):
        """The folder for `checkpoint_dir`; deleted when the phase has ended well."""
        return self.path / "checkpoints"

    @property
    def record(self):
        """What is in run.json: `circumstances`, started, seconds, status."""
        return self._json("run.json", kinds.RECORD)

    @property
    def settings(self):
        """What is in settings.toml."""
        path = self.path / "settings.toml"
        try:
            settings = tomllib.loads(self._read("settings.toml"))
        except (OSError, ValueError, RecursionError) as error:
            raise damaged(path, kinds.place(error)) from error
        if not kinds.are_settings(settings.values()):
            raise damaged(path, f"{len(settings)} values, or some that are no settings")
        return kinds.checked(path, settings, kinds.SETTINGS)

    @property
    def results(self):
        """What is in results.json, or an empty dictionary."""
        return (
            self._json("results.json", kinds.RESULTS)
            if (self.path / "results.json").exists()
            else {}
        )

    @property
    def curves(self):
        """What is in curves.csv: a list of a dictionary of numbers an epoch."""
        try:
            with io.StringIO(self._read("curves.csv"), newline="") as file:
                rows = [
                    {name: kinds.number_of(value) for name, value in row.items() if value}
                    for row in csv.DictReader(file)
                ]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError, AttributeError, csv.Error) as error:
            raise damaged(self.path / "curves.csv", error) from error
        if not all(kinds.is_count(row.get(name)) for row in rows for name in ("layer", "epoch")):
            raise damaged(self.path / "curves.csv", "rows without a layer and an epoch")
        return rows

    def _json(self, name, known):
        path = self.path / name
        try:
            content = json.loads(self._read(name))
        except (OSError, ValueError, RecursionError) as error:
            raise damaged(path, kinds.place(error)) from error
        if not isinstance(content, dict):
            raise damaged(path, type(content).__name__)
        return kinds.checked(path, content, known)
