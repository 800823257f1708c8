"""What a run reads: bytes, tokens of a trained or a given tokenizer, shards; what is refused."""

import pytest
import torch

from polargrad.errors import DataError
from polargrad.language import open_input
from polargrad.language.data import ByteTokenizer, train_tokenizer, write_shard
from polargrad.language.input import token_kind
from polargrad.language.models import TokenPreset
from polargrad.language.presets import preset_of

SIZES = {"layers": 1, "width": 16, "feed_forward": 32, "heads": 2, "context": 16, "batch": 4}


def with_vocabulary(vocabulary):
    return TokenPreset("tokens", **SIZES, vocabulary=vocabulary)


def content(tokens):
    return tokens.read(0, len(tokens)).tolist()


@pytest.mark.parametrize("text", ["plain", "grüße, 世界", "\r\n\t\x7f", "\U0001f600" * 3])
def test_bytes_are_the_utf8_of_the_text(text):
    tokenizer = ByteTokenizer()
    assert tokenizer.encode(text) == list(text.encode())
    assert [list(part) for part in tokenizer.encode_many([text, "", text])] == [
        list(text.encode()),
        [],
        list(text.encode()),
    ]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_model_of_bytes_reads_bytes(small, tmp_path):
    text = "grüße, 世界\n" * 100
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    data = open_input(small, tmp_path / "a.txt")
    assert data.unit == "byte"
    assert bytes(content(data.data.train) + content(data.data.validation)) == text.encode()
    assert len(data.data.validation) == round(len(text.encode()) / 10)


def test_the_standard_library_as_bytes():
    """Of every Python the same files: about 9 MB, a tenth of it held out by file."""
    data = open_input(preset_of("tiny"))
    sizes = len(data.data.train), len(data.data.validation)
    assert 5e6 < sum(sizes) < 2e7
    assert 0.05 < sizes[1] / sum(sizes) < 0.15
    assert data.data.split == "by a hash of the document's name"
    assert "documents: " in data.description


def test_another_model_reads_a_bpe_of_its_size(text):
    data = open_input(with_vocabulary(300), text)
    assert data.unit == "token"
    assert 257 < data.tokenizer.size <= 300
    decoded = data.tokenizer.decode(content(data.data.train))
    assert decoded.startswith("<|endoftext|>0 + 0 = 0\n1 + 1 = 2\n")


def test_a_given_tokenizer_is_taken(text, tmp_path):
    tokenizer = train_tokenizer([text.read_text()], vocabulary=270)
    tokenizer.backend.save(str(tmp_path / "tokenizer.json"))
    data = open_input(with_vocabulary(300), text, tokenizer=tmp_path)
    assert data.tokenizer.digest == tokenizer.digest


def test_shards_are_read_as_they_are(small, tmp_path):
    write_shard(tmp_path / "a.bin", torch.arange(1000) % 256)
    data = open_input(small, tmp_path / "a.bin")
    assert (data.tokenizer, data.unit) == (None, "token")
    assert content(data.data.train) == [n % 256 for n in range(900)]


def test_parts_of_a_step_are_parts_of_the_big_batch(small, text):
    data = open_input(small, text)
    whole = data.batches(small, 0, parts=4)
    assert whole.batch == 4 * small.batch
    parts = [data.batches(small, 0, part=part, parts=4)[3] for part in range(4)]
    assert all(len(part) == small.batch for part in parts)
    big = type(small)(**{**small.as_data(), "batch": 4 * small.batch})
    assert torch.equal(torch.cat(parts), data.batches(big, 0)[3])


@pytest.mark.parametrize(
    ("vocabulary", "options", "error", "message"),
    [
        (200, {}, DataError, "the tokenizer has 256 tokens, the model's vocabulary 200: give a"),
        (258, {"tokenizer": "."}, DataError, "the tokenizer has 270 tokens, the model's voc"),
        (300, {"field": "body"}, ValueError, r"field is of records .* alone, got 'body'"),
        (300, {"tokenizer": "missing"}, DataError, "where there is no tokenizer.json"),
    ],
)
def test_what_does_not_fit_is_refused(text, tmp_path, vocabulary, options, error, message):
    tokenizer = train_tokenizer([text.read_text()], vocabulary=270)
    tokenizer.backend.save(str(tmp_path / "tokenizer.json"))
    if "tokenizer" in options:
        options = {"tokenizer": tmp_path / options["tokenizer"]}
    with pytest.raises(error, match=message):
        open_input(with_vocabulary(vocabulary), text, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 100}, "limit must be None for token shards, got 100"),
        ({"field": "body"}, "field is of records"),
        ({"tokenizer": "t.json"}, "tokenizer must be None for token shards, .* got 't.json'"),
    ],
)
def test_no_option_is_in_vain_for_shards(small, tmp_path, options, message):
    write_shard(tmp_path / "a.bin", torch.arange(1000) % 256)
    with pytest.raises(ValueError, match=message):
        open_input(small, tmp_path, **options)


def test_a_shard_beyond_the_vocabulary_is_refused(small, tmp_path):
    write_shard(tmp_path / "a.bin", torch.arange(1000) % 257)
    with pytest.raises(DataError, match="has the token 256, the model's vocabulary has 256"):
        open_input(small, tmp_path)


def test_what_the_tokens_will_be_is_said_without_reading(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"no shard at all")
    assert token_kind(preset_of("tiny"), tmp_path) == "token shards"
    assert token_kind(preset_of("qwen2.5")) == "a byte-level BPE of 65,536 tokens"
    assert token_kind(preset_of("tiny"), "hf:a/b") == "bytes"
