"""A checkpoint is plain data, is whole, and belongs to its run."""

import errno
import pickle

import pytest
import torch

from polargrad.errors import RunFolderError
from polargrad.language import checkpoint as module
from polargrad.language.checkpoint import (
    Checkpoints,
    DamagedError,
    load_checkpoint,
    restore,
    save_checkpoint,
)
from polargrad.language.schedules import build_schedule, schedule_of

IDENTITY = {"optimizer": "adamw", "lr": 0.1, "corpus": "abc"}


def parts(width=4):
    model = torch.nn.Linear(width, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return model, optimizer, build_schedule(optimizer, schedule_of("linear", 10))


def take_a_step(model, optimizer, schedule):
    model(torch.ones(4)).sum().backward()
    optimizer.step()
    schedule.step()


def state_of(model, optimizer, schedule):
    """What a checkpoint is made of."""
    return {
        "identity": IDENTITY,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "random_states": [{"cpu": torch.get_rng_state()}],
        "ranks": "1",
    }


@pytest.fixture
def saved(tmp_path):
    """A checkpoint after one step, and the model it is of."""
    model, optimizer, schedule = parts()
    take_a_step(model, optimizer, schedule)
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, step=1, **state_of(model, optimizer, schedule))
    return path, model


def test_restoring_gives_everything_back(saved):
    path, model = saved
    random_state = torch.get_rng_state()
    other, optimizer, schedule = parts()
    contents = load_checkpoint(path, IDENTITY)
    restore(contents, other, optimizer, schedule)
    assert contents["step"] == 1
    assert torch.equal(other.weight, model.weight)
    assert optimizer.state[other.weight]["step"] == 1
    assert schedule.last_epoch == 1
    (state,) = contents["random_states"]
    assert torch.equal(state["cpu"], random_state)


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
    with pytest.raises(DamagedError, match="is not a checkpoint, or damaged"):
        load_checkpoint(path, IDENTITY)


def test_every_changed_bit_of_a_parameter_is_noticed(saved):
    path, model = saved
    content = path.read_bytes()
    parameter = model.weight.detach().numpy().tobytes()
    at = content.index(parameter)
    for bit in range(8):
        flipped = bytes([content[at + 5] ^ (1 << bit)])
        path.write_bytes(content[: at + 5] + flipped + content[at + 6 :])
        with pytest.raises(DamagedError, match="is damaged"):
            load_checkpoint(path, IDENTITY)


class Surprise:
    """An object of a class that torch.load must not build."""


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"format": 2, "surprise": Surprise()}, "more than tensors and plain data"),
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


@pytest.fixture
def state():
    """A state to save."""
    built = parts()
    take_a_step(*built)
    return state_of(*built)


def test_the_last_ones_are_kept(tmp_path, state):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert checkpoints.newest(IDENTITY) is None
    for step, expected in ((1, [1]), (2, [1, 2]), (10, [2, 10]), (11, [10, 11])):
        checkpoints.save(step, **state)
        assert checkpoints.steps == expected
        assert checkpoints.newest(IDENTITY)["step"] == step


def test_old_ones_stay_until_the_new_one_is_complete(tmp_path, state, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, **state)
    seen = []
    write = module.write_atomically

    def look_and_write(path, function):
        seen.append(checkpoints.steps)
        write(path, function)
        seen.append(checkpoints.steps)

    monkeypatch.setattr(module, "write_atomically", look_and_write)
    checkpoints.save(2, **state)
    assert seen == [[1], [1, 2]]
    assert checkpoints.steps == [2]


def test_of_damaged_ones_the_one_before_is_taken_and_said(tmp_path, state):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        checkpoints.save(step, **state)
    for step in (2, 3):
        path = checkpoints.path(step)
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="goes on from step 1") as said:
        assert checkpoints.newest(IDENTITY)["step"] == 1
    assert len(said) == 2
    for warning, step in zip(said, (3, 2), strict=True):
        assert str(checkpoints.path(step)) in str(warning.message)


def test_damaged_ones_that_were_passed_over_go_away_in_the_end(tmp_path, state):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(4, **state)
    checkpoints.save(8, **state)
    checkpoints.path(8).write_bytes(b"")
    checkpoints.save(6, **state)
    assert checkpoints.steps == [4, 6]


def test_only_damaged_ones_are_an_error(tmp_path, state):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        checkpoints.save(step, **state)
        checkpoints.path(step).write_bytes(b"")
    with pytest.raises(DamagedError, match=r"step_00000002.pt' is not a checkpoint, or damaged"):
        checkpoints.newest(IDENTITY)


def test_one_of_another_run_is_no_damage(tmp_path, state):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, **state)
    checkpoints.save(2, **{**state, "identity": {"lr": 7}})
    with pytest.raises(RunFolderError, match="another run"):
        checkpoints.newest(IDENTITY)


@pytest.mark.parametrize("after", [0, 1, 3000])
def test_a_full_disk_is_what_is_raised(tmp_path, state, monkeypatch, after):
    """torch's writer of archives says something else, and the file before it is left as it was."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, **state)
    whole = checkpoints.path(1).read_bytes()
    watched = module._Watched

    class Full(watched):
        room = after

        def write(self, content):
            Full.room -= len(bytes(content))
            if Full.room < 0:
                self.error = OSError(errno.ENOSPC, "No space left on device")
                raise self.error
            return super().write(content)

    monkeypatch.setattr(module, "_Watched", Full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        checkpoints.save(2, **state)
    assert raised.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == [checkpoints.path(1).name]
    assert checkpoints.path(1).read_bytes() == whole
