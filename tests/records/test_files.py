"""A file is replaced whole or not at all."""

import os
import stat

import pytest

from polargrad.records import files, write_atomically


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_and_fail(file):
        file.write(b"new, but not")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, write_and_fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_sees_the_old_file_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    seen = []

    def write(file):
        file.write(b"new")
        file.flush()
        seen.append(path.read_text())

    write_atomically(path, write)
    assert seen == ["old"]
    assert path.read_text() == "new"


def test_the_file_is_as_open_as_any_other(tmp_path):
    (tmp_path / "ordinary").write_text("")
    write_atomically(tmp_path / "ours", lambda file: file.write(b""))
    modes = [stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("ordinary", "ours")]
    assert modes[0] == modes[1]


def test_the_new_name_is_on_disk_when_it_returns(tmp_path, monkeypatch):
    """The file before it has its name, the folder afterwards: nothing is lost with the power."""
    path, synced = tmp_path / "a.txt", []
    sync = os.fsync

    def look_and_sync(handle):
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        synced.append((kind, path.exists()))
        sync(handle)

    monkeypatch.setattr(files.os, "fsync", look_and_sync)
    write_atomically(path, lambda file: file.write(b"whole"))
    assert synced == [("file", False), ("folder", True)]
