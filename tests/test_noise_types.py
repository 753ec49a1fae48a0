"""The experiment on kinds of noise, in small."""

import json

import numpy as np
import pytest

from experiments import larochelle2007, noise_types, recipes
from sda.datasets import larochelle2007 as problems
from sda.datasets.natural_images import natural_images

pytestmark = pytest.mark.slow

pytest.importorskip("skimage", reason="needs scikit-image, which ships the images")
pytest.importorskip("sklearn", reason="needs scikit-learn, which ships the images")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    generator = np.random.default_rng(1)
    digits = generator.random((200, 28, 28)).astype("float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "CACHE", tmp_path_factory.mktemp("stacks"))
        patch.setattr(problems, "_pool", lambda: (digits, np.arange(200) % 10))
        larochelle2007.problem_data.cache_clear()
        noise_types.main(["--quick", "--problems", "bg-rand", "--out", str(out)])
    larochelle2007.problem_data.cache_clear()
    return out, json.loads((out / "results.json").read_text())


def test_every_noise_is_tested_once(outcome):
    out, parts = outcome
    tested = [p["settings"] for p in parts if p["settings"].get("scored_on") == "test"]
    assert [(s["noise"], s["emphasis"][1] < 1) for s in tested] == [
        ("masking", False), ("salt and pepper", False), ("gaussian", False),
        ("masking", True), ("salt and pepper", True),
    ]  # fmt: skip
    tried = [p["settings"] for p in parts if p["settings"].get("scored_on") == "valid"]
    emphases = [s["emphasis"] for s in tried if s["noise"] == "masking"]
    assert emphases == [[1.0, 1.0], [1.0, 0.5], [1.0, 0.0]]
    text = (out / "results.md").read_text()
    for arm in noise_types.arms():
        assert f"| bg-rand | {arm} |" in text
    assert "| rot | gaussian |  |  |" in text  # not run


def test_filters_are_drawn(outcome):
    out, parts = outcome
    tilings = [p for p in parts if "settings" in p["settings"]]
    assert [p["settings"]["noise"] for p in tilings] == [None, "gaussian"]
    for name in ("filters_none.png", "filters_gaussian.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
        assert f"![]({name})" in (out / "results.md").read_text()


def test_emphasis_is_chosen_at_the_best_level_without(tmp_path):
    search = noise_types.Search()
    assert noise_types.candidates("rot", "masking, emphasised", search, 1, tmp_path) == []
    plain = noise_types.candidates("rot", "masking", search, 1, tmp_path)
    assert [c["level"] for c in plain] == [0.1, 0.25, 0.4]
    parts = [
        {"settings": json.loads(json.dumps({**c, "scored_on": "valid"})), "result": {"error": e}}
        for c, e in zip(plain, (3, 1, 2), strict=True)
    ]
    (tmp_path / "results.json").write_text(json.dumps(parts))
    emphasised = noise_types.candidates("rot", "masking, emphasised", search, 1, tmp_path)
    assert [(c["level"], c["emphasis"]) for c in emphasised] == [(0.25, (1, 0.5)), (0.25, (1, 0))]


def test_coherence():
    row, column = np.mgrid[:12, :12]
    stripes = np.sin(0.9 * row + 0.5 * column)
    bowl = (row - 5.5) ** 2 + (column - 5.5) ** 2
    speckle = np.random.default_rng(1).normal(size=(12, 12))
    values = noise_types.coherence(np.stack([stripes, -3 * stripes, bowl, speckle]))
    assert values[0] > 0.95
    assert values[1] == pytest.approx(values[0])
    assert values[2] == pytest.approx(0, abs=1e-9)
    assert values[3] < 0.4


def test_whitening_flattens_the_spectrum():
    image = natural_images(["camera"])[0]

    def amplitudes(image):
        """Mean amplitude between 0.02 and 0.05, and between 0.1 and 0.2 cycles a pixel"""
        spectrum = np.abs(np.fft.fft2(image))
        frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(512)] * 2))
        return [
            spectrum[(frequency > low) & (frequency < high)].mean()
            for low, high in ((0.02, 0.05), (0.1, 0.2))
        ]

    low, high = amplitudes(image.astype(float))
    assert low > 3 * high
    white = noise_types.whiten(image)
    low, high = amplitudes(white)
    assert 0.6 < low / high < 1.7
    assert white.mean() == pytest.approx(0, abs=1e-9)
    assert white.std() == pytest.approx(1)


def test_patches_have_no_mean():
    x = noise_types.natural_patches(300, seed=1)
    assert x.shape == (300, 144)
    assert x.dtype == "float32"
    np.testing.assert_allclose(x.mean(axis=1), 0, atol=1e-5)
    assert x.var() == pytest.approx(0.1, abs=1e-5)
