"""The published PolarGrad and its oracles, written here from their formulas.

Two things of it are not expressible: the number of its second-stage steps in ``precond_ns``, which
depends on the values (a budget does not; the polynomials of a given number are the same), and the
random estimate of the condition number in its ZOLO-PD, which like QDWH with enough steps returns
the polar factor to rounding.
"""

import math

import pytest
import torch

import polargrad as pg
from polargrad.linalg import QDWH, NewtonSchulz, PolarExpress, PreconditionedNewtonSchulz
from polargrad.linalg.methods.qdwh import halley_weights

LR, BETA, DECAY = 0.02, 0.95, 0.5
EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}


def exact(x):
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    return u @ vh


def reference(oracle, *, polar_first=False, beta=BETA):
    """M ← M + (1−β)(G−M), U = polar(M), ν = ΣM∘U of the computed U; or U and ν of G, M of U."""

    def peer(x, gradients):
        m = torch.zeros_like(x)
        for g in gradients:
            if polar_first:
                u = oracle(g)
                size = (g.to(u.dtype) * u).sum()
                m = m + (1 - beta) * (u - m)
                direction = m
            else:
                m = m + (1 - beta) * (g - m)
                direction = oracle(m)
                size = (m.to(direction.dtype) * direction).sum()
            x = (1 - LR * DECAY) * x - LR * size * direction
            yield x

    return peer


def ours(method, *, polar_first=False, **options):
    order = "polar-first" if polar_first else "momentum-first"
    return lambda params: pg.PolarGrad(
        params, LR, momentum=BETA, weight_decay=DECAY, order=order, method=method, **options
    )


def halley(u, a, b, c):
    """QR of [√c u; I] for c > 100, else Cholesky of I + c uᴴu."""
    m, n = u.shape
    eye = torch.eye(n, dtype=u.dtype)
    if c > 100:
        q, _ = torch.linalg.qr(torch.cat((math.sqrt(c) * u, eye)))
        return (b / c) * u + ((a - b / c) / math.sqrt(c)) * q[:m] @ q[m:].T
    lower = torch.linalg.cholesky(eye + c * u.T @ u)
    return (b / c) * u + (a - b / c) * torch.cholesky_solve(u.T, lower).T


def weights(low):
    """a, b, c and the next lower bound."""
    dd = (4.0 * (1.0 / low**2 - 1.0) / low**2) ** (1.0 / 3.0)
    sq = math.sqrt(1.0 + dd)
    a = sq + math.sqrt(2.0 - dd + 2.0 * (2.0 - low**2) / (low**2 * sq))
    b = (a - 1.0) ** 2 / 4.0
    c = a + b - 1.0
    return a, b, c, low * (a + b * low**2) / (1.0 + c * low**2)


def qdwh(x, steps, low=None):
    """QDWH as published: l from eps, 5 eps short of 1, then (3, 1, 3), then Newton–Schulz."""
    if x.shape[0] < x.shape[1]:
        return qdwh(x.T, steps, low).T
    eps = EPS[x.dtype]
    low = eps if low is None else low
    u = x * (x.abs().sum(dim=0).max() * x.abs().sum(dim=1).max()) ** -0.5
    before, taken = None, 0
    while low + 5 * eps < 1 and taken < steps:
        a, b, c, low = weights(low)
        before, u = u, halley(u, a, b, c)
        taken += 1
    while taken < steps and (u - before).norm() > (5 * eps) ** (1 / 3):
        before, u = u, halley(u, 3.0, 1.0, 3.0)
        taken += 1
    return 1.5 * u - 0.5 * u @ u.T @ u


VERIFIED = {  # (a, b, c) and the lower bound after it, of float32 whole, of float64 the last
    2.0**-23: [
        (1.04032e5, 2.70561e9, 2.70571e9, 0.01240),
        (47.074, 530.704, 576.778, 0.53714),
        (4.1847, 2.53558, 5.72028, 0.99634),
        (3.0055, 1.00551, 3.01101, 1.0),
    ],
    0.0624390: [
        (16.1252, 57.1933, 72.3185, 0.79627),
        (3.37256, 1.40726, 3.77981, 0.99982),
    ],
}


@pytest.mark.parametrize("low", VERIFIED)
def test_its_weights_are_the_verified_ones(low):
    """The published numbers, to their digits; ours are those of the formula to rounding."""
    for verified in VERIFIED[low]:
        found = weights(low)
        assert found == pytest.approx(verified, rel=1e-4)
        assert halley_weights(low) == pytest.approx(found, rel=1e-9)
        low = found[-1]


@pytest.mark.parametrize("polar_first", [False, True])
@pytest.mark.parametrize("steps", [2, 3, 5, 10])
@pytest.mark.parametrize("low", [2.0**-23, 2.0**-52], ids=["eps32", "eps64"])
def test_with_qdwh_in_float64(agrees, polar_first, steps, low):
    """From the eps of float64, as the code does there, and from that of float32."""
    method = QDWH(steps=steps, lower_bound=low, polish=True)
    if low == 2.0**-23:
        assert method == QDWH.reference(steps)
    agrees(
        ours(method, polar_first=polar_first),
        reference(lambda x: qdwh(x, steps, low), polar_first=polar_first),
    )


@pytest.mark.parametrize("polar_first", [False, True])
@pytest.mark.parametrize("steps", [2, 3, 5])
def test_its_own_numbers_with_qdwh_in_float32(rounds_alike, polar_first, steps):
    """Two (the default), three and five (the distributed version) steps, all in float32."""
    rounds_alike(
        ours(QDWH.reference(steps), polar_first=polar_first),
        reference(lambda x: qdwh(x, steps), polar_first=polar_first),
        reference(lambda x: qdwh(x, steps, 2.0**-23), polar_first=polar_first),
    )


@pytest.mark.parametrize("polar_first", [False, True])
@pytest.mark.parametrize("method", ["svd", "qdwh", "zolotarev"])
def test_with_a_converged_oracle(agrees, polar_first, method):
    """Enough steps of QDWH, or ZOLO-PD: the polar factor itself."""
    agrees(ours(method, polar_first=polar_first), reference(exact, polar_first=polar_first))


def newton_schulz(x, triples, divisor):
    y = x.T if x.shape[0] > x.shape[1] else x
    y = y / divisor(y)
    for a, b, c in triples:
        s = y @ y.T
        y = a * y + (b * s + c * s @ s) @ y
    return y.T if x.shape[0] > x.shape[1] else y


SLIP = (3.4445, -4.7750, 2.031)  # its 2.0315 has lost a digit


@pytest.mark.parametrize("polar_first", [False, True])
@pytest.mark.parametrize("steps", [2, 5])
def test_with_its_newton_schulz(agrees, polar_first, steps):
    """‖X‖_F + 1e-7 with its eps at 0; what an eps makes is in the tests of Muon."""
    agrees(
        ours(NewtonSchulz(SLIP, steps=steps), polar_first=polar_first),
        reference(
            lambda x: newton_schulz(x, [SLIP] * steps, torch.linalg.matrix_norm),
            polar_first=polar_first,
        ),
    )


def test_its_coefficient_is_not_that_of_muon(agrees):
    with pytest.raises(AssertionError, match="not close"):
        agrees(
            ours(NewtonSchulz("quintic", steps=5)),
            reference(lambda x: newton_schulz(x, [SLIP] * 5, torch.linalg.matrix_norm)),
            tolerance=1e-6,
        )


EIGHT = [
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
]


def polar_express(x, steps, eps=0.0):
    """The eight, ÷1.01 but for the last, which is repeated, of X/(1.01‖X‖ + eps)."""
    safe = [(a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in EIGHT[:-1]] + EIGHT[-1:]
    triples = [safe[min(k, 7)] for k in range(steps)]
    return newton_schulz(x, triples, lambda y: 1.01 * y.norm() + eps)


@pytest.mark.parametrize("polar_first", [False, True])
@pytest.mark.parametrize("steps", [2, 5, 8, 10])
def test_with_its_polar_express(agrees, polar_first, steps):
    agrees(
        ours(PolarExpress(steps=steps), polar_first=polar_first),
        reference(lambda x: polar_express(x, steps), polar_first=polar_first),
    )


HALVED = {
    "ns": (
        NewtonSchulz(SLIP, steps=5, eps=1e-7),
        lambda x: newton_schulz(x, [SLIP] * 5, lambda y: y.norm() + 1e-7),
    ),
    "polar_express": (PolarExpress(steps=5), lambda x: polar_express(x, 5, 1e-7)),
}


@pytest.mark.parametrize("polar_first", [False, True])
@pytest.mark.parametrize("name", HALVED)
def test_its_own_numbers_in_bfloat16(rounds_alike, name, polar_first):
    """Products in bfloat16, the factor too; ν is summed of products that are rounded to it."""
    method, oracle = HALVED[name]
    rounds_alike(
        ours(method, polar_first=polar_first, compute_dtype=torch.bfloat16),
        reference(lambda x: oracle(x.bfloat16()), polar_first=polar_first),
        reference(oracle, polar_first=polar_first),
    )


STEEP = 1.5 * math.sqrt(3.0) - 0.1


def preconditioned(x):
    """Both stages with their tests, in float64 from eps of bfloat16; and the counts of steps."""
    y = x.T if x.shape[0] > x.shape[1] else x
    y = y / y.norm()
    eps = 2.0**-7
    low, lifted, settled, moved = eps, 0, 0, 1.0
    while low < 0.1:
        low = STEEP * low * (1 - 4 / 27 * STEEP**2 * low**2)
        y = STEEP * y - 4 / 27 * STEEP**3 * y @ y.T @ y
        lifted += 1
    while moved > max(x.shape) * eps:
        before, y = y, 1.5 * y - 0.5 * y @ y.T @ y
        moved = (y - before).norm()
        settled += 1
    return (y.T if x.shape[0] > x.shape[1] else y), lifted, settled


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6), (40, 8)])
def test_its_preconditioned_newton_schulz(randn, shape):
    """The same three steep cubics, then classic ones: theirs as many as this matrix asks for."""
    x = randn(shape, 6)
    theirs, lifted, settled = preconditioned(x)
    assert lifted == 3
    cubics = ((STEEP, -4 / 27 * STEEP**3),) * lifted + ((1.5, -0.5),) * settled
    alike = pg.polar_factor(x, method=NewtonSchulz(cubics))
    torch.testing.assert_close(alike, theirs, rtol=0, atol=1e-12)
    # Ours knows the number beforehand: tol is the distance to 1 that so many leave of the bound.
    low = 2.0**-7
    for a, b in cubics:
        low = a * low + b * low**3
    method = PreconditionedNewtonSchulz(lower=2.0**-7, tol=(1 - low) * (1 + 1e-6))
    assert len(method.polynomials(torch.float64)) == len(cubics)
    factor = pg.polar_factor(x, method=method)
    torch.testing.assert_close(factor, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["svd", "newton_schulz"])
def test_its_muon_baseline(agrees, method):
    """Muon_polar: M averaged, X = βM + (1−β)G, W − γ polar(X): no shape factor and no decay."""
    quintic = [(3.4445, -4.7750, 2.0315)] * 5

    def peer(x, gradients):
        m = torch.zeros_like(x)
        for g in gradients:
            m = m + (1 - BETA) * (g - m)
            signal = BETA * m + (1 - BETA) * g
            u = exact(signal)
            if method == "newton_schulz":
                u = newton_schulz(signal, quintic, torch.linalg.matrix_norm)
            x = x - LR * u
            yield x

    agrees(
        lambda p: pg.MatrixOptimizer(
            p, LR, momentum=BETA, nesterov=True, magnitude="unit", method=method
        ),
        peer,
    )
