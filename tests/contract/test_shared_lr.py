"""One lr in every group, and the ratios beside it: for loops that know of one learning rate."""

import io

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import polargrad as pg

LR = 0.125


def randn(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parameters():
    return [nn.Parameter(randn(s, i)) for i, s in enumerate(((4, 3), (4, 3), (3, 5), (3,)))]


def as_groups(params):
    """The common lr, twice it, an eighth of it; and AdamW with its own."""
    return [
        {"params": params[:1]},
        {"params": params[1:2], "lr": 2 * LR},
        {"params": params[2:3], "lr": LR / 8},
        {"params": params[3:]},
    ]


def make(params, **options):
    options = {"vector_lr": 0.5, "momentum": 0.5, "method": "svd", **options}
    return pg.PolarGrad(as_groups(params), LR, **options)


def run(optimizer, params, steps=3, scheduler=None, write=None):
    for step in range(steps):
        if write is not None:
            write(optimizer, step)
        for i, p in enumerate(params):
            p.grad = randn(p.shape, 10 * step + i)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def effective(optimizer):
    return [float(g["lr"]) * g["lr_scale"] for g in optimizer.param_groups]


def same(first, second):
    return all(map(torch.equal, first, second))


def test_every_group_shows_the_same_lr_and_keeps_its_own():
    optimizer = make(parameters(), shared_lr=True)
    assert [g["lr"] for g in optimizer.param_groups] == [LR] * 4
    assert effective(optimizer) == [LR, 2 * LR, LR / 8, 0.5]


@pytest.mark.parametrize(
    "options",
    [{}, {"weight_decay": 0.25, "vector_weight_decay": 0.25}, {"decay_per_step": 0.125}],
    ids=str,
)
@pytest.mark.parametrize("tensor", [False, True])
def test_steps_are_those_of_separate_rates(options, tensor):
    """All ratios here are powers of two: to the bit, decay by the effective lr included."""
    shared, separate = parameters(), parameters()
    lr = torch.tensor(LR, dtype=torch.float64) if tensor else LR
    one = pg.PolarGrad(
        as_groups(shared), lr, vector_lr=0.5, momentum=0.5, method="svd", shared_lr=True, **options
    )
    run(one, shared)
    run(make(separate, **options), separate)
    for p, q in zip(shared, separate, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-13)
    assert tensor or same(shared, separate)


def test_one_written_lr_keeps_the_ratios():
    """As nanoGPT and Trainer do: an absolute lr into every group, at every step."""
    shared, separate = parameters(), parameters()

    def write_one(optimizer, step):
        for group in optimizer.param_groups:
            group["lr"] = LR / 2**step

    def write_each(optimizer, step):
        for group, base in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = base / 2**step

    one, other = (
        make(shared, shared_lr=True, decay_per_step=0.125),
        make(separate, decay_per_step=0.125),
    )
    rates = [g["lr"] for g in other.param_groups]
    run(one, shared, write=write_one)
    run(other, separate, write=write_each)
    assert same(shared, separate)


SCHEDULES = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 1, 0.5),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.25, total_iters=2),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda k: 1 / (k + 1)),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.5, 2), lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
def test_a_schedule_keeps_the_ratios(schedule):
    params, separate = parameters(), parameters()
    one, other = make(params, shared_lr=True), make(separate)
    run(one, params, scheduler=schedule(one))
    run(other, separate, scheduler=schedule(other))
    first, *rest = effective(one)
    assert rest == pytest.approx([2 * first, first / 8, 4 * first], rel=1e-14)
    for p, q in zip(params, separate, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_the_ratios_survive_a_checkpoint():
    whole, parts = parameters(), parameters()
    optimizer = make(whole, shared_lr=True)
    run(optimizer, whole, 4)
    first = make(parts, shared_lr=True)
    run(first, parts, 2)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = pg.PolarGrad(
        [{"params": [p]} for p in parts], 1.0, vector_lr=1.0, shared_lr=True, method="svd"
    )
    second.load_state_dict(torch.load(buffer, weights_only=True))
    assert effective(second) == effective(first)
    for step in range(2, 4):
        for i, p in enumerate(parts):
            p.grad = randn(p.shape, 10 * step + i)
        second.step()
    assert same(whole, parts)


def test_a_scale_that_was_given_is_not_lost():
    """``lr_scale`` of a group multiplies its lr, shared or not."""
    for shared in (False, True):
        first, second = nn.Parameter(torch.zeros(3, 3)), nn.Parameter(torch.zeros(3, 3))
        held = [{"params": [first]}, {"params": [second], "lr": 2 * LR, "lr_scale": 3.0}]
        optimizer = pg.PolarGrad(held, LR, momentum=0.0, method="svd", shared_lr=shared)
        assert effective(optimizer) == pytest.approx([LR, 6 * LR])
        first.grad = second.grad = torch.eye(3)
        optimizer.step()
        torch.testing.assert_close(second.detach(), 6 * first.detach())


def test_a_late_group_takes_part_in_the_schedule():
    """Its lr is given as those of the constructor were: of before the schedule."""
    params = parameters()
    optimizer = make(params, shared_lr=True)
    for group in optimizer.param_groups:
        group["lr"] = LR / 4
    late = nn.Parameter(torch.zeros(2, 2))
    optimizer.add_param_group({"params": [late], "lr": LR / 2})
    assert {g["lr"] for g in optimizer.param_groups} == {LR / 4}
    assert effective(optimizer)[-1] == LR / 8


def test_without_it_the_groups_show_their_own():
    optimizer = make(parameters())
    assert [g["lr"] for g in optimizer.param_groups] == [LR, 2 * LR, LR / 8, 0.5]
    assert [g["lr_scale"] for g in optimizer.param_groups] == [1.0] * 4


@pytest.mark.parametrize("shared", [False, True])
def test_vectors_never_take_the_lr_of_matrices(shared):
    w, v = nn.Parameter(torch.eye(3)), nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match="give vector_lr="):
        pg.PolarGrad([w, v], LR, shared_lr=shared)
    optimizer = pg.PolarGrad([w, v], 50.0, vector_lr=0.25, shared_lr=shared)
    v.grad, w.grad = torch.ones(3), torch.zeros(3, 3)
    optimizer.step()
    torch.testing.assert_close(v.detach(), torch.full((3,), -0.25))


@pytest.mark.parametrize("lr", [0.0, torch.tensor(0.0)], ids=str)
def test_zero_has_no_multiples(lr):
    with pytest.raises(ValueError, match="shared_lr=True needs lr above 0"):
        pg.PolarGrad([nn.Parameter(torch.eye(2))], lr, shared_lr=True)


def test_a_schedule_that_raises_lr_does_not_turn_the_sign_of_a_matrix():
    """1 − γλ below zero: refused before anything changes, as decay_per_step is."""
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = pg.PolarGrad([p], lr=0.01, weight_decay=1.0)
    optimizer.param_groups[0]["lr"] = 3.0
    p.grad = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="weight_decay"):
        optimizer.step()
    assert torch.equal(p, torch.ones(2, 2))
