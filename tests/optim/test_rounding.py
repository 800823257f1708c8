"""Stochastic rounding: to a neighbour, right on average, and the same when it is resumed."""

import io
import math

import pytest
import torch
from torch import nn

import polargrad as pg
from polargrad.optim.rounding import round_stochastically

LARGEST = torch.finfo(torch.bfloat16).max
# A mean of N bits is off by more than five of its standard deviations once in a million keys.
DEVIATIONS = 5.0


def every_bfloat16():
    """All 65536 numbers of bfloat16, those that are not finite included."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)


def floats(count=20000, seed=0):
    """Finite float32 numbers of every size: random bits."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(2**31), 2**31, (count,), generator=generator, dtype=torch.int64)
    x = bits.to(torch.int32).view(torch.float32)
    return x[x.abs() <= LARGEST]


def neighbours(x):
    """The bfloat16 numbers below and above in size, by their bits."""
    down = (x.view(torch.int32) & -(2**16)).view(torch.float32)
    up = ((x.view(torch.int32) & -(2**16)) + 2**16).view(torch.float32)
    return down, up


@pytest.mark.parametrize("key", [(0, 0, 0), (1, 2, 3)])
def test_a_number_of_bfloat16_is_not_changed(key):
    """Subnormal numbers, the largest, both zeros, infinities and NaN included."""
    x = every_bfloat16()
    rounded = round_stochastically(x.float(), key)
    known = ~x.isnan()
    assert torch.equal(rounded[known].view(torch.int16), x[known].view(torch.int16))
    assert rounded[~known].isnan().all()


def test_the_result_is_one_of_the_two_neighbours():
    x = floats()
    down, up = neighbours(x)
    rounded = round_stochastically(x, (0, 0, 0)).float()
    assert ((rounded == down) | (rounded == up)).all()
    assert (rounded == up).any()
    assert (rounded == down).any()


def test_a_number_beyond_the_largest_by_less_than_half_its_spacing_stays_finite():
    """Rounding to nearest keeps it; there is no number above to which it could be rounded."""
    x = torch.full((2000,), LARGEST) * (1.0 + 2.0**-10)
    assert x.isfinite().all()
    assert x.bfloat16().isfinite().all()
    for sign in (1.0, -1.0):
        assert round_stochastically(sign * x, (0, 0, 0)).isfinite().all()


@pytest.mark.parametrize("share", [2.0**-16, 0.01, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("start", [1.0, -1.0, 1e-30, 2.0**-130, -3e38])
def test_it_goes_up_as_often_as_it_should(share, start):
    """P(up) = share: the mean is the number itself, for both signs and for subnormal numbers."""
    count = 50000
    down = torch.tensor(start).bfloat16().float()
    bits = down.view(torch.int32) + round(share * 2**16)
    x = bits.view(torch.float32).expand(count)
    share = round(share * 2**16) / 2**16
    rounded = round_stochastically(x, (3, 1, 4)).float()
    ups = (rounded != down).double().mean().item()
    assert abs(ups - share) <= DEVIATIONS * math.sqrt(share * (1.0 - share) / count)


def test_the_key_alone_decides():
    x = floats()
    first = round_stochastically(x, (1, 2, 3))
    torch.manual_seed(123)
    assert torch.equal(round_stochastically(x, (1, 2, 3)), first)
    state = torch.get_rng_state()
    round_stochastically(x, (0, 0, 0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("other", [(2, 2, 3), (1, 3, 3), (1, 2, 4), (1, 3, 2), (2, 1, 3)])
def test_other_keys_give_independent_bits(other):
    """Half-way numbers: two keys agree in a half of them."""
    x = torch.full((20000,), 1.0 + 2.0**-8)
    agree = (round_stochastically(x, (1, 2, 3)) == round_stochastically(x, other)).double().mean()
    assert abs(agree.item() - 0.5) <= DEVIATIONS * 0.5 / math.sqrt(20000)


def test_its_input_stays_and_wider_input_is_taken_in_float32():
    x = floats(1000)
    kept = x.clone()
    rounded = round_stochastically(x, (0, 0, 0))
    assert torch.equal(x, kept)
    assert torch.equal(round_stochastically(x.double(), (0, 0, 0)), rounded)
    assert rounded.dtype == torch.bfloat16


# The group: which parameters are rounded so, and what a run keeps of it.


def gradients(step, shapes):
    return [
        torch.randn(s, generator=torch.Generator().manual_seed(100 * step + i)).bfloat16()
        for i, s in enumerate(shapes)
    ]


SHAPES = [(6, 4), (6, 4), (4, 6)]


def parameters(dtype=torch.bfloat16, shapes=SHAPES):
    return [nn.Parameter(torch.ones(s, dtype=dtype)) for s in shapes]


def run(optimizer, params, steps):
    for step in steps:
        for p, g in zip(params, gradients(step, [p.shape for p in params]), strict=True):
            p.grad = g.to(p.dtype)
        optimizer.step()


def stochastic(params, **options):
    return pg.PolarGrad(params, lr=0.01, rounding="stochastic", **options)


def test_steps_of_an_eighth_of_the_spacing_are_not_lost_on_average():
    """The spacing above 1 is 2⁻⁷: to nearest nothing moves; stochastically the mean does."""
    side, steps, move = 64, 40, 2.0**-10
    ends = {}
    for rounding in ("nearest", "stochastic"):
        p = nn.Parameter(torch.ones(side, side, dtype=torch.bfloat16))
        optimizer = pg.optim.SignSGD([p], lr=move, rounding=rounding)
        for _ in range(steps):
            p.grad = -torch.ones_like(p)
            optimizer.step()
        ends[rounding] = p.detach().double()
    assert torch.equal(ends["nearest"], torch.ones(side, side, dtype=torch.float64))
    deviation = 2.0**-7 * math.sqrt(steps * 0.125 * 0.875 / side**2)
    moved = ends["stochastic"].mean().item() - 1.0
    assert abs(moved - steps * move) <= DEVIATIONS * deviation


@pytest.mark.parametrize("order", ["momentum-first", "polar-first", "polyak"])
@pytest.mark.parametrize("foreach", [None, True, False])
def test_a_resumed_run_is_the_run_itself_to_the_bit(order, foreach):
    whole, parts = parameters(), parameters()
    optimizer = stochastic(whole, order=order, foreach=foreach)
    run(optimizer, whole, range(6))
    first = stochastic(parts, order=order, foreach=foreach)
    run(first, parts, range(3))
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = stochastic(parts, order=order, foreach=foreach, rounding_seed=7)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    run(second, parts, range(3, 6))
    assert second.param_groups[0]["attempts"] == 6
    for p, q in zip(whole, parts, strict=True):
        assert torch.equal(p, q)


def test_the_seed_decides():
    ends = []
    for seed in (0, 0, 1):
        params = parameters()
        run(stochastic(params, rounding_seed=seed), params, range(2))
        ends.append([p.detach() for p in params])
    assert all(map(torch.equal, ends[0], ends[1]))
    assert not any(map(torch.equal, ends[0], ends[2]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_other_dtypes_are_rounded_to_nearest(dtype):
    """In one group with bfloat16: exactly as in a group that rounds to nearest."""
    mixed, nearest = parameters(dtype), parameters(dtype)
    half = parameters()
    run(stochastic([*mixed, *half]), [*mixed, *half], range(3))
    run(pg.PolarGrad(nearest, lr=0.01), nearest, range(3))
    assert all(map(torch.equal, mixed, nearest))


def test_a_zero_gradient_at_zero_state_moves_nothing():
    params = parameters()
    optimizer = stochastic(params)
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(torch.equal(p, torch.ones_like(p)) for p in params)


def test_equal_matrices_of_two_groups_are_rounded_independently():
    """Half-way values in both: the same bits in two groups would make their errors the same."""
    params = [nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16)) for _ in range(2)]
    optimizer = pg.optim.SignSGD(
        [{"params": [p]} for p in params], lr=2.0**-8, rounding="stochastic"
    )
    for p in params:
        p.grad = -torch.ones_like(p)
    optimizer.step()
    agree = (params[0] == params[1]).double().mean().item()
    assert abs(agree - 0.5) <= DEVIATIONS * 0.5 / 64


def test_a_skipped_step_leaves_the_same_bits_in_both_ways_of_skipping(monkeypatch):
    """On the host and on the device: the bits of later steps know nothing of the skipped one."""
    ends = []
    for gated in (False, True):
        params = parameters()
        optimizer = stochastic(params)
        monkeypatch.setattr(pg.MatrixOptimizer, "_gated", lambda *_, gated=gated: gated)
        run(optimizer, params, range(2))
        params[0].grad[0, 0] = float("nan")
        optimizer.step()
        run(optimizer, params, range(2, 4))
        assert optimizer.skipped_steps == 1
        ends.append([p.detach() for p in params])
    assert all(map(torch.equal, *ends))


def test_decay_is_rounded_with_the_step():
    """Decay of an eighth of the spacing alone: lost to nearest, kept on average."""
    p = nn.Parameter(torch.full((64, 64), 1.5, dtype=torch.bfloat16))
    share = 2.0**-10 / 1.5
    optimizer = pg.PolarGrad([p], lr=share, weight_decay=1.0, rounding="stochastic")
    p.grad = torch.zeros_like(p)
    optimizer.step()
    moved = 1.5 - p.detach().double().mean().item()
    assert abs(moved - 2.0**-10) <= DEVIATIONS * 2.0**-7 * math.sqrt(0.125 * 0.875) / 64
