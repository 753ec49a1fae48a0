"""Workers of a sweep that join, die and come back. What a run trains is a stand-in here."""

import contextlib
import csv
import multiprocessing
import os
import pathlib
import random
import signal
import sqlite3
import threading
import time

import numpy as np
import pytest

pytest.importorskip("optuna")

import optuna

import sda
from sda.files.opening import Damaged
from sda.streams import spawn
from sda.sweep import Range, Sweep, ask, report, studies, trial, workers

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
    monkeypatch.setattr(trial, "pretrained", lambda settings, x, cache: StandIn(settings))
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
    return Sweep(path, fixed={"units": 3}, cache_bytes=0, **settings)


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
    sweep = Sweep(tmp_path, vary, objective="denoising", cache_bytes=0)
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
    assert not {v["corruption"] for v in other.points.plan} & {row["corruption"] for row in five}
    rates = [
        v["learning_rate"] for v in made("d", vary=vary, sampler="random", trials=200).points.plan
    ]
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
            raise sda.TrainingDivergedError("Training diverged", None)
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
    monkeypatch.setattr(ask, "ATTEMPTS", 2)
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


class Killed(BaseException):
    """In place of a signal that ends the process."""


def test_a_kill_after_the_last_result_leaves_no_other_best_stack(tmp_path, judge, monkeypatch):
    replace, seen = os.replace, []

    def objective(settings, tell):
        seen.append(settings.corruption[0])
        return 1 - settings.corruption[0]

    def killed(source, target):
        if len(seen) == len(LEVELS) and pathlib.Path(target).name == "best.keras":
            raise Killed
        replace(source, target)

    judge(objective)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            run(made(tmp_path))
    assert (tmp_path / "best.keras").read_text() == "0.2"
    rows = run(made(tmp_path))
    assert [row["denoising"] for row in rows] == [1 - level for level in LEVELS]
    assert len(seen) == len(LEVELS)
    assert (tmp_path / "best.keras").read_text() == "0.3"


def test_of_equal_runs_the_earliest_trial_is_the_best(tmp_path, judge):
    judge(lambda settings, tell: 1.0)
    # Another worker has the first point, and gives it back when the second is done.
    points = {"vary": {"corruption": LEVELS[:2]}}
    study, asked = held(made(tmp_path, **points), ["elsewhere", 1])
    run(made(tmp_path, **points), limit=1)
    study.tell(asked, state=studies.state("FAIL"))
    rows = run(made(tmp_path, **points))
    assert [row["trial"] for row in rows] == [2, 1]
    assert report.best_of(rows, "denoising")["corruption"] == LEVELS[1]
    assert (tmp_path / "best.keras").read_text() == str(LEVELS[1])
    assert "| **1** | **0.1** |" in (tmp_path / "results.md").read_text()


def test_what_a_killed_worker_had_begun_to_write_is_deleted(tmp_path, judge):
    run(made(tmp_path), limit=1)
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    _, asked = held(made(tmp_path), [workers._place(), process.pid])
    begun = [f".{asked.number}.0123456789abcdef.tmp.keras", f"{asked.number}.01234567.tmp.keras"]
    for name in (*begun, ".9.0123456789abcdef.tmp.keras"):
        (tmp_path / "stacks" / name).touch()
    for name in (".best.0123456789abcdef.tmp.keras", ".mine.0123456789abcdef.tmp.keras"):
        (tmp_path / name).touch()
    run(made(tmp_path))
    names = {path.name for path in (tmp_path / "stacks").iterdir()}
    assert names == {"0.keras", ".9.0123456789abcdef.tmp.keras"}
    left = [path.name for path in tmp_path.iterdir() if ".tmp" in path.name]
    assert left == [".mine.0123456789abcdef.tmp.keras"]


@pytest.mark.parametrize("cut", [1, 40])
def test_half_a_line_in_a_journal_is_no_harm(tmp_path, judge, cut):
    journal = tmp_path / "journal.log"
    first = run(made(tmp_path / "sweep", storage=f"journal:{journal}"), limit=2)
    with open(journal, "ab") as file:
        file.write(journal.read_bytes().splitlines()[-1][:cut])
    rows = run(made(tmp_path / "sweep", storage=f"journal:{journal}"))
    assert rows[:2] == first
    assert [row["denoising"] for row in rows] == [level + 1 for level in LEVELS]


def test_a_full_disk_leaves_whole_lines_in_a_journal(tmp_path, judge, monkeypatch):
    journal = tmp_path / "journal.log"
    run(made(tmp_path / "sweep", storage=f"journal:{journal}"), limit=1)
    whole, fsync = journal.read_bytes(), os.fsync

    def full(descriptor):
        fsync(descriptor)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            run(made(tmp_path / "sweep", storage=f"journal:{journal}"))
    assert journal.read_bytes() == whole
    assert len(run(made(tmp_path / "sweep", storage=f"journal:{journal}"))) == len(LEVELS)


def test_damaged_storages_are_named(tmp_path, judge):
    database = tmp_path / "sweep.db"
    run(made(tmp_path), limit=1)
    content = database.read_bytes()
    for damaged in (b"no database", content[:5000], content[:100] + b"x" * (len(content) - 100)):
        database.write_bytes(damaged)
        with pytest.raises(ValueError, match="Expected `storage` to hold what sweeps write"):
            run(made(tmp_path))
    journal = tmp_path / "journal.log"
    for line in ('{"op_code":', "[]", '{"op_code": 77}', '{"op_code": 4, "study_id": 1}'):
        journal.write_text(f"{line}\n" * 3)
        with pytest.raises(ValueError, match="Expected `storage` to hold what sweeps write"):
            run(made(tmp_path, storage=f"journal:{journal}"))


def test_a_database_that_was_edited_is_named(tmp_path, judge):
    run(made(tmp_path))
    with contextlib.closing(sqlite3.connect(tmp_path / "sweep.db")) as connection:
        odd = '{"name": "X", "attributes": {}}'
        connection.execute("UPDATE trial_params SET distribution_json = ?", [odd])
        connection.commit()
    with pytest.raises(Damaged, match="Unknown distribution class"):
        run(made(tmp_path))


def test_a_study_of_another_program_is_left_alone(tmp_path, judge):
    journal = f"journal:{tmp_path / 'journal.log'}"
    storage = studies.open_storage(journal, tmp_path)
    study = optuna.create_study(storage=storage, study_name="theirs")
    study.optimize(lambda t: t.suggest_float("x", 0, 1), 2)
    with pytest.raises(ValueError, match="2 trials of another program"):
        run(made(tmp_path / "sweep", storage=journal, name="theirs"))
    assert study.user_attrs == {}
    assert len(study.get_trials()) == 2


@pytest.mark.parametrize("name", ["q?one", "a#b", "50%41", "{x}", "a b"])
def test_the_database_is_in_the_folder_of_any_name(tmp_path, judge, name):
    run(made(tmp_path / name), limit=1)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "sweep.db").is_file()


def test_tables_hold_text_and_nothing_that_runs(tmp_path, judge, capsys):
    def objective(settings, tell):
        raise sda.TrainingDivergedError('=HYPERLINK("http://a")\x1b[2J', None)

    judge(objective)
    sweep = made(tmp_path, name="<script>alert(1)</script>")
    (row, *_) = sweep.run(X, validation_data=X, limit=1)
    assert row["note"].startswith("=HYPERLINK")
    with open(tmp_path / "results.csv", newline="") as file:
        (found,) = csv.DictReader(file)
    assert found["note"] == '\'=HYPERLINK("http://a")\\x1b[2J'
    assert found["corruption"] == "0.0"
    assert "# Sweep: &lt;script&gt;alert(1)&lt;/script&gt;" in (tmp_path / "results.md").read_text()
    assert "\\x1b[2J (" in capsys.readouterr().out


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
    asked = sweep.points.ask(study, workers.Watch(60))
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


def test_machines_of_one_name_are_told_apart(tmp_path, judge, monkeypatch):
    here = workers._place()
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        pytest.skip("this system does not number its boots")
    text = pathlib.Path.read_text

    def elsewhere(path, *args):
        return "another boot" if path == boot else text(path, *args)

    monkeypatch.setattr(pathlib.Path, "read_text", elsewhere)
    there = workers._place()
    monkeypatch.undo()
    assert there != here
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    study, asked = held(made(tmp_path), [there, process.pid])
    watch = workers.Watch(60)
    watch.bury(study)
    assert [t.number for t in watch.running(study)] == [asked.number]


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
