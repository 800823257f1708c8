"""The identities between the peers' momentum conventions, as theorems about the engine."""

import math

import pytest
import torch
from torch import nn

import polargrad as pg
from polargrad.linalg import QDWH, NewtonSchulz

SHAPES = [(9, 5), (5, 9), (6, 6)]
LR, STEPS = 0.02, 6
METHODS = {
    "exact": "svd",
    "five quintics": "newton_schulz",
    "two steps of QDWH": QDWH(steps=2, lower_bound=2.0**-23, polish=True),
}


def way(make, start, gradients):
    """The parameter after each step."""
    p = nn.Parameter(start.clone())
    optimizer = make([p])
    for g in gradients:
        p.grad = g.clone()
        optimizer.step()
        yield p.detach().clone()


def same(first, second):
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("beta", [0.5, 0.95])
@pytest.mark.parametrize("method", METHODS)
def test_heavy_ball_moves_further_by_one_over_one_minus_beta(randn, shape, nesterov, beta, method):
    """M_ema = (1 − β) M_hb, with Nesterov too: so much longer is PolarGrad's step, 20× at .95."""
    start, gradients = randn(shape, 0), [randn(shape, 1 + k) for k in range(STEPS)]
    options = {"momentum": beta, "nesterov": nesterov, "method": METHODS[method]}

    def displaced(lr, form):
        make = lambda p: pg.PolarGrad(p, lr, momentum_form=form, **options)  # noqa: E731
        return [x - start for x in way(make, start, gradients)]

    heavy, averaged = displaced(LR, "heavy-ball"), displaced(LR, "ema")
    same(heavy, [x / (1 - beta) for x in averaged])
    same(heavy, displaced(LR / (1 - beta), "ema"))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw", "spectral_unclamped"])
def test_muon_does_not_tell_the_forms_apart(randn, shape, nesterov, adjust):
    start, gradients = randn(shape, 0), [randn(shape, 1 + k) for k in range(STEPS)]

    def muon(form):
        return way(
            lambda p: pg.Muon(p, LR, momentum_form=form, nesterov=nesterov, adjust_lr_fn=adjust),
            start,
            gradients,
        )

    same(muon("heavy-ball"), muon("ema"))


@pytest.mark.parametrize("nesterov", [False, True])
def test_decay_goes_with_the_learning_rate_of_the_form(randn, nesterov):
    """γ(1 − β)⁻¹ with decay λ(1 − β): the product γλ is that of the heavy ball."""
    start, gradients = randn((9, 5), 0), [randn((9, 5), 1 + k) for k in range(STEPS)]
    options = {"momentum": 0.9, "nesterov": nesterov, "method": "svd"}
    heavy = way(
        lambda p: pg.PolarGrad(p, LR, momentum_form="heavy-ball", weight_decay=0.5, **options),
        start,
        gradients,
    )
    averaged = way(
        lambda p: pg.PolarGrad(p, LR / 0.1, weight_decay=0.05, **options), start, gradients
    )
    same(heavy, averaged)


@pytest.mark.parametrize("shape", SHAPES)
def test_nesterov_of_an_average_is_not_g_plus_m(randn, shape):
    """βM + (1−β)G, by which Muon goes, and G + M of HeavyBall 3.2 have other directions."""
    beta = 0.9
    first, second = randn(shape, 1), randn(shape, 2)
    m = beta * (1 - beta) * first + (1 - beta) * second
    x = torch.zeros(shape, dtype=torch.float64)
    *_, after = way(
        lambda p: pg.Muon(p, 1.0, momentum=beta, weight_decay=0.0, method="svd"), x, [first, second]
    )
    *_, before = way(
        lambda p: pg.Muon(p, 1.0, momentum=beta, weight_decay=0.0, method="svd"), x, [first]
    )
    size = math.sqrt(max(1.0, shape[0] / shape[1]))
    step = (before - after) / size

    def factor(a):
        u, _, vh = torch.linalg.svd(a, full_matrices=False)
        return u @ vh

    torch.testing.assert_close(step, factor(beta * m + (1 - beta) * second), rtol=0, atol=1e-12)
    assert torch.linalg.matrix_norm(step - factor(second + m)) > 0.1


@pytest.mark.parametrize("beta", [0.5, 0.95])
def test_a_constant_gradient_shows_the_weights(randn, beta):
    """Of a constant G a step is γ‖G‖_* times the sum of the weights of all gradients so far.

    1 − βᵗ averaged; (1 − βᵗ)/(1 − β) heavy-ball; 1 bias-corrected; and bias-corrected with
    Nesterov, as optax has it, β(1 − βᵗ)/(1 − βᵗ⁺¹) + (1 − β)/(1 − βᵗ), which is above 1.
    """
    g = randn((9, 5), 1)
    u, s, vh = torch.linalg.svd(g, full_matrices=False)
    times = range(1, STEPS + 1)
    ahead = [
        beta * (1 - beta**t) / (1 - beta ** (t + 1)) + (1 - beta) / (1 - beta**t) for t in times
    ]
    cases = [
        ({}, [1 - beta**t for t in times]),
        ({"nesterov": True}, [1 - beta ** (t + 1) for t in times]),
        ({"momentum_form": "heavy-ball"}, [(1 - beta**t) / (1 - beta) for t in times]),
        ({"bias_correction": True}, [1.0 for _ in times]),
        ({"bias_correction": True, "nesterov": True}, ahead),
    ]
    for options, weights in cases:
        place, places = torch.zeros_like(g), []
        for weight in weights:
            place = place - LR * weight * s.sum() * u @ vh
            places.append(place)
        make = lambda p, options=options: pg.PolarGrad(  # noqa: E731
            p, LR, momentum=beta, method="svd", **options
        )
        same(way(make, torch.zeros_like(g), [g] * STEPS), places)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_an_approximate_factor_scales_twice(randn, shape, steps):
    """With O = U diag(s) Vᵀ the update is (Σσᵢsᵢ)·U diag(s) Vᵀ: s enters both."""
    a, b, c = 3.4445, -4.7750, 2.0315
    g = randn(shape, 1)
    u, sigma, vh = torch.linalg.svd(g, full_matrices=False)
    s = sigma / sigma.norm()
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    (place,) = way(
        lambda p: pg.PolarGrad(p, 1.0, momentum=0.0, method=NewtonSchulz(steps=steps)),
        torch.zeros_like(g),
        [g],
    )
    torch.testing.assert_close(place, -(sigma @ s) * (u * s) @ vh, rtol=0, atol=1e-12 * sigma.sum())
    assert (s - 1).abs().max() > 0.05


def test_two_steps_of_qdwh_give_three_quarters(randn):
    """In float32, of a tall Gaussian matrix: ν is about 0.75 of ‖G‖_*, σ start at 0.73."""
    g = randn((500, 5), 1, torch.float32)
    (place,) = way(
        lambda p: pg.PolarGrad(p, 1.0, momentum=0.0, method=QDWH.reference()),
        torch.zeros_like(g),
        [g],
    )
    nuclear = torch.linalg.svdvals(g.double()).sum()
    # The step is −ν·O with ν = ⟨G, O⟩, so that ⟨G, step⟩ = −ν².
    ratio = (-(g * place).double().sum()).sqrt() / nuclear
    assert ratio.item() == pytest.approx(0.75, abs=0.02)
    lowest = torch.linalg.svdvals(place.double())[-1] / (ratio * nuclear)
    assert lowest.item() == pytest.approx(0.73, abs=0.03)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_decay_before_the_step_is_decay_within_it(randn, decay):
    """W − γλW and then the step, or (1 − γλ)W − the step: the gradient is there already."""
    x, g = randn((9, 5), 0), randn((9, 5), 1)
    u, s, vh = torch.linalg.svd(g, full_matrices=False)
    step = LR * s.sum() * u @ vh
    (place,) = way(
        lambda p: pg.PolarGrad(p, LR, momentum=0.0, weight_decay=decay, method="svd"), x, [g]
    )
    within = (1 - LR * decay) * x - step
    before = x - LR * decay * x
    before = before - step
    added = x - (step + LR * decay * x)
    same([place] * 3, [within, before, added])
