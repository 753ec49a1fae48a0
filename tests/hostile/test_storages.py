"""A sweep's storage that somebody else made: nothing in it runs, and it does nothing by itself."""

import contextlib
import pathlib
import pickle
import sqlite3

import numpy as np
import pytest

pytest.importorskip("optuna")

import attacks
import optuna

from sda.sweep import Range, Sweep, report, settle, trial

X = np.zeros((4, 3), "float32")


@pytest.fixture(autouse=True)
def _nothing_is_trained(monkeypatch):
    monkeypatch.setattr(trial, "pretrained", lambda settings, x, cache: settings)
    monkeypatch.setattr(trial, "digest", lambda stack: "")
    monkeypatch.setattr(settle.Best, "keep", lambda *args: None)
    monkeypatch.setattr(report, "draw", lambda *args: None)

    def objective(stack, settings, train, held_out, tell):
        return settings.corruption[0], None

    monkeypatch.setitem(trial.OBJECTIVES, "denoising", objective)


def sweep(path, sampler="cmaes", **settings):
    vary = {"corruption": Range(0.1, 0.9)}
    return Sweep(
        path,
        vary,
        {"units": 3},
        objective="denoising",
        sampler=sampler,
        trials=2,
        cache_bytes=0,
        **settings,
    )


def run(sweep, **settings):
    return sweep.run(X, validation_data=X, verbose=0, **settings)


def with_pickle(address, ground):
    """A study of two trials, one of which has the state of Optuna's CMA-ES."""
    content = pickle.dumps(attacks.Payload(ground)).hex()
    kind = optuna.distributions.FloatDistribution(0.1, 0.9)
    study = optuna.create_study(storage=address, study_name="sweep")
    for value in (0.2, 0.3):
        study.add_trial(
            optuna.create_trial(
                params={"corruption": value},
                distributions={"corruption": kind},
                value=value,
                system_attrs={"cma:optimizer:0": content},
            )
        )
    return study


@pytest.fixture
def ground(tmp_path):
    return attacks.Ground(tmp_path, "sweep")


def test_the_pickle_in_a_storage_would_run(ground):
    study = with_pickle(optuna.storages.InMemoryStorage(), ground)
    study.sampler = optuna.samplers.CmaEsSampler(n_startup_trials=1)
    with contextlib.suppress(ImportError):  # The package comes after the pickle.
        study.ask({"corruption": optuna.distributions.FloatDistribution(0.1, 0.9)})
    assert ground.canary.exists()


@pytest.mark.parametrize("place", ["sqlite", "journal", "folder"])
@pytest.mark.parametrize("sampler", ["cmaes", optuna.samplers.CmaEsSampler()])
def test_a_pickle_in_a_storage_does_not_run(ground, place, sampler):
    ground.path.mkdir()
    path = ground.path / ("sweep.db" if place == "folder" else "theirs")
    if place == "journal":
        file = optuna.storages.journal.JournalFileBackend(str(path))
        with_pickle(optuna.storages.JournalStorage(file), ground)
    else:
        with_pickle(f"sqlite:///{path}", ground)
    storage = {"sqlite": f"sqlite:///{path}", "journal": f"journal:{path}", "folder": None}[place]
    with pytest.raises(ValueError, match="`sampler` to be one that keeps no pickles"):
        run(sweep(ground.path, sampler, storage=storage))
    assert not ground.canary.exists()


def test_a_new_sweep_of_ones_own_may_keep_its_state_there(tmp_path):
    sampler = optuna.samplers.CmaEsSampler(n_startup_trials=9)
    mine = sweep(tmp_path, sampler)
    assert len(run(mine, limit=1)) == 1
    assert len(run(mine)) == 2
    with pytest.raises(ValueError, match="with trials of another process"):
        run(sweep(tmp_path, sampler))


TRAPS = {
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON trials BEGIN "
    "INSERT INTO version_info VALUES (9, 9, zeroblob(1000000)); END",
    "a view": "CREATE VIEW v AS SELECT * FROM trials",
    "a column that is filled": "ALTER TABLE trials ADD COLUMN more BLOB DEFAULT (zeroblob(99))",
    "a column that is computed": "ALTER TABLE trials ADD COLUMN more AS (zeroblob(99)) VIRTUAL",
}


@pytest.mark.parametrize("trap", TRAPS)
def test_what_sqlite_would_do_by_itself_is_refused(tmp_path, trap):
    path = tmp_path / "sweep.db"
    optuna.storages.RDBStorage(f"sqlite:///{path}")
    with sqlite3.connect(path) as connection:
        try:
            connection.execute(TRAPS[trap])
        except sqlite3.OperationalError:  # No new column may have such a default.
            connection.execute("CREATE TABLE more (a BLOB DEFAULT (zeroblob(99)))")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match="Expected `storage` to be the tables that Optuna makes"):
        run(sweep(tmp_path, "tpe"))
    assert path.read_bytes() == before


def test_a_database_that_is_no_file_is_refused_at_once(tmp_path):
    pathlib.Path(tmp_path, "sweep.db").mkdir()
    with pytest.raises(ValueError, match=r"sweep\.db to be a database\. Received: no regular file"):
        run(sweep(tmp_path, "tpe"))
