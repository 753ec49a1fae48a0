"""The experiment on the Larochelle 2007 problems, in small."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import larochelle2007, recipes, selection
from experiments.networks import network
from sda.datasets import larochelle2007 as problems

pytestmark = pytest.mark.slow

svm = pytest.importorskip("sklearn.svm", reason="needs scikit-learn")
pytest.importorskip("matplotlib", reason="needs matplotlib")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """What the quick trial leaves for one problem, the parts of it, and the folder of networks."""
    out, cache = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("stacks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "CACHE", cache)
        larochelle2007.main(["--quick", "--problems", "rect", "--seed", "3", "--out", str(out)])
        yield out, json.loads((out / "results.json").read_text()), cache


def part(parts, method, scored_on):
    (found,) = [
        p
        for p in parts
        if (p["settings"]["method"], p["settings"].get("scored_on")) == (method, scored_on)
    ]
    return found


def test_every_method_is_tried_and_tested(outcome):
    out, parts, _ = outcome
    tested = [p["settings"]["method"] for p in parts if p["settings"].get("scored_on") == "test"]
    assert sorted(tested) == sorted(larochelle2007.METHODS)
    text = (out / "results.md").read_text()
    for method in larochelle2007.METHODS:
        error = part(parts, method, "test")["result"]["error"]
        assert f"{error:.2f} ± {selection.half_width(error, 60):.2f}" in text
    for number in ("1.99 ± 0.12", "2.41 ± 0.13", "2.15 ± 0.13", "Seeds 3.", "rect-img"):
        assert number in text
    assert "Not there yet: basic svm" in text
    for name in ("errors.png", "rows_rect.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
        assert f"({name})" in text


def test_rectangles_are_easier_the_more_their_sides_differ(outcome):
    out, parts, _ = outcome
    of_limits = [p for p in parts if "least_difference" in p["settings"]]
    drawn = [(p["settings"]["method"], p["settings"]["least_difference"]) for p in of_limits]
    assert drawn == [("svm", pixels) for pixels in (3, 4, 5) for _ in range(3)] + [
        ("sdae", pixels) for pixels in (3, 4, 5)
    ]
    mean = np.mean([p["result"]["error"] for p in of_limits[:3]])
    text = (out / "results.md").read_text()
    assert f"| 3 | {mean:.2f} ± " in text
    assert f" | {of_limits[-2]['result']['error']:.2f} |\n| 5 |" in text
    hard, easy = (
        larochelle2007.of_limit("rect", (300, 1, 500), "svm", 1, pixels)["error"]
        for pixels in (1, 20)
    )
    assert easy < hard / 2


def test_the_error_is_that_of_the_network_on_the_test_rows(outcome):
    _, parts, _ = outcome
    data = problems.generate("rect", larochelle2007.QUICK.sizes, seed=3)
    for method in ("sdae", "random"):
        tried = part(parts, method, "valid")
        chosen = {k: v for k, v in tried["settings"].items() if k not in ("method", "scored_on")}
        problem, sizes = chosen.pop("problem"), chosen.pop("sizes")
        stack, classifier, record = larochelle2007.trained_network(problem, sizes, data, **chosen)
        assert record == tried["result"]
        x, y = data[2]
        expected = 100 * np.mean(classifier.predict(x, verbose=0).argmax(axis=1) != y)
        assert part(parts, method, "test")["result"]["error"] == pytest.approx(expected, abs=1e-3)
        assert len(stack.autoencoders) == 2


def test_a_second_run_computes_nothing(outcome, monkeypatch):
    out, parts, _ = outcome
    monkeypatch.setattr(larochelle2007, "compute", None)
    larochelle2007.main(["--quick", "--problems", "rect", "--seed", "3", "--out", str(out)])
    assert json.loads((out / "results.json").read_text()) == parts


def test_networks_are_loaded_not_trained_again(outcome):
    _, _, cache = outcome
    folders = sorted(folder.name for folder in cache.iterdir())
    assert len(folders) == 6  # sdae, sae, random; sdae with three limits
    data = problems.generate("rect", larochelle2007.QUICK.sizes, seed=3)
    protocol = dataclasses.asdict(larochelle2007.QUICK.protocol)
    larochelle2007.trained_network(
        "rect", larochelle2007.QUICK.sizes, data, 3, protocol, noise="masking", level=0.0
    )
    assert sorted(folder.name for folder in cache.iterdir()) == folders


def test_codes_wait_for_the_network(tmp_path, capsys):
    larochelle2007.main(
        ["--quick", "--problems", "rect", "--methods", "svm_codes", "--out", str(tmp_path)]
    )
    assert "svm_codes needs the results of sdae first" in capsys.readouterr().out


def test_the_machine_is_that_of_scikit_learn():
    data = problems.generate("convex", (200, 100, 150), seed=1)
    (x, y), (x_valid, y_valid), (x_test, y_test) = data
    model = svm.SVC(C=10, gamma=2 / (784 * x.var())).fit(x, y)
    error = larochelle2007.svm(data, "valid", C=10, gamma=2)["error"]
    assert error == pytest.approx(100 * np.mean(model.predict(x_valid) != y_valid), abs=1e-3)
    model.fit(np.concatenate([x, x_valid]), np.concatenate([y, y_valid]))
    error = larochelle2007.svm(data, "test", C=10, gamma=2)["error"]
    assert error == pytest.approx(100 * np.mean(model.predict(x_test) != y_test), abs=1e-3)


def test_verdicts():
    errors = {
        ("rot", "svm"): 11.11 * 1.14, ("rot", "sdae"): 9.78, ("rot", "random"): 9.7,
        ("bg-img", "svm"): 22.61 * 1.31, ("bg-img", "sdae"): 17.02, ("bg-img", "sae"): 17.02,
    }  # fmt: skip
    _, table = larochelle2007._verdicts(errors)
    rows = {line.split(" | ")[0].strip("| "): line for line in table.splitlines()}
    assert rows["rot"] == "| rot | yes (+14 %) | yes |  | **no** |"
    assert rows["bg-img"] == "| bg-img | **no** (+31 %) | **no** | yes |  |"
    assert rows["convex"] == "| convex |  |  |  |  |"


def test_pretraining_moves_the_stack_and_finetuning_a_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "CACHE", tmp_path)
    data = problems.generate("rect", (40, 20, 20), seed=1)[:2]
    protocol = {**dataclasses.asdict(larochelle2007.QUICK.protocol), "units": [5]}
    kernels = {}
    for noise in (None, "masking"):
        stack, classifier, _ = network(data, 2, 1, protocol, noise, 0.25)
        kernels[noise] = [
            np.array(layer.get_weights()[0])
            for layer in (stack.autoencoders[0].encoder, classifier.layers[1])
        ]
    assert not np.array_equal(kernels[None][0], kernels["masking"][0])
    for pretrained, finetuned in kernels.values():
        assert not np.array_equal(pretrained, finetuned)


def test_networks_without_noise_and_from_random_weights_are_trained_as_long(tmp_path):
    """Where noise is tried at other lengths, the others are, too."""

    def lengths(method):
        tries = larochelle2007.candidates("rot", method, larochelle2007.Search(), 1, tmp_path)
        protocols = [settings["protocol"] for settings in tries]
        return [
            (p["pretraining_examples"] / 1e6, p["finetuning_examples"] / 1e6) for p in protocols
        ]

    noisy = lengths("sdae")
    assert noisy == [(1, 0.4)] * 2 + [(4, 0.4)] * 3 + [(4, 2)] * 2
    assert lengths("sae") == [(1, 0.4), (4, 0.4), (4, 2)]
    assert [finetuning for _, finetuning in lengths("random")] == [f for _, f in noisy]
    tries = larochelle2007.candidates("rot", "random", larochelle2007.Search(), 1, tmp_path)
    assert [settings["draw"] for settings in tries] == list(range(7))
    basic = larochelle2007.candidates("basic", "sdae", larochelle2007.Search(), 1, tmp_path)
    assert [settings["level"] for settings in basic] == [0.1, 0.4]


def test_a_table_says_what_was_trained_longer():
    settings = {"protocol": dataclasses.asdict(larochelle2007.Search().protocol)}
    assert larochelle2007._length(settings) == ""
    settings["protocol"] |= larochelle2007.LONGEST
    expected = "pretrained 4 times as long, fine-tuned 5 times as long, "
    assert larochelle2007._length(settings) == expected


def test_what_longer_training_did_is_told_apart(tmp_path):
    search = larochelle2007.Search()
    tries = [
        settings
        for method in ("sdae", "random")
        for settings in larochelle2007.candidates("rot", method, search, 1, tmp_path)
    ]
    found = [
        {"settings": {**settings, "scored_on": "valid"}, "result": {"error": 5 + k / 4}}
        for k, settings in enumerate(tries)
    ]
    (tmp_path / "results.json").write_text(json.dumps(found))
    _, table = larochelle2007._lengths_table(search, 1, tmp_path)
    # Level 0.1 is the first, fifth and last of seven; random weights are the seven after these.
    assert "| rot | SDAE-3, ν 0.1 | 5.00 | 6.00 | 6.50 |" in table
    assert "| rot | SDAE-3, ν 0.25 |  | 5.50 |  |" in table
    random = "6.75, 7.00, 7.25, 7.50, 7.75 |  | 8.00, 8.25"
    assert f"| rot | random weights | {random} |" in table
    assert larochelle2007._lengths_table(larochelle2007.QUICK, 1, tmp_path) == []
