"""Which files of a folder are read, which of the standard library, and which are held out."""

import pytest

from polargrad.errors import DataError
from polargrad.language import corpus
from polargrad.language.corpus import is_held_out, is_library_source, walk

LEFT_OUT = [
    "test/support.py",
    "unittest/test/case.py",
    "lib/tests/a.py",
    "idlelib/a.py",
    "x/idle_test/a.py",
    "site-packages/torch/a.py",
    "dist-packages/a.py",
    "encodings/utf_8.py",
    "pydoc_data/topics.py",
    "lib2to3/a.py",
    "ensurepip/a.py",
    "__pycache__/a.py",
    "_sysconfigdata_linux.py",
    "config-3.11-x86_64-linux-gnu/python-config.py",
    "LICENSE.txt",
]


@pytest.mark.parametrize("path", LEFT_OUT)
def test_what_is_left_out_of_the_standard_library(path):
    assert not is_library_source(path)


@pytest.mark.parametrize("path", ["runpy.py", "testing.py", "json/encoder.py"])
def test_what_is_taken_of_it(path):
    assert is_library_source(path)


def test_files_are_walked_in_the_order_of_their_paths(tmp_path):
    names = ["b.txt", "a/2.txt", "a/10.txt", "c/d/e.txt"]
    for name in [*names, ".hidden", ".git/config", "a/.hidden"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    assert walk(tmp_path) == sorted(names)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    """Permissions do not hold for root, so the system is made to refuse."""

    def refuse(root, onerror):
        onerror(PermissionError(13, "Permission denied", str(root)))
        return iter([])

    monkeypatch.setattr(corpus.os, "walk", refuse)
    with pytest.raises(DataError, match=r"cannot read the folder .*: Permission denied"):
        walk(tmp_path)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_about_the_share_is_held_out_by_the_path_alone(share):
    held = [is_held_out(f"chapter {n}.txt", share) for n in range(2000)]
    assert sum(held) / 2000 == pytest.approx(share, abs=0.03)
    assert held[:100] == [is_held_out(f"chapter {n}.txt", share) for n in range(100)]
