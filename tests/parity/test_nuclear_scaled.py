"""Others that scale a polar factor by its nuclear norm: Emerging-Optimizers, HeavyBall, optax, FB.

Not expressible: coupled decay (Emerging-Optimizers' ``l2``). HeavyBall's stochastic rounding inside
of its products has no counterpart either; its formula has.
"""

import math

import pytest
import torch

import polargrad as pg
from polargrad import optim
from polargrad.linalg import NewtonSchulz

SIMPLE = [(3.4445, -4.7750, 2.0315)] * 5
FIVE_TRIPLES = [
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]
LR, BETA, DECAY = 0.02, 0.95, 0.5


def newton_schulz(x, triples, floor=0.0):
    y = x.T if x.shape[0] > x.shape[1] else x
    y = y / y.norm().clamp(min=floor)
    for a, b, c in triples:
        s = y @ y.T
        y = a * y + (b * s + c * s @ s) @ y
    return y.T if x.shape[0] > x.shape[1] else y


def nuclear(factor):
    """(ΣO∘X)·O, with the O that was computed."""

    def update(x):
        o = factor(x)
        return (o * x).sum() * o

    return update


def decay_first(update, *, nesterov=False, extra=1.0):
    """Emerging-Optimizers: W ← W − γλW with the old W, M averaged, W ← W − γ·extra·update."""

    def peer(x, gradients):
        m = torch.zeros_like(x)
        for g in gradients:
            x = x - LR * DECAY * x
            m = m + (1 - BETA) * (g - m)
            x = x - LR * extra * update(BETA * m + (1 - BETA) * g if nesterov else m)
            yield x

    return peer


FIVE = NewtonSchulz("tuned_quintics", eps=1e-15)


def emerging(params, *, extra=1.0, **options):
    """An extra factor e goes into lr = γe, with decay λ/e."""
    return pg.PolarGrad(
        params, LR * extra, momentum=BETA, weight_decay=DECAY / extra, method=FIVE, **options
    )


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("extra", [1.0, 0.2])
def test_emerging_optimizers_polar_grad(agrees, nesterov, extra):
    update = nuclear(lambda x: newton_schulz(x, FIVE_TRIPLES, 1e-15))
    agrees(
        lambda p: emerging(p, nesterov=nesterov, extra=extra),
        decay_first(update, nesterov=nesterov, extra=extra),
    )


def test_its_own_numbers_in_float32(rounds_alike):
    peer = decay_first(nuclear(lambda x: newton_schulz(x, FIVE_TRIPLES, 1e-15)))
    rounds_alike(emerging, peer, peer)


@pytest.mark.parametrize("extra", [1.0, 0.2])
def test_mop(agrees, extra):
    """U, S, V = SVD(X), W − γ·extra·ΣS·UVᵀ."""

    def update(x):
        u, s, vh = torch.linalg.svd(x, full_matrices=False)
        return s.sum() * u @ vh

    agrees(
        lambda p: pg.PolarGrad(
            p, LR * extra, momentum=BETA, weight_decay=DECAY / extra, method="svd"
        ),
        decay_first(update, extra=extra),
    )


def one_sided(x, side, *, exponent=1.0, centred=False, floor=0.0):
    """(Σ√max(λ, floor))^α K^(−1/2) X, K = XXᵀ; or X K^(−1/2), K = XᵀX; without λ ≤ λ_max·dim·eps.

    In exact arithmetic: the eigenvalues of K are σ², and 0 where K is larger than min(m, n).
    """
    x = x - x.mean(dim=0) if centred else x
    u, s, vh = torch.linalg.svd(x)
    basis = u if side == "left" else vh.T
    eigenvalues = torch.zeros(len(basis), dtype=x.dtype)
    eigenvalues[: len(s)] = s**2
    kept = eigenvalues > eigenvalues.max() * len(basis) * 2.0**-23
    root = torch.where(kept, eigenvalues, math.inf).rsqrt()
    inverse_root = (basis * root) @ basis.T
    out = inverse_root @ x if side == "left" else x @ inverse_root
    scaled = eigenvalues.clamp(min=floor).sqrt().sum() ** exponent * out
    return scaled - scaled.mean(dim=0) if centred else scaled


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("extra", [1.0, 0.2])
def test_one_sided(agrees, side, exponent, centred, extra):
    """Its floor of 1e-15 under the eigenvalues at 0; what that makes is the next test's."""
    agrees(
        lambda p: optim.OneSidedPolarGrad(
            p,
            LR * extra,
            side=side,
            exponent=exponent,
            centred=centred,
            momentum=BETA,
            weight_decay=DECAY / extra,
        ),
        decay_first(lambda x: one_sided(x, side, exponent=exponent, centred=centred), extra=extra),
    )


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6), (40, 3)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_the_floor_under_the_eigenvalues_adds(randn, shape, side):
    """Each of the |m − n| zero eigenvalues of the larger Gram matrix adds √1e-15 to the norm."""
    g = randn(shape, 5)
    p = torch.nn.Parameter(torch.zeros_like(g))
    p.grad = g
    optim.OneSidedPolarGrad([p], 1.0, side=side, momentum=0.0).step()
    theirs = one_sided(g, side, floor=1e-15)
    dimension = shape[0] if side == "left" else shape[1]
    zeros = dimension - min(shape)
    values = torch.linalg.svdvals(g)
    unit = torch.linalg.matrix_norm(p.detach(), 2) / values.sum()
    assert unit.item() == pytest.approx(1.0, rel=1e-12)
    apart = torch.linalg.matrix_norm(theirs + p.detach(), 2).item()
    # The Gram matrix squares the condition number, and rounding with it.
    rounding = float(values.sum() * (values[0] / values[-1]) ** 2) * torch.finfo(g.dtype).eps
    assert apart == pytest.approx(zeros * math.sqrt(1e-15), abs=max(rounding, 1e-12))


def by_eigenvalues(x, side):
    """The same as they compute it, by the eigenvalues of the Gram matrix in their own precision."""
    values, vectors = torch.linalg.eigh(x @ x.T if side == "left" else x.T @ x)
    values = values.clamp(min=1e-15)
    kept = values > values[-1] * len(values) * 2.0**-23
    inverse_root = (vectors * torch.where(kept, values, math.inf).rsqrt()) @ vectors.T
    out = inverse_root @ x if side == "left" else x @ inverse_root
    return values.sqrt().sum() * out


@pytest.mark.parametrize(("side", "shape"), [("left", (5, 9)), ("right", (9, 5))])
def test_one_sided_in_float32(rounds_alike, side, shape):
    """On the smaller side. On the larger, √λ of rounding adds up to √(eps·λ_max) per zero."""
    peer = decay_first(lambda x: by_eigenvalues(x, side))
    rounds_alike(
        lambda p: optim.OneSidedPolarGrad(p, LR, side=side, momentum=BETA, weight_decay=DECAY),
        peer,
        peer,
        shapes=[shape] * 3,
    )


@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_heavyball(agrees, decay):
    """M = βM + G, X = G + βM, s = max|X|, O of X/s by five triples, W − γ·s·(ΣO∘(X/s))·O."""

    def peer(x, gradients):
        m = torch.zeros_like(x)
        for g in gradients:
            m = BETA * m + g
            signal = g + BETA * m
            s = signal.abs().max()
            o = newton_schulz(signal / s, FIVE_TRIPLES)
            x = (1 - LR * decay) * x - LR * s * (o * (signal / s)).sum() * o
            yield x

    def heavy(params):
        return pg.PolarGrad(
            params,
            LR,
            momentum=BETA,
            momentum_form="heavy-ball",
            nesterov=True,
            weight_decay=decay,
            method=NewtonSchulz("tuned_quintics"),
        )

    def averaged(params):
        return pg.PolarGrad(
            params,
            LR / (1 - BETA),
            momentum=BETA,
            nesterov=True,
            weight_decay=decay * (1 - BETA),
            method=NewtonSchulz("tuned_quintics"),
        )

    agrees(heavy, peer)
    agrees(averaged, peer)


def optax(x, gradients, *, shape_factor, decay):
    """X = βM/(1 − βᵗ⁺¹) + (1 − β)G/(1 − βᵗ); W − γ(√max(1, fan_out/fan_in)·(ΣX∘O)·O + λW)."""
    m = torch.zeros_like(x)
    fan_in, fan_out = x.shape
    factor = math.sqrt(max(1.0, fan_out / fan_in)) if shape_factor else 1.0
    for t, g in enumerate(gradients, start=1):
        m = BETA * m + (1 - BETA) * g
        signal = BETA * m / (1 - BETA ** (t + 1)) + (1 - BETA) * g / (1 - BETA**t)
        o = newton_schulz(signal, SIMPLE)
        x = x - LR * (factor * (signal * o).sum() * o + decay * x)
        yield x


OPTAX = {"momentum": BETA, "nesterov": True, "bias_correction": True}


def test_optax_scale_by_muon_adaptive(agrees):
    """Without its shape factor it is PolarGrad, bias-corrected."""
    agrees(
        lambda p: pg.PolarGrad(p, LR, method=NewtonSchulz("quintic"), **OPTAX),
        lambda x, gradients: optax(x, gradients, shape_factor=False, decay=0.0),
    )


def test_optax_muon_adaptive(agrees):
    """A shape factor a beside the nuclear norm is a group for each shape, lr = γa, decay λ/a."""

    def make(params):
        groups = []
        for p in params:
            a = math.sqrt(max(1.0, p.shape[1] / p.shape[0]))
            groups.append({"params": [p], "lr": LR * a, "weight_decay": DECAY / a})
        return pg.PolarGrad(groups, LR, method=NewtonSchulz("quintic"), **OPTAX)

    agrees(make, lambda x, gradients: optax(x, gradients, shape_factor=True, decay=DECAY))


def test_spectral_descent_of_facebook(agrees):
    """X = M/(1 − βᵗ), W − γ(ΣS·UVᵀ + λW) by SVD; its function of the shape at 1."""

    def peer(x, gradients, beta=0.9):
        m = torch.zeros_like(x)
        for t, g in enumerate(gradients, start=1):
            m = beta * m + (1 - beta) * g
            u, s, vh = torch.linalg.svd(m / (1 - beta**t), full_matrices=False)
            x = x - LR * (s.sum() * u @ vh + DECAY * x)
            yield x

    agrees(
        lambda p: pg.PolarGrad(
            p, LR, momentum=0.9, bias_correction=True, weight_decay=DECAY, method="svd"
        ),
        peer,
    )
