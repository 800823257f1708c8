"""Token streams, and a tokenizer that is trained once for all tests."""

import itertools

import pytest
import torch

from polargrad.language.data import Tokens, train_tokenizer, write_shard


@pytest.fixture
def stream(tmp_path):
    """``stream(n, cuts)``: the tokens 0 … n − 1 in shards that end at the cuts."""

    def make(n, cuts=()):
        borders = [0, *cuts, n]
        return Tokens(
            [
                write_shard(tmp_path / f"{index}.bin", torch.arange(start, stop))
                for index, (start, stop) in enumerate(itertools.pairwise(borders))
            ]
        )

    return make


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE of 300 tokens."""
    return train_tokenizer(
        [f"the sum of {n} and {n} is {2 * n}\n" for n in range(500)], vocabulary=300
    )
