"""The page on runs: what it shows, that it is safe and accessible, and how a browser takes it."""

import html.parser
import json
import math
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sda
from sda import diagnostics, report
from sda.report.charts import line_chart, ticks
from sda.runs import Phase

for package in ("jinja2", "PIL", "sklearn", "tomli_w"):
    pytest.importorskip(package)

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)


def history(**values):
    made = keras.callbacks.History()
    made.history = values
    made.epoch = list(range(len(next(iter(values.values())))))
    return made


def make_run(folder, units=(9, 4), side=8, classes=("3", "5", "8"), **settings):
    """A run as the command leaves it, with random weights: pages do not care."""
    x = np.random.default_rng(1).random((40, side * side)).astype("float32")
    y = np.arange(40) % len(classes)
    np.savez(folder.parent / "rows.npz", x=x, y=y)
    data = {"data": str(folder.parent / "rows.npz::x"), "labels": "y", "validation_split": 0.5}
    data |= {"units": list(units), "tied": True} | settings
    stack = sda.StackedDenoisingAutoencoder(list(units), corruption=0.5, seed=1)
    stack.build((None, side * side))
    phase = Phase(folder, "pretrain")
    with phase.begin(data, seed=1):
        stack.save(phase.path / "stack.keras")
        losses = {"loss": [40.0, 30.0, 25.0], "val_loss": [35.0, 31.0, 30.0]}
        phase.write_curves([history(**losses) for _ in units])
    phase = Phase(folder, "finetune")
    with phase.begin({"dropout": 0.1}, seed=2):
        phase.write_curves([history(loss=[1.0, 0.5], accuracy=[0.5, 0.75])])
        predicted = np.roll(y, 1)
        predicted[:30] = y[:30]
        scores = diagnostics.classification(y, predicted, len(classes))
        phase.write_results(classes=list(classes), validation=scores)
    return folder


class Page(html.parser.HTMLParser):
    """The elements of a page: (tag, attributes, text that follows directly)."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.open = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])
        if tag not in ("meta", "link", "img", "line", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.elements:
            self.elements[-1][2] += text.strip()

    def all(self, tag):
        return [(attributes, text) for name, attributes, text in self.elements if name == tag]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    first = make_run(folder / "first", learning_rate=0.1)
    return first, make_run(folder / "second", units=(9, 4, 3), learning_rate=0.2)


@pytest.fixture(scope="module")
def text(folders):
    return report.render(folders)


def rows_of(text, heading):
    """The rows of the first table after a heading, as lists of the texts of their cells."""
    table = re.search(rf"{re.escape(heading)}.*?</table>", text, re.DOTALL)[0]
    return [
        [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    ]


# What it shows


def test_the_layers_are_those_of_the_diagnosis(folders, text):
    stack = sda.load_model(folders[0] / "pretrain" / "stack.keras")
    train, held_out = sda.runs.read_rows(Phase(folders[0], "pretrain").settings)
    reports = diagnostics.diagnose(stack, held_out.x, held_out.y, (train.x, train.y))
    shown = rows_of(text, "first: 20 rows held out")
    assert shown[0][:3] == ["layer", "units", "loss"]
    assert shown[1][:3] == ["input", "64", "–"]
    expected = reports[2]
    assert shown[3] == [
        "2", "4", f"{expected.loss:.4g}", f"{expected.identity_loss:.4g}",
        f"{expected.clean_loss:.4g}", f"{expected.error:.4g}", f"{expected.identity_error:.4g}",
        f"{expected.probe_accuracy:.1%}", str(expected.dead), str(expected.saturated),
        f"{expected.effective_rank:.1f}",
    ]  # fmt: skip


def test_settings_that_differ_are_marked(text):
    shown = {row[0]: row[1:] for row in rows_of(text, '<h2 id="settings">')}
    assert shown["learning ratediffers"] == ["0.1", "0.2"]
    assert shown["unitsdiffers"] == ["9, 4", "9, 4, 3"]
    assert shown["tied"] == ["true", "true"]
    assert shown["dropout"] == ["0.1", "0.1"]


def test_the_confusion_matrix_and_the_error(folders, text):
    results = Phase(folders[0], "finetune").results["validation"]
    shown = rows_of(text, 'aria-label="Confusion matrix of first"')
    assert shown[0] == ["true", "3", "5", "8"]
    assert [list(map(int, row[1:])) for row in shown[1:]] == results["confusion"]
    assert f"{100 * results['error']:.2f} %" in text


def test_a_test_error_comes_once_it_was_measured(folders, tmp_path):
    run = make_run(tmp_path / "run")
    scores = diagnostics.classification(np.zeros(7, int), np.zeros(7, int), 3)
    Phase(run, "finetune").write_results(test={**scores, "data": "seven rows"})
    assert "test error" not in report.render(folders[:1])
    assert "7 rows, seven rows" in report.render([run])


def test_every_layer_has_its_curve_and_its_filters(text):
    headings = [words for _, words in Page(text).all("h3")]
    for name in ("Layer 1: loss", "Layer 3: loss", "Classifier: loss", "Classifier: error (%)"):
        assert name in headings
    alts = [image["alt"] for image, _ in Page(text).all("img")]
    assert sum("Filters of all" in alt for alt in alts) == 5
    assert "Filters of all 3 units of layer 3 of second" in alts
    assert sum("rebuilt from that" in alt for alt in alts) == 2


def test_a_run_without_its_data_is_shown_without_what_needs_them(tmp_path):
    run = make_run(tmp_path / "run")
    (tmp_path / "rows.npz").unlink()
    text = report.render([run])
    assert "The data could not be read" in text
    assert "Reconstructions" not in text
    assert "Weights from 64 inputs (down) to 9 units" in text


def test_data_that_have_changed_are_not_used(tmp_path):
    run = make_run(tmp_path / "run")
    np.savez(tmp_path / "rows.npz", x=np.zeros((40, 5)), y=np.zeros(40))
    assert "The data now have 5 values a row, and had 64" in report.render([run])


def test_rows_that_are_no_images(tmp_path):
    text = report.render([make_run(tmp_path / "run", image_shape="none")])
    assert "Weights from 64 inputs" in text
    assert "rebuilt" not in text


def test_a_run_that_was_only_pretrained(tmp_path):
    run = make_run(tmp_path / "run")
    shutil.rmtree(run / "finetune")
    text = report.render([run])
    assert "Confusion" not in text
    assert "Classifier" not in text


def test_runs_of_one_name_are_told_apart(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        make_run(tmp_path / name / "run")
    text = report.render([tmp_path / "a" / "run", tmp_path / "b" / "run"])
    assert "a/run" in text
    assert "b/run" in text
    with pytest.raises(ValueError, match="Expected each run once"):
        report.render([tmp_path / "a" / "run"] * 2)


def test_many_filters_stay_small(tmp_path):
    folders = [make_run(tmp_path / name, (100, 100, 100), 28) for name in "abcdef"]
    assert len(report.render(folders).encode()) < 2e6


# Whom it serves, and whom not


def test_the_page_is_accessible(text):
    page = Page(text)
    assert page.open == []
    assert page.all("html")[0][0]["lang"] == "en"
    assert len(page.all("h1")) == 1
    assert all(image["alt"] for image, _ in page.all("img"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg, _ in page.all("svg"))
    assert all(head["scope"] for head, _ in page.all("th"))
    ids = [a["id"] for _, a, _ in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["aria-labelledby"] for _, a, _ in page.elements if "aria-labelledby" in a} <= set(ids)
    # What scrolls can be reached by the keyboard.
    scrolls = [a for _, a, _ in page.elements if a.get("class") == "scroll"]
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in scrolls)


def test_the_page_needs_no_other_file(text):
    page = Page(text)
    links = [a[k] for _, a, _ in page.elements for k in ("src", "href", "srcset", "data") if k in a]
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "@import" not in text
    assert "url(" not in text
    assert not page.all("script")


def test_names_are_text_and_nothing_else(tmp_path):
    hostile = "<img src=x onerror=alert(1)>\"'&"
    run = make_run(
        tmp_path / hostile, classes=("<script>alert(2)<", "b", "c"), activation="</td><script>x()<"
    )
    np.savez(tmp_path / "rows.npz", x=np.zeros((40, 5)), y=np.zeros(40))
    text = report.render([run], title="<script>alert(3)</script>")
    page = Page(text)
    assert not page.all("script")
    assert not [a for _, a, _ in page.elements if any(name.startswith("on") for name in a)]
    assert all(image["src"].startswith("data:") for image, _ in page.all("img"))
    assert page.all("h1")[0][1] == "<script>alert(3)</script>"
    assert any(hostile in alt["alt"] for alt, _ in page.all("img"))


# Charts


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_even_and_around(low, span):
    high = low + span
    if not high > low:
        return
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    steps = np.diff(found)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
    assert found[0] <= low + 1e-6 * span + 1e-9
    assert found[-1] >= high - 1e-6 * span - 1e-9
    digits = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-6)
    assert min(abs(digits - d) for d in (1, 2, 5, 10)) < 1e-2


def test_ticks_of_one_value():
    assert ticks(3.0, 3.0)[0] < 3 < ticks(3.0, 3.0)[-1]
    assert len(ticks(0.0, 0.0)) > 1


def test_a_line_is_where_its_values_are():
    svg = line_chart([(0, False, [1, 2, 5], [0.0, 10.0, 5.0])], "epoch", "loss", "a <curve>")
    points = re.search(r'points="([^"]+)"', svg)[1]
    x, y = np.array([p.split(",") for p in points.split()], float).T
    # Positions are linear in the values: x grows with the epoch, y falls with the value.
    assert (x[1] - x[0]) / (x[2] - x[0]) == pytest.approx(1 / 4, abs=0.01)
    assert (y[0] - y[2]) / (y[0] - y[1]) == pytest.approx(1 / 2, abs=0.01)
    labels = dict(re.findall(r'y="([\d.]+)" text-anchor="end">([^<]+)', svg))
    at = {value: float(place) - 4 for place, value in labels.items()}
    assert at["0"] == pytest.approx(y[0], abs=0.1)
    assert at["10"] == pytest.approx(y[1], abs=0.1)
    assert "a &lt;curve&gt;" in svg


def test_values_that_are_not_finite_leave_a_gap_out():
    svg = line_chart([(0, True, [1, 2, 3], [1.0, math.nan, 2.0])], "epoch", "loss", "curve")
    assert len(re.search(r'points="([^"]+)"', svg)[1].split()) == 2
    assert "nan" not in svg
    assert "<circle" in line_chart([(0, False, [1], [1.0])], "epoch", "loss", "curve")


# In a browser

MEASURE = """<script>parent.postMessage(JSON.stringify({
  page: document.documentElement.scrollWidth, window: innerWidth,
  paper: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.body).color,
  curve: getComputedStyle(document.querySelector(".curve")).stroke,
  broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).length
}), "*")</script></html>"""
# Windows are at least 500 pixels wide; a frame may be as narrow as a telephone.
FRAME = """<!doctype html><html><meta name="color-scheme" content="light dark">
<script>onmessage = e => document.documentElement.dataset.measured = e.data</script>
<iframe src="page.html" style="width: 390px; height: 844px; border: 0"></iframe></html>"""


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_in_a_browser(text, tmp_path):
    """No overflow on a telephone, both themes, no complaints, no requests."""
    # Only what measures may run.
    text = text.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
    page = tmp_path / "page.html"
    page.write_text(text.replace("</html>", MEASURE), encoding="utf-8")
    themes = {name: browse(page, name, number) for number, name in enumerate(("dark", "light"))}
    for measured in themes.values():
        assert measured["window"] == 390
        assert measured["page"] == 390
        assert measured["broken"] == 0
        assert contrast(measured["ink"], measured["paper"]) > 7
        assert contrast(measured["curve"], measured["paper"]) > 3
    assert luminance(themes["dark"]["paper"]) < 0.05 < 0.8 < luminance(themes["light"]["paper"])


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<img src="http://127.0.0.1:9/x.png">', "asked for something"),
        ("<script>console.error('oh')</script>", "complained"),
    ],
)
def test_the_browser_would_tell(tmp_path, text, message):
    page = tmp_path / "page.html"
    page.write_text(text)
    with pytest.raises(AssertionError, match=message):
        browse(page, "light", 1)


def browse(page, theme, number):
    """Open a page in a frame as wide as a telephone; return what it measured of itself."""
    frame = page.with_name("frame.html")
    frame.write_text(FRAME)
    log = page.with_name(f"{theme}.json")
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         f"--user-data-dir={page.parent / theme}", "--disable-background-networking",
         "--disable-component-update", "--no-first-run", f"--log-net-log={log}",
         f"--blink-settings=preferredColorScheme={number}", "--enable-logging=stderr",
         "--virtual-time-budget=2000", "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    refused = [line for line in complaints if "127.0.0.1" in line]
    assert complaints == refused, "the page complained"
    # What the browser asks for of itself has another initiator.
    initiators = set(re.findall(r'"initiator":"([^"]*)"', log.read_text()))
    assert initiators <= {"not an origin"}, "the page asked for something"
    (measured,) = re.findall(r'data-measured="([^"]+)"', done.stdout)
    return json.loads(html.unescape(measured))


def luminance(colour):
    """The relative luminance of `rgb(…)`, from 0 to 1 (WCAG 2)."""
    values = np.array(re.findall(r"[\d.]+", colour)[:3], float) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
