"""A run takes the memory of its model and its batches, not of its data: peaks of own processes."""

import os
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from polargrad.language.data import ShardWriter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system tells no peak")

SUPPORT = Path(__file__).parents[1] / "support"
# In MB: what the allocators grow by; less than half of the smallest data here, whose bytes alone
# would take more, and a fiftieth of the largest.
BOUND = 24
# glibc otherwise keeps blocks of some megabytes where they were, as many as it likes: up to 24 MB
# of growth, and in another run none, of the same data.
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**17)}

MEASURE = """
import sys
from pathlib import Path

import torch
from light_language import LightPreset

from polargrad.language import TrainSettings, train
from polargrad.language.stopwatch import peak_memory

# Figures are drawn of records, not of data, and take their time.
training = sys.modules[train.__module__]
training.draw_losses = lambda *places, **named: None


def run(data, out):
    train(
        TrainSettings(
            preset=LightPreset(context=256, batch=16),
            optimizer="adamw",
            steps=30,
            eval_every=10,
            checkpoint_every=10,
            data=data,
            out=folder / out,
            cache=folder / "cache",
        )
    )


folder, *data = map(Path, sys.argv[1:])
(folder / "warm.txt").write_text("the sum of 1 and 1 is 2\\n" * 200_000)
run(folder / "warm.txt", "warm")
run(folder / "warm.txt", "warm again")
cpu = torch.device("cpu")
for path in data:
    before = peak_memory(cpu)
    run(path, f"run of {path.name}")
    print((peak_memory(cpu) - before) / 1e6)
before = peak_memory(cpu)
held = bytearray(100_000_000)
print((peak_memory(cpu) - before) / 1e6)
"""


def growths(folder, *data):
    """By how many MB a process grows with each of these data, and with a block of 100 MB."""
    paths = os.pathsep.join(filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder), *map(str, data)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths} | GIVEN_BACK,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    return [float(line) for line in done.stdout.splitlines()]


def write_text(path, megabytes):
    """Lines that differ within a block of a megabyte, one of them without an end."""
    block = "".join(f"the sum of {n} and {n * n} is {n + n * n}\n" for n in range(24_000))
    block += "words without a line end " * 4000
    with path.open("w") as file:
        while file.tell() < 1e6 * megabytes:
            file.write(block)
    return path


def write_shards(folder, megabytes):
    """Shards of 20 MB."""
    folder.mkdir()
    writer = ShardWriter(folder, "train", tokens_a_shard=10_000_000)
    block = array("H", [n * n % 256 for n in range(500_000)])
    for _ in range(megabytes):
        writer.write(block)
    writer.close()
    return folder


def check(folder, text, shards):
    """Data of so many megabytes each are trained on in bounded memory."""
    data = write_text(folder / "a.txt", text), write_shards(folder / "shards", shards)
    *grown, held = growths(folder, *data)
    assert held > 50  # the measure would see data that are held
    print("growth in MB:", grown)
    assert max(grown) < BOUND, grown


def test_text_and_shards_of_50_megabytes(tmp_path):
    check(tmp_path, text=50, shards=50)


@pytest.mark.slow
def test_a_gigabyte_of_text_and_200_megabytes_of_shards(tmp_path):
    """The same bound."""
    check(tmp_path, text=1000, shards=200)
