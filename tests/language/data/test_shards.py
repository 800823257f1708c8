"""Token shards: what is written is read again, and what is damaged is refused by name."""

import resource
import struct
from array import array

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polargrad.errors import DataError
from polargrad.language.data import ShardWriter, open_shard, write_shard
from polargrad.language.data import shards as shards_module


@given(st.sampled_from([300, 65536, 65537, 2**32]), st.data())
def test_a_shard_gives_its_tokens_back(tmp_path_factory, vocabulary, data):
    tokens = data.draw(st.lists(st.integers(0, vocabulary - 1)))
    path = tmp_path_factory.mktemp("shard") / "a.bin"
    written = write_shard(path, torch.tensor(tokens, dtype=torch.int64), vocabulary=vocabulary)
    shard = open_shard(path)
    assert shard == written
    assert shard.scan()[1] == max(tokens, default=-1)
    assert shard.count == len(tokens)
    start = data.draw(st.integers(0, len(tokens)))
    count = data.draw(st.integers(0, len(tokens) - start))
    read = shard.read(start, count)
    assert read.dtype == torch.int64
    assert read.tolist() == tokens[start : start + count]


def test_the_format_is_that_of_modded_nanogpt(tmp_path):
    """The bytes are what its loader expects: 256 int32, then uint16."""
    write_shard(tmp_path / "a.bin", torch.tensor([1, 258, 65535]))
    content = (tmp_path / "a.bin").read_bytes()
    assert struct.unpack("<256i", content[:1024]) == (20240520, 1, 3, *[0] * 253)
    assert content[1024:] == b"\x01\x00\x02\x01\xff\xff"


def test_the_wide_format_is_that_of_llm_c(tmp_path):
    write_shard(tmp_path / "a.bin", torch.tensor([1, 65537]), vocabulary=128_256)
    content = (tmp_path / "a.bin").read_bytes()
    assert struct.unpack("<256i", content[:1024]) == (20240801, 7, 2, *[0] * 253)
    assert content[1024:] == b"\1\0\0\0\1\0\1\0"


def test_a_scan_sees_every_token(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "BLOCK", 16)
    tokens = torch.arange(100)
    for place in (0, 7, 8, 99):
        changed = tokens.clone()
        changed[place] = 60000
        whole, other = (write_shard(tmp_path / "a.bin", each).scan() for each in (tokens, changed))
        assert whole[1] == 99
        assert other[1] == 60000
        assert whole[0] != other[0]
    assert write_shard(tmp_path / "a.bin", tokens[:0]).scan()[1] == -1


@pytest.mark.parametrize("size", [1, 3, 10, 11, 100])
def test_a_writer_cuts_the_same_tokens_into_shards(tmp_path, size):
    writer = ShardWriter(tmp_path, "part", tokens_a_shard=size)
    for start in range(0, 100, 7):
        writer.write(array("H", range(start, min(start + 7, 100))))
    assert writer.tokens == 100
    shards = [open_shard(shard.path) for shard in writer.close()]
    assert shards == writer.shards
    assert [shard.count for shard in shards[:-1]] == [size] * (len(shards) - 1)
    assert torch.cat([shard.read(0, shard.count) for shard in shards]).tolist() == [*range(100)]
    assert [shard.path.name for shard in shards] == sorted(p.name for p in tmp_path.iterdir())


DAMAGES = {
    "it has 4 bytes": lambda content: content[:4],
    "it begins with 7": lambda content: struct.pack("<i", 7) + content[4:],
    "of version 2": lambda content: content[:4] + struct.pack("<i", 2) + content[8:],
    "says 50 tokens, 98 bytes follow, which is 49 tokens$": lambda content: content[:-2],
    "99 bytes follow, which is 49 tokens and a part of one": lambda content: content[:-1],
    "says 50 tokens, 102 bytes follow": lambda content: content + b"ab",
    "says -1 tokens": lambda content: content[:8] + struct.pack("<i", -1) + content[12:],
}


@pytest.mark.parametrize("message", DAMAGES)
def test_a_damaged_shard_is_refused(tmp_path, message):
    path = tmp_path / "broken.bin"
    write_shard(path, torch.arange(50))
    path.write_bytes(DAMAGES[message](path.read_bytes()))
    with pytest.raises(DataError, match=f"broken.bin.*{message}"):
        open_shard(path)


def test_a_missing_shard_is_named(tmp_path):
    with pytest.raises(DataError, match=r"missing\.bin.*No such file"):
        open_shard(tmp_path / "missing.bin")


def test_a_shard_that_is_cut_off_in_use_is_an_error(tmp_path):
    shard = write_shard(tmp_path / "a.bin", torch.arange(50))
    with shard.path.open("rb+") as file:
        file.truncate(1024 + 60)
    assert shard.read(0, 30).tolist() == [*range(30)]
    with pytest.raises(DataError, match="cut off since it was opened: it had 50 tokens"):
        shard.read(0, 31)


def test_a_read_beyond_the_end_is_refused(tmp_path):
    shard = write_shard(tmp_path / "a.bin", torch.arange(5))
    for start, count in ((0, 6), (5, 1), (-1, 2), (2, -1)):
        with pytest.raises(ValueError, match=f"within 5 tokens, got {start} and {count}"):
            shard.read(start, count)


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (torch.tensor([1.0]), TypeError, "must be integers, got torch.float32"),
        (torch.tensor([True]), TypeError, "must be integers, got torch.bool"),
        (torch.tensor([[1]]), ValueError, r"one dimension, got \(1, 1\)"),
        (torch.tensor([0, 65536]), ValueError, "from 0 to 65535, got 0 to 65536"),
        (torch.tensor([-1, 5]), ValueError, "from 0 to 65535, got -1 to 5"),
    ],
)
def test_tokens_that_are_none_are_not_written(tmp_path, tokens, error, message):
    with pytest.raises(error, match=message):
        write_shard(tmp_path / "a.bin", tokens)
    assert not [*tmp_path.iterdir()]


def test_a_writer_refuses_numbers_of_another_width(tmp_path):
    with pytest.raises(TypeError, match="an array of type 'H', got 'I'"):
        ShardWriter(tmp_path, "a").write(array("I", [1]))


def test_a_writer_refuses_shards_without_tokens(tmp_path):
    with pytest.raises(ValueError, match="tokens_a_shard must be from 1 to 2147483647, got 0"):
        ShardWriter(tmp_path, "a", tokens_a_shard=0)


def test_a_disk_that_is_full_leaves_the_old_shard(tmp_path):
    """The system itself refuses to let a file grow beyond 4 kB."""
    old = write_shard(tmp_path / "a.bin", torch.arange(10))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DataError, match=f"cannot write 21024 bytes to {str(tmp_path)!r}: File"):
            write_shard(tmp_path / "a.bin", torch.zeros(10_000, dtype=torch.int64))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    assert open_shard(tmp_path / "a.bin") == old
