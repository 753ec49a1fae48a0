"""The experiments: parts that are computed once, recipes, and each experiment end to end."""

import dataclasses
import json
import pathlib

import keras
import numpy as np
import pytest

import sda
from experiments import (
    all_labels,
    corruption_levels,
    cost_model,
    da_tutorial,
    few_labels,
    one_gpu,
    parts,
    precision,
    recipes,
    record,
    samples,
    scaling,
    sda_tutorial,
    shared_prefixes,
)
from experiments.filters import neighbour_correlation

PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Stacks are kept below the working folder."""
    monkeypatch.chdir(tmp_path)


# Parts


class Work:
    """Counts what is computed, and what the report is given."""

    def __init__(self, fails_at=None):
        self.computed, self.reported, self.fails_at = [], [], fails_at

    def compute(self, seed, rates):
        if seed == self.fails_at:
            raise KeyboardInterrupt
        self.computed.append(seed)
        return {"error": seed / 10, "first": rates[0]}

    def report(self, found, out):
        self.reported.append([part["seed"] for part in found])


PLAN = [{"seed": seed, "rates": (0.1, 0.2)} for seed in (1, 2, 3)]


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    first = Work(fails_at=3)
    with pytest.raises(KeyboardInterrupt):
        parts.complete(PLAN, first.compute, first.report, tmp_path)
    assert first.reported == [[1], [1, 2]]
    second = Work()
    found = parts.complete(PLAN, second.compute, second.report, tmp_path)
    assert second.computed == [3]
    assert [part["result"]["error"] for part in found] == [0.1, 0.2, 0.3]
    third = Work()
    assert parts.complete(PLAN, third.compute, third.report, tmp_path) == found
    assert third.computed == []
    assert third.reported == [[1, 2, 3]]


def test_other_settings_are_parts_of_their_own(tmp_path):
    work = Work()
    parts.complete(PLAN, work.compute, work.report, tmp_path)
    other = [{"seed": 2, "rates": [0.3]}]
    found = parts.complete(other, work.compute, work.report, tmp_path)
    assert work.computed == [1, 2, 3, 2]
    assert [part["result"]["first"] for part in found] == [0.3]
    assert len(json.loads((tmp_path / "results.json").read_text())) == 4


def test_fresh_computes_what_was_there_again(tmp_path):
    work = Work()
    parts.complete(PLAN, work.compute, work.report, tmp_path)
    for kept in (recipes.CACHE / "kept.keras", tmp_path / "tuned" / "results.json"):
        kept.parent.mkdir(parents=True)
        kept.write_text("[]")
    for arguments, computed in ((["--fresh"], 6), ([], 6)):
        a = parts.Parser("name", "doc").parse_args(["--out", str(tmp_path), *arguments])
        parts.complete(PLAN, work.compute, work.report, a.out)
        assert len(work.computed) == computed
    assert not recipes.CACHE.exists()
    assert not (tmp_path / "tuned" / "results.json").exists()


def test_some_arms_are_computed_and_all_are_reported(tmp_path):
    computed, reported = [], []

    def compute(seed, arm):
        computed.append(arm)
        return {}

    plan = [{"seed": 1, "arm": arm} for arm in ("a", "b")]
    for arms in (["b"], ["a"], None):
        parts.complete(
            plan, compute, lambda found, out: reported.append(len(found)), tmp_path, arms
        )
    assert computed == ["b", "a"]
    assert reported[0] == 1
    assert reported[-1] == 2


def test_a_part_says_how_it_came_about(tmp_path):
    work = Work()
    (part,) = parts.complete(PLAN[:1], work.compute, work.report, tmp_path)
    assert part["seed"] == 1
    assert part["versions"]["keras"] == keras.__version__
    assert part["machine"]["cores"] >= 1
    assert part["seconds"] >= 0
    assert keras.__version__ in parts.machines([part])


def test_what_is_quick_does_not_mix_with_what_counts():
    parser = parts.Parser("name", "What for.")
    assert parser.parse_args([]).out == parts.RESULTS / "name"
    assert parser.parse_args(["--quick"]).out.parts == ("runs", "quick", "name")
    assert parser.parse_args(["--quick", "--out", "here"]).out.name == "here"


def test_products_may_be_less_exact_on_pytorch_and_the_record_says_so(capsys):
    parser = parts.Parser("name", "What for.")
    if keras.backend.backend() != "torch":
        with pytest.raises(SystemExit):
            parser.parse_args(["--matmul-precision", "medium"])
        assert "needs the backend torch" in capsys.readouterr().err
        return
    import torch

    assert "matmul_precision" not in record.circumstances(1)
    try:
        parser.parse_args(["--matmul-precision", "medium"])
        said = record.circumstances(1)
        assert said["matmul_precision"] == torch.get_float32_matmul_precision() == "medium"
        assert "products at medium" in parts.machines([said])
    finally:
        torch.set_float32_matmul_precision("highest")


def test_smoothed_labels_are_those_of_the_definition():
    x = np.random.default_rng(0).random((40, 6), "float32")
    y = np.arange(40) % 3
    stack = sda.StackedDenoisingAutoencoder([5], seed=1)
    stack.build((None, 6))
    model = stack.classifier(3)
    recipe = recipes.Finetuning(1, 40, rate=0.0, smoothing=0.3)
    (loss,) = recipes.finetune(model, recipe, (x, y), (x, y), verbose=0).history["loss"]
    targets = 0.7 * np.eye(3)[y] + 0.3 / 3
    p = model.predict(x, verbose=0).astype("float64")
    assert loss == pytest.approx(-np.mean(np.sum(targets * np.log(p), axis=1)), rel=1e-5)


def test_a_table_is_markdown():
    assert parts.table(["a", "b"], [[1, "x"]]) == "| a | b |\n| --- | --- |\n| 1 | x |"


def test_a_mean_has_its_deviation():
    assert parts.mean([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
    assert parts.mean([1.5], "{:.1f}") == "1.5"
    assert parts.mean([]) == ""


# Recipes


RECIPE = recipes.Pretraining(units=(6, 4), corruption=(0.1, 0.2), epochs=1)


def test_a_stack_is_pretrained_once_for_its_settings():
    x = np.random.default_rng(1).random((40, 12)).astype("float32")
    stack, outcome = recipes.pretrained(RECIPE, x, seed=1, verbose=0)
    again, same = recipes.pretrained(RECIPE, x, seed=1, verbose=0)
    np.testing.assert_array_equal(again.encode(x), stack.encode(x))
    assert same == json.loads(json.dumps(outcome))
    assert len(outcome["losses"]) == 2
    # Other rows, another seed: other stacks.
    other, _ = recipes.pretrained(RECIPE, x[:20], seed=1, verbose=0)
    assert not np.array_equal(other.encode(x), stack.encode(x))
    assert len(list(recipes.CACHE.glob("*.keras"))) == 2


def test_a_recipe_may_have_other_units_and_another_optimizer():
    recipe = dataclasses.replace(
        RECIPE,
        activation="relu",
        decoder_activation=("sigmoid", "linear"),
        optimizer="Adam",
        rate=0.01,
    )
    x = np.random.default_rng(1).random((40, 12)).astype("float32")
    stack, _ = recipes.pretrained(recipe, x, seed=1, verbose=0)
    assert [dA.decoder_activation.__name__ for dA in stack.autoencoders] == ["sigmoid", "linear"]
    expected = recipes.untrained(recipe, 12, seed=1)
    sda.GreedyPretrainer(
        expected, keras.optimizers.Adam(0.01), epochs=1, batch_size=20, seed=1
    ).fit(x, verbose=0)
    np.testing.assert_array_equal(stack.encode(x), expected.encode(x))


def test_the_rate_falls_to_zero_with_the_last_update():
    x = np.random.default_rng(1).random((50, 12)).astype("float32")
    y = np.arange(50) % 3
    model = recipes.untrained(RECIPE, 12, 1).classifier(3)
    recipe = recipes.Finetuning(epochs=2, batch_size=20, rate=0.5, linear_decay=True)
    recipes.finetune(model, recipe, (x, y), verbose=0)
    assert float(model.optimizer.iterations) == 6
    assert float(model.optimizer.learning_rate) == 0


def test_the_error_is_that_of_evaluate():
    x = np.random.default_rng(1).random((50, 12)).astype("float32")
    y = np.arange(50) % 3
    model = recipes.untrained(RECIPE, 12, 1).classifier(3)
    recipes.finetune(model, recipes.Finetuning(epochs=3), (x, y), verbose=0)
    accuracy = model.evaluate(x, y, verbose=0)[1]
    assert recipes.error(model, x, y) == pytest.approx(100 * (1 - accuracy), abs=1e-3)


# A number for filters


def test_neighbours_correlate_in_stripes_and_not_in_noise():
    generator = np.random.default_rng(1)
    noise = generator.normal(size=(784, 200))
    assert abs(neighbour_correlation(noise, (28, 28))) < 0.01
    # Columns of constant weights: 1 downwards; across, as independent columns have it, 0.
    stripes = np.repeat(generator.normal(size=(1, 28, 200)), 28, axis=0).reshape(784, 200)
    assert neighbour_correlation(stripes, (28, 28)) == pytest.approx(0.5, abs=0.03)


# Each experiment, end to end on a handful of digits


def run(module, *arguments):
    """Run an experiment in a trice; return its parts, and its text."""
    pytest.importorskip("mlxtend")
    module.main(["--quick", "--out", "out", "--seed", "2", *arguments])
    (folder,) = {path.parent for path in pathlib.Path("out").rglob("results.json")}
    found = json.loads((folder / "results.json").read_text())
    assert min(part["seed"] for part in found) == 2
    return folder, found, (folder / "results.md").read_text()


@pytest.mark.slow
def test_sda_tutorial():
    folder, found, text = run(sda_tutorial)
    assert [part["settings"]["arm"] for part in found] == ["pretrained", "random"]
    for part in found:
        assert f"{part['result']['test_error']:.2f}" in text
        assert len(part["result"]["history"]["loss"]) == part["result"]["epochs"]
    assert "| tutorial, as published | 1.39 | 1.30 | 585 | 444 | 36 |" in text
    assert (folder / "finetuning_curves.png").read_bytes().startswith(PNG)


def test_the_tutorials_presets_take_the_same_steps():
    pretraining, finetuning = sda_tutorial.PRESETS["faithful"]
    fast = sda_tutorial.PRESETS["fast"]
    assert (pretraining.units, pretraining.corruption) == ((1000,) * 3, (0.1, 0.2, 0.3))
    assert (pretraining.epochs, pretraining.batch_size, pretraining.rate) == (15, 1, 0.001)
    assert (finetuning.epochs, finetuning.batch_size, finetuning.rate) == (1000, 1, 0.1)
    assert fast[0].rate / fast[0].batch_size == pretraining.rate
    assert fast[1].rate / fast[1].batch_size == finetuning.rate / 2


@pytest.mark.slow
def test_da_tutorial():
    folder, found, text = run(da_tutorial)
    assert [part["settings"]["recipe"]["corruption"] for part in found] == [0.0, 0.3]
    for part in found:
        assert f"{part['result']['loss'][-1]:.1f}" in text
    for name in ("filters_corruption_0", "filters_corruption_30", "training_curves"):
        assert (folder / f"{name}.png").read_bytes().startswith(PNG)


@pytest.mark.slow
def test_samples():
    folder, found, text = run(samples)
    assert [part["settings"]["recipe"]["corruption"] for part in found] == list(samples.LEVELS)
    for level, part in zip(samples.LEVELS, found, strict=True):
        assert f"{part['result']['read_as_start']:.1f}" in text
        assert part["result"]["deviation"] > 0
        assert (folder / samples.picture(level)).read_bytes().startswith(PNG)


@pytest.mark.slow
def test_corruption_levels():
    folder, found, text = run(corruption_levels)
    assert list(map(corruption_levels.level_of, found)) == list(corruption_levels.QUICK_LEVELS)
    for part in found:
        assert f"{part['result']['test_error']:.2f}" in text
        assert len(part["result"]["repair_errors"]) == len(corruption_levels.LEVELS)
    for name in ("errors", "filters", "repair", "filters_corruption_50"):
        assert (folder / f"{name}.png").read_bytes().startswith(PNG)


def test_levels_may_have_different_numbers_of_seeds():
    figure = corruption_levels.draw_errors(
        [0.0, 0.5], {"error": {"codes": [[3.0, 1.0], [4.0]], "pixels": 5.0}}
    )
    mean, *dots, pixels = figure.axes[0].lines
    assert list(mean.get_ydata()) == [2.0, 4.0]
    assert [list(line.get_ydata()) for line in dots] == [[3.0, 1.0], [4.0]]
    assert list(pixels.get_ydata()) == [5.0, 5.0]


def test_repair_errors_are_squared_errors_an_image():
    x = np.random.default_rng(1).random((20, 784)).astype("float32")
    stack = recipes.untrained(recipes.Pretraining(units=(8,), corruption=0.1), 784, 1)
    clean, masked = corruption_levels.repair_errors(stack, x, [0.0, 1.0])
    assert clean == pytest.approx(np.sum((stack.reconstruct(x) - x) ** 2) / 20, rel=1e-3)
    blank = stack.reconstruct(np.zeros_like(x))
    assert masked == pytest.approx(np.sum((blank - x) ** 2) / 20, rel=1e-3)


@pytest.mark.slow
def test_few_labels():
    folder, found, text = run(few_labels)
    assert {part["seed"] for part in found} == {2, 3}
    errors = few_labels.table_of(found)
    assert set(errors) == {(arm, n) for arm in few_labels.ARMS for n in (100, 200)}
    for part in found:
        rounds = part["result"].get("spread_errors", [])
        assert len(rounds) == (2 if part["settings"]["arm"].endswith("spread") else 0)
    a, b = errors["random", 100], errors["pretrained", 100]
    mean, half = few_labels.interval([a[seed] - b[seed] for seed in (2, 3)])
    assert f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]" in text
    assert (folder / "errors.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("first", [None, recipes.Finetuning(epochs=1)])
def test_rounds_begin_with_labels_or_with_predictions(first, monkeypatch):
    x = np.random.default_rng(1).random((40, 12)).astype("float32")
    y, rows = np.arange(40) % 10, np.arange(10)
    asked = []

    def targets(graph, known, predictions, alpha):
        np.testing.assert_array_equal(known, np.where(np.arange(40) < 10, y, -1))
        asked.append((predictions is not None, alpha))
        return np.zeros(40, int), np.ones(40, "float32")

    monkeypatch.setattr(sda.semisupervised, "targets", targets)
    model = recipes.untrained(RECIPE, 12, 1).classifier(10)
    spreading = few_labels.Spreading(0.9, 2, 0.7, 20, recipes.Finetuning(epochs=1), first)
    errors = few_labels.learn_all(model, x, y, rows, None, spreading, seed=1)
    assert asked == [(True, 0.7) if first else (False, 0.9), (True, 0.7)]
    assert errors == [90.0, 90.0]


def test_the_interval_is_students():
    # Of 1, 2, 3, 4: mean 2.5, deviation √(5/3); t at 97.5 % for 3 degrees of freedom is 3.182.
    mean, half = few_labels.interval([1, 2, 3, 4])
    assert mean == 2.5
    assert half == pytest.approx(3.18245 * (5 / 3) ** 0.5 / 2, rel=1e-5)


def test_labelled_sets_are_balanced_and_drawn_anew():
    y = np.random.default_rng(1).permutation(np.repeat(np.arange(10), 50))
    rows = few_labels.labelled_rows(y, 100, seed=1)
    assert len(set(rows)) == 100
    np.testing.assert_array_equal(np.bincount(y[rows]), [10] * 10)
    np.testing.assert_array_equal(rows, few_labels.labelled_rows(y, 100, seed=1))
    assert set(rows) != set(few_labels.labelled_rows(y, 100, seed=2))


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "score"), [([], "test"), (["--select"], "validation")])
def test_all_labels(arguments, score):
    folder, found, text = run(all_labels, *arguments)
    assert [part["settings"]["arm"] for part in found] == ["pretrained", "random"]
    for part in found:
        assert f"| {part['result'][f'{score}_error']:.2f} |" in text
    assert f"| {score} error, % |" in text
    assert "pretrained, input noise 0.3, seed" in text
    assert (folder / "training_curves.png").read_bytes().startswith(PNG)


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="50 trainings: PyTorch need not compile for each"
)
def test_shared_prefixes():
    pytest.importorskip("mlxtend")
    pytest.importorskip("optuna")
    shared_prefixes.main(["--quick", "--out", "out", "--seed", "2"])
    found = json.loads(pathlib.Path("out/results.json").read_text())
    total, tables = found["summary"], found["tables"]
    assert total["identical"]
    assert total["layers_trained"] == 14
    assert len({row["digest"] for row in tables["shared"]}) == 12
    for arm in ("shared", "separate"):
        cpu = sum(row["cpu_seconds"] for row in tables[arm])
        assert total[arm]["cpu_seconds"] == pytest.approx(cpu, abs=0.06)
    text = pathlib.Path("out/results.md").read_text()
    assert "The weights of all stacks are the same, bit for bit." in text
    tables["separate"][3]["digest"] = "another"
    found["summary"] = shared_prefixes.summary(tables)
    shared_prefixes.report(found, pathlib.Path("out"))
    assert "are NOT the same" in pathlib.Path("out/results.md").read_text()


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="populations are JAX's")
def test_one_gpu():
    _, found, text = run(one_gpu)
    assert [part["settings"]["kind"] for part in found] == ["step"] * 2 + ["population"] * 3
    step, alone, two = found[0], found[2], found[4]
    assert step["result"]["seconds"] > 0
    predicted = 1e6 * cost_model.step_seconds(scaling.NETWORKS["dA"], 20, 1, cost_model.H100)
    assert f"| dA 784-1000 | 20 | {1e6 * step['result']['seconds']:.0f} | {predicted:.0f} |" in text
    ratio = two["result"]["seconds"] / alone["result"]["seconds"]
    assert f" | {ratio:.2f} | {2 / ratio:.1f} |" in text


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="it has populations")
def test_one_gpu_needs_jax(capsys):
    with pytest.raises(SystemExit):
        one_gpu.main(["--quick"])
    assert "needs the backend jax" in capsys.readouterr().err


@pytest.mark.slow
def test_precision():
    _, found, text = run(precision)
    assert [part["settings"]["policy"] for part in found] == [*precision.POLICIES] * 3
    exact, rounded = (found[k]["result"]["denoising_loss"] for k in (0, 1))
    # bfloat16 has 8 bits: another loss, but not by much.
    assert exact != rounded
    assert exact == pytest.approx(rounded, rel=0.05)
    assert keras.config.dtype_policy().name == "float32"
    errors = [p["result"]["test_error"] for p in found if p["settings"]["policy"] == "float32"]
    assert f"| {parts.mean(errors)} |" in text


def test_an_epoch_is_timed_without_the_first():
    clock = record.EpochClock()
    clock.seconds = [9.0, 1.0, 2.0, 3.0]
    assert clock.median() == 2.0
