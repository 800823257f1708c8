"""Which windows are seen when: once an epoch, by whichever rank, from whichever step."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from polargrad.errors import DataError
from polargrad.language.data import Tokens, TrainingBatches, evaluation_batches, write_shard


@pytest.fixture
def batches(stream):
    """``batches(...)``: 23 windows of 4 tokens, and two tokens that fill none."""
    tokens = stream(95, [40, 41])

    def make(batch=5, seed=0, part=0, parts=1):
        return TrainingBatches(tokens, batch=batch, context=4, seed=seed, part=part, parts=parts)

    return make


def test_every_window_of_an_epoch_exactly_once(batches):
    """Three epochs of 23 windows in batches of 5, whose ends fall within batches."""
    data = batches()
    rows = torch.cat([data[step] for step in range(14)])[: 3 * 23]
    orders = []
    for epoch in torch.split(rows, 23):
        assert sorted(epoch[:, 0].tolist()) == [4 * window for window in range(23)]
        orders.append(epoch[:, 0].tolist())
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert torch.equal(rows, rows[:, :1] + torch.arange(5))  # each a window of the text


def test_an_epoch_predicts_every_token_but_the_first_once(stream):
    data = TrainingBatches(stream(93, [50]), batch=23, context=4, seed=3)
    assert sorted(data[0][:, 1:].flatten().tolist()) == [*range(1, 93)]


@settings(deadline=None)
@given(parts=st.sampled_from([1, 2, 3, 4, 6, 12]), step=st.integers(0, 40), seed=st.integers(0, 9))
def test_parts_have_the_rows_of_the_whole(tmp_path_factory, parts, step, seed):
    folder = tmp_path_factory.mktemp("shard")
    tokens = Tokens([write_shard(folder / "a.bin", torch.arange(95))])
    whole = TrainingBatches(tokens, batch=12, context=4, seed=seed)
    seen = [
        TrainingBatches(tokens, batch=12, context=4, seed=seed, part=part, parts=parts)[step]
        for part in range(parts)
    ]
    assert torch.equal(torch.cat(seen), whole[step])


def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(batches):
    whole = [batches()[step] for step in range(12)]
    again = batches()
    assert all(torch.equal(again[step], whole[step]) for step in range(7, 12))


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_that_read_ahead_change_nothing(batches, workers):
    data = batches()
    loader = DataLoader(data, batch_size=None, sampler=range(3, 9), num_workers=workers)
    for step, batch in zip(range(3, 9), loader, strict=True):
        assert torch.equal(batch, data[step])


def test_seeds_have_orders_of_their_own(batches):
    first, second = batches(seed=0), batches(seed=1)
    assert not any(torch.equal(first[step], second[step]) for step in range(4))
    # Neither the order of another epoch: seed + epoch would give it.
    assert not torch.equal(batches(batch=23, seed=0)[1], batches(batch=23, seed=1)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"batch": 5, "parts": 2}, "parts must divide batch=5, the rows of a step, got 2"),
        ({"batch": 4, "parts": 2, "part": 2}, "part must be from 0 to 1, got 2"),
        ({"parts": 0}, "parts must be at least 1, got 0"),
    ],
)
def test_numbers_that_are_not_allowed(batches, changes, message):
    with pytest.raises(ValueError, match=message):
        batches(**changes)


def test_a_negative_step_is_refused(batches):
    with pytest.raises(IndexError, match="step must be at least 0, got -1"):
        batches()[-1]


def test_a_text_shorter_than_a_window_is_refused(stream):
    with pytest.raises(DataError, match="training tokens are 8, a window of context=8 needs 9"):
        TrainingBatches(stream(8), batch=1, context=8, seed=0)
    with pytest.raises(DataError, match="validation tokens are 8, a window of context=8 needs 9"):
        next(evaluation_batches(stream(8), batch=1, context=8, windows=1))
    with pytest.raises(ValueError, match="windows must be at least 1, got 0"):
        next(evaluation_batches(stream(9), batch=1, context=8, windows=0))


@pytest.mark.parametrize(("windows", "count"), [(1, 1), (7, 7), (23, 23), (1000, 23)])
def test_evaluation_windows_do_not_overlap_and_span_the_text(stream, windows, count):
    found = [*evaluation_batches(stream(95, [40]), batch=3, context=4, windows=windows)]
    assert [len(batch) for batch in found[:-1]] == [3] * (len(found) - 1)
    rows = torch.cat(found)
    assert rows.shape == (count, 5)
    predicted = rows[:, 1:].flatten().tolist()
    assert len(set(predicted)) == len(predicted)
    assert predicted == sorted(predicted)
    assert predicted[-1] >= 92 * (1 - 1 / count)
