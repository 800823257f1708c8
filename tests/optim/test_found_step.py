"""Step sizes that the run finds: the rule against a loop, invariances, state, and problems."""

import copy
import itertools
import math

import pytest
import torch
from quadratics import OF_DIRECTIONS, WAYS, Quadratic, randn
from torch import nn

import polargrad as pg
from polargrad import optim
from polargrad.optim import engine, gradients
from polargrad.optim.hypergradient import (
    COLUMNS,
    FALLS,
    RATE,
    chance_cosine,
    cosine,
    followed,
    slope,
)
from polargrad.optim.routing.views import WHOLE, split
from polargrad.optim.step_size import EVIDENCE, LAST, LOOK, NORM, PAIR, SIZE

FIRST, FIRST_OF_ZERO, FARTHEST = 0.05, 0.01, 1.0
FAR = torch.tensor(math.inf)


def polar(a):
    u, s, vh = torch.linalg.svd(a, full_matrices=False)
    return u @ vh, float(s.sum())


def first_size(x, beta=0.0):
    """A share of the root mean square of the singular values, within reach; a number for zero."""
    size = float(torch.linalg.svdvals(x).square().mean().sqrt())
    return min(FIRST * size, farthest(x, beta)) if size else FIRST_OF_ZERO


def farthest(x, beta=0.0):
    """How far a size may double: the typical singular value by what a momentum remembers."""
    size = float(torch.linalg.svdvals(x).square().mean().sqrt())
    return FARTHEST * (1 - beta) * size if size else math.inf


class Mean:
    """An exponential average of the looks there were."""

    def __init__(self, memory):
        self.memory, self.weight, self.total = memory, 0.0, 0.0

    def after(self, value):
        self.weight = self.memory * self.weight + 1 - self.memory
        self.total = self.memory * self.total + (1 - self.memory) * value
        return self.total / self.weight


def clipped(value):
    return max(-1.0, min(1.0, value))


class Rule:
    """The rule of a group of matrices, written from its formulas with plain numbers."""

    def __init__(self, sizes, reach, rate=RATE, counts_falls=False):
        self.sizes, self.reach, self.rate = list(sizes), list(reach), rate
        self.falls, self.counts_falls = 0.0, counts_falls
        self.squares = [Mean(0.95) for _ in sizes]
        self.square, self.trend = Mean(0.95), Mean(0.8)

    def follow(self, cosines, share=1.0, slopes=(0.0,)):
        self.agreed = sum(slopes) >= 0
        x = [
            clipped(c / math.sqrt(own.after(c * c))) if c else None
            for c, own in zip(cosines, self.squares, strict=True)
        ]
        votes = [v for v in x if v is not None]
        if not votes:
            return self.sizes
        mean = sum(votes) / len(votes)
        if mean:
            self.falls = 0.99 * self.falls + max(0.0, -mean)
        z = clipped(mean / math.sqrt(self.square.after(mean * mean))) if mean else 0.0
        trend = self.trend.after(z) if mean else 0.0
        for i, own in enumerate(x):
            apart = 0.0 if own is None else 0.1 * self.rate * (own - mean) * share**2
            self.sizes[i] *= math.exp(self.together(mean, z, trend, i, share) + apart)
        return self.sizes

    def together(self, mean, z, trend, i, share):
        """What a size changes by with the others, as a logarithm."""
        if z <= 0:
            return 1.1 * self.rate * mean
        sure = max(0.0, trend) ** 2 if self.sizes[i] < self.reach[i] else 0.0
        if not self.agreed:
            return 0.0
        slower = 1 + self.falls / 3 if self.counts_falls else 1.0
        return (self.rate + (math.log(2) - self.rate) * sure) * z * share**2 / slower


def half(x):
    """As the last direction is kept."""
    return x.to(torch.bfloat16).double()


def angle(g, d):
    lengths = float(g.norm()) * float(d.norm())
    return clipped(float((g * d).sum()) / lengths) if lengths else 0.0


def slope_of(g, d):
    """Of unit directions, whose lengths hardly vary."""
    return float((g * d).sum()) / float(g.norm())


def chance(beta, share):
    """The cosine of successive averages of independent terms, from their weights themselves."""
    past = (1 - share) * (1 - beta)
    weights = [past + share, *(past * beta**k for k in range(1, 2000))]
    together = sum(a * b for a, b in itertools.pairwise(weights))
    return together / sum(a * a for a in weights)


def share_of_newest(nesterov, beta):
    return 1 - beta if nesterov is True else float(nesterov)


def loop(start, gradients, *, beta=0.0, order="momentum-first", nesterov=False, decay=0.0, lr=1.0):
    """Yield X and the size of each step; ``gradients(X, k)`` are those of step k."""
    x, m, last = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    of_directions, turn = order == "polar-first", 0.0
    rule = Rule([first_size(start, beta)], [farthest(start, beta)], counts_falls=of_directions)
    newest = share_of_newest(nesterov, beta)
    for k in range(1000):
        g = gradients(x, k)
        multiplier = lr(k) if callable(lr) else lr
        along = slope_of(g, last)
        if of_directions:
            rule.follow([turn], min(1.0, multiplier), [along])
        else:
            rule.follow([along], min(1.0, multiplier))
        if order == "momentum-first":
            m = beta * m + (1 - beta) * g
            u, _ = polar((1 - newest) * m + newest * g)
        else:
            d, _ = polar(g)
            m = beta * m + (1 - beta) * d
            u = (1 - newest) * m + newest * d
        u = u + decay * x
        # What directions say is known at the next step; a first one says nothing.
        turn = angle(u, last) - chance(beta, newest) if last.any() and multiplier else 0.0
        last = half(u) * (multiplier > 0)
        x = x - multiplier * rule.sizes[0] * u
        yield x, rule.sizes[0]


def noisy(problem, noise=0.3):
    """Its gradient with noise that depends on the step alone."""
    return lambda x, k: problem.gradient(x) + noise * randn(*x.shape, seed=1000 + k)


def times(factor, gradients):
    """The gradients of a loss in another unit."""
    return lambda x, k: factor * gradients(x, k)


def stepped(optimizer, parameter, gradients, steps, schedule=None):
    for k in range(steps):
        parameter.grad = gradients(parameter.detach().double(), k).to(parameter.dtype)
        if schedule is not None:
            optimizer.param_groups[0]["lr"] = schedule(k)
        optimizer.step()
    return parameter.detach()


CASES = {
    "gradient": {},
    "momentum-first": {"beta": 0.8},
    "Nesterov": {"beta": 0.8, "nesterov": True},
    "polar-first": {"beta": 0.8, "order": "polar-first"},
    "a share of the newest": {"beta": 0.8, "nesterov": 0.05},
    "polar-first, Nesterov": {"beta": 0.8, "order": "polar-first", "nesterov": True},
    "polar-first, a share": {"beta": 0.9, "order": "polar-first", "nesterov": 0.03},
    "polar-first, decay": {"beta": 0.8, "order": "polar-first", "decay": 0.05},
    "polar-first, restarts": {
        "beta": 0.5,
        "order": "polar-first",
        "lr": lambda k: 0.5 * (1 + math.cos(math.pi * (k % 9) / 9)) * (k % 9 < 8),
    },
    "decay": {"decay": 0.05},
    "momentum-first, decay": {"beta": 0.5, "decay": 0.05},
    "warmup": {"lr": lambda k: min(1.0, k / 10)},
    "restarts": {"beta": 0.5, "lr": lambda k: 0.5 * (1 + math.cos(math.pi * (k % 9) / 9))},
    "a multiplier above 1": {"lr": lambda k: 3.0},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (6, 1)], ids=str)
def test_the_rule_is_that_of_the_formula(case, shape):
    problem, start = Quadratic(*shape), randn(*shape, seed=5)
    gradients = noisy(problem)
    parameter = nn.Parameter(start.clone())
    optimizer = pg.PolarGrad(
        [parameter],
        method="svd",
        momentum=case.get("beta", 0.0),
        order=case.get("order", "momentum-first"),
        nesterov=case.get("nesterov", False),
        weight_decay=case.get("decay", 0.0),
    )
    schedule = case.get("lr")
    found = stepped(optimizer, parameter, gradients, 25, schedule)
    expected = loop(start, gradients, **case)
    for _ in range(25):
        x, size = next(expected)
    # Sizes are float32: 25 of them round 25 times.
    torch.testing.assert_close(found, x, rtol=3e-5, atol=3e-5)
    assert float(optimizer.state[parameter][SIZE]) == pytest.approx(size, rel=3e-5)


SHARES = {"whole": lambda k: 1.0, "warmup": lambda k: min(1.0, k / 12)}


@pytest.mark.parametrize("counts_falls", [False, True])
@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
@pytest.mark.parametrize("matrices", [1, 2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_followed_is_the_formula(seed, matrices, share, counts_falls):
    """Noise around a mean that drifts from too short to too long; some have no look at times."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(matrices, generator=generator) + 0.1
    reach = 3.0 * torch.rand(matrices, generator=generator)
    rule = Rule(start.tolist(), reach.tolist(), counts_falls=counts_falls)
    columns = (*COLUMNS, FALLS) if counts_falls else COLUMNS
    sizes, evidence = start, torch.zeros(matrices, len(columns))
    for k in range(60):
        cosines = 0.3 * torch.randn(matrices, generator=generator) + 0.5 - k / 30
        cosines = torch.where(torch.rand(matrices, generator=generator) < 0.2, 0.0, cosines)
        cosines = cosines.clamp(-1, 1)
        slopes = torch.randn(matrices, generator=generator) if counts_falls else None
        sizes, evidence = followed(sizes, evidence, cosines, reach, RATE, share(k), slopes)
        against = [0.0] if slopes is None else slopes.tolist()
        expected = torch.tensor(rule.follow(cosines.tolist(), share(k), against))
        torch.testing.assert_close(sizes, expected, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("share", [0.0, 0.04, 0.3])
@pytest.mark.parametrize("beta", [0.3, 0.9, 0.98])
def test_what_independent_terms_would_do(beta, share):
    assert chance_cosine(beta, share) == pytest.approx(chance(beta, share), rel=1e-9)
    assert chance_cosine(torch.tensor(beta), share).item() == pytest.approx(
        chance(beta, share), rel=1e-4
    )


def test_of_independent_terms_it_is_the_mean():
    """Averages of independent directions, of so many dimensions that lengths hardly vary."""
    beta, share = 0.8, 0.05
    average, last, cosines = torch.zeros(1000).double(), None, []
    for k, new in enumerate(torch.nn.functional.normalize(randn(2000, 1000), dim=1)):
        average = beta * average + (1 - beta) * new
        direction = (1 - share) * average + share * new
        if k > 100:
            cosines.append(angle(direction, last))
        last = direction
    assert sum(cosines) / len(cosines) == pytest.approx(chance_cosine(beta, share), abs=5e-3)


def test_steps_that_are_sure_double():
    sizes, evidence = torch.ones(2), torch.zeros(2, len(COLUMNS))
    for _ in range(5):
        sizes, evidence = followed(sizes, evidence, torch.tensor([0.3, 0.01]), FAR, RATE)
    torch.testing.assert_close(sizes, torch.full((2,), 32.0))


def test_what_has_no_angle_leaves_the_size_alone():
    zero = torch.zeros(2)
    assert torch.equal(cosine(zero, zero, torch.ones(2)), zero)
    assert torch.equal(cosine(zero, torch.ones(2), zero), zero)
    assert torch.equal(slope(zero, zero), zero)
    sizes, evidence = followed(torch.ones(2), torch.zeros(2, len(COLUMNS)), zero, FAR, RATE)
    assert torch.equal(sizes, torch.ones(2))
    assert not evidence.any()


def test_a_matrix_without_a_gradient_neither_votes_nor_forgets():
    """What its group has learnt meanwhile it knows at once when it comes back."""
    optimizers = []
    for present in (range(12), (0, 1, 2, 9, 10, 11)):
        a, b = nn.Parameter(randn(5, 3)), nn.Parameter(randn(4, 3, seed=1))
        optimizer = pg.PolarGrad([a, b], momentum=0.0, method="svd")
        for k in range(12):
            a.grad, b.grad = randn(5, 3, seed=k), randn(4, 3, seed=50 + k) if k in present else None
            optimizer.step()
        optimizers.append([optimizer.state[p] for p in (a, b)])
    (_, _), (a, b) = optimizers
    group = COLUMNS.index("group weight")
    torch.testing.assert_close(b[EVIDENCE][:, group:], a[EVIDENCE][:, group:])
    assert float(b[EVIDENCE][0, 0]) < float(a[EVIDENCE][0, 0])


def test_an_objective_without_a_minimum_ends_in_a_number():
    sizes, evidence = torch.ones(1), torch.zeros(1, len(COLUMNS))
    for _ in range(1000):
        sizes, evidence = followed(sizes, evidence, torch.ones(1), FAR, RATE)
    assert sizes.isfinite().all()


def test_a_step_that_goes_too_far_every_time_ends_small():
    """A divergence ends in shrinking steps."""
    sizes, evidence = torch.ones(1), torch.zeros(1, len(COLUMNS))
    for k in range(400):
        sizes, evidence = followed(
            sizes, evidence, torch.tensor([0.5 if k < 5 else -0.5]), FAR, RATE
        )
    assert 0.0 < float(sizes) < 1e-12


def test_the_matrices_of_a_group_vote():
    """Three matrices of two shapes in one group, each with its own noise, against a loop."""
    starts = [randn(5, 3), 10 * randn(5, 3, seed=1), randn(4, 4, seed=2)]
    noise = [[randn(*s.shape, seed=100 * i + k) for k in range(25)] for i, s in enumerate(starts)]
    parameters = [nn.Parameter(s.clone()) for s in starts]
    optimizer = pg.PolarGrad(parameters, momentum=0.0, method="svd")
    rule = Rule([first_size(s) for s in starts], [farthest(s) for s in starts])
    x, last = [s.clone() for s in starts], [torch.zeros_like(s) for s in starts]
    for k in range(25):
        for i, p in enumerate(parameters):
            p.grad = p.detach() + noise[i][k]
        optimizer.step()
        gradients = [value + noise[i][k] for i, value in enumerate(x)]
        rule.follow([slope_of(g, d) for g, d in zip(gradients, last, strict=True)])
        directions = [polar(g)[0] for g in gradients]
        last = [half(u) for u in directions]
        x = [value - s * u for value, s, u in zip(x, rule.sizes, directions, strict=True)]
    for p, value in zip(parameters, x, strict=True):
        torch.testing.assert_close(p.detach(), value, rtol=3e-5, atol=3e-5)


FIRST_STEPS = WAYS | {
    "corrected": {"momentum": 0.9, "order": "polar-first", "bias_correction": True},
    "Nesterov, corrected": {
        "momentum": 0.9,
        "order": "polar-first",
        "bias_correction": True,
        "nesterov": True,
    },
    "a share, corrected": OF_DIRECTIONS | {"bias_correction": True},
    "heavy ball": {"momentum": 0.9, "order": "polar-first", "momentum_form": "heavy-ball"},
    "Nesterov": {"momentum": 0.9, "order": "polar-first", "nesterov": True},
}


@pytest.mark.parametrize("first", [1e-4, 0.3, 1e2])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 1)], ids=str)
@pytest.mark.parametrize("way", FIRST_STEPS)
def test_the_first_step_is_taken(first, shape, way):
    """Also where an average of directions begins with a small part of one."""
    start = randn(*shape)
    parameter = nn.Parameter(start.clone())
    optimizer = pg.PolarGrad([parameter], first_step=first, method="svd", **FIRST_STEPS[way])
    parameter.grad = randn(*shape, seed=3)
    optimizer.step()
    moved = torch.linalg.matrix_norm(parameter.detach() - start, 2)
    assert float(moved) == pytest.approx(first, rel=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("first", [1e-4, 1e2])
def test_the_second_step_is_one_of_the_matrix(first, momentum):
    """At most 1 − β of the typical singular value, and then what the first look says."""
    start = randn(6, 4)
    parameter = nn.Parameter(start.clone())
    options = {"first_step": first, "momentum": momentum, "method": "svd"}
    optimizer = pg.PolarGrad([parameter], **options)
    parameter.grad = randn(6, 4, seed=3)
    optimizer.step()
    before = parameter.detach().clone()
    parameter.grad = randn(6, 4, seed=4)
    optimizer.step()
    moved = float(torch.linalg.matrix_norm(parameter.detach() - before, 2))
    base = min(first, farthest(start, momentum))
    rates = [math.log(moved / base / factor) for factor in (2.0, math.exp(-1.1 * RATE))]
    assert min(map(abs, rates)) < 1e-5


@pytest.mark.parametrize("momentum", [0.0, 0.95, 0.99])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e3])
def test_the_first_step_by_default(scale, momentum):
    start = scale * randn(6, 4)
    parameter = nn.Parameter(start.clone())
    optimizer = pg.PolarGrad([parameter], momentum=momentum, method="svd")
    parameter.grad = randn(6, 4, seed=3)
    optimizer.step()
    moved = torch.linalg.matrix_norm(parameter.detach() - start, 2)
    assert float(moved) == pytest.approx(first_size(start, momentum), rel=1e-6)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("exponent", [-20, 20])
def test_a_loss_times_a_power_of_two_changes_no_bit(way, exponent):
    ends = []
    for factor in (1.0, 2.0**exponent):
        problem = Quadratic(scale=1.0)
        parameter = nn.Parameter(randn(7, 4, seed=5).float())
        optimizer = pg.PolarGrad([parameter], **WAYS[way])
        ends.append(stepped(optimizer, parameter, times(factor, noisy(problem)), 30))
    assert torch.equal(*ends)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_a_loss_in_another_unit_comes_to_the_same(factor):
    problem = Quadratic()
    gaps = []
    for unit in (1.0, factor):
        parameter = nn.Parameter(randn(7, 4, seed=5))
        optimizer = pg.PolarGrad([parameter], momentum=0.0, method="svd")
        x = stepped(optimizer, parameter, times(unit, problem.gradient), 40)
        gaps.append(problem.gap(x))
    assert gaps[1] == pytest.approx(gaps[0], rel=1e-3)


def test_a_zero_gradient_leaves_the_size_alone():
    parameter = nn.Parameter(randn(6, 4))
    optimizer = pg.PolarGrad([parameter], momentum=0.0)
    problem = Quadratic(6, 4)
    stepped(optimizer, parameter, problem.gradient, 5)
    before, size = parameter.detach().clone(), optimizer.state[parameter][SIZE].clone()
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(parameter, before)
    assert torch.equal(optimizer.state[parameter][SIZE], size)


@pytest.mark.parametrize("way", ["of directions", "noise", "momentum-first"])
def test_what_a_zero_gradient_says_is_nothing(way):
    """A momentum goes on by itself, and its size stays."""
    options = WAYS.get(way, OF_DIRECTIONS)
    parameter = nn.Parameter(randn(6, 4))
    optimizer = pg.PolarGrad([parameter], **options)
    gradients = Quadratic(6, 4).gradient if way != "noise" else noisy(Quadratic(6, 4), 10.0)
    stepped(optimizer, parameter, gradients, 12)
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # what the steps before said is followed here
    size = optimizer.state[parameter][SIZE].clone()
    for _ in range(5):
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    assert torch.equal(optimizer.state[parameter][SIZE], size)


@pytest.mark.parametrize("options", [{}, {"capturable": True}, {"momentum": 0.9}, OF_DIRECTIONS])
def test_a_gradient_that_is_not_finite_changes_nothing(options):
    parameter = nn.Parameter(randn(6, 4).float())
    optimizer = pg.PolarGrad([parameter], **{"momentum": 0.0} | options)
    stepped(optimizer, parameter, Quadratic(6, 4).gradient, 3)
    before, state = parameter.detach().clone(), copy.deepcopy(optimizer.state[parameter])
    parameter.grad[2, 3] = torch.inf
    optimizer.step()
    assert torch.equal(parameter, before)
    assert all(torch.equal(state[key], optimizer.state[parameter][key]) for key in state)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_of_several_matrices_none_is_stepped(value):
    """A look at one that is finite says nothing of the others."""
    params = [nn.Parameter(randn(6, 4, seed=i)) for i in range(3)]
    optimizer = pg.PolarGrad(params, momentum=0.0)
    for _ in range(3):
        for p in params:
            p.grad = p.detach().clone()
        optimizer.step()
    before = copy.deepcopy([{"x": p.data, **optimizer.state[p]} for p in params])
    params[1].grad[2, 3] = value
    optimizer.step()
    assert optimizer.skipped_steps == 1
    for p, old in zip(params, before, strict=True):
        new = {"x": p.data, **optimizer.state[p]}
        assert all(torch.equal(old[key], new[key]) for key in old)


@pytest.mark.parametrize(("dtype", "large"), [(torch.float32, 3e38), (torch.float64, 1e200)])
def test_squares_that_overflow_are_of_a_finite_gradient(dtype, large):
    parameter = nn.Parameter(randn(6, 4).to(dtype))
    optimizer = pg.PolarGrad([parameter], momentum=0.0)
    stepped(optimizer, parameter, lambda x, _: x, 3)
    before = parameter.detach().clone()
    parameter.grad = torch.full_like(parameter, large)
    optimizer.step()
    assert optimizer.skipped_steps == 0
    assert parameter.isfinite().all()
    assert not torch.equal(parameter, before)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("shape", [(300, 40), (40, 300)])
def test_a_gradient_is_not_read_again_to_know_that_it_is_finite(monkeypatch, momentum, shape):
    parameter = nn.Parameter(randn(*shape).float())
    optimizer = pg.PolarGrad([parameter], momentum=momentum)
    looked = []
    whole = gradients._is_finite
    monkeypatch.setattr(gradients, "_is_finite", lambda g: looked.append(g.shape) or whole(g))
    for steps in range(3):
        stepped(optimizer, parameter, lambda x, _: x, 1)
        assert looked == [torch.Size(shape)], steps  # the first has no direction before it


@pytest.mark.parametrize("views", [True, False])
def test_a_look_together_with_the_check_is_the_same_look(monkeypatch, views):
    """To the bit; of matrices that are parts of a parameter there is none."""
    ends = []
    for early in (True, False):
        if not early:
            monkeypatch.setattr(engine, "early_looks", lambda *_: {})
        torch.manual_seed(0)
        qkv, whole = nn.Parameter(torch.randn(12, 4)), nn.Parameter(torch.randn(5, 9))
        group = {"params": [qkv, whole]}
        if views:
            group["views"] = [split(3), WHOLE]
        optimizer = pg.PolarGrad([group], momentum=0.0)
        for _ in range(10):
            for p in (qkv, whole):
                p.grad = p.detach() * torch.linspace(0.1, 1.0, p.shape[1])
            optimizer.step()
        ends.append((qkv.detach(), whole.detach()))
    for one, other in zip(*ends, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_read_on_the_host(way):
    """With capturable every decision is one of tensors, and comes to the same."""
    ends = []
    for capturable in (False, True):
        parameter = nn.Parameter(randn(7, 4, seed=5).float())
        optimizer = pg.PolarGrad([parameter], capturable=capturable, **WAYS[way])
        ends.append(stepped(optimizer, parameter, noisy(Quadratic()), 20))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", ["momentum-first", "of directions"])
def test_state_is_saved_and_continues_to_the_bit(tmp_path, way):
    problem = Quadratic()

    def make():
        parameter = nn.Parameter(randn(7, 4, seed=5))
        return parameter, pg.PolarGrad([parameter], **WAYS[way])

    parameter, optimizer = make()
    stepped(optimizer, parameter, noisy(problem), 12)
    torch.save([parameter.detach(), optimizer.state_dict()], tmp_path / "state.pt")
    whole = stepped(optimizer, parameter, problem.gradient, 12)

    again, other = make()
    saved, state = torch.load(tmp_path / "state.pt", weights_only=True)
    other.load_state_dict(state)
    again.data.copy_(saved)
    assert torch.equal(stepped(other, again, problem.gradient, 12), whole)
    keys = {LAST, SIZE, EVIDENCE} | ({LOOK, NORM, PAIR} if way == "of directions" else set())
    assert keys <= set(other.state[again])


def test_an_older_state_is_one_of_a_given_lr():
    parameter = nn.Parameter(randn(6, 4))
    given = pg.PolarGrad([parameter], lr=0.1)
    parameter.grad = randn(6, 4, seed=1)
    given.step()
    state = given.state_dict()
    for key in ("step_size", "step_rate", "first_step"):
        del state["param_groups"][0][key]
    other = pg.PolarGrad([parameter])
    other.load_state_dict(state)
    assert other.param_groups[0]["step_size"] == "given"
    assert other.param_groups[0]["lr"] == 0.1


def test_a_state_of_other_matrices_is_refused():
    parameter = nn.Parameter(randn(6, 4))
    optimizer = pg.PolarGrad([parameter])
    stepped(optimizer, parameter, Quadratic(6, 4).gradient, 1)
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0][SIZE] = torch.ones(3)
    with pytest.raises(ValueError, match="step_size of parameter number 0 has shape"):
        optimizer.load_state_dict(state)


def test_each_logical_matrix_has_a_size_of_its_own():
    """A fused parameter is what its parts are as parameters."""
    parts = [randn(4, 6, seed=i) * 10.0**i for i in range(3)]
    fused = nn.Parameter(torch.cat(parts))
    view = {"kind": "split", "parts": 3}
    whole = pg.PolarGrad(
        [{"params": [fused], "rule": "matrix", "views": [view]}], momentum=0.5, method="svd"
    )
    own = [nn.Parameter(part.clone()) for part in parts]
    separate = pg.PolarGrad(own, momentum=0.5, method="svd")
    for k in range(10):
        gradients = [randn(4, 6, seed=50 + 3 * k + i) + p.detach() for i, p in enumerate(own)]
        fused.grad = torch.cat(gradients)
        for p, g in zip(own, gradients, strict=True):
            p.grad = g
        whole.step()
        separate.step()
    torch.testing.assert_close(fused, torch.cat(own), rtol=1e-9, atol=1e-9)
    sizes = torch.cat([separate.state[p][SIZE] for p in own])
    torch.testing.assert_close(whole.state[fused][SIZE], sizes)
    assert sizes.unique().numel() == 3


def test_a_schedule_that_begins_at_zero_moves_nothing_and_finds_nothing():
    parameter = nn.Parameter(randn(7, 4, seed=5))
    optimizer = pg.PolarGrad([parameter], momentum=0.0)
    before = parameter.detach().clone()
    stepped(optimizer, parameter, Quadratic().gradient, 3, schedule=lambda k: 0.0)
    assert torch.equal(parameter, before)
    assert float(optimizer.state[parameter][SIZE]) == pytest.approx(first_size(before), rel=1e-6)


def test_a_scheduler_of_torch_moves_the_multiplier():
    parameter = nn.Parameter(randn(7, 4, seed=5))
    optimizer = pg.PolarGrad([parameter], momentum=0.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    assert optimizer.param_groups[0]["lr"] == 1.0
    for _ in range(10):
        parameter.grad = Quadratic().gradient(parameter.detach())
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)


# Every method of the frame, without a learning rate.
METHODS = {
    "PolarGrad": lambda p: pg.PolarGrad(p, momentum=0.5),
    "polar-first": lambda p: pg.PolarGrad(p, momentum=0.5, order="polar-first"),
    "PolarMuon": lambda p: optim.PolarMuon(p, None, momentum=0.5),
    "Muon": lambda p: pg.Muon(p, None, momentum=0.5, weight_decay=0.0),
    "MatrixSignDescent": lambda p: optim.MatrixSignDescent(p, None),
    "GradientDescent": lambda p: optim.GradientDescent(p, None),
    "SignSGD": lambda p: optim.SignSGD(p, None),
    "RowNorm": lambda p: optim.RowNorm(p, None),
    "HybridPolarGrad": lambda p: optim.HybridPolarGrad(p, None),
    "Shampoo": lambda p: optim.Shampoo(p, None),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_finds_a_size(name):
    """From a first step that is a hundred times too small: a given one would stay where it is."""
    problem = Quadratic(condition=3.0)
    parameter = nn.Parameter(problem.solution + 100.0 * randn(7, 4, seed=5))
    optimizer = METHODS[name]([parameter])
    optimizer.param_groups[0]["first_step"] = 1e-3
    before = problem.gap(parameter.detach())
    x = stepped(optimizer, parameter, problem.gradient, 200)
    assert problem.gap(x) < 1e-2 * before


# Problems.


@pytest.mark.parametrize("way", ["no momentum", "of directions"])
@pytest.mark.parametrize("first", [1e-4, 1.0, 1e2])
def test_the_papers_quadratic(first, way):
    """Section 6.1 in float64: the gap from 2e9 to below 1e-6 in 300 steps, from any start."""
    from polargrad.problems import MatrixQuadraticRegression

    problem, start = MatrixQuadraticRegression.published(42)
    problem = problem.to(torch.float64)
    parameter = nn.Parameter(start.double())
    optimizer = pg.PolarGrad([parameter], first_step=first, tol=None, **WAYS[way])
    x = stepped(optimizer, parameter, lambda x, k: problem.gradient(x), 300)
    assert float(problem.gap(x)) < 1e-6


@pytest.mark.parametrize("way", ["no momentum", "of directions"])
@pytest.mark.parametrize("kind", ["kronecker", "general", "column"])
@pytest.mark.parametrize("seed", range(3))
def test_random_quadratics(kind, seed, way):
    """κ_H = 10: a relative gap of 1e-12 within 300 steps."""
    shape = (24, 1) if kind == "column" else (12, 6)
    if kind == "kronecker":
        problem = Quadratic(*shape, seed=seed, condition=10.0)
        gradient, gap = problem.gradient, problem.gap
    else:
        size = shape[0] * shape[1]
        q = torch.linalg.qr(randn(size, size, seed=seed))[0]
        hessian = (q * torch.logspace(0, -1, size).double()) @ q.T
        solution = randn(*shape, seed=seed + 7)

        def gradient(x, k=0):
            return (hessian @ (x - solution).flatten()).view(shape)

        def gap(x):
            return 0.5 * float(((x - solution) * gradient(x)).sum())

    parameter = nn.Parameter(randn(*shape, seed=seed + 1))
    before = gap(parameter.detach())
    optimizer = pg.PolarGrad([parameter], method="svd", **WAYS[way])
    assert gap(stepped(optimizer, parameter, gradient, 300)) < 1e-12 * before


def steps_to_converge(shape, condition, seed, most=600):
    """To a relative gap of 1e-12, along the average of polar factors."""
    problem = Quadratic(*shape, seed=seed, condition=condition)
    parameter = nn.Parameter(randn(*shape, seed=seed + 1))
    optimizer = pg.PolarGrad([parameter], method="svd", **OF_DIRECTIONS)
    bound = 1e-12 * problem.gap(parameter.detach())
    for k in range(most):
        stepped(optimizer, parameter, problem.gradient, 1)
        if problem.gap(parameter.detach()) <= bound:
            return k + 1
    return math.inf


@pytest.mark.parametrize("shape", [(16, 16), (24, 12)], ids=str)
@pytest.mark.parametrize("seed", [1, *(pytest.param(s, marks=pytest.mark.slow) for s in (2, 3, 4))])
def test_the_condition_number_is_nearly_absent(shape, seed):
    """Of Kronecker Hessians: with κ a hundred thousand times as large, fewer than thrice the steps.

    No schedule of sizes along single polar factors gets there in twenty times the steps
    (benchmarks/found_steps_limits.py).
    """
    steps = [steps_to_converge(shape, condition, seed) for condition in (10.0, 1e6)]
    assert steps[0] <= 150
    assert steps[1] < 3 * steps[0]


# Bad input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.1, "first_step": 1e-3}, "first_step=0.001 is of a step size that the run finds"),
        ({"lr": 0.1, "step_rate": 0.2}, "step_rate=0.2 is of a step size that the run finds"),
        ({"first_step": 0.0}, "first_step must be above 0, got 0"),
        ({"first_step": -1.0}, "first_step must be at least 0 and finite, got -1.0"),
        ({"step_rate": 0.0}, "step_rate must be above 0, got 0"),
        ({"step_rate": 1.0}, r"step_rate must be in \[0, 1\), got 1.0"),
        ({"order": "polyak"}, "order='polyak' sums whole steps"),
        ({"max_dual_norm": 1.0}, "max_dual_norm=1.0 is of the dual norm"),
        (
            {"nesterov": 0.0},
            r"nesterov must be one of .* in \(0, 1\), got 0.0",
        ),
        ({"nesterov": 1.0}, "nesterov must be one of True, False, or a share of the newest"),
        ({"nesterov": "yes"}, "nesterov must be one of True, False, or a share .*, got 'yes'"),
        ({"nesterov": float("nan")}, "nesterov must be one of True, False, or a share"),
        ({"nesterov": 0.1, "momentum": 0.0}, "nesterov=0.1 needs a momentum above 0"),
        ({"nesterov": 0.1, "momentum_form": "heavy-ball"}, "nesterov=0.1 is a share of an average"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        pg.PolarGrad([nn.Parameter(torch.eye(3))], **options)


def test_groups_may_differ():
    """lr=None in a group is a size that is found; a number in a group is given."""
    a, b = nn.Parameter(torch.eye(3)), nn.Parameter(torch.eye(3))
    optimizer = pg.PolarGrad([{"params": [a]}, {"params": [b], "lr": 0.1}])
    assert [g["step_size"] for g in optimizer.param_groups] == ["hypergradient", "given"]
    optimizer = pg.PolarGrad([{"params": [a], "lr": None}, {"params": [b]}], lr=0.1)
    assert [g["step_size"] for g in optimizer.param_groups] == ["hypergradient", "given"]
    assert [g["lr"] for g in optimizer.param_groups] == [1.0, 0.1]


def test_explain_shows_what_was_found():
    parameter = nn.Parameter(randn(7, 4, seed=5))
    optimizer = pg.PolarGrad([parameter], momentum=0.0)
    (row,) = pg.explain(optimizer).rows
    assert row.lr is None
    assert row.rule.startswith("found size")
    stepped(optimizer, parameter, Quadratic().gradient, 4)
    (row,) = pg.explain(optimizer).rows
    assert row.lr == pytest.approx(float(optimizer.state[parameter][SIZE]))
