"""Which files a corpus holds, how it is split, and what it refuses."""

import os
from pathlib import Path

import pytest
import torch

from polargrad.errors import DataError
from polargrad.language import corpus as corpus_module
from polargrad.language import load_corpus


def content(tokens):
    return bytes(tokens.tolist())


def write(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A standard library of our own: ``library(files)`` makes Python's own path lead to it."""

    def make(files):
        monkeypatch.setattr(
            corpus_module.sysconfig, "get_path", lambda name: str(write(tmp_path / "lib", files))
        )

    return make


def test_the_standard_library_of_this_python():
    corpus = load_corpus(None)
    size = len(corpus.train) + len(corpus.validation)
    assert 5e6 < size < 2e7
    assert 0.05 < len(corpus.validation) / size < 0.15
    assert corpus.train.dtype == torch.uint8
    assert b"def run_module(" in content(corpus.train) + content(corpus.validation)  # runpy.py


def test_the_standard_library_is_the_same_twice():
    first, second = load_corpus(None), load_corpus(None)
    assert first.digest == second.digest
    assert torch.equal(first.train, second.train)
    assert torch.equal(first.validation, second.validation)


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
    ".hidden.py",
    "LICENSE.txt",
]


def test_what_is_left_out_of_the_standard_library(library):
    kept = {f"module{n}.py": f"kept {n}\n" for n in range(40)} | {"testing.py": "kept too\n"}
    library(kept | dict.fromkeys(LEFT_OUT, "left out\n"))
    corpus = load_corpus(None)
    assert corpus.files == len(kept)
    text = content(corpus.train) + content(corpus.validation)
    assert b"left out" not in text
    assert sorted(text.splitlines(True)) == sorted(line.encode() for line in kept.values())


def test_files_are_taken_in_the_order_of_their_paths(library):
    """Order, split and digest depend on paths and contents, not on how the disk lists them."""
    names = [f"{letter}/{n:02}.py" for letter in "cab" for n in range(20)]
    library({name: f"{name}\n" for name in names})
    corpus = load_corpus(None)
    for side in (corpus.train, corpus.validation):
        lines = content(side).decode().splitlines()
        assert lines == sorted(lines)


def test_a_python_without_source_is_named(library):
    library({"a.txt": "x"})
    with pytest.raises(DataError, match=r"standard library of this Python.* 0 bytes of training"):
        load_corpus(None)


def test_of_a_file_the_last_tenth_is_held_out(tmp_path):
    text = "grüße, 世界\n" * 100
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    corpus = load_corpus(tmp_path / "a.txt")
    assert content(corpus.train) + content(corpus.validation) == text.encode()
    assert len(corpus.validation) == round(len(text.encode()) / 10)


def test_of_a_folder_whole_files_are_held_out(tmp_path):
    files = {f"chapter {n}.txt": f"{n:03}\n" * 25 for n in range(200)}
    corpus = load_corpus(write(tmp_path / "book", files))
    train, validation = content(corpus.train).decode(), content(corpus.validation).decode()
    assert corpus.split == "by a hash of the path"
    assert len(train) + len(validation) == 200 * 100
    assert set(train.splitlines()).isdisjoint(validation.splitlines())


def test_a_file_stays_on_its_side_when_others_come(tmp_path):
    """What was never trained on must not become training text when the folder grows."""
    root = write(tmp_path / "book", {f"{n}.txt": f"{n:03}\n" * 25 for n in range(100)})
    before = set(content(load_corpus(root).validation).splitlines())
    write(root, {f"{n}.txt": f"{n:03}\n" * 25 for n in range(100, 200)})
    after = set(content(load_corpus(root).validation).splitlines())
    assert before < after


@pytest.mark.parametrize("sizes", [[5000], [4000, 4000], [100, 100, 100000, 7]], ids=str)
def test_a_lopsided_folder_is_split_at_nine_tenths(tmp_path, sizes):
    """With few files a split by file may leave nearly nothing on a side, whatever the names."""
    for attempt in range(6):
        root = tmp_path / f"book{attempt}"
        write(root, {f"{attempt}-{n}.txt": "a" * size for n, size in enumerate(sizes)})
        corpus = load_corpus(root, shortest=50)
        share = len(corpus.validation) / sum(sizes)
        assert 0.02 <= share <= 0.5
        assert min(len(corpus.train), len(corpus.validation)) >= 50


def test_what_is_not_text_or_hidden_is_left_out_of_a_folder(tmp_path):
    root = write(
        tmp_path / "mixed",
        {
            "a.txt": "text\n" * 100,
            "image.png": b"\x89PNG\r\n\x1a\n\xff",
            "zeros.bin": b"text with \0 in it",
            "empty.txt": "",
            ".hidden": "secret",
            ".git/config": "secret",
        },
    )
    (root / "dangling").symlink_to(root / "nothing")
    corpus = load_corpus(root)
    assert corpus.skipped == 2
    assert content(corpus.train) + content(corpus.validation) == b"text\n" * 100


def test_the_digest_is_of_paths_and_contents(tmp_path):
    base = {"a.txt": "ab" * 50, "b.txt": "c" * 50}
    others = [
        {"a.txt": "ab" * 50, "b.txt": "d" * 50},
        {"a.txt": "ab" * 50, "c.txt": "c" * 50},
        {"a.txt": "ab" * 50 + "c", "b.txt": "c" * 49},
    ]
    digests = [
        load_corpus(write(tmp_path / str(n), files)).digest
        for n, files in enumerate([base, base, *others])
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


REFUSED = {
    "missing": (lambda path: None, "does not exist"),
    "empty file": (lambda path: path.write_bytes(b""), "is empty"),
    "NUL": (lambda path: path.write_bytes(b"abc\0" * 100), "not UTF-8 text"),
    "latin-1": (lambda path: path.write_bytes("grün".encode("latin-1") * 99), "not UTF-8 text"),
    "short file": (lambda path: path.write_text("a" * 200), "too short: of its 200 bytes 180"),
    "empty folder": (lambda path: path.mkdir(), "a folder without a text file"),
    "folder of binaries": (
        lambda path: write(path, {"a": b"\xff", "b": b"\0"}),
        r"without a text file \(2 that are not UTF-8",
    ),
    "folder of hidden files": (lambda path: write(path, {".a": "x" * 999}), "without a text file"),
    "folder of empty files": (lambda path: write(path, {"a": "", "b": ""}), "is empty"),
    "short folder": (lambda path: write(path, {"a": "a" * 100, "b": "b" * 100}), "too short"),
    "pipe": (os.mkfifo, "neither a file nor a folder"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refuses(tmp_path, kind):
    make, message = REFUSED[kind]
    path = tmp_path / "data"
    make(path)
    with pytest.raises(DataError, match=message) as caught:
        load_corpus(path, shortest=50)
    assert repr(str(path)) in str(caught.value)


def test_names_the_file_that_cannot_be_read(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    write(tmp_path, {"a.txt": "text" * 100})
    monkeypatch.setattr(Path, "read_bytes", refuse)  # permissions do not hold for root
    with pytest.raises(DataError, match=r"cannot read '.*a.txt': Permission denied"):
        load_corpus(tmp_path)
