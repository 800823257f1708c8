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


def muon(factor, shape, *, nesterov=True, heavy=False, decay_first=False, decay=DECAY, extra=1.0):
    """The common loop, with the peer's own momentum, and decay where the peer has it."""

    def peer(x, gradients):
        m = torch.zeros_like(x)
        for g in gradients:
            if decay_first:
                x = x - LR * decay * x
            if heavy:
                m = BETA * m + g
                signal = g + BETA * m if nesterov else m
            else:
                m = m + (1 - BETA) * (g - m)
                signal = BETA * m + (1 - BETA) * g if nesterov else m
            step = LR * extra * shape(*x.shape) * factor(signal)
            x = x - step if decay_first else (1 - LR * decay) * x - step
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
    if size <= 1e-4:  # beyond, it is below 1e-3 and may be anything
        assert apart >= 1e-3 * ratio


# Above a norm of 2⁹·1e-7 bfloat16 drops what is added to it: their own numbers, to its rounding.
@pytest.mark.parametrize(
    ("options", "shape", "form"),
    [
        ({}, original, {}),
        ({"nesterov": False}, original, {"nesterov": False}),
        (
            {"adjust_lr_fn": "match_rms_adamw", "momentum_form": "heavy-ball"},
            moonlight,
            {"heavy": True},
        ),
    ],
    ids=["Jordan", "Jordan without Nesterov", "Moonlight"],
)
def test_their_own_numbers_in_bfloat16(rounds_alike, options, shape, form):
    def factor(dtype):
        return lambda x: polynomials(x.to(dtype), SIMPLE, additive(1e-7))

    rounds_alike(
        lambda p: pg.Muon(
            p, LR, weight_decay=DECAY, compute_dtype=torch.bfloat16, eps=1e-7, **options
        ),
        muon(factor(torch.bfloat16), shape, **form),
        muon(factor(torch.float64), shape, **form),
    )


@pytest.mark.parametrize("nesterov", [True, False])
def test_moonlight(agrees, nesterov):
    """M = βM + G, X = G + βM, 0.2√max(m, n); whether M is averaged makes no difference."""
    form = {"adjust_lr_fn": "match_rms_adamw", "nesterov": nesterov, "weight_decay": DECAY}
    peer = muon(
        lambda x: polynomials(x, SIMPLE, additive(0.0)), moonlight, heavy=True, nesterov=nesterov
    )
    agrees(lambda p: pg.Muon(p, LR, momentum_form="heavy-ball", **form), peer)
    agrees(lambda p: pg.Muon(p, LR, **form), peer)


SCALES = {
    "shape_scaling": ("original", original),
    "spectral": ("largest_dimension", lambda m, n: math.sqrt(max(m, n))),
    "unit_rms_norm": ("spectral_unclamped", lambda m, n: math.sqrt(m / n)),
}


@pytest.mark.parametrize("mode", SCALES)
@pytest.mark.parametrize("extra", [1.0, 0.2])
def test_emerging_optimizers_muon(agrees, mode, extra):
    """Decay first, five triples, max(‖X‖, 1e-15); an extra factor e is lr = γe with decay λ/e."""
    magnitude, shape = SCALES[mode]
    agrees(
        lambda p: pg.MatrixOptimizer(
            p,
            LR * extra,
            momentum=BETA,
            magnitude=magnitude,
            weight_decay=DECAY / extra,
            method=NewtonSchulz("tuned_quintics", eps=1e-15),
        ),
        muon(
            lambda x: polynomials(x, FIVE_TRIPLES, floored(1e-15)),
            shape,
            nesterov=False,
            decay_first=True,
            extra=extra,
        ),
    )


def test_scion(agrees):
    """radius·√(m/n)·O and W ← (1 − γ)W: lr = γ·radius with decay 1/radius."""
    agrees(
        lambda p: pg.MatrixOptimizer(
            p,
            LR * 3.0,
            momentum=BETA,
            magnitude="spectral_unclamped",
            weight_decay=1 / 3.0,
            method=NewtonSchulz("tuned_quintics", eps=1e-15),
        ),
        muon(
            lambda x: polynomials(x, FIVE_TRIPLES, floored(1e-15)),
            lambda m, n: 3.0 * math.sqrt(m / n),
            nesterov=False,
            decay=1.0,
        ),
    )


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", ["spectral_unclamped", "match_rms_adamw"])
def test_dion_muon(agrees, nesterov, adjust):
    """M = μM + G, the 1.02 list of X/(1.02‖X‖), √(m/n) or 0.2√max(m, n)."""
    shape = moonlight if adjust == "match_rms_adamw" else lambda m, n: math.sqrt(m / n)
    method = NewtonSchulz((*within(SAFE_LIST[:1], 1.02), *SAFE_LIST[1:]))
    agrees(
        lambda p: pg.Muon(
            p,
            LR,
            weight_decay=DECAY,
            nesterov=nesterov,
            adjust_lr_fn=adjust,
            momentum_form="heavy-ball",
            method=method,
        ),
        muon(
            lambda x: polynomials(x, SAFE_LIST, additive(0.0, 1.02)),
            shape,
            heavy=True,
            nesterov=nesterov,
        ),
    )


def gram_newton_schulz(x, triples, restart=2):
    """Z = bR + cR², Q ← Q(aI + Z), R ← (aI + Z)R(aI + Z); X ← QX at the restart and the end."""
    y = x.T if x.shape[0] > x.shape[1] else x
    y = y / y.norm()
    eye = torch.eye(len(y), dtype=y.dtype)
    for part in (triples[:restart], triples[restart:]):
        r, q = y @ y.T, eye
        for a, b, c in part:
            z = b * r + c * r @ r
            q, r = q @ z + a * q, (a * eye + z) @ r @ (a * eye + z)
        y = q @ y
    return y.T if x.shape[0] > x.shape[1] else y


@pytest.mark.parametrize("kind", [GramPolynomial, NewtonSchulz])
def test_gram_newton_schulz_muon(agrees, kind):
    """The paper's list with 1.05 in all five, on the Gram side: the polynomials of either form."""
    triples = within(PAPER_LIST, 1.05)
    method = GramPolynomial(triples, safety=1.0) if kind is GramPolynomial else kind(triples)
    agrees(
        lambda p: pg.Muon(
            p,
            LR,
            weight_decay=0.1,
            adjust_lr_fn="match_rms_adamw",
            momentum_form="heavy-ball",
            method=method,
        ),
        muon(lambda x: gram_newton_schulz(x, triples), moonlight, heavy=True, decay=0.1),
    )


@pytest.mark.parametrize("adjusted", [True, False])
def test_pytorch_optimizer_muon(agrees, adjusted):
    """Decay first and a floor of 1e-7; version 3.9.0 has its two shape factors exchanged."""
    agrees(
        lambda p: pg.Muon(
            p,
            LR,
            weight_decay=DECAY,
            eps=1e-7,
            adjust_lr_fn="original" if adjusted else "match_rms_adamw",
        ),
        muon(
            lambda x: polynomials(x, SIMPLE, floored(1e-7)),
            original if adjusted else moonlight,
            decay_first=True,
        ),
    )


def optax_muon(x, gradients, *, beta=0.95):
    """X = βM/(1 − βᵗ⁺¹) + (1 − β)G/(1 − βᵗ), decay beside the scaled update, fan_out last."""
    m = torch.zeros_like(x)
    fan_in, fan_out = x.shape
    for t, g in enumerate(gradients, start=1):
        m = beta * m + (1 - beta) * g
        signal = beta * m / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)
        o = polynomials(signal, SIMPLE, additive(0.0))
        x = x - LR * (math.sqrt(max(1.0, fan_out / fan_in)) * o + DECAY * x)
        yield x


def test_optax_muon(agrees):
    """Its matrices are (inputs, outputs): the view is transposed."""
    view = {"kind": "whole", "transpose": True}
    agrees(
        lambda p: pg.MatrixOptimizer(
            [{"params": p, "rule": "matrix", "views": [view] * len(p)}],
            LR,
            momentum=BETA,
            nesterov=True,
            bias_correction=True,
            magnitude="original",
            weight_decay=DECAY,
            method=NewtonSchulz("quintic"),
        ),
        optax_muon,
    )


FACTORS = {
    "dion": (SAFE_LIST, 1.02, 1e-8),
    "modded-nanogpt": (SAFE_LIST, 1.02, 1e-6),
    "nanochat": (SAFE_LIST, 1.01, 1e-6),
    "optax": (SIMPLE, 1.0, 1e-8),
    "Gram-Newton–Schulz": (within(PAPER_LIST, 1.05), 1.0, 1e-7),
}


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (6, 6)])
def test_the_factors_of_others(randn, name, shape):
    """P(σ/(s‖X‖)) to rounding; their eps moves it by max |σP'(σ)|·ε/(s‖X‖), first order."""
    triples, safety, eps = FACTORS[name]
    x = randn(shape, 4)
    ours = pg.polar_factor(x, method=NewtonSchulz((*within(triples[:1], safety), *triples[1:])))
    exact = polynomials(x, triples, additive(0.0, safety))
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-12)
    apart = torch.linalg.matrix_norm(ours - polynomials(x, triples, additive(eps, safety)), 2)
    assert 0 < apart <= steepness(triples) * eps / (safety * x.norm()) * (1 + 1e-6)
