"""Directions found in rounds: whose turn it is, what is kept, and what a step takes meanwhile."""

import copy
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from approximate_steps import drawn, resumed
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import polargrad as pg
from polargrad.geometry import Spectral
from polargrad.optim.approximation_errors import approximation_error
from polargrad.optim.rounds import turns
from polargrad.optim.shared_step import direction_cost

# GPT-2 small's blocks, a sixteenth as wide: four kinds of matrices, twelve of each.
SHAPES = [(144, 48), (48, 48), (192, 48), (48, 192)] * 12
SMALL = [(6, 4), (4, 6), (5, 5), (6, 4), (7, 2)]


def rounds(every):
    return {"name": "rounds", "every": every}


def matrices(shapes=SMALL, dtype=torch.float64):
    return drawn(shapes, dtype)


def set_gradients(weights, step, scale=1.0):
    """Noise on a gradient that stays."""
    for index, p in enumerate(weights):
        fixed = torch.Generator().manual_seed(index)
        moving = torch.Generator().manual_seed(1000 * (step + 1) + index)
        g = torch.randn(p.shape, generator=fixed, dtype=torch.float64)
        g += 0.3 * torch.randn(p.shape, generator=moving, dtype=torch.float64)
        p.grad = (scale * g).to(p.dtype)


def taken(make, steps, every=None, shapes=SMALL, dtype=torch.float64):
    """The matrices after some steps, and the optimizer."""
    weights = matrices(shapes, dtype)
    optimizer = make(weights, approximation=None if every is None else rounds(every))
    for step in range(steps):
        set_gradients(weights, step)
        optimizer.step()
    return [p.detach().clone() for p in weights], optimizer


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def directions(optimizer):
    """The kept directions, as copies."""
    return [optimizer.state[p]["kept_direction"].clone() for p in weights_of(optimizer)]


def weights_of(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


PRESETS = {
    "PolarGrad": lambda p, **more: pg.PolarGrad(p, 0.05, weight_decay=0.1, **more),
    "no momentum": lambda p, **more: pg.PolarGrad(p, 0.05, momentum=0.0, method="svd", **more),
    "found": lambda p, **more: pg.PolarGrad(p, None, **more),
    "polar-first": lambda p, **more: pg.PolarGrad(p, 0.05, order="polar-first", **more),
    "polyak": lambda p, **more: pg.PolarGrad(p, 0.005, order="polyak", **more),
    "PolarMuon": lambda p, **more: pg.PolarMuon(p, 0.05, **more),
    "Muon": lambda p, **more: pg.Muon(p, 0.05, **more),
    "MatrixSignDescent": lambda p, **more: pg.optim.MatrixSignDescent(p, 0.05, **more),
    "one-sided": lambda p, **more: pg.optim.OneSidedPolarGrad(p, 0.05, **more),
}
presets = pytest.mark.parametrize("make", PRESETS.values(), ids=list(PRESETS))


@presets
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_step_is_the_exact_method_to_the_bit(make, dtype):
    assert same(taken(make, 4, 1, dtype=dtype)[0], taken(make, 4, dtype=dtype)[0])


@presets
def test_in_rounds_it_is_another_method(make):
    assert not same(taken(make, 4, 3)[0], taken(make, 4)[0])


@pytest.mark.parametrize("every", [2, 3, 4, 8])
def test_each_matrix_has_one_turn_in_a_round(every):
    """And all of them the first."""
    weights = matrices()
    optimizer = pg.PolarGrad(weights, 0.05, approximation=rounds(every))
    set_gradients(weights, 0)
    optimizer.step()
    assert all(d.any() for d in directions(optimizer))
    found = []
    for step in range(1, 2 * every + 1):
        before = directions(optimizer)
        set_gradients(weights, step)
        optimizer.step()
        after = directions(optimizer)
        found.append(
            {i for i, (x, y) in enumerate(zip(before, after, strict=True)) if (x != y).any()}
        )
    for start in range(every + 1):
        counts = Counter(i for chosen in found[start : start + every] for i in chosen)
        assert counts == dict.fromkeys(range(len(weights)), 1)


@pytest.mark.parametrize("every", [2, 3, 4, 8])
def test_every_turn_has_the_same_work(every):
    """By the count that divides it among processes too."""
    optimizer = pg.Muon(matrices(SHAPES), 0.05, approximation=rounds(every))
    [group] = optimizer.param_groups
    device = torch.device("cpu")
    work = [0.0] * every
    for shape, [turn] in zip(SHAPES, turns(group, 0, Spectral()), strict=True):
        work[turn] += direction_cost(group, Spectral(), shape, torch.float64, device)
    assert max(work) < 1.1 * sum(work) / every


def test_turns_do_not_depend_on_numbers_and_groups_begin_at_different_ones():
    group = pg.Muon(matrices(), 0.05, approximation=rounds(3)).param_groups[0]
    first = turns(group, 0, Spectral())
    with torch.no_grad():
        for p in group["params"]:
            p.mul_(-7.0)
    assert turns(group, 0, Spectral()) == first
    assert turns(group, 1, Spectral()) == [[(turn + 1) % 3] for [turn] in first]


@pytest.mark.parametrize("every", [2, 4])
def test_a_round_takes_the_products_of_one_exact_step(every):
    """Counted by torch, of a method that is products alone."""
    counts = []
    for approximation in (None, rounds(every)):
        weights = matrices(SHAPES[:8])
        optimizer = pg.Muon(weights, 0.05, approximation=approximation)
        counts.append([])
        for step in range(1 + every):
            set_gradients(weights, step)
            with FlopCounterMode(display=False) as counter:
                optimizer.step()
            counts[-1].append(counter.get_total_flops())
    exact, (first, *others) = counts
    assert first == exact[0] == exact[1]
    assert sum(others) == exact[0]
    assert max(others) < 1.5 * exact[0] / every


def test_between_turns_a_step_goes_along_the_old_direction_by_the_inner_product():
    weights = matrices()
    optimizer = pg.PolarGrad(weights, 0.05, momentum=0.0, approximation=rounds(100))
    set_gradients(weights, 0)
    optimizer.step()
    old = directions(optimizer)
    before = [p.detach().clone() for p in weights]
    set_gradients(weights, 1)
    optimizer.step()
    stale = 0
    for p, x, d, now in zip(weights, before, old, directions(optimizer), strict=True):
        if torch.equal(d, now):
            stale += 1
            wanted = x - 0.05 * (p.grad * d).sum() * d
            torch.testing.assert_close(p.detach(), wanted, rtol=0, atol=1e-13)
    assert stale >= len(weights) - 1


@pytest.mark.parametrize("name", ["no momentum", "Muon", "polar-first"])
def test_where_an_old_direction_would_ascend_no_step_is_taken(name):
    """Of a gradient that turns round; a polar-first momentum of directions goes on by itself."""
    weights = matrices()[:1]
    more = {"momentum": 0.0} if name != "no momentum" else {}
    options = {"weight_decay": 0.0} if name == "Muon" else {}
    optimizer = PRESETS[name](weights, approximation=rounds(8), **more, **options)
    set_gradients(weights, 0)
    optimizer.step()
    [d] = directions(optimizer)
    before = weights[0].detach().clone()
    weights[0].grad = -weights[0].grad
    optimizer.step()
    assert torch.equal(weights[0].detach(), before)
    assert torch.equal(directions(optimizer)[0], d)


@presets
def test_resumed_from_a_checkpoint_it_is_the_same_to_the_bit(make):
    whole, optimizer = taken(make, 7, 3)
    again, second = resumed(make, matrices(), rounds(3), set_gradients, 4, 7)
    assert same(again, whole)
    assert same(directions(second), directions(optimizer))


def test_the_kept_state_has_the_dtype_of_the_signal_and_is_counted_on_the_host():
    weights = matrices(dtype=torch.bfloat16)
    optimizer = pg.Muon(weights, 0.05, approximation=rounds(2))
    set_gradients(weights, 0)
    optimizer.step()
    again = pg.Muon(weights, 0.05, approximation=rounds(2))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p in weights:
        for own in (optimizer.state[p], again.state[p]):
            assert own["kept_direction"].dtype == torch.float32
            assert (own["steps_in_rounds"].device.type, int(own["steps_in_rounds"])) == ("cpu", 1)


@presets
def test_a_gradient_that_is_not_finite_leaves_directions_alone(make):
    weights = matrices()
    optimizer = make(weights, approximation=rounds(2))
    for step in range(3):
        set_gradients(weights, step)
        optimizer.step()
    state = copy.deepcopy(optimizer.state_dict()["state"])
    weights[1].grad[0, 0] = float("inf")
    optimizer.step()
    assert optimizer.skipped_steps == 1
    for index, p in enumerate(weights):
        assert all(torch.equal(state[index][key], x) for key, x in optimizer.state[p].items())


def test_parameters_that_are_stepped_one_by_one_have_turns_of_their_own():
    """A count of the optimizer's steps would give some of them every turn, and others none."""
    wanted, _ = taken(PRESETS["PolarGrad"], 6, 2)
    weights = matrices()
    optimizer = PRESETS["PolarGrad"](weights, approximation=rounds(2))
    for step in range(6):
        set_gradients(weights, step)
        for p in weights:
            optimizer.step_parameter(p)
    torch.testing.assert_close([p.detach() for p in weights], wanted, rtol=0, atol=1e-13)


def test_a_step_of_zero_lr_is_none():
    """As torch.distributed.checkpoint takes it, to have a state to load into."""
    weights = matrices()
    optimizer = pg.Muon(weights, 0.05, approximation=rounds(2))
    for p in weights:
        p.grad = torch.zeros_like(p)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert all(int(optimizer.state[p]["steps_in_rounds"]) == 0 for p in weights)


@pytest.mark.parametrize("scale", [2.0**-90, 2.0**90])
def test_the_step_has_the_degree_of_the_signal(scale):
    """A power of two, so that rounding is the same."""
    moved = []
    for c in (1.0, scale):
        weights = [nn.Parameter(torch.zeros(s, dtype=torch.float32)) for s in SMALL]
        optimizer = pg.PolarGrad(weights, 1.0, method="svd", approximation=rounds(3))
        for step in range(4):
            set_gradients(weights, step, c)
            optimizer.step()
        moved.append([p.detach() / c for p in weights])
    torch.testing.assert_close(*moved, rtol=1e-5, atol=0.0)


def test_the_error_is_that_of_the_step_taken():
    weights = matrices()
    optimizer = pg.PolarGrad(weights, 0.05, momentum=0.0, method="svd", approximation=rounds(3))
    for step in range(3):
        set_gradients(weights, step)
        old = directions(optimizer) if step else [None] * len(weights)
        optimizer.step()
    errors = approximation_error(optimizer)
    assert [(e.name, e.shape) for e in errors] == [(f"number {i}", s) for i, s in enumerate(SMALL)]
    fresh = 0
    for e, p, before, now in zip(errors, weights, old, directions(optimizer), strict=True):
        exact = pg.polar(p.grad, method="svd").U
        distance = (now - exact).norm() / exact.norm()
        cosine = (now * exact).sum() / (now.norm() * exact.norm())
        assert (e.distance, e.cosine) == pytest.approx((float(distance), float(cosine)), abs=1e-12)
        if torch.equal(before, now):
            assert e.distance > 0.05
        else:
            fresh += 1
            assert e.distance < 1e-14
    assert 0 < fresh < len(weights)


def test_the_error_changes_nothing():
    _, optimizer = taken(PRESETS["found"], 3, 2)
    before = copy.deepcopy(optimizer.state_dict())
    kept = [p.detach().clone() for p in weights_of(optimizer)]
    approximation_error(optimizer)
    after = optimizer.state_dict()
    assert same(weights_of(optimizer), kept)
    for index, own in before["state"].items():
        assert own.keys() == after["state"][index].keys()
        assert all(torch.equal(x, after["state"][index][key]) for key, x in own.items())


def test_the_code_in_the_page_runs(capsys):
    page = Path(__file__).parents[2] / "docs" / "approximations.md"
    [code] = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, str(page), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 * 2
    assert lines[-1].startswith("2.weight (8, 32) 0.")


def test_the_error_needs_gradients():
    _, optimizer = taken(PRESETS["Muon"], 2, 2)
    optimizer.zero_grad()
    with pytest.raises(ValueError, match="after step"):
        approximation_error(optimizer)
