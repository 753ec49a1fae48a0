"""One run of a sweep after the other: trained, judged, and told to the study."""

import contextlib
import math
import time

import keras

from sda.checkpoints import identity
from sda.files.cells import printable
from sda.sweep import space, trial, workers
from sda.sweep.studies import load_optuna, reading, state
from sda.training.loop import TrainingDivergedError


class Runner:
    """Does the runs of a worker.

    Args:
        sweep: The `Sweep`.
        train, held_out: Rows with their labels.
        cache: `sda.LayerCache`, or None.
        verbose: Whether to print a line a run.
    """

    def __init__(self, sweep, train, held_out, cache, verbose):
        self.sweep = sweep
        self.train = train
        self.held_out = held_out
        self.cache = cache
        self.verbose = verbose

    def do(self, study, asked):
        """Do one run and tell the study how it ended."""
        optuna = load_optuna()
        values = space.decoded(asked.params)
        facts = {}
        cache = self.cache
        before = (cache.hits, cache.misses) if cache else (0, 0)
        outcome = {"state": state("FAIL")}
        clock = time.perf_counter(), time.process_time()
        try:
            with workers.Beats(asked, self.sweep.beat) as beats:
                recipe = self.sweep.recipe(values)
                stack = trial.pretrained(recipe, self.train[0], self.cache)
                value, classifier = trial.OBJECTIVES[self.sweep.objective](
                    stack, recipe, self.train, self.held_out, _reporter(asked)
                )
            facts["digest"] = trial.digest(stack)
            if math.isfinite(value):
                outcome = {"values": value}
                if not beats.lost:
                    self.sweep.best.keep(study, asked, value, stack, classifier)
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
            with updated, reading(self.sweep.storage):
                asked.set_user_attr("facts", facts)
                study.tell(asked, **outcome, skip_if_finished=True)
        self.sweep.best.settle(study)
        if self.verbose:
            _say(asked, values, outcome, facts, self.sweep.points.trials)


def _reporter(asked):
    optuna = load_optuna()

    def tell(epoch, value):
        asked.report(value, epoch)
        if asked.should_prune():
            raise optuna.TrialPruned

    return tell


def _say(asked, values, outcome, facts, total):
    p = asked.user_attrs.get("point", asked.number)
    what = ", ".join(f"{name} {value}" for name, value in values.items())
    if "values" in outcome:
        result = f"{outcome['values']:.4g}"
    else:
        result = facts.get("error", outcome["state"].name.lower())
    line = f"[{p + 1}/{total}] {what}: {result} ({facts['seconds']:.1f} s)"
    print(printable(line, kept=""), flush=True)
