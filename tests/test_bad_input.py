"""Inputs as people have them: what is accepted is scored, what is not is one line that names it and what to do.

In every case the other input of the same call is scored, and nothing but what was asked for is left on the disk.
"""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import wave
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fakeface_jax.cli.main import main

SCORED, FAILED, REFUSED = 0, 3, 2
"""Exit codes of a call with a good input beside the one in question."""


@pytest.fixture(scope="module")
def portrait(tmp_path_factory, face_picture):
    path = tmp_path_factory.mktemp("good") / "portrait.png"
    Image.fromarray(face_picture[:256, 96:352]).save(path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory, face_picture):
    path = tmp_path_factory.mktemp("good") / "clip.avi"
    write_clip(path, face_picture)
    return path


def write_clip(path, picture, frames=12, code="MJPG", size=(160, 160), grey=False):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 10.0, size, isColor=not grey)
    assert writer.isOpened()
    small = cv2.resize(cv2.cvtColor(picture[:256, 96:352], cv2.COLOR_RGB2BGR), (180, 180))
    for number in range(frames):
        part = cv2.resize(small[number : number + 160, number : number + 160], size)
        writer.write(cv2.cvtColor(part, cv2.COLOR_BGR2GRAY) if grey else part)
    writer.release()


def png_of_size(width, height):
    """A PNG whose header promises so many pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def encoded(picture, kind, **settings):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    return buffer.getvalue()


def animation(picture):
    small = [picture.resize((160 - n, 160 - n)).resize((160, 160)) for n in range(12)]
    return encoded(small[0], "GIF", save_all=True, append_images=small[1:], duration=100)


def rotated(picture):
    exif = Image.Exif()
    exif[274] = 6
    return encoded(picture.rotate(90), "JPEG", exif=exif)


# Name of the case: (name of the file, content made from the portrait, words of the error or None where it is scored).
PICTURES = {
    "missing": ("gone.jpg", None, "no such file (check the path)"),
    "empty": ("empty.jpg", lambda p: b"", "empty (copy or download it again)"),
    "truncated": ("cut.jpg", lambda p: encoded(p, "JPEG")[:4000], "(copy or download it again)"),
    "truncated_png": ("cut.png", lambda p: encoded(p, "PNG")[:40000], "(copy or download it again)"),
    "not_an_image": ("note.jpg", lambda p: b"only a text\n" * 50, "not an image that can be read (convert"),
    "noise": ("noise.png", lambda p: np.random.default_rng(0).bytes(5000), "not an image that can be read (convert"),
    "one_pixel": ("dot.png", lambda p: encoded(p.resize((1, 1)), "PNG"), "too small to hold a face (use a larger"),
    "enormous": ("huge.png", lambda p: png_of_size(60_000, 60_000), "(shrink it)"),
    "large": ("large.png", lambda p: png_of_size(10_001, 10_000), "megapixels (shrink it)"),
    "animated": ("moving.gif", animation, "contains 12 pictures (score it as a video"),
    "floating_point": ("float.tiff", lambda p: encoded(p.convert("F"), "TIFF"), "floating-point image (convert it"),
    "empty_directory": ("folder/", None, "contains no supported file (supported:"),
    "glob_without_match": ("nothing-*.jpg", None, "matches no file (check the pattern)"),
    "below_a_file": ("plain-file/face.jpg", None, "cannot be read: Not a directory (check its permissions)"),
    "grey": ("grey.png", lambda p: encoded(p.convert("L"), "PNG"), None),
    "sixteen_bit": ("deep.png", lambda p: encoded(deep(p), "PNG"), None),
    "cmyk": ("print.jpg", lambda p: encoded(p.convert("CMYK"), "JPEG"), None),
    "alpha": ("alpha.png", lambda p: encoded(p.convert("RGBA"), "PNG"), None),
    "palette": ("palette.gif", lambda p: encoded(p.convert("P"), "GIF"), None),
    "exif_rotated": ("turned.jpg", rotated, None),
    "spaces": ("my photo of  her.jpg", lambda p: encoded(p, "JPEG"), None),
    "other_letters": ("лицо 顔 وجه é.jpg", lambda p: encoded(p, "JPEG"), None),
    "wrong_ending": ("really-a-jpeg.png", lambda p: encoded(p, "JPEG"), None),
    "brackets": ("photo[1].jpg", lambda p: encoded(p, "JPEG"), None),
}


def deep(picture):
    grey = np.asarray(picture.convert("L")).astype(np.uint16) * 257
    return Image.fromarray(grey)


def tree(folder):
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def place(tmp_path, name, content):
    (tmp_path / "plain-file").write_bytes(b"x")
    path = tmp_path / name
    if name.endswith("/"):
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    return str(path)


def check(capsys, code, bad, good, words, tmp_path, before):
    """What both commands promise."""
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["input"] for record in records] == [bad, str(good)]
    assert records[1]["verdict"] in ("real", "fake", "inconclusive")
    if words is None:
        assert code == SCORED
        assert records[0]["verdict"] in ("real", "fake", "inconclusive")
        assert 0 <= records[0]["p_fake"] <= 1
        assert err == ""
    else:
        assert code == FAILED
        assert set(records[0]) == {"input", "error"}
        assert words in records[0]["error"]
        assert err == f"fakeface: {records[0]['error']}\n"  # one line, and it names the input
        assert bad in err
        assert err.rstrip().endswith(")")  # with a remedy
    assert tree(tmp_path) == before


@pytest.mark.parametrize("case", PICTURES)
def test_classify(case, tmp_path, portrait, tiny_bundle, capsys):
    name, make, words = PICTURES[case]
    with Image.open(portrait) as picture:
        bad = place(tmp_path, name, make(picture.convert("RGB")) if make else None)
    before = tree(tmp_path)
    code = main(["classify", bad, str(portrait), "--format", "jsonl", "--model", str(tiny_bundle)])
    check(capsys, code, bad, portrait, words, tmp_path, before)


def sound():
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\0\1" * 8000)
    return buffer.getvalue()


def video_bytes(tmp_path, face_picture, ending, **settings):
    path = tmp_path / f"made{ending}"
    write_clip(path, face_picture, **settings)
    data = path.read_bytes()
    path.unlink()
    return data


CLIPS = {
    "missing": ("gone.mp4", None, "no such file (check the path)"),
    "empty": ("empty.mp4", lambda t, p: b"", "empty (copy or download it again)"),
    "truncated": ("cut.mp4", lambda t, p: video_bytes(t, p, ".mp4", code="mp4v")[:3000], "("),
    "not_a_video": ("note.mp4", lambda t, p: b"only a text\n" * 50, "not a video (name the video itself)"),
    "playlist": ("list.mp4", lambda t, p: b"#EXTM3U\n/etc/passwd\n", "a playlist, not a video (name"),
    "noise": ("noise.mkv", lambda t, p: np.random.default_rng(0).bytes(5000), "("),
    "still": ("still.mp4", lambda t, p: encoded(Image.fromarray(p), "PNG"), "(use fakeface classify)"),
    "sound_only": ("sound.avi", lambda t, p: sound(), "("),
    "zero_frames": ("none.avi", lambda t, p: video_bytes(t, p, ".avi", frames=0), "("),
    "tiny": ("tiny.avi", lambda t, p: video_bytes(t, p, ".avi", size=(8, 8)), "too small"),
    "empty_directory": ("folder/", None, "contains no supported file (supported:"),
    "glob_without_match": ("nothing-*.mp4", None, "matches no file (check the pattern)"),
    "below_a_file": ("plain-file/clip.mp4", None, "("),
    "grey": ("grey.avi", lambda t, p: video_bytes(t, p, ".avi", grey=True), None),
    "animated": ("moving.gif", lambda t, p: animation(Image.fromarray(p[:256, 96:352])), None),
    "spaces": ("my clip of  her.avi", lambda t, p: video_bytes(t, p, ".avi"), None),
    "other_letters": ("видео 顔 é.mp4", lambda t, p: video_bytes(t, p, ".mp4", code="mp4v"), None),
    "wrong_ending": ("really-an-avi.mp4", lambda t, p: video_bytes(t, p, ".avi"), None),
    "numbered": ("frame%03d.avi", lambda t, p: video_bytes(t, p, ".avi"), None),
}


@pytest.mark.parametrize("case", CLIPS)
def test_score(case, tmp_path, clip, face_picture, tiny_bundle, capfd):
    name, make, words = CLIPS[case]
    bad = place(tmp_path, name, make(tmp_path, face_picture) if make else None)
    before = tree(tmp_path)
    code = main(["score", bad, str(clip), "--format", "jsonl", "--frames", "6", "--model", str(tiny_bundle)])
    check(capfd, code, bad, clip, words, tmp_path, before)


def change_byte(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)


def other_version(bundle):
    document = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(document | {"format_version": 99}))


MODELS = {
    "unknown": (shutil.rmtree, "(bundle.json is missing); name a bundle directory, or one of the bundled models: "),
    "no_weights": (lambda b: (b / "weights.safetensors").unlink(), "get it again"),
    "changed_weights": (lambda b: change_byte(b, "weights.safetensors"), "SHA-256 differs); get the bundle again"),
    "changed_settings": (
        lambda b: (b / "bundle.json").write_text((b / "bundle.json").read_text().replace("0.7", "0.8")),
        "SHA-256 differs); get the bundle again",
    ),
    "other_version": (
        other_version,
        "bundle format 99, but this release reads 1; install the release it was made with",
    ),
    "not_json": (lambda b: (b / "bundle.json").write_bytes(b"\xff{"), "get it again"),
}


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("command", ["classify", "score"])
def test_models_that_cannot_be_used(command, case, tmp_path, portrait, clip, tiny_bundle, capsys):
    change, words = MODELS[case]
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    change(bundle)
    before = tree(tmp_path)
    good = str(portrait if command == "classify" else clip)
    output = tmp_path / "results.json"
    code = main([command, good, "--model", str(bundle), "--format", "json", "--output", str(output)])
    out, err = capsys.readouterr()
    assert code == REFUSED
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"fakeface: {bundle}: ")
    assert words in err
    assert tree(tmp_path) == before


def refused(capsys, *words):
    """A call that is refused with one line before anything is done."""
    code = main([*map(str, words)])
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (REFUSED, "", 1)
    assert err.startswith("fakeface: ")
    return err


@pytest.mark.parametrize("way", ["name", "link", "hard_link", "detour"])
@pytest.mark.parametrize("option", ["--output", "--frame-table", "--save"])
def test_an_input_is_never_overwritten(option, way, tmp_path, clip, portrait, tiny_bundle, capsys):
    command, good = ("classify", portrait) if option == "--output" else ("score", clip)
    data = good.read_bytes()
    for name in ("a", "b"):
        (tmp_path / f"{name}{good.suffix}").write_bytes(data)
    first, second = tmp_path / f"a{good.suffix}", tmp_path / f"b{good.suffix}"
    alias = {
        "name": first,
        "detour": tmp_path / ".." / tmp_path.name / first.name,
        "link": tmp_path / f"link{good.suffix}",
        "hard_link": tmp_path / f"hard{good.suffix}",
    }[way]
    if way == "link":
        alias.symlink_to(first)
    elif way == "hard_link":
        alias.hardlink_to(first)
    before = tree(tmp_path)
    # --save names a file for one input only.
    inputs = [first] if option == "--save" else [second, first]
    err = refused(capsys, command, *inputs, option, alias, "--model", tiny_bundle)
    assert f"{option} {alias}: is the input itself; name another file" in err
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("classify", "--save {0} --output {0}"),
        ("score", "--frame-table {0} --output {0}"),
        ("score", "--frame-table {0} --save {0}"),
        ("classify", "--save {1} --output {1}"),
    ],
)
def test_results_never_overwrite_one_another(command, options, tmp_path, clip, portrait, tiny_bundle, capsys):
    ending = ".png" if command == "classify" else ".avi"
    options = options.format(tmp_path / f"o{ending}", tmp_path / "folder")
    good = portrait if command == "classify" else clip
    assert "is also the file of --" in refused(capsys, command, good, "--model", tiny_bundle, *options.split())
    assert tree(tmp_path) == {}


def test_a_saved_picture_keeps_clear_of_the_results(tmp_path, portrait, tiny_bundle, capsys):
    results = tmp_path / "portrait-scored.png"
    words = ["classify", portrait, "--save", tmp_path, "--output", results, "--format", "json", "--model", tiny_bundle]
    assert main([*map(str, words)]) == SCORED
    assert json.loads(results.read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["portrait-scored-2.png", "portrait-scored.png"]


@pytest.mark.parametrize("option", ["--output", "--frame-table", "--save"])
def test_targets_that_are_no_files(option, tmp_path, clip, tiny_bundle, capsys):
    ending = ".csv" if option == "--frame-table" else ".avi"
    fifo = tmp_path / f"fifo{ending}"
    os.mkfifo(fifo)
    for target in (tmp_path / ("x" * 300 + ending), fifo):
        code = main(["score", str(clip), "--frames", "2", option, str(target), "--model", str(tiny_bundle)])
        err = capsys.readouterr().err
        # What is wrong with a picture to save is known when it is written: that input has failed.
        assert code in (REFUSED, 4)
        assert err.count("\n") == 1
        assert "cannot be written" in err
    assert [path.is_fifo() for path in tmp_path.iterdir()] == [True]


def test_long_names(tmp_path, portrait, tiny_bundle, capsys):
    (tmp_path / "in").mkdir()
    names = ["n" * 245 + ending for ending in ("1.png", "2.png")]
    for name in names:
        shutil.copy(portrait, tmp_path / "in" / name)
    output = tmp_path / ("o" * 245 + ".json")
    words = ["classify", tmp_path / "in", "--save", tmp_path / "out", "--output", output, "--model", tiny_bundle]
    assert main([*map(str, words)]) == SCORED
    assert capsys.readouterr().err == ""
    assert output.stat().st_size
    assert len(list((tmp_path / "out").iterdir())) == len(names)  # though they begin alike
    assert main(["classify", "x" * 300, "--model", str(tiny_bundle)]) == 4
    assert capsys.readouterr().err.count("\n") == 1


# Root may do anything, so this process gives that right up.
WITHOUT_ROOT = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"] if os.geteuid() == 0 else []
needs_setpriv = pytest.mark.skipif(bool(WITHOUT_ROOT) and not shutil.which("setpriv"), reason="root without setpriv")


def unprivileged(*words):
    command = [*WITHOUT_ROOT, Path(sys.executable).with_name("fakeface"), *words]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, check=False)


@needs_setpriv
def test_directories_without_permission(tmp_path, portrait, tiny_bundle):
    inside, closed = tmp_path / "in", tmp_path / "in" / "closed"
    closed.mkdir(parents=True)
    shutil.copy(portrait, closed / "a.png")
    shutil.copy(portrait, inside / "b.png")
    closed.chmod(0)
    try:
        for option in ("--output", "--save"):
            done = unprivileged("classify", inside / "b.png", option, closed / "r.png", "--model", tiny_bundle)
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (REFUSED, "", 1), done.stderr
            assert "closed/r.png: cannot be written: Permission denied" in done.stderr
        done = unprivileged("classify", inside, "--format", "jsonl", "--model", tiny_bundle)
        assert done.returncode == FAILED, done.stderr
        assert done.stderr == f"fakeface: {closed}: cannot be read: Permission denied (check its permissions)\n"
        good, bad = map(json.loads, done.stdout.splitlines())
        assert good["input"] == str(inside / "b.png")
        assert bad["input"] == str(closed)
    finally:
        closed.chmod(0o700)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", "-"], "-: a video cannot come from standard input (save it to a file first)"),
        (["classify", ""], "'': is not a file name (check that the shell variable is set)"),
        (["score", ""], "'': is not a file name (check that the shell variable is set)"),
    ],
)
def test_names_that_stand_for_nothing(words, message, tiny_bundle, capsys):
    assert main([*words, "--model", str(tiny_bundle)]) == 4
    assert capsys.readouterr().err == f"fakeface: {message}\n"


def test_a_picture_on_standard_input_is_not_overwritten(tmp_path, portrait, tiny_bundle):
    picture = tmp_path / "a.png"
    shutil.copy(portrait, picture)
    with picture.open("rb") as file:
        command = [Path(sys.executable).with_name("fakeface"), "classify", "-", "--output", picture]
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (REFUSED, "")
    assert done.stderr == f"fakeface: --output {picture}: is the input itself; name another file\n"
    assert picture.read_bytes() == portrait.read_bytes()
