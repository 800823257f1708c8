"""Defects 45 to 48 of the peers: schedules, decay, skipped steps. See docs/peer_defects.md."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import polargrad as pg


def three_groups(**options):
    """Two matrix groups of different lr and a vector group, all parameters of ones."""
    params = [nn.Parameter(torch.ones(s, dtype=torch.float64)) for s in ((3, 3), (3, 4), (3,))]
    optimizer = pg.PolarGrad(
        [{"params": params[:1]}, {"params": params[1:], "lr": 0.25}],
        lr=0.5,
        momentum=0.0,
        method="svd",
        vector_lr=0.125,
        **options,
    )
    return params, optimizer


def lrs(optimizer):
    return [float(group["lr"]) for group in optimizer.param_groups]


@pytest.mark.parametrize(
    "make",
    [
        lambda o: lr_scheduler.LambdaLR(o, lambda k: 0.5**k),
        lambda o: lr_scheduler.ExponentialLR(o, 0.5),
        lambda o: lr_scheduler.MultiplicativeLR(o, lambda k: 0.5),
        lambda o: lr_scheduler.StepLR(o, 1, 0.5),
    ],
    ids=["lambda", "exponential", "multiplicative", "step"],
)
def test_c45_every_group_follows_the_schedule(make):
    """And its parameters do: a gradient of ones moves each by a multiple of its lr."""
    params, optimizer = three_groups()
    assert lrs(optimizer) == [0.5, 0.25, 0.125]
    scheduler = make(optimizer)
    # All ones of shape m × n: nuclear norm √(mn), factor 1/√(mn). AdamW moves by its lr.
    for step in range(4):
        before = [p.detach().clone() for p in params]
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        scheduler.step()
        for p, b, lr in zip(params, before, (0.5, 0.25, 0.125), strict=True):
            expected = torch.full_like(p, lr * 0.5**step)
            torch.testing.assert_close(b - p.detach(), expected, rtol=1e-6, atol=0)
    assert lrs(optimizer) == [0.5 * 0.5**4, 0.25 * 0.5**4, 0.125 * 0.5**4]


def moved_after(optimizer, params):
    before = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    return [(b - p.detach()).mean().item() for p, b in zip(params, before, strict=True)]


def test_c46_one_lr_written_into_every_group_keeps_the_ratios():
    """A loop that sets ``group["lr"]`` alike for all: with ``shared_lr`` 4 : 2 : 1 stays."""
    params, optimizer = three_groups(shared_lr=True)
    assert moved_after(optimizer, params) == pytest.approx([0.5, 0.25, 0.125], rel=1e-6)
    for written in (0.5, 0.25, 1.0):
        for group in optimizer.param_groups:
            group["lr"] = written
        expected = [written, written / 2, written / 4]
        assert moved_after(optimizer, params) == pytest.approx(expected, rel=1e-6)
        assert [g["lr_scale"] for g in optimizer.param_groups] == [1.0, 0.5, 0.25]


def test_c46_the_ratios_survive_a_checkpoint(through_a_file):
    params, optimizer = three_groups(shared_lr=True)
    again, loaded = three_groups(shared_lr=True)
    for group in optimizer.param_groups:
        group["lr"] = 0.25
    loaded.load_state_dict(through_a_file(optimizer.state_dict()))
    assert moved_after(loaded, again) == moved_after(optimizer, params)


def test_c46_a_shared_lr_leaves_each_group_its_decay():
    """A decay by step does not know the unit of lr, nor the ratio of one lr to another."""
    params, optimizer = three_groups(shared_lr=True, decay_per_step=0.125)
    for written, share in ((0.5, 1.0), (0.25, 0.5)):
        for group in optimizer.param_groups:
            group["lr"] = written
        before = [p.detach().clone() for p in params]
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
        for p, b in zip(params[:2], before, strict=False):
            torch.testing.assert_close(p.detach(), b * (1 - 0.125 * share))


def test_c46_without_shared_lr_the_written_number_is_the_lr():
    params, optimizer = three_groups()
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    assert moved_after(optimizer, params) == pytest.approx([0.5, 0.5, 0.5], rel=1e-6)


@pytest.mark.parametrize("steps", [1, 40])
@pytest.mark.parametrize("gradient", ["zero", "ones"])
def test_c47_weight_decay_is_its_closed_form(gradient, steps):
    """x ← (1 − γλ)x − γg: with g constant xₖ = qᵏx₀ − γg(1 − qᵏ)/(1 − q), q = 1 − γλ."""
    rate, decay = 0.25, 0.125
    p = nn.Parameter(torch.full((3, 3), 2.0, dtype=torch.float64))
    optimizer = pg.PolarGrad([p], lr=rate, weight_decay=decay, momentum=0.0, method="svd")
    g = 0.0 if gradient == "zero" else 1.0  # a matrix of ones is its norm times its factor
    for _ in range(steps):
        p.grad = torch.full_like(p, g)
        optimizer.step()
    q = 1 - rate * decay
    expected = q**steps * 2.0 - rate * g * (1 - q**steps) / (1 - q)
    torch.testing.assert_close(p.detach(), torch.full_like(p, expected), rtol=1e-12, atol=1e-12)
    assert abs(expected - (2.0 - steps * rate * g)) > 0.05  # a decay that does nothing


def test_c47_each_rule_decays_by_its_own_numbers():
    params = [nn.Parameter(torch.full(s, 2.0, dtype=torch.float64)) for s in ((3, 3), (3,))]
    optimizer = pg.Muon(
        params, lr=0.25, weight_decay=0.5, vector_lr=0.125, vector_weight_decay=0.25
    )
    for _ in range(5):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    matrix, vector = (p.detach() for p in params)
    torch.testing.assert_close(matrix, torch.full_like(matrix, 2 * (1 - 0.125) ** 5))
    torch.testing.assert_close(vector, torch.full_like(vector, 2 * (1 - 0.03125) ** 5))


def test_c48_a_skipped_step_advances_no_counter_and_is_counted(through_a_file):
    params, optimizer = three_groups()
    vector = params[2]
    for bad in (False, True, True, False):
        for p in params:
            p.grad = torch.ones_like(p)
        if bad:
            params[0].grad[0, 0] = float("inf")
        optimizer.step()
    assert optimizer.skipped_steps == 2
    assert optimizer.state[vector]["step"] == 2  # the bias correction of AdamW counts real steps
    _, loaded = three_groups()
    loaded.load_state_dict(through_a_file(optimizer.state_dict()))
    assert loaded.skipped_steps == 2


def test_c48_a_scheduler_can_ask_whether_the_step_was_taken():
    """``if optimizer.skipped_steps == before: scheduler.step()``, as beside a scaler."""
    params, optimizer = three_groups()
    scheduler = lr_scheduler.StepLR(optimizer, 1, 0.5)
    for bad in (False, True, False):
        for p in params:
            p.grad = torch.full_like(p, float("nan") if bad else 1.0)
        before = optimizer.skipped_steps
        optimizer.step()
        if optimizer.skipped_steps == before:
            scheduler.step()
    assert lrs(optimizer) == [0.125, 0.0625, 0.03125]


def test_c48_the_scaler_sees_that_it_skipped():
    """Of torch: its own skip never reaches us, and is not counted twice."""
    params, optimizer = three_groups()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for p in params:
        p.grad = torch.full_like(p, float("inf"))
    scaler.scale(torch.ones(()))
    assert scaler.step(optimizer) is None
    scaler.update()
    assert scaler.get_scale() == 2.0
    assert optimizer.skipped_steps == 0
    assert not optimizer.state
