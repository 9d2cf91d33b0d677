"""`fakeface classify` and `fakeface score` as people and programs use them."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fakeface_jax.cli import main as cli
from fakeface_jax.cli.inputs import expand
from fakeface_jax.cli.main import main
from fakeface_jax.cli.output import Records
from fakeface_jax.errors import BundleError, ConfigError, DataError, OpenError, printable

FAKEFACE = Path(sys.executable).with_name("fakeface")

CLOSED = "fakeface: standard output is closed; redirect it to a file, or to /dev/null to discard the results\n"


@pytest.fixture(scope="module")
def media(tmp_path_factory, face_picture, faceless_picture):
    """portrait.png with a face, cup.png without, more/portrait.jpg, more/clip.avi (2 s) and more/short.mp4."""
    folder = tmp_path_factory.mktemp("media")
    (folder / "more").mkdir()
    Image.fromarray(face_picture[:256, 96:352]).save(folder / "portrait.png")
    Image.fromarray(faceless_picture[:200, :200]).save(folder / "cup.png")
    Image.fromarray(face_picture[:256, 96:352]).save(folder / "more" / "portrait.jpg")
    (folder / "more" / "notes.txt").write_text("not a picture")
    small = cv2.resize(cv2.cvtColor(face_picture[:256, 96:352], cv2.COLOR_RGB2BGR), (200, 200))
    for name, code, frames in (("clip.avi", "MJPG", 20), ("short.mp4", "mp4v", 6)):
        writer = cv2.VideoWriter(str(folder / "more" / name), cv2.VideoWriter.fourcc(*code), 10.0, (180, 180))
        for number in range(frames):
            writer.write(small[number : number + 180, 20 - number : 200 - number])
        writer.release()
    return folder


@pytest.fixture
def run(tiny_bundle, capfd):
    """Calls main() with the tiny model: exit code, standard output, standard error."""

    def call(*words, model=tiny_bundle):
        code = main([*map(str, words), "--model", str(model)])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def usage_error(*words):
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, words)])
    return stopped.value.code


def fakeface(*words, model=None, **settings):
    command = [str(FAKEFACE), *map(str, words)] + (["--model", str(model)] if model else [])
    return subprocess.run(command, capture_output=True, timeout=120, check=False, **settings)


# ---- start-up and usage


def test_help_is_light():
    program = (
        "import resource, sys\n"
        "from fakeface_jax.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "usage = resource.getrusage(resource.RUSAGE_SELF)\n"
        "heavy = {'jax', 'flax', 'cv2', 'numpy', 'optax', 'grain', 'tensorflow_datasets', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)), usage.ru_utime + usage.ru_stime, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for command in ("classify", "score", "train", "evaluate", "data"):
        assert command in done.stdout
    modules, seconds = re.fullmatch(r"(\[.*\]) ([\d.]+)\n", done.stderr).groups()
    assert modules == "[]"
    assert float(seconds) < 0.8  # CPU time, on a machine that may be busy


@pytest.mark.parametrize("command", ["classify", "score", "train", "evaluate", "data", "data merge", "data build"])
def test_every_command_has_help(command, capsys):
    assert usage_error(*command.split(), "--help") in (0, None)
    assert f"usage: fakeface {command}" in capsys.readouterr().out


def test_version(capsys):
    from fakeface_jax import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fakeface-jax {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        "",
        "nonsense",
        "classify x.png --nonsense",
        "classify x.png --format xml",
        "score x.mp4 --frames many",
        "data",
        "data merge",
        "train",
    ],
)
def test_usage_errors(words, capsys):
    assert usage_error(*words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "score x.mp4 --fps 2 --every 3",
            "sampling takes one of fps, every, frames and faces, not fps and every together",
        ),
        ("score x.mp4 --fps -1", "sampling fps -1.0"),
        ("score x.mp4 --start 5 --end 2", "sampling end 2.0 s is not after start 5.0 s"),
        ("classify", "no input was named"),
        ("score", "no input was named"),
        ("classify x.png --model no/such/model", "no/such/model: no bundle here"),
        ("classify x.png --model {model} --show", "--show needs a screen, and there is none; write"),
        ("score x.mp4 --model {model} --show", "--show needs a screen, and there is none; write"),
        ("classify x.png --model {model} --save x.bmp", "--save x.bmp: .bmp files cannot be written"),
        ("classify x.png --model {model} --save gone/x.png", "--save gone/x.png: the directory gone does not exist"),
        ("classify x.png y.png --model {model} --save all.png", "--save all.png: several inputs need a directory"),
        ("score x.mp4 --model {model} --save x.webm", "--save x.webm: .webm files cannot be written"),
        ("classify x.png --model {model} --save /dev/null/below", "--save /dev/null/below: cannot be created"),
        ("classify x.png --model {model} --output gone/r.json", "gone/r.json: cannot be written"),
        ("classify x.png --model {model} --output /dev/null/r", "/dev/null/r: cannot be written"),
        ("classify x.png --model {model} --output .", "cannot be written: it is a directory"),
        ("score x.mp4 --model {model} --frame-table gone/t.csv", "gone/t.csv: cannot be written"),
        (
            "score x.mp4 --model {model} --frame-table t.txt",
            "--frame-table t.txt: the file's name must end in .csv or .parquet",
        ),
    ],
)
def test_settings_that_cannot_be_used(words, message, tiny_bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert main(words.format(model=tiny_bundle).split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fakeface: ")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# ---- classify


def test_text_for_people(run, media):
    code, out, err = run("classify", media / "portrait.png", media / "cup.png")
    assert (code, err) == (0, "")
    first, face, second, *overview = out.splitlines()
    assert re.fullmatch(rf"{media}/portrait.png: (real|fake|inconclusive)  P\(fake\) 0\.\d{{3}}", first)
    assert re.fullmatch(r"  face 1  x \d+-\d+  y \d+-\d+  P\(fake\) 0\.\d{3}  (real|fake|inconclusive)", face)
    assert second == f"{media}/cup.png: no_face  (no face was found)"
    assert overview[1].startswith("2 inputs: ")
    assert [line.split()[-1] for line in overview[2:]] == [f"{media}/portrait.png", f"{media}/cup.png"]


def check_record(record):
    assert {"input", "verdict", "p_fake", "faces"} <= set(record)
    scores = []
    for face in record["faces"]:
        assert {"box", "p_fake", "verdict"} <= set(face)
        x0, y0, x1, y1 = face["box"]
        assert 0 <= x0 < x1 <= 256
        assert 0 <= y0 < y1 <= 256
        scores.append(face["p_fake"])
    if record["verdict"] == "no_face":
        assert record["p_fake"] is None
        assert scores == []
    else:
        assert record["p_fake"] == max(scores)


def test_json_is_one_array(run, media):
    code, out, _ = run("classify", media / "portrait.png", media / "cup.png", media / "gone.png", "--format", "json")
    records = json.loads(out)
    assert code == 3
    check_record(records[0])
    check_record(records[1])
    assert records[1]["verdict"] == "no_face"
    assert set(records[2]) == {"input", "error"}


def test_jsonl_is_one_line_per_input(run, media):
    code, out, _ = run("classify", media / "portrait.png", media / "cup.png", "--format", "jsonl")
    assert code == 0
    assert len(out.splitlines()) == 2
    for line in out.splitlines():
        check_record(json.loads(line))


def test_csv_has_one_row_per_input(run, media):
    _, out, _ = run("classify", media / "portrait.png", media / "gone.png", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["input"] for row in rows] == [str(media / "portrait.png"), str(media / "gone.png")]
    assert 0 <= float(rows[0]["p_fake"]) <= 1
    assert rows[0]["verdict"]
    assert rows[0]["error"] == ""
    assert rows[1]["verdict"] == rows[1]["p_fake"] == ""
    assert "no such file" in rows[1]["error"]


@pytest.mark.parametrize("form", ["text", "json", "jsonl", "csv"])
def test_formats_agree(run, media, form, tiny_bundle):
    _, out, _ = run("classify", media / "portrait.png", "--format", form)
    _, reference, _ = run("classify", media / "portrait.png", "--format", "jsonl")
    p_fake = json.loads(reference)["p_fake"]
    shown = {
        "text": lambda: re.search(r"P\(fake\) ([\d.]+)", out)[1],
        "json": lambda: json.loads(out)[0]["p_fake"],
        "jsonl": lambda: json.loads(out)["p_fake"],
        "csv": lambda: next(csv.DictReader(io.StringIO(out)))["p_fake"],
    }[form]()
    assert float(shown) == pytest.approx(p_fake, abs=5e-4 if form == "text" else 1e-9)


def test_directories_and_globs(run, media, monkeypatch):
    monkeypatch.chdir(media)

    def inputs(*words):
        code, out, _ = run("classify", *words, "--format", "jsonl")
        return code, [json.loads(line)["input"] for line in out.splitlines()]

    assert inputs(".") == (0, ["cup.png", "more/portrait.jpg", "portrait.png"])
    assert inputs("*.png") == (0, ["cup.png", "portrait.png"])
    assert inputs("**/p*.[jp]*g") == (0, ["more/portrait.jpg", "portrait.png"])
    assert inputs("more", "cup.png") == (0, ["more/portrait.jpg", "cup.png"])
    assert inputs("*.bmp", "cup.png") == (3, ["*.bmp", "cup.png"])


def test_expansion_keeps_order_and_names(tmp_path):
    (tmp_path / ".hidden.png").write_text("")
    (tmp_path / "[1].png").write_text("")
    (tmp_path / "B.PNG").write_text("")
    assert list(expand([str(tmp_path / "[1].png")], {".png"})) == [str(tmp_path / "[1].png")]
    assert list(expand([str(tmp_path)], {".png"})) == [str(tmp_path / "B.PNG"), str(tmp_path / "[1].png")]
    assert list(expand(["-", "gone.png"], {".png"})) == ["-", "gone.png"]
    (one,) = expand([str(tmp_path / "*.jpg")], {".png"})
    assert isinstance(one, OpenError)
    # A folder or a pattern adds what is new; who names a file twice means it.
    given = str(tmp_path / "sub" / ".." / "B.PNG")
    (tmp_path / "sub").mkdir()
    assert list(expand([given, str(tmp_path), str(tmp_path / "*.PNG")], {".png"}))[1:] == [str(tmp_path / "[1].png")]
    assert list(expand([given, given], {".png"})) == [given, given]


def test_exit_codes(run, media):
    assert run("classify", media / "portrait.png")[0] == 0
    code, out, err = run("classify", media / "gone.png", media / "portrait.png", media / "more" / "notes.txt")
    assert code == 3
    assert len(err.splitlines()) == 2
    assert f"{media}/portrait.png: " in out
    code, out, err = run("classify", media / "gone.png", media / "more" / "notes.txt")
    assert code == 4
    assert out.splitlines()[:2] == [f"{media}/gone.png: error", f"{media}/more/notes.txt: error"]
    assert "2 inputs: 2 error" in out
    assert len(err.splitlines()) == 2


def test_whole_image_needs_no_face(run, media):
    _, out, _ = run("classify", media / "cup.png", "--whole-image", "--format", "jsonl")
    record = json.loads(out)
    assert record["verdict"] != "no_face"
    (face,) = record["faces"]
    assert face["box"] == [0, 0, 200, 200]


def test_standard_input(media, tiny_bundle):
    data = (media / "portrait.png").read_bytes()
    done = fakeface("classify", "-", "--format", "jsonl", model=tiny_bundle, input=data)
    assert (done.returncode, done.stderr) == (0, b"")
    record = json.loads(done.stdout)
    assert record["input"] == "-"
    check_record(record)


@pytest.mark.parametrize(("data", "words"), [(b"", "empty"), (b"text", "not an image")])
def test_standard_input_that_is_no_picture(run, monkeypatch, data, words):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))
    code, out, err = run("classify", "-")
    assert (code, out) == (4, "-: error\n")
    assert err.startswith("fakeface: -: ")
    assert words in err


def test_a_reader_that_leaves_is_no_error(media, tiny_bundle):
    names = " ".join([f"'{media}/cup.png'"] * 30)
    for form in ("text", "json"):
        command = f"'{FAKEFACE}' classify {names} --whole-image --format {form} --model '{tiny_bundle}' | head -1"
        done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, timeout=120, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.count(b"\n") == 1


def test_a_full_disk_is_an_error_of_one_line(media, tiny_bundle):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [FAKEFACE, "classify", media / "cup.png", "--model", tiny_bundle],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("fakeface: <stdout>: cannot be written: No space left on device")
    assert done.stderr.count("\n") == 1


def test_a_name_that_is_no_valid_text(run, tmp_path, media):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    Path(name).write_bytes((media / "cup.png").read_bytes())
    for form in ("text", "csv"):
        code, out, _ = run("classify", name, "--format", form)
        assert code == 0
        assert "caf\\udce9.png" in out
    assert json.loads(run("classify", name, "--format", "json")[1])[0]["input"] == name
    assert json.loads(run("classify", name, "--format", "jsonl")[1])["input"] == name


@pytest.mark.parametrize("form", ["json", "jsonl"])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_in_any_encoding(monkeypatch, form, encoding):
    name = "caf\xe9 \u9854 \U0001f600 \udce9 \x9b \u202e.png"
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    with Records(form, output=None, columns=["input"]) as records:
        records.add(types.SimpleNamespace(to_dict=lambda: {"input": name}), name)
    text = raw.getvalue().decode("ascii")
    record = json.loads(text)[0] if form == "json" else json.loads(text)
    assert record == {"input": name}
    assert text.replace("\n", "").isprintable()


HOSTILE = "a\nb: real  P(fake) 0.000\r\x1bP\x07\x7f\x9b\u202e\u2066\t.png"
ESCAPED = r"a\nb: real  P(fake) 0.000\r\x1bP\x07\x7f\x9b\u202e\u2066\t.png"


def test_control_characters_are_escaped():
    assert printable(HOSTILE) == ESCAPED
    assert printable(ESCAPED) == ESCAPED  # once is enough
    assert printable("лицо 顔 وجه é 😀 \\ ' \"") == "лицо 顔 وجه é 😀 \\ ' \""


def test_names_cannot_forge_lines_or_move_the_cursor(run, tmp_path, media, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(HOSTILE).write_bytes((media / "cup.png").read_bytes())
    assert run("classify", HOSTILE) == (0, f"{ESCAPED}: no_face  (no face was found)\n", "")
    code, out, err = run("classify", "gone-" + HOSTILE)
    assert (code, out) == (4, f"gone-{ESCAPED}: error\n")
    assert err.endswith(": no such file (check the path)\n")
    assert err.strip().isprintable()
    code, _, err = run("classify", HOSTILE, "--output", f"no\n\x1b/{HOSTILE}")
    assert code == 2
    assert r"\x1b/a" in err
    assert err.count("\n") == 1
    assert err.strip().isprintable()
    (row,) = csv.DictReader(io.StringIO(run("classify", HOSTILE, "--format", "csv")[1], newline=""))
    assert row["input"] == HOSTILE


def test_progress_bars_show_no_control_characters(monkeypatch):
    from fakeface_jax.cli.score import _bar

    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with _bar("folder/x\x1b[2J\n\u202e.mp4", unit="frame"):
        pass
    assert r"x\x1b[2J\n\u202e.mp4" in terminal.getvalue()
    assert "\x1b[2J" not in terminal.getvalue()
    assert "\u202e" not in terminal.getvalue()


def test_csv_cells_are_no_formulas(capsys):
    names = ["=1+2.png", "+x", "-x", "@x", "\tx", "\rx", "x=1", "-", ""]
    with Records("csv", output=None, columns=["input", "p_fake"]) as records:
        records.add_rows([{"input": name, "p_fake": -0.5} for name in names])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    assert [row["input"] for row in rows] == [*(f"'{name}" for name in names[:6]), "x=1", "-", ""]
    assert {row["p_fake"] for row in rows} == {"-0.5"}


@pytest.mark.parametrize(
    ("redirection", "code", "out", "err"),
    [
        ("<&-", 4, "-: error\n", "fakeface: -: standard input is closed (pipe a picture into it, or name a file)\n"),
        (
            ">&-",
            2,
            "",
            "fakeface: standard output is closed; redirect it to a file, or to /dev/null to discard the results\n",
        ),
        ("2>&-", 4, "-: error\n", ""),
        ("2>/dev/full", 4, "-: error\n", ""),
        ("<&- >&- 2>&-", 2, "", ""),
    ],
)
def test_standard_streams_that_cannot_be_used(tiny_bundle, redirection, code, out, err):
    command = f"'{FAKEFACE}' classify - --model '{tiny_bundle}' </dev/null {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


@pytest.mark.parametrize("words", ["--help", "--version", "data audit x.parquet"])
def test_closed_standard_output_is_one_line_for_all(words):
    command = ["bash", "-c", f"'{FAKEFACE}' {words} >&-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert (
        done.stderr
        == "fakeface: standard output is closed; redirect it to a file, or to /dev/null to discard the results\n"
    )


def test_a_full_disk_leaves_no_temporary_file(tmp_path, monkeypatch):
    def full(self, text):
        raise self._cannot_write(OSError(28, "No space left on device"))

    monkeypatch.setattr(Records, "_write", full)
    with pytest.raises(ConfigError, match=r"r\.csv: cannot be written: No space left on device"):
        Records("csv", output=tmp_path / "r.csv", columns=["input"]).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_control_c_is_quiet(run, media, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fakeface_jax.video.scoring.score_image", interrupted)
    assert run("classify", media / "cup.png") == (130, "", "fakeface: interrupted\n")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_nothing_behind(media, tiny_bundle, tmp_path, signum):
    names = [media / "portrait.png"] * 2000
    command = [FAKEFACE, "classify", *names, "--format", "json", "--output", tmp_path / "r", "--model", tiny_bundle]
    # Under nohup SIGHUP is ignored, and a process inherits that.
    before = signal.signal(signum, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    signal.signal(signum, before)
    with process:
        until = time.monotonic() + 60
        while not any(path.stat().st_size for path in tmp_path.iterdir()):
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signum)
        assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 128 + signum
    assert list(tmp_path.iterdir()) == []


def test_signals_that_are_ignored_stay_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with cli._signals_that_exit():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_control_c_while_commands_are_imported(monkeypatch, capsys):
    class Interrupting:
        def find_spec(self, name, *_):
            if name == "fakeface_jax.cli.arguments":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "fakeface_jax.cli.arguments", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    assert main(["classify", "x.png"]) == 130
    assert capsys.readouterr() == ("", "fakeface: interrupted\n")


def test_start_imports_next_to_nothing():
    # What is imported before main() is where Ctrl-C still prints a traceback.
    program = "import sys, fakeface_jax.cli.main; print('tyro' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"False\n"


def test_bugs_keep_their_traceback(run, media, monkeypatch, tmp_path):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("fakeface_jax.video.scoring.score_image", broken)
    (tmp_path / "r.json").write_text("old")
    with pytest.raises(ZeroDivisionError):
        run("classify", media / "cup.png", "--format", "json", "--output", tmp_path / "r.json")
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]  # and nothing half-written
    assert (tmp_path / "r.json").read_text() == "old"

    def lost(*_, **__):
        raise ConnectionResetError("not the fault of the output")

    monkeypatch.setattr("fakeface_jax.video.scoring.score_image", lost)
    with pytest.raises(ConnectionResetError):
        run("classify", media / "cup.png", "--output", tmp_path / "r.json")
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


# ---- files that are written


@pytest.mark.parametrize("form", ["text", "json", "jsonl", "csv"])
def test_output_holds_what_standard_output_would(run, media, tmp_path, form):
    arguments = ("classify", media / "portrait.png", "--format", form)
    _, shown, _ = run(*arguments)
    target = tmp_path / "results"
    target.write_text("an older result")
    code, out, err = run(*arguments, "--output", target)
    assert (code, out, err) == (0, "", "")
    without_times = re.compile(r'("(open|detect|classify|aggregate|decode|total)": )[\d.e-]+')
    written = target.read_bytes().decode()
    assert without_times.sub(r"\1", written) == without_times.sub(r"\1", shown)
    assert list(tmp_path.iterdir()) == [target]


def test_output_is_seen_only_when_it_is_complete(tmp_path):
    target = tmp_path / "results.csv"
    record = types.SimpleNamespace(summary_row=lambda: {"input": "x"})
    with Records("csv", output=target, columns=["input"]) as records:
        records.add(record, "x")
        assert not target.exists()
    assert target.read_text().split() == ["input", "x"]


def test_save_one_picture(run, media, tmp_path):
    target = tmp_path / "marked.png"
    code, _, err = run("classify", media / "portrait.png", "--save", target)
    assert (code, err) == (0, "")
    with Image.open(target) as saved, Image.open(media / "portrait.png") as original:
        assert saved.size == original.size
        changed = np.any(np.asarray(saved.convert("RGB")) != np.asarray(original), axis=-1)
    assert 0.005 < changed.mean() < 0.5
    assert list(tmp_path.iterdir()) == [target]


def test_save_several_pictures_and_overwrite_none(run, media, tmp_path):
    before = {path: path.read_bytes() for path in media.rglob("*") if path.is_file()}
    code, _, _ = run(
        "classify", media / "portrait.png", media / "more", media / "cup.png", media / "gone.png", "--save", tmp_path
    )
    assert code == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cup-scored.png",
        "portrait-scored-2.png",
        "portrait-scored.png",
    ]
    assert {path: path.read_bytes() for path in media.rglob("*") if path.is_file()} == before


def test_save_never_overwrites_an_input(run, media, tmp_path):
    data = (media / "cup.png").read_bytes()
    for name in ("a.png", "a-scored.png"):
        (tmp_path / name).write_bytes(data)
    code, _, err = run("classify", tmp_path / "a.png", "--save", tmp_path / "a.png")
    assert code == 2
    assert "is the input itself" in err
    assert run("classify", tmp_path / "a.png", tmp_path / "a-scored.png", "--save", tmp_path)[0] == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "a-scored.png").read_bytes() == data
    assert {"a-scored-2.png", "a-scored-scored.png"} <= {path.name for path in tmp_path.iterdir()}


def test_save_makes_a_directory_and_a_missing_input_makes_no_stray_one(run, media, tmp_path):
    assert run("classify", media / "cup.png", "--save", tmp_path / "new" / "folder")[0] == 0
    assert (tmp_path / "new" / "folder" / "cup-scored.png").is_file()
    assert run("classify", tmp_path / "gone.png", "--save", tmp_path / "one.png")[0] == 4
    assert not (tmp_path / "one.png").exists()


def test_show_opens_a_window_with_the_answer(run, media, monkeypatch):
    shown = []
    monkeypatch.setenv("DISPLAY", ":99")
    monkeypatch.setattr(cv2, "imshow", lambda title, image: shown.append((title, image)))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: -1)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    assert run("classify", media / "portrait.png", "--show")[0] == 0
    ((title, image),) = shown
    assert title == str(media / "portrait.png")
    original = cv2.imread(title)
    assert image.shape == original.shape
    assert 0.5 < (image == original).mean() < 1.0  # BGR, as OpenCV shows it
    shown.clear()
    assert run("score", media / "more" / "clip.avi", "--frames", 4, "--show")[0] == 0
    assert len(shown) == 4


# ---- score


@pytest.fixture
def scored(run, media):
    def call(*words):
        code, out, err = run("score", media / "more" / "clip.avi", "--format", "jsonl", *words)
        assert (code, err) == (0, "")
        return json.loads(out)

    return call


def test_score_reports_the_contract_and_its_evidence(scored, media):
    record = scored("--frames", 8)
    assert record["input"] == str(media / "more" / "clip.avi")
    assert record["verdict"] in ("real", "fake", "inconclusive")
    assert 0 <= record["p_fake"] <= 1
    for face in record["faces"]:
        assert {"box", "p_fake", "verdict", "time", "frame"} <= set(face)
    assert record["evidence"]["frames_sampled"] == record["evidence"]["frames_with_face"] == 8
    assert record["evidence"]["faces_scored"] == 8
    assert record["model"]["name"] == "tiny"


@pytest.mark.parametrize(
    ("words", "indices"),
    [
        ("--every 5", [0, 5, 10, 15]),
        ("--frames 4", [2, 7, 12, 17]),
        ("--fps 5", [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]),
        ("--every 1 --start 0.5 --end 0.8", [5, 6, 7]),
    ],
)
def test_sampling_flags(scored, words, indices):
    record = scored(*words.split())
    assert [frame["index"] for frame in record["frames"]] == indices
    assert [frame["time"] for frame in record["frames"]] == pytest.approx([index / 10 for index in indices], abs=1e-6)


def test_score_for_people(run, media):
    code, out, err = run("score", media / "more", "--frames", 6)
    assert (code, err) == (0, "")
    heads = [line for line in out.splitlines() if line and not line.startswith(" ")][:-1]
    assert [head.split(": ")[0] for head in heads] == [str(media / "more" / "clip.avi"), str(media / "more/short.mp4")]
    assert "6 faces in 6 of 6 sampled frames" in out


def test_frame_table(run, media, tmp_path):
    table = tmp_path / "frames.csv"
    code, _, err = run(
        "score", media / "more" / "clip.avi", media / "gone.mp4", media / "more" / "short.mp4", "--frames", 3,
        "--frame-table", table,
    )  # fmt: skip
    assert code == 3
    assert "gone.mp4: no such file" in err
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["input"]).name for row in rows] == ["clip.avi"] * 3 + ["short.mp4"] * 3
    for row in rows:
        assert 0 <= float(row["p_fake"]) <= 1
        assert float(row["x0"]) < float(row["x1"]) <= 180
        assert row["verdict"]
    assert list(tmp_path.iterdir()) == [table]


def test_save_videos(run, media, tmp_path):
    code, _, err = run("score", media / "more", "--frames", 4, "--save", tmp_path / "out")
    assert (code, err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["clip-scored.mp4", "short-scored.mp4"]
    capture = cv2.VideoCapture(str(tmp_path / "out" / "clip-scored.mp4"))
    frames = 0
    while capture.read()[0]:
        frames += 1
    capture.release()
    assert frames == 20
    one = tmp_path / "one.mkv"
    assert run("score", media / "more" / "short.mp4", "--save", one)[0] == 0
    assert one.stat().st_size > 0


def test_score_takes_no_pictures_and_exit_codes(run, media):
    code, out, err = run("score", media / "portrait.png")
    assert code == 4
    assert "use fakeface classify" in err
    assert out == f"{media}/portrait.png: error\n"


def test_errors_know_their_exit_codes():
    from fakeface_jax.training.train_loop import Diverged, Interrupted

    codes = [cli._exit_code(error) for error in (ConfigError("x"), DataError("x"), BundleError("x"))]
    assert codes == [2, 2, 2]
    assert cli._exit_code(OpenError("a", "b")) == 4
    assert cli._exit_code(Interrupted(15, 3)) == 128 + 15
    assert cli._exit_code(Diverged("x")) == 1
