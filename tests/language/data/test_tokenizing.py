"""Texts become shards once: whole, in order, apart from what is held out; or not at all."""

import json
import os
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from polargrad.errors import DataError
from polargrad.language.corpus import is_held_out
from polargrad.language.data import TextFiles, open_data, source_of, tokenized
from polargrad.language.data import tokenizing as tokenizing_module


@pytest.fixture
def pages(tmp_path):
    """200 documents in a JSONL file, of which three are empty."""
    lines = [f"page {n}: the sum of {n} and {n} is {2 * n}\n" * (n % 7 + 1) for n in range(200)]
    for empty in (3, 50, 199):
        lines[empty] = ""
    path = tmp_path / "pages.jsonl"
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return source_of(path), lines


@pytest.fixture
def tokens_of(pages, tokenizer, tmp_path):
    """``tokens_of(...)``: the tokens of the pages, through a cache of the test's own."""

    def make(source=pages[0], **changes):
        given = {"vocabulary": 300, "cache": tmp_path / "cache"}
        return tokenized(source, tokenizer, **{**given, **changes})

    return make


def text_of(tokenizer, tokens):
    return tokenizer.decode(tokens.read(0, len(tokens)).tolist())


def entries(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache/tokens").iterdir() if path.is_dir())


def test_documents_come_in_order_each_on_its_side(pages, tokens_of, tokenizer):
    data = tokens_of()
    _, lines = pages
    sides = {True: "", False: ""}
    for number, line in enumerate(lines, start=1):
        if line:
            sides[is_held_out(f"pages.jsonl:{number}")] += "<|endoftext|>" + line
    assert text_of(tokenizer, data.train) == sides[False]
    assert text_of(tokenizer, data.validation) == sides[True]
    assert sides[True]
    assert (data.documents, data.empty) == (197, 3)
    assert data.split == "by a hash of the document's name"


def test_the_end_of_a_single_document_is_held_out(tokens_of, tokenizer, tmp_path):
    text = "".join(f"{n} and {n}\n" for n in range(20_000))  # many pieces
    (tmp_path / "a.txt").write_text(text)
    data = tokens_of(source_of(tmp_path / "a.txt"), held_out=0.2)
    whole = text_of(tokenizer, data.train) + text_of(tokenizer, data.validation)
    assert whole == "<|endoftext|>" + text
    total = len(data.train) + len(data.validation)
    assert len(data.validation) == round(0.2 * total)
    assert data.split == "the last tokens"


def test_of_few_documents_the_last_tokens_are_held_out(tokens_of, tokenizer, tmp_path):
    (tmp_path / "few").mkdir()
    for name in "ab":
        (tmp_path / "few" / name).write_text("the sum of it\n" * 50)
    data = tokens_of(source_of(tmp_path / "few"))
    assert data.split == "the last tokens"
    assert len(data.validation) == round(0.1 * (len(data.train) + len(data.validation)))


def test_the_size_of_shards_changes_no_token(tokens_of, tokenizer):
    whole, cut = tokens_of(), tokens_of(tokens_a_shard=100)
    assert len(cut.train.shards) > 20
    for side in ("train", "validation"):
        assert text_of(tokenizer, getattr(cut, side)) == text_of(tokenizer, getattr(whole, side))


def test_the_second_time_the_shards_are_found(tokens_of, tmp_path, monkeypatch):
    first = tokens_of()
    monkeypatch.setattr(tokenizing_module._Job, "write", None)
    again = tokens_of()
    assert again == first
    assert len(entries(tmp_path)) == 1


def test_another_text_share_or_limit_is_another_entry(pages, tokens_of, tmp_path):
    tokens_of()
    tokens_of(held_out=0.2)
    tokens_of(limit=1000)
    path = pages[0].root / pages[0].paths[0]
    path.write_text(path.read_text() + '{"text": "more of it"}\n')
    assert tokens_of().documents == 198
    assert len(entries(tmp_path)) == 4


def damage_index(entry):
    (entry / "index.json").write_text("{}")


def damage_token(entry):
    with (entry / "train_000000.bin").open("rb+") as file:
        file.seek(1024 + 500)
        file.write(b"\1")


def damage_end(entry):
    os.truncate(entry / "train_000000.bin", 2000)


def damage_file(entry):
    (entry / "validation_000000.bin").unlink()


@pytest.mark.parametrize("damage", [damage_index, damage_token, damage_end, damage_file])
def test_a_damaged_entry_is_made_anew(tokens_of, tokenizer, tmp_path, damage):
    first = tokens_of()
    text = text_of(tokenizer, first.train)
    (name,) = entries(tmp_path)
    damage(tmp_path / "cache/tokens" / name)
    assert tokens_of() == first
    assert text_of(tokenizer, first.train) == text


def test_the_piece_that_reaches_the_limit_is_the_last(pages, tokens_of, tokenizer):
    whole = tokens_of()
    some = tokens_of(limit=1000)
    total = len(some.train) + len(some.validation)
    assert 1000 <= total < 1000 + max(len(tokenizer.encode(line)) + 1 for line in pages[1])
    assert text_of(tokenizer, whole.train).startswith(text_of(tokenizer, some.train))


def test_progress_is_told(tokens_of):
    told = []
    data = tokens_of(on_progress=told.append)
    assert told[-1] == len(data.train) + len(data.validation)


def test_a_record_that_is_broken_leaves_nothing(pages, tokens_of, tmp_path):
    path = pages[0].root / pages[0].paths[0]
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(DataError, match=r"pages\.jsonl', line 201, is not JSON"):
        tokens_of()
    assert not entries(tmp_path)


def test_a_disk_that_is_full_leaves_nothing(tokens_of, tmp_path):
    """The system itself refuses to let a file grow beyond 8 kB."""
    (tmp_path / "a.txt").write_text("the sum of 1 and 1\n" * 10_000)
    source = source_of(tmp_path / "a.txt")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(
            DataError, match=r"cannot write tokens to .*cache/tokens.* of at most 380000 that are"
        ):
            tokens_of(source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not entries(tmp_path)
    assert tokens_of(source).documents == 1


KILLED = """
import sys
from pathlib import Path
from polargrad.language.data import load_tokenizer, source_of, tokenized

folder = Path(sys.argv[1])
wait = lambda tokens: (print(tokens, flush=True), sys.stdin.read())
tokenized(source_of(folder / "a.txt"), load_tokenizer(folder / "tokenizer.json"), vocabulary=300,
          cache=folder / "cache", on_progress=wait)
"""


def test_a_killed_run_is_started_again_cleanly(tokens_of, tokenizer, tmp_path):
    """Another process waits while it is alive, and does its work when it is killed."""
    (tmp_path / "a.txt").write_text("the sum of 1 and 1\n" * 10_000)
    tokenizer.backend.save(str(tmp_path / "tokenizer.json"))
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert int(process.stdout.readline()) > 10_000
        (left,) = entries(tmp_path)
        assert left.endswith(".part")
        process.send_signal(signal.SIGKILL)
    data = tokens_of(source_of(tmp_path / "a.txt"))
    assert entries(tmp_path) == [left.removeprefix(".").removesuffix(".part")]
    assert text_of(tokenizer, data.train).startswith("<|endoftext|>the sum of 1 and 1\n")


def test_two_that_want_the_same_do_the_work_once(tokens_of):
    """The second waits for the first, which waits to be told to go on, and then finds its work."""
    begun, go_on, worked = Event(), Event(), []

    def wait(tokens):
        begun.set()
        assert go_on.wait(60)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(tokens_of, on_progress=wait)
        assert begun.wait(60)
        second = threads.submit(tokens_of, on_progress=worked.append)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.2)
        go_on.set()
        assert first.result() == second.result()
    assert not worked


def test_texts_that_are_too_short_or_empty(tokens_of, tmp_path):
    with pytest.raises(DataError, match=r"pages\.jsonl', which is too short: \d+ tokens are for"):
        tokens_of(shortest=10**6)
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n' * 2)
    with pytest.raises(DataError, match=r"which has no text \(2 empty documents\)"):
        tokens_of(source_of(tmp_path / "empty.jsonl"))


def test_a_tokenizer_that_does_not_fit_writes_nothing(tokens_of, tmp_path):
    with pytest.raises(DataError, match="tokenizer has 300 tokens, the model's vocabulary 256"):
        tokens_of(vocabulary=256)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": 0.0}, "held_out must be between 0 and 1, got 0.0"),
        ({"held_out": 1.0}, "held_out must be between 0 and 1, got 1.0"),
        ({"limit": 0}, "limit must be at least 1, got 0"),
    ],
)
def test_arguments_that_are_not_allowed(tokens_of, changes, message):
    with pytest.raises(ValueError, match=message):
        tokens_of(**changes)


def test_one_entry_opens_text_and_shards(pages, tmp_path, tokenizer):
    cache = tmp_path / "cache"
    data, trained = open_data(pages[0], vocabulary=280, cache=cache)
    assert trained.size == 280
    path = pages[0].root / pages[0].paths[0]
    assert open_data(str(path), vocabulary=280, cache=cache)[0] == data
    given, same = open_data(path, vocabulary=1000, tokenizer=tokenizer, cache=cache)
    assert same is tokenizer
    (folder,) = {shard.path.parent for shard in given.train.shards}
    shards, none = open_data(folder, vocabulary=300)
    assert none is None
    assert (
        shards.train.read(0, len(shards.train)).tolist()
        == given.train.read(0, len(given.train)).tolist()
    )
    assert len(shards.validation) == len(given.validation)
    with pytest.raises(ValueError, match="limit must be None for token shards, got 5"):
        open_data(folder, vocabulary=300, limit=5)


def test_the_embedded_corpus_is_opened_through_its_files(tmp_path, monkeypatch):
    library = TextFiles.at(tmp_path_with(tmp_path / "lib", 30))
    monkeypatch.setattr(TextFiles, "standard_library", classmethod(lambda cls: library))
    data, tokenizer = open_data(None, vocabulary=280, cache=tmp_path / "cache")
    assert data.documents == 30
    assert "def function_7(" in text_of(tokenizer, data.train) + text_of(tokenizer, data.validation)


def tmp_path_with(folder, files):
    folder.mkdir()
    for n in range(files):
        (folder / f"module{n}.py").write_text(f"def function_{n}(value):\n    return value\n" * 5)
    return folder
