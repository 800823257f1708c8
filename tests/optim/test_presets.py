"""Each preset against a loop in float64 that is written from its equation alone, 20 steps."""

import math

import pytest
import torch
from torch import nn

import polargrad as pg
from polargrad import optim

STEPS = 20
LR = 0.03
SHAPES = [(6, 4), (4, 6), (5, 5)]


def polar(a):
    """The partial isometry on the range: a centred matrix has lost a dimension."""
    u, s, vh = torch.linalg.svd(a, full_matrices=False)
    kept = s > 1e-12 * s[0]
    return u[:, kept] @ vh[kept], s.sum()


def root(a, power):
    """A symmetric positive definite matrix to a power."""
    values, vectors = torch.linalg.eigh(a)
    return (vectors * values**power) @ vectors.T


def rows(a):
    return a / a.norm(dim=1, keepdim=True)


def centred(a):
    return a - a.mean(dim=0, keepdim=True)


# Of a matrix that is not square the first gradient leaves a part of a basis of SOAP undefined.
ITS_SHAPES = {"SOAP": [(5, 5), (4, 4)]}

# A loop is a generator function: it yields the update of each step, without lr, for gradients sent.


def momentum(gradients, beta, direction, *, nesterov=False, heavy=False):
    m = 0
    for g in gradients:
        new = g if heavy else (1 - beta) * g
        m = beta * m + new
        yield direction(beta * m + new if nesterov else m)


def scaled_polar(m, power=1.0):
    u, nuclear = polar(m)
    return nuclear**power * u


def plain(direction):
    return lambda gradients: map(direction, gradients)


def averaged(direction, beta=0.9, **form):
    return lambda gradients: momentum(gradients, beta, direction, **form)


def polar_first(gradients, beta=0.9):
    m = 0
    for g in gradients:
        u, nuclear = polar(g)
        m = beta * m + (1 - beta) * u
        yield nuclear * m


def polyak(gradients, beta=0.5):
    """X' = X − γ a U + β (X − X_before): the update is what has been moved, over γ."""
    moved = 0
    for g in gradients:
        moved = beta * moved + scaled_polar(g)
        yield moved


def bias_corrected(gradients, beta=0.9):
    m = 0
    for t, g in enumerate(gradients, start=1):
        m = beta * m + (1 - beta) * g
        yield scaled_polar(m / (1 - beta**t))


def bias_corrected_nesterov(gradients, beta=0.9):
    m = 0
    for t, g in enumerate(gradients, start=1):
        m = beta * m + (1 - beta) * g
        yield scaled_polar(beta * m / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t))


def quintic(m):
    """Five steps of Muon, as on Jordan's page, in the wide orientation."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = m.shape[0] > m.shape[1]
    x = m.T if tall else m
    x = x / x.norm()
    for _ in range(5):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if tall else x


def muon(factor):
    return averaged(lambda m: factor(*m.shape) * quintic(m), beta=0.95, nesterov=True)


def clipped(limit):
    def direction(m):
        u, nuclear = polar(m)
        return min(nuclear, limit) * u

    return averaged(direction)


def row_then_polar(m, power=1.0):
    return scaled_polar(rows(m), power)


def polar_then_row(m, power=1.0):
    u, nuclear = polar(m)
    return nuclear**power * rows(u)


def shampoo(gradients):
    left = right = 0
    for g in gradients:
        left, right = left + g @ g.T, right + g.T @ g
        yield root(left + 1e-12 * torch.linalg.eigvalsh(left)[-1] * torch.eye(len(left)), -0.25) @ (
            g
            @ root(right + 1e-12 * torch.linalg.eigvalsh(right)[-1] * torch.eye(len(right)), -0.25)
        )


def shampoo_right(gradients):
    right = 0
    for g in gradients:
        right = 0.9 * right + 0.1 * g.T @ g
        yield g @ root(
            right + 1e-10 * torch.linalg.eigvalsh(right)[-1] * torch.eye(len(right)), -0.5
        )


def soap(gradients, b1=0.9, b2=0.8, eps=1e-8, refresh=3):
    """The first gradient gives the bases and no step; a refresh is a power iteration and a QR."""
    m = left = right = v = 0
    ql = qr = None
    for t, g in enumerate(gradients):
        if t > 1 and (t - 1) % refresh == 0:
            ql, first = power_iteration(left, ql)
            qr, second = power_iteration(right, qr)
            v = v[first][:, second]
        if t:
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * (ql.T @ g @ qr) ** 2
        left, right = b2 * left + (1 - b2) * g @ g.T, b2 * right + (1 - b2) * g.T @ g
        if not t:
            ql = torch.linalg.eigh(left).eigenvectors.flip(1)
            qr = torch.linalg.eigh(right).eigenvectors.flip(1)
            yield torch.zeros_like(g)
            continue
        hat = ql.T @ (m / (1 - b1**t)) @ qr
        yield ql @ (hat / ((v / (1 - b2**t)).sqrt() + eps)) @ qr.T


def power_iteration(factor, basis):
    order = (basis.T @ factor @ basis).diagonal().argsort(descending=True)
    return torch.linalg.qr((factor @ basis)[:, order]).Q, order


def adam(gradients, b1=0.9, b2=0.99, eps=1e-8):
    m = v = 0
    for t, g in enumerate(gradients, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        yield (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + eps)


EXACT = {"method": "svd"}
CASES = {
    "gradient descent": (lambda p: optim.GradientDescent(p, LR), plain(lambda g: g)),
    "gradient descent, heavy ball and Nesterov": (
        lambda p: optim.GradientDescent(
            p, LR, momentum=0.9, momentum_form="heavy-ball", nesterov=True
        ),
        averaged(lambda m: m, heavy=True, nesterov=True),
    ),
    "signSGD": (lambda p: optim.SignSGD(p, LR), plain(torch.sign)),
    "Signum": (lambda p: optim.SignSGD(p, LR, momentum=0.9), averaged(torch.sign)),
    "sign descent": (
        lambda p: optim.SignSGD(p, LR, scaled=True),
        plain(lambda g: g.abs().sum() * torch.sign(g)),
    ),
    "PolarGrad": (lambda p: pg.PolarGrad(p, LR, momentum=0, **EXACT), plain(scaled_polar)),
    "PolarGradM": (lambda p: pg.PolarGrad(p, LR, momentum=0.9, **EXACT), averaged(scaled_polar)),
    "PolarGradM, Nesterov": (
        lambda p: pg.PolarGrad(p, LR, momentum=0.9, nesterov=True, **EXACT),
        averaged(scaled_polar, nesterov=True),
    ),
    "PolarGradM, polar-first": (
        lambda p: pg.PolarGrad(p, LR, momentum=0.9, order="polar-first", **EXACT),
        polar_first,
    ),
    "PolarHB, M = βM + G": (
        lambda p: pg.PolarGrad(p, LR, momentum=0.9, momentum_form="heavy-ball", **EXACT),
        averaged(scaled_polar, heavy=True),
    ),
    "PolarHB, Polyak": (
        lambda p: pg.PolarGrad(p, LR, momentum=0.5, order="polyak", **EXACT),
        polyak,
    ),
    "PolarGradM, bias-corrected": (
        lambda p: pg.PolarGrad(p, LR, momentum=0.9, bias_correction=True, **EXACT),
        bias_corrected,
    ),
    "PolarGradM, bias-corrected, Nesterov": (
        lambda p: pg.PolarGrad(p, LR, momentum=0.9, bias_correction=True, nesterov=True, **EXACT),
        bias_corrected_nesterov,
    ),
    "PolarGradM, clipped": (
        lambda p: pg.PolarGrad(p, LR, momentum=0.9, max_dual_norm=3.0, **EXACT),
        clipped(3.0),
    ),
    "PolarMuon": (
        lambda p: pg.PolarMuon(p, LR, momentum=0.9, **EXACT),
        averaged(scaled_polar, nesterov=True),
    ),
    "matrix sign descent": (
        lambda p: optim.MatrixSignDescent(p, LR, **EXACT),
        plain(lambda g: polar(g)[0]),
    ),
    "SSD": (
        lambda p: optim.SSD(p, LR, rank=2, oversampling=4, power_iterations=60),
        plain(lambda g: leading(g, 2)),
    ),
    "Muon": (
        lambda p: pg.Muon(p, LR, weight_decay=0),
        muon(lambda m, n: math.sqrt(max(1, m / n))),
    ),
    "Muon, Moonlight": (
        lambda p: pg.Muon(
            p, LR, weight_decay=0, adjust_lr_fn="match_rms_adamw", momentum_form="heavy-ball"
        ),
        muon(lambda m, n: 0.2 * math.sqrt(max(m, n))),
    ),
    "Muon, unclamped": (
        lambda p: pg.Muon(p, LR, weight_decay=0, adjust_lr_fn="spectral_unclamped"),
        muon(lambda m, n: math.sqrt(m / n)),
    ),
    "one-sided, right, α = ½": (
        lambda p: optim.OneSidedPolarGrad(p, LR, exponent=0.5, momentum=0.9),
        averaged(lambda m: scaled_polar(m, 0.5)),
    ),
    "one-sided, left, centred": (
        lambda p: optim.OneSidedPolarGrad(p, LR, side="left", centred=True, momentum=0.9),
        averaged(lambda m: scaled_polar(centred(m))),
    ),
    "row norm": (
        lambda p: optim.RowNorm(p, LR, momentum=0.9),
        averaged(rows),
    ),
    "row norm, scaled": (
        lambda p: optim.RowNorm(p, LR, momentum=0.9, scaled=True),
        averaged(lambda m: m.norm(dim=1).sum() * rows(m)),
    ),
    "row norm, centred": (
        lambda p: optim.RowNorm(p, LR, momentum=0.9, centred=True),
        averaged(lambda m: centred(rows(centred(m)))),
    ),
    "column norm": (
        lambda p: optim.ColumnNorm(p, LR, momentum=0.9),
        averaged(lambda m: rows(m.T).T),
    ),
    "hybrid, row then polar, α = ½": (
        lambda p: optim.HybridPolarGrad(p, LR, momentum=0.9, exponent=0.5, **EXACT),
        averaged(lambda m: row_then_polar(m, 0.5)),
    ),
    "hybrid, polar then row, α = ½": (
        lambda p: optim.HybridPolarGrad(
            p, LR, momentum=0.9, hybrid="polar_then_row", exponent=0.5, **EXACT
        ),
        averaged(lambda m: polar_then_row(m, 0.5)),
    ),
    "Shampoo": (lambda p: optim.Shampoo(p, LR, damping=1e-12), shampoo),
    "one-sided Shampoo": (
        lambda p: optim.Shampoo(p, LR, side="right", beta2=0.9, damping=1e-10),
        shampoo_right,
    ),
    "SOAP": (
        lambda p: optim.SOAP(p, LR, betas=(0.9, 0.8), refresh=3, weight_decay=0),
        soap,
    ),
    "Adam on a matrix": (
        lambda p: pg.MatrixOptimizer(
            p,
            LR,
            geometry={"name": "diagonal", "beta2": 0.99, "eps": 1e-8},
            momentum=0.9,
            bias_correction=True,
        ),
        adam,
    ),
}


def leading(g, rank):
    u, s, vh = torch.linalg.svd(g)
    return s[:rank].sum() * u[:, :rank] @ vh[:rank]


def gradients(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(STEPS)]


def start(shape):
    generator = torch.Generator().manual_seed(99)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", CASES)
def test_each_preset_is_its_equation(name):
    make, loop = CASES[name]
    shapes = ITS_SHAPES.get(name, SHAPES)
    params = [nn.Parameter(start(shape)) for shape in shapes]
    optimizer = make(params)
    histories = [gradients(shape, seed) for seed, shape in enumerate(shapes)]
    wanted = [start(shape) for shape in shapes]
    loops = [loop(history) for history in histories]
    for step, updates in enumerate(zip(*loops, strict=True)):
        for p, history in zip(params, histories, strict=True):
            p.grad = history[step].clone()
        optimizer.step()
        wanted = [x - LR * u for x, u in zip(wanted, updates, strict=True)]
        for p, x in zip(params, wanted, strict=True):
            torch.testing.assert_close(p.detach(), x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_decay_multiplies_before_the_step(name):
    """A zero gradient at zero state: nothing but (1 − γλ)^k, exactly."""
    make, _ = CASES[name]
    p = nn.Parameter(start((4, 3)))
    optimizer = make([p])
    optimizer.param_groups[0]["weight_decay"] = 0.5
    wanted = start((4, 3))
    for _ in range(3):
        p.grad = torch.zeros_like(p)
        optimizer.step()
        wanted = wanted * (1 - LR * 0.5)
    assert torch.equal(p.detach(), wanted)


@pytest.mark.parametrize("shape", [(20, 12), (16, 16)])
def test_no_step_of_soap_is_much_longer_than_its_lr(shape):
    """With the first gradient in the momentum alone the second step is up to four times lr."""
    p = nn.Parameter(torch.zeros(shape))
    optimizer = optim.SOAP([p], lr=1.0, weight_decay=0)
    for step, g in enumerate(gradients(shape, 7)):
        before = p.detach().clone()
        p.grad = g
        optimizer.step()
        size = (p.detach() - before).square().mean().sqrt()
        assert size < 1.1
        assert (size == 0) == (step == 0)


def test_the_exponent_has_an_effect_in_both_orders_of_the_hybrid():
    """In the published code the second order divides its own scale away."""
    for hybrid in ("row_then_polar", "polar_then_row"):
        results = []
        for exponent in (0.0, 1.0):
            p = nn.Parameter(torch.zeros(4, 3))
            optimizer = optim.HybridPolarGrad([p], 1.0, hybrid=hybrid, exponent=exponent)
            p.grad = gradients((4, 3), 0)[0]
            optimizer.step()
            results.append(p.detach().norm())
        assert abs(results[1] / results[0] - 1) > 0.1


@pytest.mark.parametrize("name", CASES)
def test_no_preset_changes_a_gradient(name):
    make, _ = CASES[name]
    p = nn.Parameter(start((5, 4)))
    optimizer = make([p])
    for g in gradients((5, 4), 3)[:3]:
        p.grad = g.clone()
        optimizer.step()
        assert torch.equal(p.grad, g)
