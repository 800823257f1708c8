"""Defects 17 to 24 of the peers: scale, clipping, accumulation. See docs/peer_defects.md."""

import copy

import pytest
import torch
from matrices import conditioned, polar_oracle
from torch import nn
from torch.distributed.checkpoint import state_dict as dcp

import polargrad as pg

SCALES = [2.0**-99, 2.0**-66, 2.0**-33, 2.0**-10, 2.0**10, 2.0**66, 2.0**99]  # 1e-30 to 6e29


def moved(make, gradient):
    """The way of the first step of one parameter that starts at zero."""
    p = nn.Parameter(torch.zeros_like(gradient))
    p.grad = gradient.clone()
    make([p]).step()
    return -p.detach()


def polar_grad(params):
    return pg.PolarGrad(params, lr=1.0, momentum=0.0, method="svd")


def muon(params):
    return pg.Muon(params, lr=1.0, weight_decay=0.0)


def torch_muon(params):
    return torch.optim.Muon(params, lr=1.0, weight_decay=0.0)


def clipped(gradient, limit):
    p = nn.Parameter(torch.zeros_like(gradient))
    p.grad = gradient.clone()
    nn.utils.clip_grad_norm_([p], limit)
    return p.grad


def test_c17_clipping_acts_on_the_gradient_and_never_on_the_step(randn):
    """Muon's step keeps its length whatever the limit; dividing it by its norm would not."""
    gradient = randn((32, 32))
    whole = moved(muon, gradient)
    for limit in (1e-3, 1.0):
        step = moved(muon, clipped(gradient, limit))
        torch.testing.assert_close(step, whole, rtol=0, atol=1e-4)
        assert torch.linalg.matrix_norm(step) > 4.0  # a step clipped to the limit would be shorter
        polar = moved(polar_grad, clipped(gradient, limit)).double()
        expected = torch.linalg.svdvals(gradient.double()).sum() * polar_oracle(gradient)
        expected *= limit / torch.linalg.matrix_norm(gradient.double())
        torch.testing.assert_close(polar, expected, rtol=1e-4, atol=1e-5 * expected.abs().max())


def test_c17_clipping_by_the_dual_norm_acts_on_the_gradient(randn):
    """``max_dual_norm``: a nuclear norm above the limit becomes the limit, one below stays."""
    gradient = randn((8, 5))
    norm = torch.linalg.svdvals(gradient.double()).sum().item()

    def limited(limit):
        return lambda ps: pg.PolarGrad(ps, lr=1.0, momentum=0.0, method="svd", max_dual_norm=limit)

    factor = polar_oracle(gradient).float()
    for limit, length in ((0.25 * norm, 0.25 * norm), (4.0 * norm, norm)):
        step = moved(limited(limit), gradient)
        torch.testing.assert_close(step, length * factor, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", ["momentum-first", "polar-first"])
def test_c18_accumulated_micro_batches_are_the_whole_batch(order):
    """The matrix rule runs once a step: the polar factor of a sum is no sum of polar factors."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(24, 4, generator=generator, dtype=torch.float64)
    target = torch.randn(24, 3, generator=generator, dtype=torch.float64)
    models = [nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double() for _ in "ab"]
    models[1].load_state_dict(models[0].state_dict())
    whole, parts = (
        pg.PolarGrad(pg.param_groups(m), lr=0.05, order=order, method="svd") for m in models
    )
    for _ in range(3):
        for model, optimizer, pieces in ((models[0], whole, 1), (models[1], parts, 4)):
            optimizer.zero_grad()
            for x, y in zip(data.chunk(pieces), target.chunk(pieces), strict=True):
                (nn.functional.mse_loss(model(x), y) / pieces).backward()
            optimizer.step()
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-10)
    halves = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    summed = polar_oracle(halves[0]) + polar_oracle(halves[1])
    assert (summed / 2 - polar_oracle(halves.sum(0))).abs().max() > 0.05


@pytest.mark.parametrize("limit", [1e-12, 1e-6, 1.0, 1e6])
def test_c19_a_small_clip_coefficient_does_not_stall(randn, limit):
    """The direction stays, the magnitude is the coefficient's, however small it is."""
    gradient = randn((6, 4))
    limited = clipped(gradient, limit)
    coefficient = min(1.0, limit / torch.linalg.matrix_norm(gradient).item())
    step, whole = moved(polar_grad, limited), moved(polar_grad, gradient)
    torch.testing.assert_close(step / coefficient, whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved(muon, limited), moved(muon, gradient), rtol=0, atol=1e-4)
    if limit == 1e-12:  # torch's floor of 1e-7 under the norm makes this a step of 1e-4
        assert moved(torch_muon, limited).abs().max() < 1e-3 < moved(muon, limited).abs().max()


@pytest.mark.parametrize("scale", [2.0**-66, 2.0**-20, 1.0, 2.0**20, 2.0**66])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_c20_half_precision_arithmetic_is_normalised_before_the_cast(randn, dtype, scale):
    gradient = randn((8, 8))

    def half(params):
        return pg.Muon(params, lr=1.0, weight_decay=0.0, compute_dtype=dtype)

    step, expected = moved(half, scale * gradient), moved(half, gradient)
    assert torch.equal(step, expected)
    assert expected.abs().max() > 0.1
    if dtype == torch.float16 and scale != 1.0:  # the defect: infinite, or nothing at all
        first = (scale * gradient).half()
        first = first / torch.linalg.matrix_norm(first.float()).half()
        assert not first.isfinite().all() or scale == 2.0**-20


@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("make", [polar_grad, muon], ids=["polargrad", "muon"])
def test_c21_an_overflow_does_not_reach_the_momentum(run, randn, make, bad):
    """The steps after it are those of a run that never saw it; torch's never recover."""
    start = [randn((5, 4), 9)]
    good = [[randn((5, 4), step)] for step in range(4)]
    broken = [[good[0][0].clone()]]
    broken[0][0][1, 2] = bad
    (p,), optimizer = run(make, start, good[:2] + broken + good[2:])
    (q,), _ = run(make, start, good)
    assert torch.equal(p, q)
    assert optimizer.skipped_steps == 1
    (peer,), _ = run(torch_muon, start, broken + good)
    assert not peer.isfinite().all()


@pytest.mark.parametrize("scale", SCALES[:4])
def test_c22_a_small_gradient_is_as_good_as_any(randn, scale):
    """No absolute floor: PolarGrad's step has degree 1, Muon's degree 0, to the bit."""
    gradient = randn((6, 6))
    assert torch.equal(moved(polar_grad, scale * gradient), scale * moved(polar_grad, gradient))
    assert torch.equal(moved(muon, scale * gradient), moved(muon, gradient))
    if scale <= 2.0**-33:
        floored, true = (moved(torch_muon, g).abs().max() for g in (scale * gradient, gradient))
        assert floored < 0.5 * true


@pytest.mark.parametrize("scale", SCALES[4:])
def test_c23_a_large_gradient_does_not_overflow_its_norm(randn, scale):
    gradient = randn((6, 6))
    assert torch.equal(moved(polar_grad, scale * gradient), scale * moved(polar_grad, gradient))
    assert torch.equal(moved(muon, scale * gradient), moved(muon, gradient))
    if scale >= 2.0**66:
        assert not moved(torch_muon, scale * gradient).any()  # divided by infinity


ZERO = {
    "svd": polar_grad,
    "auto": lambda ps: pg.PolarGrad(ps, lr=0.1),
    "polar-first": lambda ps: pg.PolarGrad(ps, lr=0.1, order="polar-first", method="qdwh"),
    "muon": muon,
    "muon in bfloat16": lambda ps: pg.Muon(
        ps, lr=0.1, weight_decay=0.0, compute_dtype=torch.bfloat16
    ),
}


@pytest.mark.parametrize("make", ZERO.values(), ids=list(ZERO))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_c24_a_zero_gradient_moves_nothing(run, randn, make, dtype):
    """0/0 is what a division by an unguarded norm gives; the step after it is a usual one."""
    starts = [randn(s, 7, dtype) for s in ((4, 3), (3, 4), (4, 3))]
    zeros = [torch.zeros_like(x) for x in starts]
    params, _ = run(make, starts, [zeros, zeros])
    assert all(torch.equal(p, x) for p, x in zip(params, starts, strict=True))
    params, _ = run(make, starts, [zeros, [torch.ones_like(x) for x in starts]])
    assert all((p < x).all() for p, x in zip(params, starts, strict=True))
    assert (zeros[0] / torch.linalg.matrix_norm(zeros[0].float())).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_c24_nor_does_a_vector_with_a_zero_gradient(run, dtype):
    """A token that was not seen: its row of the embedding stays, at AdamW's default eps too."""
    starts = [torch.ones(3, 3, dtype=dtype), torch.ones(4, dtype=dtype)]
    gradients = [torch.eye(3, dtype=dtype), torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=dtype)]

    def make(params):
        return pg.PolarGrad(params, lr=0.1, vector_lr=0.25)

    (_, vector), _ = run(make, starts, [gradients] * 2)
    assert torch.equal(vector[1:3], torch.ones(2, dtype=dtype))
    assert (vector[[0, 3]] < 1).all()


def test_c24_making_a_state_for_a_checkpoint_moves_nothing(randn):
    """torch.distributed.checkpoint steps with zero gradients and lr 0 before it reads a state."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3))
    optimizer = pg.Muon(pg.param_groups(model, vector_weight_decay=0.1), lr=0.1)
    before = copy.deepcopy(model.state_dict())
    saved = dcp.get_optimizer_state_dict(model, optimizer)
    assert saved["state"]["1.weight"]["momentum_buffer"].shape == (5, 5)
    assert all(torch.equal(model.state_dict()[name], x) for name, x in before.items())
    assert all(not t.isnan().any() for state in optimizer.state.values() for t in state.values())


def test_c24_ill_conditioned_and_zero_matrices_share_a_stack():
    """What guards the one must not touch the other."""
    matrix = conditioned((4, 4), 1e3, torch.float32)
    stack = torch.stack([torch.zeros(4, 4), matrix])
    factor = pg.polar(stack, method="svd").U
    assert not factor[0].any()
    torch.testing.assert_close(factor[1].double(), polar_oracle(matrix), rtol=0, atol=1e-4)
