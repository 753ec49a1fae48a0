"""The `sda` command, run in this process through click's runner, and twice as a real one."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

click = pytest.importorskip("click")
from click.testing import CliRunner  # noqa: E402

import sda  # noqa: E402
from sda import runs  # noqa: E402
from sda.runs import Phase  # noqa: E402
from sda_cli import options  # noqa: E402
from sda_cli.app import COMMANDS, app  # noqa: E402

ROOT = pathlib.Path(__file__).parents[1]
SMALL = ["--units", "6,4", "--epochs", "2", "--batch-size", "20", "--seed", "3", "--quiet"]

FINE = ["--epochs", "1", "--seed", "3", "--quiet"]


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def rows():
    """40 rows of 16 values with labels, in rows.npz."""
    return save_rows("rows.npz")


def save_rows(path):
    generator = np.random.default_rng(1)
    x, y = generator.random((40, 16)).astype("float32"), np.arange(40) % 2
    np.savez(path, x=x, y=y)
    return x, y


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def ok(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def fails(*arguments, status=1):
    """The one line that the command leaves on stderr."""
    result = run(*arguments)
    assert result.exit_code == status, result.output
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("sda: ")
    return result.stderr


def process(*arguments, cwd=None, **environment):
    """Run Python as a process of its own."""
    environment = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
    )


# pretrain


def test_pretraining_is_what_the_library_does(rows):
    x, _ = rows
    ok("pretrain", "--data", "rows.npz::x", "--validation-split", 0, "--out", "run", *SMALL)
    stack = sda.StackedDenoisingAutoencoder([6, 4], corruption=0.3, seed=3)
    optimizer = keras.optimizers.SGD(0.1)
    histories = sda.GreedyPretrainer(stack, optimizer, epochs=2, batch_size=20, seed=3).fit(
        x, verbose=0
    )
    made = sda.load_model("run/pretrain/stack.keras")
    for ours, theirs in zip(made.get_weights(), stack.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    losses = [loss for history in histories for loss in history.history["loss"]]
    assert [row["loss"] for row in Phase("run", "pretrain").curves] == losses


@pytest.mark.slow
def test_settings_repeat_the_run(rows):
    ok("pretrain", "--data", "rows.npz::x", "--out", "first", *SMALL[:-3])
    ok("pretrain", "--config", "first/pretrain/settings.toml", "--out", "again")
    first, again = (sda.load_model(f"{run}/pretrain/stack.keras") for run in ("first", "again"))
    for one, other in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    settings = Phase("first", "pretrain").settings
    assert settings == Phase("again", "pretrain").settings
    assert settings["seed"] == Phase("first", "pretrain").record["seed"]


@pytest.mark.slow
def test_one_value_for_all_layers_or_one_a_layer(rows):
    ok("pretrain", "--data", "rows.npz::x", "--out", "run", *SMALL, "--corruption", "0.1,0.2",
       "--noise", "masking,gaussian", "--epochs", "1,3", "--learning-rate", "0.1,0.05")  # fmt: skip
    stack = sda.load_model("run/pretrain/stack.keras")
    first, second = (a.corruption for a in stack.autoencoders)
    assert (type(first), first.rate) == (sda.MaskingNoise, 0.1)
    assert (type(second), second.stddev) == (sda.GaussianNoise, 0.2)
    assert [row["layer"] for row in Phase("run", "pretrain").curves] == [1, 2, 2, 2]


@pytest.mark.slow
def test_a_table_leaves_its_labels_out(rows):
    pandas = pytest.importorskip("pandas")
    x, y = rows
    table = pandas.DataFrame(x, columns=[f"f{i}" for i in range(16)])
    table["kind"] = np.array(["no", "yes"])[y]
    table.to_csv("table.csv", index=False)
    ok("pretrain", "--data", "table.csv", "--labels", "kind", "--out", "run", *SMALL)
    assert sda.load_model("run/pretrain/stack.keras").example_shape == (16,)
    ok("finetune", "run", "--epochs", 1, "--quiet")
    assert Phase("run", "finetune").results["classes"] == ["no", "yes"]
    assert "yes" in ok("evaluate", "run")


# Settings from a file


@pytest.mark.slow
def test_flags_win_over_the_file_and_the_file_over_defaults(rows):
    with open("my.toml", "w") as file:
        file.write('data = "rows.npz::x"\nunits = [9, 8]\nbatch-size = 40\nepochs = 1\n')
    ok("pretrain", "--config", "my.toml", "--units", "5", "--out", "run", "--quiet")
    settings = Phase("run", "pretrain").settings
    assert (settings["units"], settings["batch_size"], settings["epochs"]) == ([5], 40, 1)
    assert settings["corruption"] == 0.3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unit = [5]", "to hold activation, .*, units, .* Received: unit\n"),
        ("out = 'x'", "Received: out\n"),
        ("units = 5.5", "Invalid value for '--units': '5.5' is not a valid integer"),
        ("seed = true", "Invalid value for '--seed': 'true' is not a valid integer"),
        ("noise = 'pink'", "'pink' is not one of"),
        ("[units]\na = 1", "Expected `units` .* to be a string, a number"),
        ("units = ", "is no TOML file"),
    ],
)
def test_a_file_with_wrong_settings(rows, text, message):
    with open("my.toml", "w") as file:
        file.write(text)
    error = fails("pretrain", "--config", "my.toml", "--data", "rows.npz::x", "--out", "run",
                  status=pytest.approx(1, abs=1))  # fmt: skip
    assert re.search(message, error)
    assert not os.path.exists("run")


# Errors are one line, and nothing is left behind


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "Missing option '--data'"),
        (["--data", "nothing"], 1, "Received: data='nothing'"),
        (["--data", "no.npz"], 1, "No such file or directory: /"),
        (["--data", "rows.npz"], 1, "['x', 'y']"),
        (["--data", "broken.npz"], 1, "broken.npz"),
        (["--data", "rows.npz::x", "--unit", "5"], 2, "No such option '--unit'"),
        (["--data", "rows.npz::x", "--units", "5,five"], 2, "'five' is not a valid integer"),
        (["--data", "rows.npz::x", "--units", "0"], 1, "Expected `units` to be an integer"),
        (["--data", "rows.npz::x", "--corruption", "1.5"], 1, "Expected `rate`"),
        (["--data", "rows.npz::x", "--corruption", "0.1,0.2"], 1, "a list of 3"),
        (["--data", "rows.npz::x", "--optimizer", "magic"], 1, "Keras optimizer"),
        (["--data", "rows.npz::x", "--image-shape", "5x5"], 1, "hold the 16 values of a row"),
        (["--data", "wide.npy"], 1, "to lie in [0, 1]"),
    ],
)
def test_errors(rows, arguments, status, message):
    np.save("wide.npy", 7 * rows[0])
    with open("broken.npz", "w") as file:
        file.write("no archive")
    assert message in fails("pretrain", *arguments, "--out", "run", status=status)
    assert not os.path.exists("run/pretrain/stack.keras")


@pytest.mark.slow
def test_after_a_mistake_the_same_folder_will_do(rows):
    np.save("wide.npy", 7 * rows[0])
    fails("pretrain", "--data", "wide.npy", "--out", "run", *SMALL)
    ok("pretrain", "--data", "rows.npz::x", "--out", "run", *SMALL)


def test_a_traceback_only_on_request():
    assert "Traceback" not in run("pretrain", "--data", "nothing", "--out", "run").stderr
    for debug in (["--debug", "pretrain"], ["pretrain", "--debug"]):
        assert "Traceback" in run(*debug, "--data", "nothing", "--out", "run").stderr


def test_another_backend_than_the_one_in_use():
    others = {"tensorflow", "jax", "torch"} - {keras.backend.backend()}
    error = fails("pretrain", "--backend", others.pop(), "--data", "digits", "--out", "run")
    assert f"Expected `--backend` to be {keras.backend.backend()}" in error


@pytest.mark.slow
def test_divergence_is_an_error_like_any_other(rows):
    error = fails("pretrain", "--data", "rows.npz::x", "--out", "run", *SMALL,
                  "--activation", "linear", "--decoder-activation", "linear",
                  "--learning-rate", "1e30")  # fmt: skip
    assert "became" in error
    assert Phase("run", "pretrain").record["status"] == "stopped"


@pytest.mark.slow
def test_a_run_is_not_overwritten_without_being_asked(rows):
    arguments = ["pretrain", "--data", "rows.npz::x", "--out", "run", *SMALL]
    ok(*arguments)
    model = pathlib.Path("run/pretrain/stack.keras")
    before = model.read_bytes()
    assert "--overwrite" in fails(*arguments, "--units", "3")
    assert model.read_bytes() == before
    ok(*arguments, "--units", "3", "--overwrite")
    assert len(sda.load_model("run/pretrain/stack.keras").autoencoders) == 1


# Carrying on


def interrupt_after(monkeypatch, epochs):
    """Press Ctrl-C at the end of the epoch of this number, counted over all layers."""
    from sda_cli.training import EpochLog

    seen = []
    original = EpochLog.on_epoch_end

    def on_epoch_end(self, epoch, logs=None):
        original(self, epoch, logs)
        seen.append(epoch)
        if len(seen) == epochs:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(EpochLog, "on_epoch_end", on_epoch_end)
    # A process in the background ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow
def test_a_pretraining_that_was_cut_off_is_carried_on(rows, monkeypatch):
    arguments = ["pretrain", "--data", "rows.npz::x", *SMALL]
    ok(*arguments, "--out", "whole")
    interrupt_after(monkeypatch, 3)
    error = fails(*arguments, "--out", "cut", status=130)
    assert error == "sda: interrupted. To carry on: sda pretrain --out cut --resume\n"
    assert "--resume" in fails(*arguments, "--out", "cut")
    assert "`epochs` 2. Received: 3" in fails("pretrain", "--out", "cut", "--resume", "--epochs", 3)
    ok("pretrain", "--out", "cut", "--resume", "--quiet")
    for whole, cut in zip(*(sda.load_model(f"{r}/pretrain/stack.keras").get_weights()
                            for r in ("whole", "cut")), strict=True):  # fmt: skip
        np.testing.assert_array_equal(whole, cut)
    written = os.stat("cut/pretrain/stack.keras").st_mtime_ns
    assert "had ended already" in ok("pretrain", "--out", "cut", "--resume")
    assert os.stat("cut/pretrain/stack.keras").st_mtime_ns == written
    assert Phase("whole", "pretrain").curves == Phase("cut", "pretrain").curves
    assert Phase("cut", "pretrain").settings == Phase("whole", "pretrain").settings


@pytest.mark.slow
def test_a_finetuning_that_was_cut_off_is_carried_on(rows, monkeypatch):
    ok("pretrain", "--data", "rows.npz::x", "--labels", "y", "--out", "run", *SMALL)
    arguments = ["--epochs", 4, "--dropout", 0.2, "--seed", 2, "--quiet"]
    ok("finetune", "run", *arguments, "--out", "whole")
    interrupt_after(monkeypatch, 2)
    error = fails("finetune", "run", *arguments, status=130)
    assert "sda finetune run --out run --resume" in error
    ok("finetune", "run", "--resume", "--quiet")
    for whole, cut in zip(*(sda.load_model(f"{r}/finetune/classifier.keras").get_weights()
                            for r in ("whole", "run")), strict=True):  # fmt: skip
        np.testing.assert_array_equal(whole, cut)


@pytest.mark.slow
def test_a_run_is_carried_on_by_its_own_backend(rows, monkeypatch):
    interrupt_after(monkeypatch, 1)
    fails("pretrain", "--data", "rows.npz::x", "--out", "run", *SMALL, status=130)
    settings = pathlib.Path("run/pretrain/settings.toml")
    settings.write_text(settings.read_text().replace(keras.backend.backend(), "openvino"))
    error = fails("pretrain", "--out", "run", "--resume")
    assert error.endswith("which is in use. Received: openvino\n")


def test_there_has_to_be_something_to_carry_on():
    assert "where none has begun" in fails("pretrain", "--out", "run", "--resume")


# finetune and evaluate


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    save_rows(folder / "rows.npz")
    data = ["--data", folder / "rows.npz::x", "--labels", "y"]
    ok("pretrain", *data, "--out", folder / "run", *SMALL)
    ok("finetune", folder / "run", "--epochs", 2, "--seed", 1, "--quiet")
    return folder


@pytest.fixture
def trained(rows, trained_once):
    """A run, pretrained and fine-tuned on the labelled rows."""
    shutil.copytree(trained_once / "run", "run")
    return rows


def test_finetuning_starts_from_the_stack_and_ends_elsewhere(trained):
    stack = sda.load_model("run/pretrain/stack.keras")
    classifier = sda.load_model("run/finetune/classifier.keras")
    for dA, layer in zip(stack.autoencoders, classifier.layers[:2], strict=True):
        kernels = [keras.ops.convert_to_numpy(k) for k in (dA.encoder.kernel, layer.kernel)]
        assert np.abs(kernels[0] - kernels[1]).max() > 0
        np.testing.assert_allclose(*kernels, atol=0.1)


def test_another_run_gets_a_copy_of_the_pretraining(trained):
    ok("finetune", "run", "--out", "other", "--epochs", 1, "--quiet")
    assert list(runs.phases("other")) == ["pretrain", "finetune"]
    assert "error" in ok("evaluate", "other")


def test_the_error_is_that_of_the_classifier(trained):
    x, y = trained
    np.savez("test.npz", x=x[:15], y=y[:15])
    printed = ok("evaluate", "run", "--data", "test.npz::x")
    predicted = (
        sda.load_model("run/finetune/classifier.keras").predict(x[:15], verbose=0).argmax(axis=1)
    )
    error = 100 * np.mean(predicted != y[:15])
    assert printed.startswith(f"error {error:.2f} % (")
    results = Phase("run", "finetune").results
    assert results["test"]["rows"] == 15
    confusion = [[int(np.sum((y[:15] == i) & (predicted == j))) for j in (0, 1)] for i in (0, 1)]
    assert results["test"]["confusion"] == confusion


def test_rows_that_do_not_fit_are_refused(trained):
    np.savez("test.npz", narrow=np.zeros((4, 9)), x=np.zeros((4, 16)), y=[0, 1, 2, 1])
    assert "16 values" in fails("evaluate", "run", "--data", "test.npz::narrow")
    assert "Received: 2" in fails("evaluate", "run", "--data", "test.npz::x")
    assert "(n, 16)" in fails("encode", "run", "--data", "test.npz::narrow", "--out", "o.npy")


@pytest.mark.slow
def test_finetuning_needs_labels_and_a_stack(rows):
    ok("pretrain", "--data", "rows.npz::x", "--out", "run", *SMALL)
    assert "Expected `labels`" in fails("finetune", "run", "--quiet")
    os.mkdir("empty")
    assert "Expected the folder of a run" in fails("finetune", "empty")
    ok("finetune", "run", "--labels", "y", "--epochs", 1, "--quiet")


@pytest.mark.slow
def test_a_stack_alone_is_evaluated_layer_by_layer(rows):
    ok("pretrain", "--data", "rows.npz::x", "--out", "run", *SMALL)
    table = ok("evaluate", "run").splitlines()
    assert table[0] == "4 rows, the rows held out"
    assert table[1].split()[:3] == ["layer", "units", "loss"]
    assert [line.split()[:2] for line in table[2:]] == [["0", "16"], ["1", "6"], ["2", "4"]]


@pytest.mark.slow
def test_a_stack_that_was_not_trained_is_there_to_compare(rows):
    data = ["--data", "rows.npz::x", "--labels", "y"]
    ok("pretrain", *data, "--out", "run", *SMALL, "--epochs", 0)
    assert Phase("run", "pretrain").curves == []
    ok("finetune", "run", "--epochs", 1, "--quiet")
    ok("report", "run")
    page = pathlib.Path("run/report.html").read_text()
    assert "Classifier: loss" in page
    assert "Layer 1: loss" not in page


# encode, reconstruct, filters, info


@pytest.mark.parametrize("layer", ["top", "1", "all"])
def test_codes_are_those_of_the_stack(trained, layer):
    x, _ = trained
    ok("encode", "run", "--layer", layer, "--out", "codes.npy")
    stack = sda.load_model("run/pretrain/stack.keras")
    codes = [stack.encode(x, 0), stack.encode(x, 1)]
    expected = {"top": codes[1], "1": codes[0], "all": np.hstack(codes)}[layer]
    np.testing.assert_allclose(np.load("codes.npy"), expected, rtol=1e-6)


def test_reconstructions_are_those_of_the_stack(trained):
    x, _ = trained
    ok("reconstruct", "run", "--layer", "1", "--out", "rows.h5")
    expected = sda.load_model("run/pretrain/stack.keras").reconstruct(x, 0)
    np.testing.assert_allclose(sda.datasets.read("rows.h5")[:], expected, rtol=1e-6)


def test_pictures(trained):
    Image = pytest.importorskip("PIL.Image")
    ok("filters", "run", "--image-shape", "4x4", "--zoom", 1, "--out", "filters.png")
    stack = sda.load_model("run/pretrain/stack.keras")
    tiles = sda.plotting.filter_tiles(stack.autoencoders[0].encoder.kernel, (4, 4))
    np.testing.assert_array_equal(np.asarray(Image.open("filters.png")), tiles)
    ok("reconstruct", "run", "--image-shape", "4x4", "--out", "rebuilt.png")
    # Three strips of ten images of 4x4 with a pixel between them, twice as large.
    assert Image.open("rebuilt.png").size == (2 * (10 * 5 - 1), 2 * (3 * 5 - 1))
    assert "--image-shape" in fails("filters", "run", "--out", "more.png")


def test_files_are_not_overwritten_without_being_asked(trained):
    open("codes.npy", "w").close()
    assert "--overwrite" in fails("encode", "run", "--out", "codes.npy")
    ok("encode", "run", "--out", "codes.npy", "--overwrite")
    assert np.load("codes.npy").shape == (40, 4)
    assert "to end in" in fails("encode", "run", "--out", "codes.txt")
    assert "from 1 to 2" in fails("encode", "run", "--layer", "3", "--out", "more.npy")


def test_info():
    assert re.search(rf"keras +{re.escape(keras.__version__)}\n", ok("info"))


def test_info_of_a_run(trained):
    told = ok("info", "run")
    assert re.search(r"pretrain\n  status +finished", told)
    assert re.search(r"units +\[6, 4\]", told)


# Help is for those who do not know yet: it must not take the seconds that Keras takes.


def test_help_does_without_keras():
    code = (
        "import sys, sda_cli; sys.argv = ['sda', 'pretrain', '--help']\n"
        "try: sda_cli.main()\n"
        "finally: assert not {'keras', 'sda', 'numpy'} & set(sys.modules)"
    )
    done = process("-c", code)
    assert done.returncode == 0, done.stderr
    assert "[default: 500,500,500]" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name):
    told = ok(name, "--help")
    assert f"sda {name}" in told
    assert "--debug" in told


def test_no_command_is_help():
    assert "pretrain" in ok()
    assert "No such command 'train'" in fails("train", status=2)


def test_without_click_there_is_one_clear_line():
    code = "import sys; sys.modules['click'] = None; import sda_cli; sda_cli.main()"
    done = process("-c", code)
    assert done.returncode == 1
    assert done.stderr == 'sda: the command needs click: pip install "keras-sda[cli]"\n'


@pytest.mark.slow
def test_a_real_process(rows, tmp_path):
    """Plain lines where there is no terminal, and the backend that was asked for."""
    (tmp_path / "my.toml").write_text('data = "rows.npz::x"\nbackend = "torch"\n')
    arguments = ["pretrain", "--config", "my.toml", "--out", "run"]
    code = "import sda_cli; sda_cli.main()"
    done = process("-c", code, *arguments, *SMALL[:-1], cwd=tmp_path, KERAS_BACKEND="jax")
    assert done.returncode == 0, done.stderr
    assert "Layer 1/2 (16 -> 6), epoch 1/2" in done.stdout
    assert "\b" not in done.stdout
    assert "\r" not in done.stdout
    assert Phase("run", "pretrain").record["backend"] == "torch"
    assert sda.load_model("run/pretrain/stack.keras").built


def test_progress_bars_are_for_terminals(monkeypatch):
    assert options.verbosity(quiet=False) == 2
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert options.verbosity(quiet=False) == 1
    assert options.verbosity(quiet=True) == 0


def test_columns_of_a_table_go_by_their_names(rows):
    pandas = pytest.importorskip("pandas")
    x, y = rows
    names = [f"f{i}" for i in range(16)]
    table = pandas.DataFrame(x, columns=names)
    table["label"] = y
    table.to_csv("table.csv", index=False)
    table[["label", *names[::-1]]].to_csv("turned.csv", index=False)
    table.rename(columns={"f3": "g"}).to_csv("renamed.csv", index=False)
    table.drop(columns="f3").to_csv("short.csv", index=False)
    ok("pretrain", "--data", "table.csv", "--labels", "label", "--out", "run", *SMALL)
    assert Phase("run", "pretrain").results["columns"] == names
    found = []
    for data in ("table.csv", "turned.csv"):
        out, other = f"{data}.npy", f"run_{data.removesuffix('.csv')}"
        ok("encode", "run", "--data", data, "--labels", "label", "--out", out)
        ok("finetune", "run", "--data", data, "--labels", "label", "--out", other, *FINE)
        scored = ok("evaluate", "run_table", "--data", data, "--labels", "label")
        weights = sda.load_model(f"{other}/finetune/classifier.keras").get_weights()
        found.append((np.load(out), *weights, scored.replace(data, "")))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    for data, said in (("renamed.csv", "without 'f3'"), ("short.csv", "without 'f3'")):
        for command in (["encode", "run", "--out", "no.npy"], ["evaluate", "run_table"]):
            assert said in fails(*command, "--data", data, "--labels", "label")
        assert said in fails("finetune", "run", "--data", data, "--labels", "label", "--out", "no")
    assert "with 'label'" in fails("encode", "run", "--data", "table.csv", "--out", "no.npy")


def test_bytes_are_taken_for_pixels_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 9)).astype("uint8")
    np.save("pixels.npy", pixels)
    done = CliRunner().invoke(
        app,
        [
            "pretrain",
            "--data",
            "pixels.npy",
            "--units",
            "4",
            "--epochs",
            "1",
            "--out",
            "run",
            "--quiet",
        ],
    )
    assert done.exit_code == 0, done.output
    assert "preprocessing: Rescaling(0.00392157, 0)" in done.output
    found = json.loads((tmp_path / "run/pretrain/results.json").read_text())
    assert found["preprocessing"] == "Rescaling(0.00392157, 0)"
    (layer,) = sda.load_model("run/pretrain/stack.keras").preprocessing
    assert (layer.scale, layer.offset) == (1 / 255, 0.0)
