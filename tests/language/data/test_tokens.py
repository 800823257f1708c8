"""A stream of shards reads like one tensor, wherever the files end."""

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polargrad.language.data import Tokens, write_shard


@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    numbers=st.lists(st.integers(0, 30), min_size=4, max_size=4),
)
def test_a_part_of_a_stream_is_that_slice(tmp_path_factory, sizes, numbers):
    folder = tmp_path_factory.mktemp("shards")
    tokens = torch.arange(sum(sizes))
    shards = [
        write_shard(folder / f"{index}.bin", part)
        for index, part in enumerate(torch.split(tokens, sizes))
    ]
    start, stop = sorted(min(number, len(tokens)) for number in numbers[:2])
    first, last = sorted(min(number, stop - start) for number in numbers[2:])
    part = Tokens(shards).part(start, stop)
    expected = tokens[start:stop]
    assert len(part) == len(expected)
    assert torch.equal(part.read(first, last - first), expected[first:last])
    again = part.part(first, last)
    assert torch.equal(again.read(0, last - first), expected[first:last])


def test_what_a_part_does_not_have_is_refused(stream):
    part = stream(20, [10]).part(5, 15)
    for start, count in ((0, 11), (-1, 1), (11, 0)):
        with pytest.raises(ValueError, match=f"within 10 tokens, got {start} and {count}"):
            part.read(start, count)
    with pytest.raises(ValueError, match="within 10 tokens, got 5 and 11"):
        part.part(5, 11)
    with pytest.raises(ValueError, match="within 20 tokens, got 3 and 21"):
        Tokens(part.shards, 3, 21)


def test_a_stream_can_be_sent_to_a_worker(stream):
    tokens = stream(20, [10]).part(5, 15)
    sent = pickle.loads(pickle.dumps(tokens))
    assert sent == tokens
    assert sent.read(0, 10).tolist() == [*range(5, 15)]
