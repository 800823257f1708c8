"""The engine against the equations of the paper, written here once more in float64."""

import itertools

import pytest
import torch
from torch import nn

import polargrad as pg

STEPS = 20
LR = 0.01
SHAPES = [(7, 4), (4, 7), (5, 5), (1, 3), (3, 1), (7, 4)]  # the last shares a stack with the first


def randn(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def polar_and_norm(a):
    """The polar factor and the nuclear norm, from the definition."""
    u, sigma, vh = torch.linalg.svd(a, full_matrices=False)
    return u @ vh, sigma.sum()


def equation(x, gradients, *, order, beta, nesterov, decay=0.0, magnitude=None, lr=LR):
    """X after the gradients: arXiv 2505.21799, section 4, with X ← (1 − γλ)X − γ a u."""
    m = torch.zeros_like(x)
    for g in gradients:
        if order == "momentum-first":
            m = beta * m + (1 - beta) * g
            u, norm = polar_and_norm(beta * m + (1 - beta) * g if nesterov else m)
        else:
            direction, norm = polar_and_norm(g)
            m = beta * m + (1 - beta) * direction
            u = beta * m + (1 - beta) * direction if nesterov else m
        a = norm if magnitude is None else magnitude(*x.shape)
        x = (1 - lr * decay) * x - lr * a * u
    return x


def trajectory(make, starts, gradients):
    """The parameters after one step for each of the rows of gradients."""
    params = [nn.Parameter(x.clone()) for x in starts]
    optimizer = make(params)
    for row in gradients:
        for p, g in zip(params, row, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return [p.detach() for p in params]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


STARTS = [randn(shape, 100 + i) for i, shape in enumerate(SHAPES)]
GRADIENTS = [
    [randn(shape, 1000 * step + i) for i, shape in enumerate(SHAPES)] for step in range(STEPS)
]
COMBINATIONS = list(
    itertools.product(("momentum-first", "polar-first"), (0.0, 0.9), (False, True), (0.0, 0.5))
)


@pytest.mark.parametrize(("order", "beta", "nesterov", "decay"), COMBINATIONS)
def test_polar_grad_is_its_equation(order, beta, nesterov, decay):
    options = {"order": order, "nesterov": nesterov}

    def make(params):
        return pg.PolarGrad(
            params, lr=LR, momentum=beta, weight_decay=decay, method="svd", **options
        )

    columns = zip(*GRADIENTS, strict=True)
    for x, gradients, actual in zip(
        STARTS, columns, trajectory(make, STARTS, GRADIENTS), strict=True
    ):
        close(actual, equation(x, gradients, beta=beta, decay=decay, **options))


@pytest.mark.parametrize("order", ["momentum-first", "polar-first"])
@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("unit", lambda m, n: 1.0),
        ("original", lambda m, n: max(1.0, m / n) ** 0.5),
        ("match_rms_adamw", lambda m, n: 0.2 * max(m, n) ** 0.5),
    ],
)
def test_the_engine_with_other_magnitudes(order, kind, formula):
    """``unit`` with Nesterov is matrix sign descent with momentum, the published Muon_polar."""

    def make(params):
        return pg.MatrixOptimizer(
            params, lr=LR, momentum=0.95, nesterov=True, magnitude=kind, order=order, method="svd"
        )

    columns = zip(*GRADIENTS, strict=True)
    for x, gradients, actual in zip(
        STARTS, columns, trajectory(make, STARTS, GRADIENTS), strict=True
    ):
        expected = equation(x, gradients, order=order, beta=0.95, nesterov=True, magnitude=formula)
        close(actual, expected)


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_qdwh_takes_the_same_steps(beta):
    def make(method):
        return lambda params: pg.PolarGrad(params, lr=LR, momentum=beta, method=method)

    by_svd = trajectory(make("svd"), STARTS, GRADIENTS)
    for actual, expected in zip(trajectory(make("qdwh"), STARTS, GRADIENTS), by_svd, strict=True):
        close(actual, expected)


def test_training_accuracy_is_the_stated_one():
    """tol=0.11: each singular value of a step over ‖G‖* is within 0.11 of 1, and so is the norm."""
    g = randn((40, 30), 7).float()  # its singular values span a decade
    (x,) = trajectory(lambda p: pg.PolarGrad(p, lr=1.0, momentum=0.0), [torch.zeros(40, 30)], [[g]])
    _, norm = polar_and_norm(g.double())
    sigma = torch.linalg.svdvals(x.double()) / norm
    # The magnitude ⟨G, U⟩ and the direction U are both off, by at most 0.11 each.
    assert sigma.max() <= 1.11**2
    assert sigma.min() >= 0.89**2
    assert sigma.max() - sigma.min() > 1e-6  # and it is not the exact factor


# A view of a parameter, its shape, and the function that takes it apart into matrices.
VIEWS = {
    "split": ({"kind": "split", "parts": 3}, (9, 4), lambda x: x.chunk(3, 0)),
    "split of wide parts": ({"kind": "split", "parts": 2}, (4, 9), lambda x: x.chunk(2, 0)),
    "split, transposed": (
        {"kind": "split", "parts": 3, "transpose": True},
        (4, 9),
        lambda x: [part.T for part in x.chunk(3, 1)],
    ),
    "transpose": ({"kind": "whole", "transpose": True}, (3, 8), lambda x: [x.T]),
    "flatten": ({"kind": "flatten"}, (5, 3, 2, 2), lambda x: [x.reshape(5, 12)]),
    "stack": ({"kind": "stack"}, (4, 5, 3), lambda x: list(x)),
    "stack of stacks": ({"kind": "stack"}, (2, 3, 3, 4), lambda x: [m for row in x for m in row]),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("order", ["momentum-first", "polar-first"])
@pytest.mark.parametrize("magnitude", ["dual_norm", "match_rms_adamw"])
def test_fused_equals_separate(name, order, magnitude):
    """A parameter that holds several matrices takes the steps of the same matrices alone."""
    view, shape, parts = VIEWS[name]
    start = randn(shape, 5)
    gradients = [randn(shape, 50 + step) for step in range(STEPS)]
    options = {
        "lr": LR, "momentum": 0.9, "nesterov": True, "weight_decay": 0.5,
        "order": order, "magnitude": magnitude, "method": "svd",
    }  # fmt: skip

    def fused(params):
        return pg.MatrixOptimizer(
            [{"params": params, "rule": "matrix", "views": [view]}], **options
        )

    (together,) = trajectory(fused, [start], [[g] for g in gradients])
    alone = trajectory(
        lambda params: pg.MatrixOptimizer(params, **options),
        list(parts(start)),
        [list(parts(g)) for g in gradients],
    )
    for actual, expected in zip(parts(together), alone, strict=True):
        close(actual, expected)


MODULES = {
    "attention": (lambda: nn.MultiheadAttention(6, 2), "in_proj_weight", lambda x: x.chunk(3)),
    "GRU": (lambda: nn.GRU(5, 4), "weight_hh_l0", lambda x: x.chunk(3)),
    "LSTM": (lambda: nn.LSTM(5, 4), "weight_ih_l0", lambda x: x.chunk(4)),
    "convolution": (lambda: nn.Conv2d(3, 4, 2), "weight", lambda x: [x.reshape(4, 12)]),
}


@pytest.mark.parametrize("name", MODULES)
def test_what_routing_finds_in_a_module_is_stepped_as_such(name):
    """From module to step: query, key and value, and each gate, as parameters of their own."""
    build, attribute, parts = MODULES[name]
    module = build().double()
    parameter = getattr(module, attribute)
    start, g = parameter.detach().clone(), randn(parameter.shape, 9)
    optimizer = pg.PolarGrad(pg.param_groups(module), lr=LR, method="svd")
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    parameter.grad = g
    optimizer.step()
    (expected,) = zip(
        *(
            (equation(x, [y], order="momentum-first", beta=0.95, nesterov=False),)
            for x, y in zip(parts(start), parts(g), strict=True)
        ),
        strict=True,
    )
    for actual, wanted in zip(parts(parameter.detach()), expected, strict=True):
        close(actual, wanted)


def test_gpt2_layers_are_the_transposes_of_linear_ones():
    """transformers' Conv1D stores (inputs, outputs); the magnitude of Muon depends on which."""
    from transformers.pytorch_utils import Conv1D

    layer, linear = Conv1D(8, 3).double(), nn.Linear(3, 8).double()
    start, g = randn((3, 8), 1), randn((3, 8), 2)
    with torch.no_grad():
        layer.weight.copy_(start)
        linear.weight.copy_(start.T)
    options = {"lr": LR, "magnitude": "original", "method": "svd"}
    for module, gradient in ((layer, g), (linear, g.T.contiguous())):
        groups = pg.param_groups(module, roles={"weight": "hidden matrix"})
        optimizer = pg.MatrixOptimizer(groups, **options)
        module.bias.grad = torch.zeros_like(module.bias)
        module.weight.grad = gradient
        optimizer.step()
    close(layer.weight.detach(), linear.weight.detach().T)


def test_the_layout_of_memory_does_not_matter():
    """channels_last convolutions and transposed parameters are stepped as contiguous ones."""
    start, g = randn((6, 4, 3, 3), 1), randn((6, 4, 3, 3), 2)
    results = []
    for form in (torch.contiguous_format, torch.channels_last):
        conv = nn.Conv2d(4, 6, 3, bias=False).double().to(memory_format=form)
        with torch.no_grad():
            conv.weight.copy_(start)
        optimizer = pg.PolarGrad(pg.param_groups(conv), lr=LR, method="svd")
        conv.weight.grad = g.to(memory_format=form)
        optimizer.step()
        results.append(conv.weight.detach())
    close(*results)
    x = nn.Parameter(randn((5, 3), 3).T)
    y = nn.Parameter(x.detach().contiguous())
    x.grad, y.grad = randn((5, 3), 4).T, randn((5, 3), 4).T.contiguous()
    pg.PolarGrad([x], lr=LR, method="svd").step()
    pg.PolarGrad([y], lr=LR, method="svd").step()
    close(x.detach(), y.detach())


def test_accumulated_micro_batches_are_one_batch():
    torch.manual_seed(0)
    data, target = torch.randn(12, 5, dtype=torch.float64), torch.randn(12, 3, dtype=torch.float64)
    results = []
    for pieces in (1, 4):
        torch.manual_seed(1)
        w = nn.Parameter(torch.randn(5, 3, dtype=torch.float64))
        optimizer = pg.PolarGrad([w], lr=LR, method="svd")
        for _ in range(3):
            optimizer.zero_grad()
            for x, y in zip(data.chunk(pieces), target.chunk(pieces), strict=True):
                (((x @ w - y) ** 2).sum() / 12).backward()
            optimizer.step()
        results.append(w.detach())
    close(*results)


def orthogonal(n, seed):
    return torch.linalg.qr(randn((n, n), seed)).Q


@pytest.mark.parametrize("method", ["svd", "qdwh", "newton_schulz", "polar_express"])
@pytest.mark.parametrize("order", ["momentum-first", "polar-first"])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_rotated_gradients_give_rotated_steps(method, order, shape):
    """step(Q G R) = Q step(G) R for orthogonal Q and R: no basis is special."""
    q, r = orthogonal(shape[0], 1), orthogonal(shape[1], 2)
    gradients = [randn(shape, 3 + k) for k in range(4)]

    def way(rows):
        return trajectory(
            lambda p: pg.PolarGrad(p, lr=LR, order=order, nesterov=True, method=method),
            [torch.zeros(shape, dtype=torch.float64)],
            [[g] for g in rows],
        )[0]

    close(way([q @ g @ r for g in gradients]), q @ way(gradients) @ r)


@pytest.mark.parametrize("share", [0.5, 1.0, 1.99])
def test_a_step_below_two_over_l_r_decreases_a_smooth_function(share):
    """f(X) = ½‖AX − B‖² is L-smooth with L = σ₁(A)², and PolarGrad's factor has the rank r.

    f(X⁺) ≤ f(X) − γ(1 − γLr/2)‖G‖*², as ⟨G, U⟩ = ‖G‖* and ‖U‖² = r.
    """
    a, b = randn((20, 6), 1), randn((20, 4), 2)
    x = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
    smoothness = torch.linalg.matrix_norm(a, 2).item() ** 2
    lr = share / (smoothness * 4)
    optimizer = pg.PolarGrad([x], lr=lr, momentum=0.0, method="svd")

    def loss():
        optimizer.zero_grad()
        value = 0.5 * (a @ x - b).square().sum()
        value.backward()
        return value.item()

    value = optimizer.step(loss)
    for _ in range(30):
        _, norm = polar_and_norm(x.grad)
        after = optimizer.step(loss)
        assert after <= value - lr * (1 - lr * smoothness * 4 / 2) * norm.item() ** 2 + 1e-12
        value = after
