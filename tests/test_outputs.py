"""Files that are written completely or not at all: which targets are refused, and what stays when writing fails."""

import os
import stat

import pytest

from fakeface_jax.atomic_files import make_directory, whole_file
from fakeface_jax.errors import OpenError


def write(path, content=b"new", **settings):
    with whole_file(path, **settings) as temporary:
        temporary.write_bytes(content)


def test_a_file_appears_at_the_end(tmp_path):
    target = tmp_path / "clip.MP4"
    with whole_file(target, extensions={".mp4"}) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".mp4"  # encoders go by it
        assert temporary.read_bytes() == b""
        assert not target.exists()
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_older_file_stays_after_any_exception(tmp_path, error):
    target = tmp_path / "table.csv"
    target.write_bytes(b"old")

    def fail():
        with whole_file(target) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("table.csv", b"old")]


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "real.csv"
    link, dangling = tmp_path / "link.csv", tmp_path / "dangling.csv"
    target.write_bytes(b"old")
    link.symlink_to(target)
    dangling.symlink_to(os.path.join("there", "made.csv"))  # noqa: PTH118
    write(link)
    write(dangling)
    assert link.is_symlink()
    assert dangling.is_symlink()
    assert target.read_bytes() == b"new"
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["made.csv", "real.csv"]


def test_a_link_to_nowhere(tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "gone" / "x")
    with pytest.raises(OpenError, match=f"link: cannot be written: there is no directory {tmp_path}/gone"):
        write(link)
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    with pytest.raises(OpenError, match="cannot be written: Too many levels of symbolic links"):
        write(circle)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circle", "link"]


def test_what_is_no_file_is_not_replaced(tmp_path):
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to("/dev/null")
    for path in (fifo, link, "/dev/null"):
        with pytest.raises(OpenError, match="cannot be written: it is not a regular file"):
            write(path)
    with pytest.raises(OpenError, match="cannot be written: it is a directory"):
        write(tmp_path)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "link"]


def test_long_names(tmp_path):
    for name in ("a" * 245 + ".json", "é" * 120 + ".json", "b." + "x" * 253):
        write(tmp_path / name)
        assert (tmp_path / name).read_bytes() == b"new"
    with pytest.raises(OpenError, match="cannot be written: File name too long"):
        write(tmp_path / ("c" * 300))
    assert len(list(tmp_path.iterdir())) == 3


def test_missing_directories_and_endings(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "gone" / "x.png", tmp_path / "file" / "x.png"):
        with pytest.raises(OpenError, match="cannot be written"):
            write(path)
    with pytest.raises(OpenError, match=r"cannot write a file with '.bmp' \(name it .jpg or .png\)"):
        write(tmp_path / "x.bmp", extensions={".png", ".jpg"})
    with pytest.raises(OpenError, match="no ending"):
        write(tmp_path / "x", extensions={".png"})


def test_make_directory(tmp_path):
    assert make_directory(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(OpenError, match="directory cannot be created"):
            make_directory(path)
