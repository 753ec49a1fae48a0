"""Which runs there are, who does which, and what happens when a worker dies."""

import contextlib
import itertools
import math
import operator
import pathlib
import re
import secrets
import shutil
import time

import keras
import numpy as np

from sda.checkpoints import identity
from sda.checkpoints.layer_cache import LayerCache
from sda.checks import check_count, check_number
from sda.files.cells import printable
from sda.files.locks import alone
from sda.files.opening import Damaged, open_plain
from sda.files.writing import leftovers, replacing
from sda.layers import preprocessing
from sda.rows.arrays import in_place
from sda.rows.reading import as_rows, check_finite
from sda.streams import check_seed
from sda.sweep import report, space, trial, workers
from sda.sweep.space import Range
from sda.sweep.studies import (
    ATTEMPTS,
    DATABASE,
    check_sampler,
    claim,
    counted,
    facts_of,
    is_lost,
    load_optuna,
    make,
    open_storage,
    point,
    quiet,
    reading,
    state,
)
from sda.training.loop import TrainingDivergedError

# A worker that gives no sign for so many beats is taken for dead.
GRACE = 4
# Held by the worker that writes the table, the figures and the best models.
LOCK = "best.lock"
OWN = r"\.(best|best_classifier|results|comparison|curves)\."


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
        vary: Dictionary of the names of settings (those of `sda.sweep.trial.Settings`, with
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
        self._plan = self._planned()
        self._is_open = False
        self._check_values()

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
        train, held_out = self._checked_data(x, y, validation_data)
        study = self._open(train, held_out)
        chosen = preprocessing.for_rows(train[0])
        if chosen and verbose:
            print(f"preprocessing: {preprocessing.described(chosen)}", flush=True)
        # A worker may have been killed between its last result and this.
        self._settle(study)
        cache = None
        if self.cache_bytes:
            cache = LayerCache(self.path / "layers", self.cache_bytes)
        watch = workers.Watch(GRACE * self.beat)
        done = 0
        while limit is None or done < limit:
            with reading(self.storage):
                asked = self._ask(study, watch)
                running = asked is None and watch.running(study)
            if asked is None:
                if not running:
                    break
                time.sleep(min(1.0, self.beat))  # to take over what another loses
                continue
            done += 1
            self._do(study, asked, train, held_out, cache, verbose)
            self._write_table(study)
        rows = self._write_table(study)
        with alone(self.path / LOCK), reading(self.storage):
            report.draw(self, study, rows)
        return rows

    def _write_table(self, study):
        with alone(self.path / LOCK), reading(self.storage):
            return report.write_table(self, study)

    # What there is to do

    def _settings(self, values):
        return {**self.fixed, **values}

    def _check_values(self):
        """Raise `ValueError` for a value that a run would end at, when others are done."""
        if self._plan is not None:
            points, checked = self._plan, []
            for name, values in self.vary.items():
                if isinstance(values, Range):
                    found = [f(points, key=operator.itemgetter(name)) for f in (min, max)]
                else:
                    found = [next((p for p in points if p[name] == v), None) for v in values]
                checked += [p for p in found if p is not None and p not in checked]
        else:
            ends = {
                name: [values.low, values.high] if isinstance(values, Range) else values
                for name, values in self.vary.items()
            }
            first = {name: values[0] for name, values in ends.items()}
            each = [(name, value) for name, values in ends.items() for value in values]
            points = [first, *(first | dict(pair) for pair in itertools.combinations(each, 2))]
            checked = [first | {name: value} for name, value in each]
        for values in points:
            trial.resolved(self._settings(values))
        # Costs more, and so once a value.
        for values in checked:
            trial.check(trial.resolved(self._settings(values)), self.objective)

    def _planned(self):
        """Return the points of a plan, or None where each is drawn when its turn comes."""
        if self.sampler == "grid":
            names, lists = list(self.vary), list(self.vary.values())
            return [dict(zip(names, values, strict=True)) for values in itertools.product(*lists)]
        if self.is_drawn:
            return None
        optuna = load_optuna()
        with quiet(optuna):
            study = optuna.create_study(sampler=self._made_sampler)
        distributions = space.distributions(self.vary)
        return [space.decoded(study.ask(distributions).params) for _ in range(self.trials)]

    def _ask(self, study, watch):
        """Return a trial for this worker, or None if there is none to be had.

        A point of the sweep is an index of the plan, or where nothing is planned the number of the
        trial that was first there; it is left to do as long as each trial of it was lost.
        """
        while True:
            watch.bury(study)
            trials = counted(study)
            lost = [t for t in trials if is_lost(t)]
            live = {point(t) for t in trials if not is_lost(t)}
            deaths = [point(t) for t in lost if "interrupted" not in facts_of(t)]
            live |= {p for p in deaths if deaths.count(p) >= ATTEMPTS}
            if self._plan is not None:
                points = enumerate(map(space.encoded_all, self._plan))
            else:
                # One whose worker died before it had drawn all values is drawn anew.
                points = ((point(t), t.params) for t in lost if set(t.params) == set(self.vary))
            missing = {p: params for p, params in points if p not in live}
            if missing:
                # In order; where others choose at the same time, not all the same.
                others = sum(t.state.name == "RUNNING" for t in trials)
                p = secrets.choice(list(missing)[: others + 1])
                asked = claim(study, p, missing[p], space.distributions(self.vary), workers.me())
            elif self._plan is None and len(live) < self.trials:
                asked = study.ask(space.distributions(self.vary))
            else:
                return None
            if self._is_needed(study, asked):
                return asked
            asked.set_user_attr("withdrawn", True)
            study.tell(asked, state=state("FAIL"), skip_if_finished=True)

    def _is_needed(self, study, asked):
        """Return whether nobody was quicker: a trial with a lower number was there before."""
        others = [t for t in counted(study) if t.number != asked.number and not is_lost(t)]
        mine = asked.user_attrs.get("point", asked.number)
        for other in others:
            if point(other) == mine and (other.state.is_finished() or other.number < asked.number):
                return False
        if self._plan is None:
            if len({point(t) for t in others if t.number < asked.number} - {mine}) >= self.trials:
                return False
            if any(t.params == asked.params for t in others):
                # Another worker began with the same seed.
                study.sampler.reseed_rng()
        return True

    # Doing it

    def _do(self, study, asked, train, held_out, cache, verbose):
        """Do one run and tell the study how it ended."""
        optuna = load_optuna()
        values = space.decoded(asked.params)
        facts = {}
        before = (cache.hits, cache.misses) if cache else (0, 0)
        outcome = {"state": state("FAIL")}
        clock = time.perf_counter(), time.process_time()
        try:
            with workers.Beats(asked, self.beat) as beats:
                settings = trial.resolved(self._settings(values))
                stack = trial.pretrained(settings, train[0], cache)
                value, classifier = trial.OBJECTIVES[self.objective](
                    stack, settings, train, held_out, _reporter(asked)
                )
            facts["digest"] = trial.digest(stack)
            if math.isfinite(value):
                outcome = {"values": value}
                if not beats.lost:
                    self._keep(study, asked, value, stack, classifier)
            else:
                facts["error"] = f"the objective became {value}"
        except TrainingDivergedError as error:
            facts["error"] = str(error)
        except optuna.TrialPruned:
            outcome = {"state": state("PRUNED")}
        except optuna.exceptions.UpdateFinishedTrialError:
            pass  # taken for dead: the run was given to another
        except BaseException as error:
            # Not a result of these settings: whoever comes next tries again.
            if isinstance(error, KeyboardInterrupt):
                facts["interrupted"] = True
            facts["failure"] = f"{type(error).__name__}: {error}"[:300]
            raise
        finally:
            facts["seconds"] = round(time.perf_counter() - clock[0], 3)
            facts["cpu_seconds"] = round(time.process_time() - clock[1], 3)
            if cache:
                facts["layers_shared"] = cache.hits - before[0]
                facts["layers_trained"] = cache.misses - before[1]
            facts["backend"] = keras.backend.backend()
            facts["versions"] = identity.versions()
            updated = contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError)
            with updated, reading(self.storage):
                asked.set_user_attr("facts", facts)
                study.tell(asked, **outcome, skip_if_finished=True)
        self._settle(study)
        if verbose:
            _say(asked, values, outcome, facts, self._plan, self.trials)

    def _keep(self, study, asked, value, stack, classifier):
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

    def _settle(self, study):
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
            old = time.time() - path.lstat().st_mtime > GRACE * self.beat
            if found is not None and (old or workers.is_gone(found)):
                path.unlink(missing_ok=True)

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

    def _checked_data(self, x, y, validation_data):
        if self.objective == "denoising":
            if isinstance(validation_data, (tuple, list)) and len(validation_data) == 2:
                validation_data = validation_data[0]
            pairs = {"x": (x, None), "validation_data": (validation_data, None)}
        else:
            is_pair = isinstance(validation_data, (tuple, list)) and len(validation_data) == 2
            if y is None or not is_pair:
                raise ValueError(
                    "Expected `y`, and `validation_data` as (x, y), by which to compare the runs. "
                    f"Received: y={type(y).__name__}, "
                    f"validation_data={type(validation_data).__name__}"
                )
            pairs = {"x": (x, y), "validation_data": tuple(validation_data)}
        checked = []
        for name, (rows, labels) in pairs.items():
            if rows is None:
                raise ValueError(f"Expected `{name}` to hold rows. Received: None")
            rows = np.asarray(as_rows(rows, name)[:])
            check_finite(rows, name)
            if labels is not None:
                labels = np.asarray(in_place(labels, f"the labels of {name}"))
                if labels.shape != (len(rows),) or labels.dtype.kind not in "iu":
                    raise ValueError(
                        f"Expected the labels of `{name}` to be {len(rows)} integers. "
                        f"Received: {labels.dtype} of shape {labels.shape}"
                    )
            checked.append((rows, labels))
        if (checked[0][0].dtype == "uint8") != (checked[1][0].dtype == "uint8"):
            raise ValueError(
                "Expected `x` and `validation_data` to be both of dtype uint8, pixels to be scaled "
                f"to [0, 1], or neither. Received: {checked[0][0].dtype} and {checked[1][0].dtype}"
            )
        if checked[0][0].shape[1:] != checked[1][0].shape[1:]:
            raise ValueError(
                "Expected `validation_data` with rows like those of `x`. "
                f"Received: shapes {checked[0][0].shape} and {checked[1][0].shape}"
            )
        return checked


def _settings_of(name, value):
    """Return a setting as JSON has it: numbers and strings, and of others what tells them apart."""
    if type(value) in (list, tuple):
        return [_settings_of(name, item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    return identity.object_settings(value, name)


def _reporter(asked):
    optuna = load_optuna()

    def tell(epoch, value):
        asked.report(value, epoch)
        if asked.should_prune():
            raise optuna.TrialPruned

    return tell


def _say(asked, values, outcome, facts, plan, trials):
    total = len(plan) if plan is not None else trials
    p = asked.user_attrs.get("point", asked.number)
    what = ", ".join(f"{name} {value}" for name, value in values.items())
    if "values" in outcome:
        result = f"{outcome['values']:.4g}"
    else:
        result = facts.get("error", outcome["state"].name.lower())
    line = f"[{p + 1}/{total}] {what}: {result} ({facts['seconds']:.1f} s)"
    print(printable(line, kept=""), flush=True)
