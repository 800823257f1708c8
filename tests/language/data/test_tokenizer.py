"""Tokenizers give every text back to the byte, are the same every time, and fit or are refused."""

import json
import subprocess
import sys

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from polargrad.errors import DataError
from polargrad.language.data import (
    Document,
    TextFiles,
    cached_tokenizer,
    load_tokenizer,
    open_data,
    train_tokenizer,
)
from polargrad.language.data import tokenizer_cache as cache_module
from polargrad.language.data.pieces import pieces_of


@settings(deadline=None)
@given(st.text() | st.text(alphabet="the sum\r\n\t\0<|endoftext|>é🙂"))
def test_every_text_is_given_back(tokenizer, text):
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokens) == text
    assert all(0 < token < tokenizer.size for token in tokens)  # 0 is the separator


def test_a_separator_in_a_text_is_text(tokenizer):
    text = "one<|endoftext|>two"
    assert tokenizer.separator == 0
    assert 0 not in tokenizer.encode(text)
    assert tokenizer.decode([0, *tokenizer.encode(text)]) == "<|endoftext|>" + text


WORDS = [f"def function_{n}(self, value):\n    return value + {n}\n\n" for n in range(300)]


@settings(deadline=None)
@given(
    text=st.lists(
        st.sampled_from(["a", "the", " ", "  ", "\n", "\n\n", "\r\n", "é", "1", "'s"]), min_size=12
    ),
    length=st.integers(16, 40),
)
def test_pieces_have_the_tokens_of_the_whole_text(tokenizer, text, length):
    """Where there is a line end or a space to cut at, which 16 characters of these words have."""
    whole = " ".join(text)
    pieces = [*pieces_of([whole], length=length)]
    assert "".join(pieces) == whole
    assert all(0 < len(piece) <= length for piece in pieces)
    cuts = ["".join(pieces[: index + 1]) for index in range(len(pieces) - 1)]
    clean = all(
        (cut[-1] == "\n" and not whole[len(cut)].isspace())
        or (whole[len(cut)] == " " and not cut[-1].isspace() and not whole[len(cut) + 1].isspace())
        for cut in cuts
    )
    assume(clean)
    tokens = [token for piece in pieces for token in tokenizer.encode(piece)]
    assert tokens == tokenizer.encode(whole)


def test_another_process_trains_the_same_tokenizer():
    code = (
        "from polargrad.language.data import train_tokenizer\n"
        f"words = {WORDS!r}\n"
        "print(train_tokenizer(words, vocabulary=320).digest)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    tokenizer = train_tokenizer(WORDS, vocabulary=320)
    assert tokenizer.size == 320
    assert done.stdout.strip() == tokenizer.digest


@pytest.mark.parametrize("vocabulary", [256, 65537])
def test_vocabularies_that_are_not_allowed(vocabulary):
    with pytest.raises(ValueError, match=f"from 257 to 65536, got {vocabulary}"):
        train_tokenizer(WORDS, vocabulary=vocabulary)


def test_a_tokenizer_of_nothing_is_refused():
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        train_tokenizer([""], vocabulary=300)


def test_a_tokenizer_that_does_not_fit_the_model(tokenizer):
    tokenizer.require_fit(tokenizer.size)
    tokenizer.require_fit(10**6)
    with pytest.raises(DataError, match="tokenizer has 300 tokens, the model's vocabulary 299"):
        tokenizer.require_fit(299)


def save(tokenizer, path, **changes):
    path.write_text(json.dumps(json.loads(tokenizer.backend.to_str()) | changes))
    return path


def test_tokens_that_16_bits_do_not_hold_take_32(tokenizer, tmp_path):
    """Through the cache and back: a token 70000, which the text holds."""
    data = json.loads(tokenizer.backend.to_str())
    far = data["added_tokens"][0] | {"id": 70000, "content": "<far>", "special": False}
    data["model"]["vocab"]["<far>"] = 70000
    path = save(
        tokenizer,
        tmp_path / "t.json",
        model=data["model"],
        added_tokens=[*data["added_tokens"], far],
    )
    large = load_tokenizer(path)
    assert large.size == 70001
    (tmp_path / "a.txt").write_text("the sum <far> of it\n" * 50)
    tokens, _ = open_data(
        tmp_path / "a.txt", vocabulary=70001, tokenizer=large, cache=tmp_path / "cache"
    )
    read = tokens.train.read(0, len(tokens.train)).tolist()
    assert read.count(70000) == 45
    assert large.decode(read).startswith("<|endoftext|>the sum <far> of it\nthe")
    with pytest.raises(DataError, match="has the token 70000, the model's vocabulary has 70000"):
        open_data(tokens.train.shards[0].path, vocabulary=70000)


def test_the_users_tokenizer(tokenizer, tmp_path):
    truncation = {"max_length": 2, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    save(tokenizer, tmp_path / "tokenizer.json", truncation=truncation)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = load_tokenizer(path)
        assert loaded.separator == 0
        assert loaded.encode("the sum of it") == tokenizer.encode("the sum of it")
        assert loaded.digest == tokenizer.digest
    assert load_tokenizer(tmp_path, separator="a").separator == tokenizer.encode("a")[0]
    with pytest.raises(DataError, match="separator is '<end>', which the tokenizer does not have"):
        load_tokenizer(tmp_path, separator="<end>")


def test_what_is_no_tokenizer(tmp_path):
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="which is no tokenizer"):
        load_tokenizer(tmp_path)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(WORDS))
    return TextFiles.at(path)


def trained(monkeypatch):
    """The vocabularies that were trained since."""
    sizes = []

    def count(texts, *, vocabulary):
        sizes.append(vocabulary)
        return train_tokenizer(texts, vocabulary=vocabulary)

    monkeypatch.setattr(cache_module, "train_tokenizer", count)
    return sizes


def test_a_tokenizer_is_trained_once(text, tmp_path, monkeypatch):
    sizes = trained(monkeypatch)
    first, again = (cached_tokenizer(text, vocabulary=300, cache=tmp_path / "c") for _ in range(2))
    assert sizes == [300]
    assert first.digest == again.digest
    cached_tokenizer(text, vocabulary=310, cache=tmp_path / "c")
    assert sizes == [300, 310]
    (text.root / text.paths[0]).write_text("".join(WORDS) + "more")
    cached_tokenizer(text, vocabulary=300, cache=tmp_path / "c")
    assert sizes == [300, 310, 300]


@pytest.mark.parametrize("damage", ["cut", "changed", "unconfirmed"])
def test_a_damaged_tokenizer_is_made_anew(text, tmp_path, monkeypatch, damage):
    first = cached_tokenizer(text, vocabulary=300, cache=tmp_path / "c")
    (file,) = (tmp_path / "c" / "tokenizers").glob("*.json")
    content = file.read_text()
    if damage == "cut":
        file.write_text(content[:-100])
    elif damage == "changed":
        file.write_text(content.replace("<|endoftext|>", "<|endoftexts|>"))
    else:
        file.with_suffix(".sha256").unlink()
    sizes = trained(monkeypatch)
    assert cached_tokenizer(text, vocabulary=300, cache=tmp_path / "c").digest == first.digest
    assert sizes == [300]
    assert file.read_text() == content


class Pages:
    """Documents of which one in two, by its name, is held out."""

    name, size, divisible, skipped_files = "pages", None, True, 0

    def digest(self):
        return "pages"

    def documents(self):
        for number in range(40):
            yield Document.of(str(number), f"word{number}word " * 20)


def test_held_out_documents_are_not_trained_on(tmp_path, monkeypatch):
    seen = []

    def spy(texts, *, vocabulary):
        seen.extend(texts)
        return train_tokenizer(seen, vocabulary=vocabulary)

    monkeypatch.setattr(cache_module, "train_tokenizer", spy)
    cached_tokenizer(Pages(), vocabulary=300, held_out=0.5, cache=tmp_path)
    kept = [f"word{n}word " * 20 for n in range(40) if not cache_module.is_held_out(str(n), 0.5)]
    assert seen == kept
    assert 10 < len(kept) < 30
