"""Training runs in tests: what they leave, whether two are the same, how one is killed."""

import pytest
import torch

from polargrad.language import train
from polargrad.language.checkpoint import Checkpoints
from polargrad.language.data import TrainingBatches
from polargrad.records import read_records

# What differs between two equal runs.
MEASURED = {"seconds", "optimizer_seconds", "tokens_per_second", "peak_memory"}


def records(out, name="records.jsonl"):
    """The records of a run without what differs between two equal runs."""
    found = read_records(out / name)
    return [{k: v for k, v in record.items() if k not in MEASURED} for record in found]


def last_checkpoint(out):
    """The contents of the last checkpoint."""
    checkpoints = Checkpoints(out / "checkpoints", keep=1)
    return torch.load(checkpoints.path(checkpoints.steps[-1]), weights_only=True)


def flat(data, name=""):
    """All leaves of nested dicts and lists by their path."""
    if isinstance(data, dict):
        return {k: v for key in data for k, v in flat(data[key], f"{name}/{key}").items()}
    if isinstance(data, list | tuple):
        return {k: v for n, item in enumerate(data) for k, v in flat(item, f"{name}/{n}").items()}
    return {name: data}


def assert_same_run(one, other):
    """Parameters, optimizer state, schedule and records are equal to the bit."""
    assert records(one) == records(other)
    states = [flat(last_checkpoint(out)) for out in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        equal = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
        assert equal(value, states[1][name]), name


def contents(folder):
    """All files below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class Killed(BaseException):
    """The end of a process, as far as the run can tell."""


def run_until_killed(settings, monkeypatch, step):
    """Start a run that ends without notice before its step ``step + 1``."""
    read = TrainingBatches.__getitem__

    def read_or_die(batches, at):
        if at == step:
            raise Killed
        return read(batches, at)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingBatches, "__getitem__", read_or_die)
        with pytest.raises(Killed):
            train(settings)
