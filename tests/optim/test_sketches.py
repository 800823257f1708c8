"""Directions of low-rank sketches: exact at full rank, bounded below it, and refused elsewhere."""

import copy
import math

import pytest
import torch
from approximate_steps import drawn, resumed
from peak import Peak
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import polargrad as pg
from polargrad.distributed import local
from polargrad.distributed.mesh_sizes import MeshSizes
from polargrad.optim import elementwise, memory
from polargrad.optim.approximation_errors import approximation_error
from polargrad.optim.approximations import Rounds, Sketch, approximation, plain
from polargrad.optim.simulate import simulate

SHAPES = [(6, 4), (4, 6), (5, 5), (6, 4), (9, 2), (1, 5)]
FULL = 6


def sketch(rank, **more):
    return {"name": "sketch", "rank": rank, **more}


def matrices(shapes=SHAPES, dtype=torch.float64):
    return drawn(shapes, dtype)


def set_gradients(weights, step):
    for index, p in enumerate(weights):
        generator = torch.Generator().manual_seed(1000 * step + index)
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


def taken(make, steps, approximation, dtype=torch.float64):
    weights = matrices(dtype=dtype)
    optimizer = make(weights, approximation=approximation)
    for step in range(steps):
        set_gradients(weights, step)
        optimizer.step()
    return [p.detach().clone() for p in weights], optimizer


PRESETS = {
    "PolarGrad": lambda p, **more: pg.PolarGrad(p, 0.05, tol=None, weight_decay=0.1, **more),
    "svd": lambda p, **more: pg.PolarGrad(p, 0.05, momentum=0.0, method="svd", **more),
    "found": lambda p, **more: pg.PolarGrad(p, None, tol=None, **more),
    "polar-first": lambda p, **more: pg.PolarGrad(p, 0.05, order="polar-first", tol=None, **more),
    "polyak": lambda p, **more: pg.PolarGrad(p, 0.005, order="polyak", tol=None, **more),
    "PolarMuon": lambda p, **more: pg.PolarMuon(p, 0.05, tol=None, **more),
    "Muon": lambda p, **more: pg.Muon(p, 0.05, method="qdwh", **more),
    "capturable": lambda p, **more: pg.Muon(p, 0.05, capturable=True, **more),
}
presets = pytest.mark.parametrize("make", PRESETS.values(), ids=list(PRESETS))


@presets
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_full_rank_it_is_the_exact_method(make, dtype):
    """To rounding: 1e4 eps after three steps of matrices of condition up to a hundred."""
    wanted, _ = taken(make, 3, None, dtype)
    found, _ = taken(make, 3, sketch(FULL), dtype)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e4 * torch.finfo(dtype).eps)


@presets
def test_of_lower_rank_it_is_another_method(make):
    wanted, _ = taken(make, 3, None)
    found, _ = taken(make, 3, sketch(1))
    assert all(
        float((x - y).abs().max()) > 1e-4
        for x, y, shape in zip(found, wanted, SHAPES, strict=True)
        if min(shape) > 1
    )


def test_the_step_is_that_of_the_formulas():
    """P = orth(S V), and D the polar factor of P Pᵀ S, with V from the step before."""
    [x] = matrices([(4, 6)])
    optimizer = pg.PolarGrad([x], 0.05, momentum=0.0, method="svd", approximation=sketch(2))
    for step in range(3):
        set_gradients([x], step)
        if step:
            v = optimizer.state[x]["sketch_right"][0].clone()
            p = torch.linalg.qr(x.grad @ v).Q
            d = pg.polar(p @ p.mT @ x.grad, method="svd").U
            wanted = x.detach() - 0.05 * (x.grad * d).sum() * d
        optimizer.step()
        if step:
            torch.testing.assert_close(x.detach(), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_error_is_what_a_rank_leaves_at_least(rank):
    r"""⟨D, U⟩ ≤ r: the cosine is at most √(r/k), and the distance at least √(1 − r/k)."""
    _, optimizer = taken(PRESETS["svd"], 3, sketch(rank))
    for error in approximation_error(optimizer):
        share = min(rank, min(error.shape)) / min(error.shape)
        assert error.cosine <= math.sqrt(share) + 1e-12
        assert error.distance >= math.sqrt(1.0 - share) - 1e-7
        assert error.cosine > 0.0


def test_on_a_signal_that_stays_it_finds_the_leading_directions():
    """The power iteration: after some steps P spans the first r left singular vectors."""
    generator = torch.Generator().manual_seed(3)
    u, _ = torch.linalg.qr(torch.randn(8, 5, generator=generator, dtype=torch.float64))
    v, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))
    signal = (u * torch.tensor([8.0, 4.0, 1.0, 0.5, 0.1], dtype=torch.float64)) @ v.mT
    weight = nn.Parameter(torch.zeros(8, 5, dtype=torch.float64))
    optimizer = pg.PolarGrad([weight], 1.0, momentum=0.0, method="svd", approximation=sketch(2))
    for _ in range(20):
        weight.grad = signal.clone()
        before = weight.detach().clone()
        optimizer.step()
    wanted = 12.0 * u[:, :2] @ v[:, :2].mT
    torch.testing.assert_close(before - weight.detach(), wanted, rtol=0, atol=1e-9)


def test_a_lost_direction_is_found_again():
    """Signals of rank one whose rows are zero where an identity would look, then a full one."""
    x = nn.Parameter(torch.zeros(6, 8, dtype=torch.float64))
    optimizer = pg.PolarGrad([x], 1.0, momentum=0.0, method="svd", approximation=sketch(2))
    generator = torch.Generator().manual_seed(1)
    below = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    for step in range(8):
        x.grad = torch.zeros(6, 8, dtype=torch.float64)
        x.grad[3:] = below
        if step < 3:
            x.grad[4:] = 0.0
        optimizer.step()
    [error] = approximation_error(optimizer)
    assert error.cosine > 0.8  # of rank one it would be at most √(1/3)


@pytest.mark.parametrize("begun", [False, True])
def test_a_zero_signal_changes_nothing(begun):
    """Neither matrices nor factors, with which the next signal is looked at."""
    weights = matrices()
    optimizer = pg.PolarGrad(weights, 0.05, momentum=0.0, approximation=sketch(2))
    for step in range(2):
        set_gradients(weights, step)
        if not begun:
            for p in weights:
                p.grad.zero_()
        optimizer.step()
    values = [p.detach().clone() for p in weights]
    factors = copy.deepcopy(optimizer.state_dict()["state"])
    for p in weights:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(torch.equal(x, p.detach()) for x, p in zip(values, weights, strict=True))
    for index, p in enumerate(weights):
        assert bool(factors[index]["sketch_right"].any()) == begun
        assert all(torch.equal(factors[index][key], x) for key, x in optimizer.state[p].items())


def test_the_products_are_those_of_thin_matrices():
    """Two with the signal, one for the direction, and the polar factor of n × r."""
    n, rank = 256, 8
    counts = []
    for given in (None, sketch(rank)):
        x = nn.Parameter(torch.zeros(n, n, dtype=torch.float32))
        optimizer = pg.Muon([x], 0.05, approximation=given)
        set_gradients([x], 0)
        with FlopCounterMode(display=False) as counter:
            optimizer.step()
        counts.append(counter.get_total_flops())
    exact, thin = counts
    assert exact == pytest.approx(5 * 3 * 2 * n**3, rel=0.4)
    assert 6 * n * n * rank <= thin < 7 * n * n * rank


@presets
def test_resumed_from_a_checkpoint_it_is_the_same_to_the_bit(make):
    whole, _ = taken(make, 6, sketch(2))
    again, _ = resumed(make, matrices(), sketch(2), set_gradients, 3, 6)
    assert all(torch.equal(x, y) for x, y in zip(whole, again, strict=True))


@presets
def test_a_gradient_that_is_not_finite_leaves_factors_alone(make):
    weights = matrices()
    optimizer = make(weights, approximation=sketch(2))
    for step in range(2):
        set_gradients(weights, step)
        optimizer.step()
    values = [p.detach().clone() for p in weights]
    state = copy.deepcopy(optimizer.state_dict()["state"])
    weights[1].grad[0, 0] = float("nan")
    optimizer.step()
    assert optimizer.skipped_steps == 1
    for index, p in enumerate(weights):
        assert torch.equal(p.detach(), values[index])
        assert all(torch.equal(state[index][key], x) for key, x in optimizer.state[p].items())


def test_a_state_of_another_rank_is_refused():
    _, optimizer = taken(PRESETS["Muon"], 1, sketch(2))
    saved = optimizer.state_dict()
    saved["param_groups"][0]["approximation"] = sketch(3)
    with pytest.raises(ValueError, match="sketch_left of parameter"):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("given", [Rounds(every=3), Sketch(rank=2, seed=5), None])
def test_plain_data_and_descriptions_are_the_same(given):
    assert approximation(plain(given)) == given
    optimizer = pg.Muon(matrices(), 0.05, approximation=given)
    assert optimizer.param_groups[0]["approximation"] == plain(given)


def test_groups_may_differ():
    a, b, c = matrices(SHAPES[:3])
    groups = [
        {"params": [a], "approximation": {"name": "rounds", "every": 2}},
        {"params": [b], "approximation": sketch(2)},
        {"params": [c]},
    ]
    optimizer = pg.Muon(groups, 0.05)
    for step in range(3):
        set_gradients([a, b, c], step)
        optimizer.step()
    assert [e.shape for e in approximation_error(optimizer)] == [(6, 4), (4, 6)]


def test_a_table_of_the_optimizer_says_it():
    weights = matrices([(6, 4)])
    for given, words in ((sketch(2), "sketch(rank=2) × svd"), (None, "original × svd")):
        optimizer = pg.Muon(weights, 0.05, method="svd", approximation=given)
        [row] = pg.explain(optimizer).rows
        assert words in row.rule


@pytest.mark.parametrize("scale", [2.0**-90, 2.0**90])
def test_the_step_has_the_degree_of_the_signal(scale):
    """Of a power of two, so that directions are those of the same numbers."""
    moved = []
    for c in (1.0, scale):
        weights = [nn.Parameter(torch.zeros(s, dtype=torch.float32)) for s in SHAPES]
        optimizer = pg.PolarGrad(weights, 1.0, method="svd", approximation=sketch(2))
        for step in range(3):
            set_gradients(weights, step)
            for p in weights:
                p.grad *= c
            optimizer.step()
        moved.append([p.detach() / c for p in weights])
    torch.testing.assert_close(*moved, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("given", [{"name": "rounds", "every": 2}, sketch(4)])
def test_what_the_plan_says_of_memory_is_enough(given, monkeypatch):
    """In stacks of a few matrices, of many."""
    unit = 8 * 24 * 16 * 4
    for module in (local, memory):
        monkeypatch.setattr(module, "STACK_BYTES", unit)
    monkeypatch.setattr(elementwise, "BATCH_BYTES", unit)
    weights = matrices([(24, 16)] * 20)
    optimizer = pg.PolarGrad(weights, 0.05, nesterov=True, approximation=given)
    for step in range(4):
        set_gradients(weights, step)
        with Peak() as peak:
            optimizer.step()
        if step:  # the first makes the state
            assert peak.most <= memory.step_bytes(optimizer)


def test_the_cost_of_a_step_that_is_approximated_is_not_simulated():
    with torch.device("meta"):
        weight = nn.Parameter(torch.empty(8, 4))
    optimizer = pg.Muon([weight], lr=0.1, approximation=sketch(2))
    with pytest.raises(ValueError, match="must be without an approximation"):
        simulate(optimizer, MeshSizes(fsdp=2))


REFUSED = [
    (lambda p: pg.Muon(p, 0.1, approximation="sketch"), "needs the options rank"),
    (lambda p: pg.Muon(p, 0.1, approximation={"name": "round"}), "must be one of rounds, sketch"),
    (lambda p: pg.Muon(p, 0.1, approximation=4), "approximation must be a name"),
    (lambda p: pg.Muon(p, 0.1, approximation={"name": "rounds", "every": 0}), "every must be at l"),
    (lambda p: pg.Muon(p, 0.1, approximation={"name": "rounds", "every": 2.0}), "an integer"),
    (lambda p: pg.Muon(p, 0.1, approximation=sketch(0)), "rank must be at least 1"),
    (lambda p: pg.Muon(p, 0.1, approximation=sketch(2, error=True)), "has the options rank, seed"),
    (
        lambda p: pg.optim.SOAP(p, 0.1, approximation=sketch(2)),
        "groups of geometry 'spectral' alone",
    ),
    (
        lambda p: pg.optim.RowNorm(p, 0.1, approximation=sketch(2)),
        "groups of geometry 'spectral' alone",
    ),
    (
        lambda p: pg.optim.HybridPolarGrad(p, 0.1, approximation=sketch(2)),
        "geometry 'spectral' alone",
    ),
    (
        lambda p: pg.MatrixOptimizer(
            p, 0.1, geometry={"name": "spectral", "correct": True}, approximation=sketch(2)
        ),
        "correct=True",
    ),
    (
        lambda p: pg.PolarGrad(p, 0.1, bias_correction=True, approximation=sketch(2)),
        "does not count gradients",
    ),
    (
        lambda p: pg.optim.OneSidedPolarGrad(p, 0.1, side="left", approximation=sketch(2)),
        "or approximate by rounds",
    ),
    (lambda p: pg.optim.SSD(p, 0.1, rank=2, approximation=sketch(2)), "'randomized_svd' both"),
    (
        lambda p: pg.Muon(p, 0.1, capturable=True, approximation={"name": "rounds", "every": 2}),
        "the host decides whose turn",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_is_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(matrices(SHAPES[:1]))
