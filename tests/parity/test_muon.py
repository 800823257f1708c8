"""Muon against its formula in float64, and against torch.optim.Muon at torch's own precision."""

import math

import pytest
import torch
from torch import nn

import polargrad as pg

SHAPES = {"tall": (12, 5), "wide": (5, 12), "square": (8, 8), "row": (1, 6)}
ADJUSTMENTS = {
    None: lambda m, n: math.sqrt(max(1.0, m / n)),
    "original": lambda m, n: math.sqrt(max(1.0, m / n)),
    "match_rms_adamw": lambda m, n: 0.2 * math.sqrt(max(m, n)),
}
QUINTIC = (3.4445, -4.7750, 2.0315)


def randn(shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def newton_schulz(a, steps, coefficients):
    """The quintic of K. Jordan's post, in the dtype of ``a``."""
    b, c, d = coefficients
    x = a / torch.linalg.matrix_norm(a)
    for _ in range(steps):
        gram = x @ x.T
        x = b * x + (c * gram + d * gram @ gram) @ x
    return x


def formula(x, gradients, *, lr, mu, nesterov, decay, adjust, steps=5, coefficients=QUINTIC):
    """X after the gradients by the documentation of torch.optim.Muon, in float64."""
    x, b = x.double(), torch.zeros(x.shape, dtype=torch.float64)
    for g in gradients:
        b = mu * b + (1 - mu) * g.double()
        signal = mu * b + (1 - mu) * g.double() if nesterov else b
        o = newton_schulz(signal, steps, coefficients)
        x = (1 - lr * decay) * x - lr * ADJUSTMENTS[adjust](*x.shape) * o
    return x


def run(make, starts, gradients):
    """The parameters after the rows of gradients, one step a row."""
    params = [nn.Parameter(x.clone()) for x in starts]
    optimizer = make(params)
    for row in gradients:
        for p, g in zip(params, row, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", ADJUSTMENTS)
def test_equals_its_formula_to_float32_rounding(shape, nesterov, adjust):
    x, gradients = randn(shape, 0), [randn(shape, 1 + k) for k in range(10)]
    options = {"lr": 0.02, "nesterov": nesterov}
    (actual,) = run(
        lambda p: pg.Muon(p, momentum=0.9, weight_decay=0.5, adjust_lr_fn=adjust, **options),
        [x],
        [[g] for g in gradients],
    )
    expected = formula(x, gradients, mu=0.9, decay=0.5, adjust=adjust, **options)
    # Ten steps of length 0.02·a, each with a few roundings of five quintics of slope 3.4.
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", ADJUSTMENTS)
@pytest.mark.parametrize("eps", [None, 1e-7])
def test_float64_parameters_get_float64(shape, nesterov, adjust, eps):
    """torch's floor, max(‖X‖, 1e-7), is none for what is above it."""
    x, gradients = randn(shape, 0).double(), [randn(shape, 1 + k).double() for k in range(10)]
    options = {"lr": 0.02, "nesterov": nesterov}
    (actual,) = run(
        lambda p: pg.Muon(p, weight_decay=0.5, adjust_lr_fn=adjust, eps=eps, **options),
        [x],
        [[g] for g in gradients],
    )
    expected = formula(x, gradients, mu=0.95, decay=0.5, adjust=adjust, **options)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_its_steps_and_coefficients_are_used():
    x, gradients = randn((6, 4), 0), [randn((6, 4), k) for k in range(3)]
    own = {"steps": 3, "coefficients": (2.0, -1.5, 0.5)}
    (actual,) = run(
        lambda p: pg.Muon(p, lr=0.02, ns_steps=3, ns_coefficients=(2.0, -1.5, 0.5)),
        [x],
        [[g] for g in gradients],
    )
    expected = formula(x, gradients, lr=0.02, mu=0.95, nesterov=True, decay=0.1, adjust=None, **own)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-5)


def test_has_the_defaults_of_torch():
    """The same calls mean the same; eps and precision alone are others, as documented."""
    ours, theirs = pg.Muon([nn.Parameter(torch.eye(2))]), torch.optim.Muon([torch.eye(2)])
    group, peer = ours.param_groups[0], theirs.param_groups[0]
    for option in ("lr", "weight_decay", "momentum", "nesterov"):
        assert group[option] == peer[option]
    assert group["method"]["coefficients"] == peer["ns_coefficients"]
    assert group["method"]["steps"] == peer["ns_steps"]


# Two of the squares share a stack with each other: torch takes them one by one.
LAYERS = [(12, 5), (5, 12), (8, 8), (8, 8), (1, 6)]


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", ADJUSTMENTS)
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_in_bfloat16_it_is_torch_optim_muon(nesterov, adjust, decay):
    starts = [randn(shape, k) for k, shape in enumerate(LAYERS)]
    gradients = [
        [randn(shape, 10 * step + k) for k, shape in enumerate(LAYERS)] for step in range(4)
    ]
    options = {"lr": 0.02, "nesterov": nesterov, "adjust_lr_fn": adjust, "weight_decay": decay}
    ours = run(
        lambda p: pg.Muon(p, compute_dtype=torch.bfloat16, eps=1e-7, **options), starts, gradients
    )
    theirs = run(lambda p: torch.optim.Muon(p, **options), starts, gradients)
    for actual, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_torch_takes_its_products_in_bfloat16_of_float64_too():
    """compute_dtype and eps are all that differs, whatever the parameters are."""
    starts = [randn(shape, k).double() for k, shape in enumerate(LAYERS)]
    gradients = [
        [randn(shape, 10 * step + k).double() for k, shape in enumerate(LAYERS)]
        for step in range(4)
    ]
    ours = run(
        lambda p: pg.Muon(p, lr=0.02, compute_dtype=torch.bfloat16, eps=1e-7), starts, gradients
    )
    theirs = run(lambda p: torch.optim.Muon(p, lr=0.02), starts, gradients)
    for actual, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_its_floor_is_the_floor_of_torch():
    """With eps=1e-7 a tiny gradient is divided by 1e-7, and the step is torch's small one."""
    starts, gradients = [torch.zeros(6, 4)], [[1e-11 * randn((6, 4), 1)]]
    options = {"lr": 1.0, "weight_decay": 0.0}
    (ours,) = run(
        lambda p: pg.Muon(p, compute_dtype=torch.bfloat16, eps=1e-7, **options), starts, gradients
    )
    (theirs,) = run(lambda p: torch.optim.Muon(p, **options), starts, gradients)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    (unfloored,) = run(lambda p: pg.Muon(p, **options), starts, gradients)
    assert torch.linalg.matrix_norm(unfloored) > 10 * torch.linalg.matrix_norm(ours)


def test_bfloat16_parameters_follow_torch_to_their_rounding():
    starts = [randn(shape, k, torch.bfloat16) for k, shape in enumerate(LAYERS)]
    gradients = [
        [randn(shape, 10 * step + k, torch.bfloat16) for k, shape in enumerate(LAYERS)]
        for step in range(4)
    ]
    options = {"lr": 0.5, "weight_decay": 0.0}
    ours = run(
        lambda p: pg.Muon(p, compute_dtype=torch.bfloat16, eps=1e-7, **options), starts, gradients
    )
    theirs = run(lambda p: torch.optim.Muon(p, **options), starts, gradients)
    for start, actual, expected in zip(starts, ours, theirs, strict=True):
        # They keep the momentum in bfloat16, we in float32: a few roundings of 2⁻⁸ of the motion.
        distance = torch.linalg.matrix_norm((actual - expected).float())
        motion = torch.linalg.matrix_norm((expected - start).float())
        assert distance <= 2**-5 * motion


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)], ids=["tall", "wide"])
def test_bfloat16_parameters_without_nesterov_obey_the_formula(shape):
    """Where torch 2.13 overwrites its momentum (pytorch#194664), ours is right.

    There the factor is worked out in the memory of the momentum, which becomes the normalised one:
    a first gradient that is a thousand times the others is forgotten. In float32 torch copies.
    """
    x = torch.zeros(shape, dtype=torch.bfloat16)
    gradients = [randn(shape, 1 + k, torch.bfloat16) for k in range(6)]
    gradients[0] = 1024 * gradients[0]
    options = {"lr": 0.5, "nesterov": False}
    expected = formula(x, gradients, mu=0.95, decay=0.0, adjust=None, **options)
    (actual,) = run(
        lambda p: pg.Muon(p, weight_decay=0.0, **options), [x], [[g] for g in gradients]
    )
    (copied,) = run(
        lambda p: torch.optim.Muon(p, weight_decay=0.0, **options),
        [x.float()],
        [[g.float()] for g in gradients],
    )
    # Places below 4 are rounded to 2⁻⁷ in each of six steps; the products of torch to some 2⁻⁶.
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=6 * 2.0**-7)
    torch.testing.assert_close(copied.double(), expected, rtol=0, atol=6 * 2.0**-6)


def adam(x, gradients, *, lr=3e-4, betas=(0.9, 0.95), eps=1e-10, decay=0.1):
    """Jordan's auxiliary Adam: bias-corrected, with decoupled decay, so AdamW."""
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for t, g in enumerate(gradients, start=1):
        first = betas[0] * first + (1 - betas[0]) * g
        second = betas[1] * second + (1 - betas[1]) * g * g
        step = (first / (1 - betas[0] ** t)) / ((second / (1 - betas[1] ** t)).sqrt() + eps)
        x = (1 - lr * decay) * x - lr * step
    return x


@pytest.mark.parametrize("shape", [(3, 4, 2, 2), (20, 2, 2, 2)], ids=["wide", "tall"])
def test_jordan_on_a_convolution_with_his_auxiliary_adam(shape):
    """A convolution is m × all else; its bias goes to Adam, here in the same optimizer."""
    layer = nn.Conv2d(shape[1], shape[0], shape[2:]).double()
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    gradients = [
        [randn(weight.shape, k).double(), randn(bias.shape, 9 + k).double()] for k in range(5)
    ]
    groups = pg.param_groups(layer, vector_lr=3e-4, vector_betas=(0.9, 0.95), vector_eps=1e-10)
    optimizer = pg.Muon(groups, lr=0.02, weight_decay=0.5, vector_weight_decay=0.1)
    for row in gradients:
        layer.weight.grad, layer.bias.grad = (g.clone() for g in row)
        optimizer.step()
    options = {"lr": 0.02, "mu": 0.95, "nesterov": True, "decay": 0.5, "adjust": None}
    expected = formula(weight.flatten(1), [g.flatten(1) for g, _ in gradients], **options)
    torch.testing.assert_close(layer.weight.detach().flatten(1), expected, rtol=0, atol=1e-12)
    expected = adam(bias, [g for _, g in gradients])
    torch.testing.assert_close(layer.bias.detach(), expected, rtol=0, atol=1e-12)
