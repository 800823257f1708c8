"""Memory is bounded by the piece and the batch, not by the data: peaks of a process of its own."""

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
    touched = sum(batches[step].numel() for step in range(int(sys.argv[4])))
    for batch in evaluation_batches(data.validation, batch=32, context=CONTEXT, windows=64):
        touched += batch.numel()
    return touched


task, folder, data = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
tokenizer = load_tokenizer(folder)
warm = folder / "warm.txt"
warm.write_text("the sum of 1 and 1 is 2\\n" * 20_000)
use(warm, folder / "cache")
before = peak()
if task == "use":
    assert use(data, folder / "cache") > 0
else:
    content = data.read_bytes()
print(peak() - before)
"""


@pytest.fixture
def growth(tokenizer, tmp_path):
    """``growth(task, data, steps)``: by how many MB a process grows beyond its use of a page."""
    tokenizer.backend.save(str(tmp_path / "tokenizer.json"))

    def measure(task, data, steps):
        command = [sys.executable, "-c", MEASURE, task, str(tmp_path), str(data), str(steps)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

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


# In MB: what the tokenizer's store of words and the allocators grow by. A text of 10 MB takes more
# than 300 when it is tokenized at once.
TEXT_BOUND, SHARDS_BOUND = 40, 24


def test_the_measure_sees_a_file_that_is_read_at_once(growth, tmp_path):
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(40_000_000)
    assert growth("read", tmp_path / "a.txt", 1) > 30


def test_text_and_shards(growth, tmp_path):
    assert growth("use", write_text(tmp_path / "a.txt", 10), 200) < TEXT_BOUND
    assert growth("use", write_shards(tmp_path / "shards", 50), 1000) < SHARDS_BOUND


@pytest.mark.slow
def test_large_text_and_shards(growth, tmp_path):
    """The same bounds for 30 times the text and 4 times the shards."""
    assert growth("use", write_text(tmp_path / "a.txt", 300), 1000) < TEXT_BOUND
    assert growth("use", write_shards(tmp_path / "shards", 200), 4000) < SHARDS_BOUND
