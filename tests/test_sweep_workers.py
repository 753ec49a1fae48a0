"""Workers of a sweep that join, die and come back. What a run trains is a stand-in here."""

import multiprocessing
import os
import random
import signal
import threading
import time

import numpy as np
import pytest

pytest.importorskip("optuna")

import optuna

import sda
from sda.seeding import spawn
from sda.sweep import Range, Sweep, report, search, studies, trial, workers

X = np.zeros((4, 3), "float32")
LEVELS = [0.0, 0.1, 0.2, 0.3]


class StandIn:
    """In place of a stack: it knows its settings."""

    def __init__(self, settings):
        self.settings = settings

    def save(self, path):
        path.write_text(str(self.settings.corruption[0]))


@pytest.fixture(autouse=True)
def _nothing_is_trained(monkeypatch):
    monkeypatch.setattr(trial, "pretrained", lambda settings, x, prefixes: StandIn(settings))
    monkeypatch.setattr(trial, "digest", lambda stack: str(stack.settings.corruption))
    monkeypatch.setattr(report, "draw", lambda *args: None)


@pytest.fixture
def judge(monkeypatch):
    """Set what a run comes to: a function of its settings, and of what reports an epoch."""

    def judge(function):
        def objective(stack, settings, train, held_out, tell):
            return function(settings, tell), None

        monkeypatch.setitem(trial.OBJECTIVES, "denoising", objective)

    judge(lambda settings, tell: settings.corruption[0] + 1)
    return judge


def made(path, **settings):
    settings = {"vary": {"corruption": LEVELS}, "objective": "denoising", **settings}
    return Sweep(path, fixed={"units": 3}, prefix_bytes=0, **settings)


def run(sweep, **settings):
    return sweep.run(X, validation_data=X, verbose=0, **settings)


def study_of(sweep):
    return sweep._open((X, None), (X, None))


def storages(path):
    return {"sqlite": None, "journal": f"journal:{path / 'journal.log'}"}


@pytest.fixture(params=["sqlite", "journal"])
def storage(request, tmp_path):
    return storages(tmp_path)[request.param]


# One worker


def test_a_grid_is_all_combinations_in_order(tmp_path, judge):
    rows = run(made(tmp_path, vary={"corruption": [0.1, 0.2], "noise": ["masking", "swap"]}))
    assert [(row["corruption"], row["noise"]) for row in rows] == [
        (0.1, "masking"),
        (0.1, "swap"),
        (0.2, "masking"),
        (0.2, "swap"),
    ]
    assert [row["denoising"] for row in rows] == [1.1, 1.1, 1.2, 1.2]
    assert [row["run"] for row in rows] == [0, 1, 2, 3]


def test_what_is_finished_is_not_done_again(tmp_path, judge, storage):
    first = run(made(tmp_path, storage=storage), limit=2)
    assert [row["corruption"] for row in first] == LEVELS[:2]
    done = []
    judge(lambda settings, tell: done.append(settings.corruption[0]) or 1.0)
    rows = run(made(tmp_path, storage=storage))
    assert done == LEVELS[2:]
    assert rows[:2] == first
    assert run(made(tmp_path, storage=storage)) == rows


def test_lists_and_none_are_values_too(tmp_path, judge):
    seen = []
    judge(lambda settings, tell: seen.append((settings.units, settings.loss)) or 1.0)
    vary = {"units": [[4, 3], [5, 2]], "loss": [None, "squared_error"]}
    sweep = Sweep(tmp_path, vary, objective="denoising", prefix_bytes=0)
    rows = run(sweep)
    assert seen == [
        ([4, 3], [None, None]),
        ([4, 3], ["squared_error"] * 2),
        ([5, 2], [None, None]),
        ([5, 2], ["squared_error"] * 2),
    ]
    assert rows[2]["units"] == [5, 2]


def test_random_draws_are_planned_and_may_be_continued(tmp_path, judge):
    vary = {"corruption": Range(0.0, 1.0), "learning_rate": Range(1e-4, 1.0, log=True)}
    three = run(made(tmp_path / "a", vary=vary, sampler="random", trials=3))
    five = run(made(tmp_path / "a", vary=vary, sampler="random", trials=5))
    assert five[:3] == three
    again = run(made(tmp_path / "b", vary=vary, sampler="random", trials=5))
    assert [row["corruption"] for row in again] == [row["corruption"] for row in five]
    other = made(tmp_path / "c", vary=vary, sampler="random", trials=5, seed=1)
    assert not {v["corruption"] for v in other._plan} & {row["corruption"] for row in five}
    rates = [v["learning_rate"] for v in made("d", vary=vary, sampler="random", trials=200)._plan]
    assert min(rates) >= 1e-4
    assert max(rates) <= 1
    # Uniform in the logarithm: half of them are below 0.01, ± 4 deviations of 7.
    assert abs(sum(rate < 0.01 for rate in rates) - 100) < 28


def test_tpe_is_optunas(tmp_path, judge):
    judge(lambda settings, tell: (settings.corruption[0] - 0.3) ** 2)
    sweep = made(tmp_path, vary={"corruption": Range(0.0, 1.0)}, sampler="tpe", trials=13)
    rows = run(sweep)
    # The first ten of TPE's are drawn at random.
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=spawn(0, 0)))
    study.optimize(lambda t: (t.suggest_float("corruption", 0, 1) - 0.3) ** 2, 13)
    assert [row["corruption"] for row in rows] == [t.params["corruption"] for t in study.trials]
    assert [row["denoising"] for row in rows] == [t.value for t in study.trials]


def test_a_pruner_stops_what_does_worse(tmp_path, judge):
    def objective(settings, tell):
        for epoch in range(5):
            tell(epoch, settings.corruption[0] + 1 / (epoch + 1))
        return settings.corruption[0]

    judge(objective)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=2)
    rows = run(made(tmp_path, pruner=pruner))
    assert [row["state"] for row in rows] == ["complete"] * 2 + ["pruned"] * 2
    assert run(made(tmp_path, pruner=pruner)) == rows


def test_a_run_that_diverges_is_a_result(tmp_path, judge):
    def objective(settings, tell):
        if settings.corruption[0] == 0.1:
            raise sda.TrainingDiverged("Training diverged", None)
        return float("nan") if settings.corruption[0] == 0.2 else 1.0

    judge(objective)
    rows = run(made(tmp_path))
    assert [row["state"] for row in rows] == ["complete", "fail", "fail", "complete"]
    assert (rows[1]["note"], rows[2]["note"]) == ("Training diverged", "the objective became nan")
    judge(None)
    assert run(made(tmp_path)) == rows


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_run_that_was_stopped_is_done_again(tmp_path, judge, error):
    def objective(settings, tell):
        if settings.corruption[0] == 0.2:
            raise error("by something")
        return 1.0

    judge(objective)
    with pytest.raises(error):
        run(made(tmp_path))
    judge(lambda settings, tell: 2.0)
    rows = run(made(tmp_path))
    assert [row["denoising"] for row in rows] == [1.0, 1.0, 2.0, 2.0]


def test_what_kills_its_worker_each_time_is_left_alone(tmp_path, judge, monkeypatch):
    def objective(settings, tell):
        if settings.corruption[0] == 0.2:
            raise MemoryError("too much")
        return 1.0

    judge(objective)
    monkeypatch.setattr(search, "ATTEMPTS", 2)
    for _ in range(2):
        with pytest.raises(MemoryError):
            run(made(tmp_path))
    rows = run(made(tmp_path))
    assert [row["state"] for row in rows] == ["complete"] * 2 + ["lost", "complete"]
    assert rows[2]["note"] == "MemoryError: too much"


def test_the_best_stack_is_kept_and_no_other(tmp_path, judge):
    judge(lambda settings, tell: abs(settings.corruption[0] - 0.2))
    for limit in range(1, 5):
        run(made(tmp_path), limit=1)
        best = min(LEVELS[:limit], key=lambda level: abs(level - 0.2))
        assert (tmp_path / "best.keras").read_text() == str(best)
    assert len(list((tmp_path / "stacks").iterdir())) == 1


def test_a_best_stack_that_is_elsewhere_is_not_mistaken(tmp_path, judge):
    address = f"journal:{tmp_path / 'journal.log'}"
    judge(lambda settings, tell: 1 - settings.corruption[0])
    run(made(tmp_path / "here", storage=address, name="one"), limit=1)
    assert (tmp_path / "here" / "best.keras").exists()
    run(made(tmp_path / "there", storage=address, name="one"), limit=2)
    assert (tmp_path / "there" / "best.keras").read_text() == "0.2"
    judge(lambda settings, tell: 5.0)
    rows = run(made(tmp_path / "here", storage=address, name="one"))
    assert [row["denoising"] for row in rows] == [1.0, 0.9, 0.8, 5.0]
    assert not (tmp_path / "here" / "best.keras").exists()


def test_an_objective_of_zero_is_said(tmp_path, judge, capsys):
    judge(lambda settings, tell: 0.0)
    made(tmp_path).run(X, validation_data=X, limit=1)
    assert "[1/4] corruption 0.0: 0 (" in capsys.readouterr().out


def test_another_sweep_is_refused_and_named(tmp_path, judge, storage):
    run(made(tmp_path, storage=storage), limit=1)
    for settings, message in (
        ({"vary": {"corruption": [0.0, 0.7]}}, r"vary\.corruption"),
        ({"sampler": "random", "trials": 3}, r"sampler='random' \(there: 'grid'\)"),
    ):
        with pytest.raises(ValueError, match=message):
            run(made(tmp_path, storage=storage, **settings))
    with pytest.raises(ValueError, match=r"Expected the data and settings.*data\[0\]"):
        made(tmp_path, storage=storage).run(X + 1, validation_data=X, verbose=0)
    # Two in one storage, by their names.
    if storage:
        rows = run(made(tmp_path / "other", storage=storage, vary={"corruption": [0.9]}))
        assert [row["corruption"] for row in rows] == [0.9]


# Several


def in_threads(count, target):
    threads = [threading.Thread(target=target, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_workers_share_the_points_and_do_each_once(tmp_path, judge, storage):
    done = []

    def objective(settings, tell):
        time.sleep(random.random() / 50)
        done.append(settings.corruption[0])
        return 1.0

    judge(objective)
    levels = [k / 20 for k in range(12)]
    in_threads(4, lambda k: run(made(tmp_path, storage=storage, vary={"corruption": levels})))
    assert sorted(done) == levels
    rows = run(made(tmp_path, storage=storage, vary={"corruption": levels}))
    assert [row["corruption"] for row in rows] == levels
    assert {row["state"] for row in rows} == {"complete"}


def test_workers_that_draw_stop_at_the_number_of_trials(tmp_path, judge, storage):
    done = []

    def objective(settings, tell):
        time.sleep(random.random() / 50)
        done.append(settings.corruption[0])
        return settings.corruption[0]

    judge(objective)
    settings = {"vary": {"corruption": Range(0.0, 1.0)}, "sampler": "tpe", "trials": 9}
    in_threads(3, lambda k: run(made(tmp_path, storage=storage, **settings)))
    assert len(done) == 9
    rows = run(made(tmp_path, storage=storage, **settings))
    assert sorted(row["corruption"] for row in rows) == sorted(done)


def worker(path, storage, delay):
    """A worker that is slow, in a process of its own."""

    def objective(stack, settings, train, held_out, tell):
        time.sleep(delay)
        return settings.corruption[0] + 1, None

    trial.OBJECTIVES["denoising"] = objective
    run(made(path, storage=storage, beat=0.2))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_workers_that_are_killed_at_any_moment_lose_nothing(tmp_path, judge, storage):
    # Forks of a process that has not computed anything with its backend in this test.
    context = multiprocessing.get_context("fork")
    generator = random.Random(1)
    finished = {}
    # Optuna takes the lock of a journal from a dead process after half a minute.
    kills, slowness = (2, 0.5) if storage else (6, 0.1)
    for _ in range(kills):
        process = context.Process(target=worker, args=(tmp_path, storage, slowness))
        process.start()
        time.sleep(generator.uniform(1, 6) * slowness)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        study = study_of(made(tmp_path, storage=storage))
        found = {t.number: t.value for t in study.get_trials() if t.state.name == "COMPLETE"}
        # What one worker finished is there after the next one's death, too.
        assert finished.items() <= found.items()
        finished = found
    rows = run(made(tmp_path, storage=storage, beat=0.2))
    assert [row["denoising"] for row in rows] == [level + 1 for level in LEVELS]
    states = [t.state.name for t in study_of(made(tmp_path, storage=storage)).get_trials()]
    assert states.count("COMPLETE") == len(LEVELS)
    assert not {"RUNNING", "WAITING"} & set(states)


# Signs of life


def held(sweep, worker, beat=None):
    """Let a worker somewhere have the first point of a sweep; return its study and trial."""
    study = study_of(sweep)
    asked = sweep._ask(study, workers.Watch(60))
    asked.set_user_attr("worker", worker)
    if beat is not None:
        asked.set_user_attr("beat", beat)
    return study, asked


def test_a_silent_worker_elsewhere_is_taken_for_dead(tmp_path, judge, storage):
    held(made(tmp_path, storage=storage), ["elsewhere", 1], beat=3)
    start = time.monotonic()
    rows = run(made(tmp_path, storage=storage, beat=0.1))
    assert time.monotonic() - start > 0.4
    assert [row["denoising"] for row in rows] == [level + 1 for level in LEVELS]


def test_a_worker_that_beats_is_waited_for(tmp_path, judge, storage):
    sweep = made(tmp_path, storage=storage)
    study, asked = held(sweep, ["elsewhere", 1])

    def elsewhere():
        for beat in range(12):
            time.sleep(0.1)
            asked.set_user_attr("beat", beat)
        study.tell(asked, 7.0)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    rows = run(made(tmp_path, storage=storage, beat=0.1))
    thread.join()
    assert rows[0]["denoising"] == 7.0
    assert len(study.get_trials()) == len(LEVELS)


def test_a_process_of_this_machine_that_is_gone_is_not_waited_for(tmp_path, judge):
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    held(made(tmp_path), [workers._place(), process.pid])
    rows = run(made(tmp_path, beat=3600))
    assert {row["state"] for row in rows} == {"complete"}


def test_a_worker_writes_signs_of_life_while_it_trains(tmp_path, judge):
    sweep = made(tmp_path, beat=0.02)
    seen = []

    def objective(settings, tell):
        time.sleep(0.3)
        (found,) = study_of(made(tmp_path)).get_trials(states=(studies.state("RUNNING"),))
        seen.append((found.user_attrs["worker"], found.user_attrs["beat"]))
        return 1.0

    judge(objective)
    run(sweep, limit=1)
    ((worker, beat),) = seen
    assert worker == [workers._place(), os.getpid()]
    assert beat >= 3


def test_who_was_taken_for_dead_and_comes_back_does_not_count(tmp_path, judge):
    sweep = made(tmp_path)

    def objective(settings, tell):
        if settings.corruption[0] == 0.1 and not again:
            again.append(True)
            study = study_of(made(tmp_path))
            (mine,) = study.get_trials(states=(studies.state("RUNNING"),))
            study.tell(mine.number, state=studies.state("FAIL"))
            return 100.0
        return 1.0

    again = []
    judge(objective)
    rows = run(sweep)
    assert again
    assert [row["denoising"] for row in rows] == [1.0] * 4
    assert (tmp_path / "best.keras").exists()
