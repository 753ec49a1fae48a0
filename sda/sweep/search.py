"""Which runs there are, who does which, and what happens when a worker dies."""

import pathlib
import time

import keras
import numpy as np

from sda.checkpoints import identity
from sda.checkpoints.layer_cache import LayerCache
from sda.checks import check_count, check_number
from sda.files.locks import alone
from sda.files.opening import Damaged
from sda.layers import preprocessing
from sda.recipe import Recipe
from sda.streams import check_seed
from sda.sweep import data, report, space, trial, workers
from sda.sweep.ask import Points
from sda.sweep.runner import Runner
from sda.sweep.settle import LOCK, Best
from sda.sweep.space import Range
from sda.sweep.studies import (
    DATABASE,
    check_sampler,
    load_optuna,
    make,
    open_storage,
    quiet,
    reading,
)

# A worker that gives no sign for so many beats is taken for dead.
GRACE = 4


class Sweep:
    """Runs that differ in a few settings; the one with the least objective is the best.

    Each run pretrains a stack and judges it on rows held out. Runs that agree on the settings of
    the first layers train those once (`sda.LayerCache`). Any number of workers, each a process
    that made the same `Sweep` and called `run` with the same data, share the work; one may join or
    be killed at any moment: what was finished is kept, and what it was doing is done again by
    another, or by whoever comes next. Test rows have no place here: choose first, then test once.

    Args:
        path: Path of the sweep's folder: table, figures, best stack, shared layers, and the SQLite
            file of the results.
        vary: Dictionary of the names of settings (those of `sda.Recipe`, with
            "corruption_3" for that of the third layer) to lists of values, or to a
            `sda.sweep.Range`.
        fixed: Dictionary of settings that are the same in all runs.
        objective: "error", of the fine-tuned classifier on the rows held out, in percent; "probe",
            of a linear classifier on the top codes; or "denoising", the squared error of rows held
            out, a quarter masked, that the stack repairs: it needs no labels.
        sampler: "grid" for all combinations; "random" for `trials` draws; the name of one of
            Optuna's samplers ("tpe", "cmaes", "gp", "qmc", …), or one of its objects.
        trials: Integer, the number of runs; None with "grid". It may grow from one call to the
            next.
        pruner: None, or the name of one of Optuna's pruners ("median", "hyperband", …), or one of
            its objects: it may stop a fine-tuning that does worse than others did.
        storage: None for SQLite in the folder; "journal:PATH" for Optuna's journal, for workers on
            several machines with a common disk; an address of a database that SQLAlchemy knows
            ("postgresql://…"); or one of Optuna's storages.
        name: String, the sweep's name in the storage, or None for the folder's.
        cache_bytes: Integer, the limit of the shared layers, in bytes; 0 to share none.
        seed: Integer for what is drawn; the runs have the setting "seed".
        beat: Seconds between signs of life of a worker. One that is silent for four of them is
            taken for dead; one of the same machine, as soon as its process is gone.

    Raises:
        ValueError: If an argument is not as described.
        ImportError: If `optuna` is not installed.

    Example:

    >>> x, y = np.random.rand(60, 12), np.arange(60) % 2
    >>> sweep = sda.sweep.Sweep(
    ...     "runs/levels",
    ...     vary={"corruption_2": [0.1, 0.5]},
    ...     fixed={"units": [8, 5], "epochs": 1, "finetune_epochs": 1},
    ... )
    >>> rows = sweep.run(x[:40], y[:40], (x[40:], y[40:]), verbose=0)
    >>> [row["corruption_2"] for row in rows]
    [0.1, 0.5]
    >>> sda.load_model("runs/levels/best.keras").autoencoders[1].units
    5
    """

    def __init__(
        self,
        path,
        vary,
        fixed=None,
        objective="error",
        sampler="grid",
        trials=None,
        pruner=None,
        storage=None,
        name=None,
        cache_bytes=2**33,
        seed=0,
        beat=30,
    ):
        self.path = pathlib.Path(path)
        self.vary = space.checked_space(vary)
        self.fixed = {} if fixed is None else dict(fixed)
        both = set(self.vary) & set(self.fixed)
        if both:
            raise ValueError(
                f"Expected `fixed` to leave out what varies. Received: {', '.join(sorted(both))}"
            )
        if objective not in trial.OBJECTIVES:
            raise ValueError(
                f"Expected `objective` to be one of {', '.join(trial.OBJECTIVES)}. "
                f"Received: objective={objective!r}"
            )
        self.objective = objective
        ranges = [name for name, values in self.vary.items() if isinstance(values, Range)]
        if sampler == "grid" and (ranges or trials is not None):
            raise ValueError(
                'Expected lists of values, and no `trials`, under sampler="grid". Received: '
                + (f"a range of {ranges[0]}" if ranges else f"trials={trials}")
            )
        self.trials = None if sampler == "grid" else check_count(trials, "trials")
        self.sampler = sampler
        self.pruner = pruner
        self.storage = storage
        self.name = self.path.resolve().name if name is None else name
        self.cache_bytes = check_count(cache_bytes, "cache_bytes", least=0)
        self.seed = check_seed(seed) or 0
        self.beat = check_number(beat, "beat", "in seconds, above 0", lambda s: s > 0)
        self._made_sampler = make("samplers", sampler if self.is_drawn else "random", self.seed)
        self._made_pruner = make("pruners", "nop" if pruner is None else pruner)
        self.points = self._found_points()
        self.best = Best(self.path, storage, GRACE * self.beat)
        self._is_open = False
        points, checked = self.points.examples()
        for values in points:
            self.recipe(values)
        # Costs more, and so once a value.
        for values in checked:
            trial.check(self.recipe(values))

    @property
    def is_drawn(self):
        """Whether each run is drawn from what the others gave, and not planned."""
        return self.sampler not in ("grid", "random")

    def run(self, x, y=None, validation_data=None, limit=None, verbose=1):
        """Do runs until there are none left, with whoever else is doing them.

        Args:
            x: Rows to train on, of shape `(n, features)`. Those of dtype uint8 are taken for
                pixels: the stacks get `keras.layers.Rescaling(1 / 255)` as their preprocessing,
                and a line says so.
            y: Their labels, integers from 0; None under the objective "denoising".
            validation_data: `(x, y)`, or x alone where there are no labels: the rows held out, by
                which runs are compared.
            limit: Integer, the most runs for this worker, or None.
            verbose: 1 for a line a run, 0 for silence.

        Returns:
            The table: a list with one dictionary a run. It is in results.csv and results.md too,
            with figures; the best stack is in best.keras (and the classifier on it in
            best_classifier.keras).

        Raises:
            ValueError: If the data do not fit, or if the folder or storage has a sweep of other
                settings or data. Nothing has changed then.
        """
        if limit is not None:
            check_count(limit, "limit")
        labelled = self.objective != "denoising"
        train, held_out = data.checked(x, y, validation_data, labelled)
        study = self._open(train, held_out)
        open_ones = Recipe(preprocessing=self.fixed.get("preprocessing"))
        chosen = open_ones.resolve(train[0]).preprocessing
        if chosen and verbose:
            print(f"preprocessing: {preprocessing.described(chosen)}", flush=True)
        # A worker may have been killed between its last result and this.
        self.best.settle(study)
        cache = None
        if self.cache_bytes:
            cache = LayerCache(self.path / "layers", self.cache_bytes)
        runner = Runner(self, train, held_out, cache, verbose)
        watch = workers.Watch(GRACE * self.beat)
        done = 0
        while limit is None or done < limit:
            with reading(self.storage):
                asked = self.points.ask(study, watch)
                running = asked is None and watch.running(study)
            if asked is None:
                if not running:
                    break
                time.sleep(min(1.0, self.beat))  # to take over what another loses
                continue
            done += 1
            runner.do(study, asked)
            self._write_table(study)
        rows = self._write_table(study)
        with alone(self.path / LOCK), reading(self.storage):
            report.draw(self, study, rows)
        return rows

    def _write_table(self, study):
        with alone(self.path / LOCK), reading(self.storage):
            return report.write_table(self, study)

    # What there is to do

    def _found_points(self):
        if self.sampler == "grid":
            return Points.combined(self.vary)
        if self.is_drawn:
            return Points(self.vary, None, self.trials)
        return Points.random(self.vary, self.trials, self._made_sampler)

    def recipe(self, values):
        """Return the `sda.Recipe` of a run, by the values of what varies."""
        return Recipe.from_dict({**self.fixed, **values})

    # The study

    def _check_folder(self):
        """Raise `ValueError` if a link would lead what is written out of the sweep's folder."""
        for name in ("stacks", "layers", *(f"{DATABASE}{end}" for end in ("", "-wal", "-journal"))):
            if (self.path / name).is_symlink():
                raise Damaged(
                    f"Expected {self.path / name} to be as a sweep left it. Received: a link"
                )

    def _open(self, train, held_out):
        """Return the Optuna study, made where it is not there."""
        optuna = load_optuna()
        settings = {
            "vary": {name: space.plain(values) for name, values in self.vary.items()},
            "fixed": {name: _settings_of(name, value) for name, value in self.fixed.items()},
            "objective": self.objective,
            "sampler": self.sampler
            if isinstance(self.sampler, str)
            else type(self.sampler).__name__,
            "seed": self.seed,
            "backend": keras.backend.backend(),
            "data": identity.data_settings([train, held_out]),
        }
        self.path.mkdir(parents=True, exist_ok=True)
        self._check_folder()
        with alone(self.path / "study.lock"), quiet(optuna), reading(self.storage):
            study = optuna.create_study(
                storage=open_storage(self.storage, self.path),
                study_name=self.name,
                sampler=self._made_sampler,
                pruner=self._made_pruner,
                load_if_exists=True,
            )
            if not self._is_open:
                check_sampler(self._made_sampler, self.storage, study)
            there = study.user_attrs.get("settings")
            begun = len(study.get_trials())
            if there is None:
                if begun:
                    raise ValueError(
                        "Expected a study that a sweep began. Received: "
                        f"{begun} trials of another program; name={self.name!r}. Nothing was "
                        "changed: use another name"
                    )
                study.set_user_attr("settings", settings)
            else:
                differing = identity.differences(there, settings)
                if differing:
                    raise ValueError(
                        "Expected the data and settings of the sweep that is there. Received: "
                        f"{differing}; path={str(self.path)!r}, name={self.name!r}. Nothing was "
                        "changed: use another folder"
                    )
        self._is_open = True
        if self.is_drawn and begun:
            # Who joins does not repeat what the first one draws.
            study.sampler.reseed_rng()
        return study


def _settings_of(name, value):
    """Return a setting as JSON has it: numbers and strings, and of others what tells them apart."""
    if type(value) in (list, tuple):
        return [_settings_of(name, item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    return identity.object_settings(value, name)
