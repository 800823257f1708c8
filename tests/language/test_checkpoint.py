"""A checkpoint is plain data, is whole, and belongs to its run."""

import pickle

import pytest
import torch

from polargrad.errors import RunFolderError
from polargrad.language.checkpoint import load_checkpoint, restore, save_checkpoint
from polargrad.language.optimizers import build_schedule

IDENTITY = {"optimizer": "adamw", "lr": 0.1, "corpus": "abc"}


def parts(width=4):
    model = torch.nn.Linear(width, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return model, optimizer, build_schedule(optimizer, 10)


def take_a_step(model, optimizer, schedule):
    model(torch.ones(4)).sum().backward()
    optimizer.step()
    schedule.step()


@pytest.fixture
def saved(tmp_path):
    """A checkpoint after one step, and the model it is of."""
    model, optimizer, schedule = parts()
    take_a_step(model, optimizer, schedule)
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(
        path, step=1, identity=IDENTITY, model=model, optimizer=optimizer, schedule=schedule
    )
    return path, model


def test_restoring_gives_everything_back(saved):
    path, model = saved
    random_state = torch.get_rng_state()
    torch.rand(5)
    other, optimizer, schedule = parts()
    contents = load_checkpoint(path, IDENTITY)
    restore(contents, other, optimizer, schedule)
    assert contents["step"] == 1
    assert torch.equal(other.weight, model.weight)
    assert optimizer.state[other.weight]["step"] == 1
    assert schedule.last_epoch == 1
    assert torch.equal(torch.get_rng_state(), random_state)


def test_torch_reads_it_as_plain_data(saved):
    path, model = saved
    contents = torch.load(path, weights_only=True)
    assert torch.equal(contents["model"]["weight"], model.weight)


def test_a_checkpoint_of_another_run_is_refused_by_name(saved):
    path, _ = saved
    with pytest.raises(RunFolderError, match=r"another run \(lr: 0.1 there, 0.2 here\)"):
        load_checkpoint(path, {**IDENTITY, "lr": 0.2})
    with pytest.raises(RunFolderError, match=r"corpus: 'abc' there, 'abd' here"):
        load_checkpoint(path, {**IDENTITY, "corpus": "abd"})


def test_a_checkpoint_of_another_model_is_refused(saved):
    path, _ = saved
    with pytest.raises(RunFolderError, match=r"does not fit this model.*size mismatch"):
        restore(load_checkpoint(path, IDENTITY), *parts(width=5))


def cut_off(content):
    return content[: len(content) // 2]


DAMAGES = {
    "cut off": cut_off,
    "empty": lambda content: b"",
    "text": lambda content: b"not a checkpoint\n" * 100,
    "pickle": lambda content: pickle.dumps({"step": 1}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused(saved, damage):
    path, _ = saved
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(RunFolderError, match="is not a checkpoint, or damaged"):
        load_checkpoint(path, IDENTITY)


def test_every_changed_bit_of_a_parameter_is_noticed(saved):
    path, model = saved
    content = path.read_bytes()
    parameter = model.weight.detach().numpy().tobytes()
    at = content.index(parameter)
    for bit in range(8):
        flipped = bytes([content[at + 5] ^ (1 << bit)])
        path.write_bytes(content[: at + 5] + flipped + content[at + 6 :])
        with pytest.raises(RunFolderError, match="is damaged"):
            load_checkpoint(path, IDENTITY)


class Surprise:
    """An object of a class that torch.load must not build."""


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"format": 1, "surprise": Surprise()}, "more than tensors and plain data"),
        ({"weight": torch.ones(2)}, "not a checkpoint of `polargrad train`"),
        ({"format": 0}, "not a checkpoint of `polargrad train`"),
        ([1, 2], "not a checkpoint of `polargrad train`"),
    ],
    ids=["class", "other program", "other format", "list"],
)
def test_what_another_program_saved_is_refused(tmp_path, contents, message):
    torch.save(contents, tmp_path / "checkpoint.pt")
    with pytest.raises(RunFolderError, match=message):
        load_checkpoint(tmp_path / "checkpoint.pt", IDENTITY)
