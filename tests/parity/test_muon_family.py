"""Muon's relatives, each against its published formula written here in float64.

Not expressible, because what they add to the polar factor is no point of signal, direction,
magnitude and step: a second moment of the factor (AdaMuon, NorMuon, NAMO, nanochat, modded-nanogpt,
dion's NorMuon), a decay that looks at the sign of the step or goes with γ² (nanochat,
modded-nanogpt), rows rescaled before the factor (nanochat), Nesterov's G + M with an averaged M
(HeavyBall 3.2), and coupled decay (L2). Of these the factor itself is tested.
"""

import math

import pytest
import torch
from torch import nn

import polargrad as pg
from polargrad.linalg import GramPolynomial, NewtonSchulz

SIMPLE = [(3.4445, -4.7750, 2.0315)] * 5
FIVE_TRIPLES = [
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
]
# Polar Express, the list with its safety of 1.02 within.
SAFE_LIST = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]
PAPER_LIST = [
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
]
LR, BETA, DECAY = 0.02, 0.95, 0.5


def original(m, n):
    return math.sqrt(max(1.0, m / n))


def moonlight(m, n):
    return 0.2 * math.sqrt(max(m, n))


def polynomials(x, triples, divisor):
    """a X + b (XXᵀ) X + c (XXᵀ)² X of X/divisor, step after step, in the wide orientation."""
    y = x.T if x.shape[0] > x.shape[1] else x
    y = y / divisor(y)
    for a, b, c in triples:
        s = y @ y.T
        y = a * y + (b * s + c * s @ s) @ y
    return y.T if x.shape[0] > x.shape[1] else y


def additive(eps, safety=1.0):
    return lambda x: safety * x.norm() + eps


def floored(eps):
    return lambda x: x.norm().clamp(min=eps)


def within(triples, safety):
    """The polynomials of x for those of x/safety."""
    return tuple((a / safety, b / safety**3, c / safety**5) for a, b, c in triples)


def muon(
    factor, shape, *, nesterov=True, heavy=False, decay_first=False, gamma=LR, decay=DECAY, extra=1.0
):
    """The common loop, with the peer's own momentum, and decay where the peer has it."""

    def peer(x, gradients):
        m = torch.zeros_like(x)
        for g in gradients:
            if decay_first:
                x = x - gamma * decay * x
            if heavy:
                m = BETA * m + g
                signal = g + BETA * m if nesterov else m
            else:
                m = m + (1 - BETA) * (g - m)
                signal = BETA * m + (1 - BETA) * g if nesterov else m
            step = gamma * extra * shape(*x.shape) * factor(signal)
            x = x - step if decay_first else (1 - gamma * decay) * x - step
            yield x

    return peer


@pytest.mark.parametrize("nesterov", [True, False])
def test_jordan(agrees, nesterov):
    """M averaged, √max(1, m/n), decay and step in one expression; the eps of the divisor at 0."""
    agrees(
        lambda p: pg.Muon(p, LR, weight_decay=DECAY, nesterov=nesterov),
        muon(lambda x: polynomials(x, SIMPLE, additive(0.0)), original, nesterov=nesterov),
    )


def steepness(triples):
    """max |σ P'(σ)| over (0, 1]: how far P(tσ) is from P(σ), over |log t|."""
    sigma = torch.logspace(-9, 0, 20001, dtype=torch.float64).requires_grad_()
    y = sigma
    for a, b, c in triples:
        y = y * (a + b * y**2 + c * y**4)
    (slope,) = torch.autograd.grad(y.sum(), sigma)
    return (sigma * slope).abs().max().item()


@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6)])
@pytest.mark.parametrize("size", [1e-12, 1e-9, 1e-7, 1e-4, 1.0, 1e6])
def test_what_adding_eps_to_the_norm_makes(randn, shape, size):
    """Jordan divides by ‖X‖ + ε, torch and we by max(‖X‖, ε): at most twice as much, at ‖X‖ = ε.

    ‖X‖ + ε is the floor ``eps`` that takes Jordan's factor for that one X. With ours, of 1e-7,
    singular values are P(σ/max(‖X‖, ε)) instead of P(σ/(‖X‖ + ε)): apart by
    max |σP'(σ)|·log((‖X‖ + ε)/max(‖X‖, ε)), which for ‖X‖ above ε is less than ε/‖X‖ of it.
    """
    x = randn(shape, 3)
    x = x * (size / x.norm())
    theirs = polynomials(x, SIMPLE, additive(1e-7))

    def ours(floor):
        return pg.polar_factor(x, method=NewtonSchulz(eps=floor))

    torch.testing.assert_close(ours(x.norm().item() + 1e-7), theirs, rtol=1e-12, atol=1e-12)
    ratio = math.log((size + 1e-7) / max(size, 1e-7))
    assert ratio <= min(math.log(2.0), 1e-7 / size) * (1 + 1e-12)
    apart = torch.linalg.matrix_norm(ours(1e-7) - theirs, 2).item()
    assert apart <= steepness(SIMPLE) * ratio + 1e-13
    if 1e-9 <= size <= 1e-4:
        assert apart > 1e-13 * size / 1e-12 / 1e12  # and it is no rounding


def test_jordan_in_bfloat16(agrees):
    """Above a norm of 2⁸·1e-7 bfloat16 drops what is added: his own numbers, to its rounding."""
    assert torch.tensor(1e-4).bfloat16() + 1e-7 == torch.tensor(1e-4).bfloat16()

    def factor(x):
        return polynomials(x.bfloat16(), SIMPLE, additive(1e-7)).float()

    agrees(
        lambda p: pg.Muon(p, LR, weight_decay=DECAY, compute_dtype=torch.bfloat16, eps=1e-7),
        muon(factor, original),
        dtype=torch.float32,
        tolerance=5 * LR * math.sqrt(9 / 5) * 4 * 2.0**-8,  # five steps, each off by a few roundings
    )
