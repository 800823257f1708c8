"""The follow-up's optimizers (arXiv 2605.18106), and what their absolute eps of 1e-8 makes.

With eps = 0 ours are theirs, to rounding. Theirs adds ε to a Gram matrix, or to the length of a
row: an absolute number, so that a gradient of size √ε loses its direction. Ours is relative,
ε = δ²‖M‖²_F/min(m, n), the same for c·M. For one M both are the same with δ = √(ε min(m, n))/‖M‖_F;
no δ is the same along a whole way, which is not expressible, nor is α in ``polar_then_row``, which
has no effect there.
"""

import math

import pytest
import torch
from torch import nn

import polargrad as pg
from polargrad import optim
from polargrad.linalg import GramPolynomial

LR, BETA, DECAY, EPS = 0.02, 0.95, 0.5, 1e-8
SHAPES = [(9, 5), (5, 9), (6, 6)]


def centred(x):
    return x - x.mean(dim=0)


def published(update, *, centre=False):
    """M averaged, W ← (1 − γλ)W, then W − γ·update(M), centred before and after if asked for."""

    def peer(x, gradients):
        m = torch.zeros_like(x)
        for g in gradients:
            m = BETA * m + (1 - BETA) * g
            u = centred(update(centred(m))) if centre else update(m)
            x = (1 - LR * DECAY) * x - LR * u
            yield x

    return peer


def partial_inverse_root(c, eps):
    """(C + εI)^(−1/2) on the range of C: what it multiplies, M and C, has nothing beside it."""
    values, vectors = torch.linalg.eigh(c)
    kept = values > 1e-12 * values[-1]
    return (vectors * torch.where(kept, values + eps, math.inf).rsqrt()) @ vectors.T


def polar(m, side="right", *, eps=0.0):
    """u = M R or R M with R = (C + εI)^(−1/2), and ν = tr(C R)."""
    c = m.T @ m if side == "right" else m @ m.T
    r = partial_inverse_root(c, eps)
    return (m @ r if side == "right" else r @ m), (c @ r).trace()


def spectral(side, exponent, eps=0.0):
    def update(m):
        u, size = polar(m, side, eps=eps)
        return size.clamp(min=eps) ** exponent * u

    return update


def rows(m, eps=0.0):
    return m / (m.norm(dim=1, keepdim=True) + eps)


def stepped(make, g):
    """The step that an optimizer of lr 1 takes on one gradient, without momentum."""
    p = nn.Parameter(torch.zeros_like(g))
    p.grad = g.clone()
    make([p]).step()
    return -p.detach()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("centre", [False, True])
def test_one_sided_without_eps(agrees, side, exponent, centre):
    agrees(
        lambda p: optim.OneSidedPolarGrad(
            p,
            LR,
            side=side,
            exponent=exponent,
            centred=centre,
            momentum=BETA,
            weight_decay=DECAY,
        ),
        published(spectral(side, exponent), centre=centre),
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("eps", [EPS, 1e-2, 1.0])
def test_the_damping_that_is_their_eps_for_one_matrix(randn, shape, side, eps):
    g = randn(shape, 7)
    damping = math.sqrt(eps * min(shape)) / g.norm().item()
    ours = stepped(
        lambda p: optim.OneSidedPolarGrad(p, 1.0, side=side, damping=damping, momentum=0.0), g
    )
    u, size = polar(g, side, eps=eps)
    torch.testing.assert_close(ours, size * u, rtol=0, atol=1e-12 * float(size))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_what_their_eps_makes(randn, shape, side):
    """σ/√(σ² + ε) for 1, Σσ²/√(σ² + ε) for ν: less by ε/2σ² and by Σε/2σ, to first order."""
    g = randn(shape, 7)
    sigma = torch.linalg.svdvals(g)
    u, size = polar(g, side, eps=EPS)
    unit = stepped(
        lambda p: optim.OneSidedPolarGrad(p, 1.0, side=side, exponent=0.0, momentum=0.0), g
    )
    apart = torch.linalg.matrix_norm(unit - u, 2)
    expected = EPS / (2 * sigma[-1] ** 2)
    assert expected > 1e-10  # a hundred times what rounding makes
    assert apart.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-12)
    scaled = stepped(lambda p: optim.OneSidedPolarGrad(p, 1.0, side=side, momentum=0.0), g)
    lost = (scaled * unit).sum() / min(shape) - size
    assert lost.item() == pytest.approx((EPS / (2 * sigma)).sum().item(), rel=1e-4)


def test_a_gradient_of_the_size_of_root_eps(randn):
    """Ours is the same for c·M; theirs shrinks to σ/√(σ² + ε) = 1/√2 at σ = √ε, then to nothing."""
    q = torch.linalg.qr(randn((9, 5), 8)).Q
    for size in (1.0, 1e-4, 1e-8):
        ours = stepped(
            lambda p: optim.OneSidedPolarGrad(p, 1.0, exponent=0.0, momentum=0.0), size * q
        )
        torch.testing.assert_close(ours, q, rtol=0, atol=1e-12)
        theirs, _ = polar(size * q, eps=EPS)
        shrunk = size / math.sqrt(size**2 + EPS)
        torch.testing.assert_close(theirs, shrunk * q, rtol=1e-7, atol=1e-12)


# Five triples of Polar Express, ÷1.05, of the Gram matrix over 1.02 times its norm.
PAPER_LIST = [
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
]


def within(triples, safety):
    """The polynomials of x for those of x/safety."""
    return tuple((a / safety, b / safety**3, c / safety**5) for a, b, c in triples)


def coupled_root(c):
    """Y = C/α, Z = I; R = I − ZY, T = (a+b+c)I − (b+2c)R + cR², Y ← YT, Z ← TZ; Z/√α."""
    eye = torch.eye(len(c), dtype=c.dtype)
    alpha = 1.02 * c.norm()
    y, z = c / alpha, eye
    for a, b, e in within(PAPER_LIST, 1.05):
        r = eye - z @ y
        t = (a + b + e) * eye - (b + 2 * e) * r + e * r @ r
        y, z = y @ t, t @ z
    return z / alpha.sqrt()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_their_five_steps(agrees, side, exponent):
    """The coupled root is a polynomial of M over √1.02 of its Schatten-4 norm: on either side."""
    list_105 = within(PAPER_LIST, 1.05)
    method = GramPolynomial(
        (*within(list_105[:1], math.sqrt(1.02)), *list_105[1:]), bound="schatten4", safety=1.0
    )

    def update(m):
        c = m.T @ m if side == "right" else m @ m.T
        r = coupled_root(c)
        return (c @ r).trace() ** exponent * (m @ r if side == "right" else r @ m)

    agrees(
        lambda p: pg.MatrixOptimizer(
            p, LR, momentum=BETA, weight_decay=DECAY, exponent=exponent, method=method
        ),
        published(update),
    )


def row_then_polar(exponent, eps=0.0):
    def update(m):
        u, size = polar(rows(m, eps), eps=eps)
        return size**exponent * u

    return update


@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("centre", [False, True])
def test_row_then_polar_without_eps(agrees, exponent, centre):
    agrees(
        lambda p: optim.HybridPolarGrad(
            p,
            LR,
            exponent=exponent,
            centred=centre,
            momentum=BETA,
            weight_decay=DECAY,
            method="svd",
        ),
        published(row_then_polar(exponent), centre=centre),
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_what_their_eps_makes_of_row_then_polar(randn, shape):
    """Rows shorter by ε/(‖M_i‖ + ε) move the factor, and ε in the Gram matrix its values by ε/2σ'².

    ‖ΔU‖_F ≤ (2/(σ + σ') + 1/max(σ, σ'))‖ΔY‖_F, σ and σ' the smallest singular values of Y with and
    without: R.-C. Li, SIAM J. Matrix Anal. Appl. 16 (1995), for factors of full rank.
    """
    g = randn(shape, 7)
    ours = stepped(
        lambda p: optim.HybridPolarGrad(p, 1.0, exponent=0.0, momentum=0.0, method="svd"), g
    )
    theirs = row_then_polar(0.0, EPS)(g)
    y, perturbed = rows(g), rows(g, EPS)
    small, other = (torch.linalg.svdvals(x)[-1] for x in (y, perturbed))
    moved = (2 / (small + other) + 1 / torch.maximum(small, other)) * (y - perturbed).norm()
    bound = moved + EPS / (2 * other**2) * math.sqrt(min(shape))
    assert 1e-12 < (ours - theirs).norm() <= bound


@pytest.mark.parametrize("exponent", [1.0, 0.5])
def test_polar_then_row_in_which_their_exponent_cancels(agrees, exponent):
    """rows(ν^α u) = rows(u): theirs for any α is ours for α = 0, of which ours is ν^α times."""

    def theirs(m):
        u, size = polar(m)
        return rows(size**exponent * u)

    def scaled(m):
        return polar(m)[1] ** exponent * theirs(m)

    for own, update in ((0.0, theirs), (exponent, scaled)):
        agrees(
            lambda p, own=own: optim.HybridPolarGrad(
                p,
                LR,
                hybrid="polar_then_row",
                exponent=own,
                momentum=BETA,
                weight_decay=DECAY,
                method="svd",
            ),
            published(update),
        )


@pytest.mark.parametrize("centre", [False, True])
def test_row_norm_without_eps(agrees, centre):
    agrees(
        lambda p: optim.RowNorm(p, LR, momentum=BETA, centred=centre, weight_decay=DECAY),
        published(rows, centre=centre),
    )


@pytest.mark.parametrize("form", ["added", "inverse"])
@pytest.mark.parametrize("size", [1.0, 1e-4, 1e-8, 1e-12])
def test_what_their_eps_makes_of_row_norm(randn, form, size):
    """A row of length ρ becomes ρ/(ρ + ε) long, or with ``inverse`` min(ρ/ε, 1); ours is 1 long."""
    g = size * randn((9, 5), 7)
    lengths = g.norm(dim=1, keepdim=True)
    ours = stepped(lambda p: optim.RowNorm(p, 1.0, momentum=0.0), g)
    torch.testing.assert_close(ours.norm(dim=1), torch.ones(9, dtype=g.dtype), rtol=1e-12, atol=0)
    if form == "added":
        theirs, length = rows(g, EPS), lengths / (lengths + EPS)
    else:
        theirs, length = g / lengths.clamp(min=EPS), (lengths / EPS).clamp(max=1.0)
    torch.testing.assert_close(length * ours, theirs, rtol=1e-12, atol=1e-15)
