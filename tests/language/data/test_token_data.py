"""The user's shards: which are held out, and which are refused."""

import pytest
import torch

from polargrad.errors import DataError
from polargrad.language.data import open_shards, write_shard


def contents(tokens):
    return tokens.read(0, len(tokens)).tolist()


def test_shards_named_val_are_held_out(tmp_path):
    for name, start in (("train_000002", 20), ("train_000001", 10), ("val_000000", 90)):
        write_shard(tmp_path / f"fineweb_{name}.bin", torch.arange(start, start + 10))
    (tmp_path / "readme.txt").touch()
    data = open_shards(tmp_path, vocabulary=100)
    assert contents(data.train) == [*range(10, 30)]
    assert contents(data.validation) == [*range(90, 100)]
    assert data.split == "the files named val"


@pytest.mark.parametrize("name", ["a", "val"])
def test_of_other_shards_the_last_tokens_are_held_out(tmp_path, name):
    for index in range(2):
        write_shard(tmp_path / f"{name}{index}.bin", torch.arange(50 * index, 50 * index + 50))
    data = open_shards(tmp_path, vocabulary=100, held_out=0.3)
    assert contents(data.train) == [*range(70)]
    assert contents(data.validation) == [*range(70, 100)]
    assert data.split == "the last tokens"
    alone = open_shards(tmp_path / f"{name}0.bin", vocabulary=100, held_out=0.3)
    assert contents(alone.train) == [*range(35)]


def test_the_digest_is_that_of_tokens_and_split(tmp_path):
    def digest(tokens, **changes):
        write_shard(tmp_path / "a.bin", tokens)
        return open_shards(tmp_path, vocabulary=100, **changes).digest

    first = digest(torch.arange(50))
    assert digest(torch.arange(50)) == first
    assert digest(torch.arange(1, 51)) != first
    assert digest(torch.arange(50), held_out=0.2) != first


def test_a_token_that_the_vocabulary_does_not_have(tmp_path):
    write_shard(tmp_path / "a.bin", torch.arange(100))
    write_shard(tmp_path / "b.bin", torch.tensor([5, 300, 5]))
    open_shards(tmp_path, vocabulary=301)
    with pytest.raises(DataError, match=r"b\.bin' has the token 300, the model's .* has 300"):
        open_shards(tmp_path, vocabulary=300)


def test_what_has_no_tokens(tmp_path):
    with pytest.raises(DataError, match=r"a folder without \.bin files"):
        open_shards(tmp_path, vocabulary=300)
    write_shard(tmp_path / "a.bin", torch.arange(0))
    with pytest.raises(DataError, match="short: 0 tokens are for training and 0 for validation"):
        open_shards(tmp_path, vocabulary=300)
    write_shard(tmp_path / "a.bin", torch.arange(100))
    with pytest.raises(DataError, match="90 tokens are for training and 10 for validation, at lea"):
        open_shards(tmp_path, vocabulary=300, shortest=11)
    with pytest.raises(ValueError, match="held_out must be between 0 and 1, got 1"):
        open_shards(tmp_path, vocabulary=300, held_out=1)
