"""Batches: a pure function of seed and step, windows that hold what they should."""

import torch

from polargrad.language.batches import training_batch, validation_batches

TEXT = torch.randint(256, (5000,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def batch(seed, step, tokens=TEXT, size=4, context=8):
    return training_batch(tokens, batch=size, context=context, seed=seed, step=step)


def test_a_batch_depends_on_seed_and_step_alone():
    first = batch(3, 5)
    torch.rand(7)  # the global generator plays no part
    batch(3, 4)
    assert torch.equal(first, batch(3, 5))
    assert first.shape == (4, 9)
    assert first.dtype == torch.int64


def test_no_two_steps_or_seeds_share_a_batch():
    """Also not seed s at step k + 1 and seed s + 1 at step k."""
    batches = [batch(seed, step) for seed in range(8) for step in range(8)]
    assert len({tuple(b.flatten().tolist()) for b in batches}) == 64


def test_a_batch_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    batch(0, 0)
    assert torch.equal(before, torch.get_rng_state())


def test_every_window_of_the_text_is_drawn_and_none_beyond_it():
    tokens = torch.arange(12, dtype=torch.uint8)
    starts = set()
    for step in range(40):
        windows = batch(0, step, tokens)
        assert bool((windows.diff(dim=1) == 1).all())
        starts |= set(windows[:, 0].tolist())
    assert starts == set(range(12 - 8))  # a window has 9 tokens


def test_the_shortest_text_has_one_window():
    tokens = torch.arange(9, dtype=torch.uint8)
    assert batch(0, 0, tokens).tolist() == [list(range(9))] * 4
    (only,) = validation_batches(tokens, batch=4, context=8, windows=100)
    assert only.tolist() == [list(range(9))]


def test_validation_predicts_no_token_twice_and_reaches_the_end():
    tokens = torch.arange(250, dtype=torch.uint8)
    for windows in (1, 3, 7, 31, 500):
        parts = list(validation_batches(tokens, batch=4, context=8, windows=windows))
        predicted = torch.cat(parts)[:, 1:].flatten()
        assert len(predicted.unique()) == len(predicted) == 8 * min(windows, 31)
        assert all(len(part) == 4 for part in parts[:-1])
    assert predicted.tolist() == list(range(1, 249))
