"""Memory is bounded by the piece and the batch, not by the data: peaks of a process of its own."""

import os
import subprocess
import sys
from array import array

import pytest

from polargrad.language.data import ShardWriter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system tells no peak")

MEASURE = """
import sys
from pathlib import Path

from polargrad.language.data import TrainingBatches, load_tokenizer, open_data
from polargrad.language.data import evaluation_batches

VOCABULARY, CONTEXT = 300, 256


def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1000 for line in file if line.startswith("VmHWM"))


def use(path, cache):
    data, _ = open_data(path, vocabulary=VOCABULARY, tokenizer=tokenizer, cache=cache)
    batches = TrainingBatches(data.train, batch=32, context=CONTEXT, seed=0)
    touched = sum(batches[step].numel() for step in range(int(steps)))
    for batch in evaluation_batches(data.validation, batch=32, context=CONTEXT, windows=64):
        touched += batch.numel()
    return touched


folder, steps, *paths = sys.argv[1:]
folder = Path(folder)
tokenizer = load_tokenizer(folder)
warm = folder / "warm.txt"
warm.write_text("the sum of 1 and 1 is 2\\n" * 5000)
assert use(warm, folder / "cache") > 0
before = peak()
for path in paths:
    assert use(Path(path), folder / "cache") > 0
after = peak()
with (folder / "zeros").open("wb") as file:
    file.truncate(100_000_000)
content = (folder / "zeros").read_bytes()
print(after - before, peak() - after)
"""


@pytest.fixture
def growth(tokenizer, tmp_path):
    """``growth(steps, *paths)``: by how many MB a process grows that trains on these data.

    One thread of the tokenizer's own, on any machine: each keeps 6 MB.
    """
    tokenizer.backend.save(str(tmp_path / "tokenizer.json"))

    def measure(steps, *paths):
        command = [sys.executable, "-c", MEASURE, str(tmp_path), str(steps), *map(str, paths)]
        alone = {**os.environ, "RAYON_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=alone)
        grown, by_a_file = map(float, done.stdout.split())
        assert grown + by_a_file > 80  # the measure sees a file of 100 MB that is read at once
        return grown

    return measure


def write_text(path, megabytes):
    """Lines that differ, some of them long."""
    number = 0
    with path.open("w") as file:
        while file.tell() < 1e6 * megabytes:
            file.writelines(
                f"the sum of {n} and {n * n % 9973} is {n + n * n % 9973}" + "\n" * (n % 97 > 0)
                for n in range(number, number + 10_000)
            )
            number += 10_000
    return path


def write_shards(folder, megabytes):
    """Shards of 20 MB."""
    folder.mkdir()
    writer = ShardWriter(folder, "train", tokens_a_shard=10_000_000)
    block = array("H", [n * n % 300 for n in range(100_000)])
    for _ in range(5 * megabytes):
        writer.write(block)
    writer.close()
    return folder


# In MB: what the tokenizer's store of words and the allocators grow by. A text of 5 MB takes more
# than 100 when it is tokenized at once.
BOUND = 40


def test_text_and_shards(growth, tmp_path):
    text = write_text(tmp_path / "a.txt", 5)
    assert growth(200, text, write_shards(tmp_path / "shards", 50)) < BOUND


@pytest.mark.slow
def test_large_text_and_shards(growth, tmp_path):
    """The same bound for 60 times the text and 4 times the shards."""
    text = write_text(tmp_path / "a.txt", 300)
    assert growth(2000, text, write_shards(tmp_path / "shards", 200)) < BOUND
