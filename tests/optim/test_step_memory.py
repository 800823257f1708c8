"""Memory of a step beyond gradients, parameters and state: at most k stacks, with k known.

A unit is what a stack may hold, or one logical matrix in its working dtype where that is larger.
"""

import math

import pytest
import torch
from peak import Peak
from torch import nn

import polargrad as pg
from polargrad import optim
from polargrad.distributed import local
from polargrad.optim import elementwise
from polargrad.optim.memory import stacks_held, step_bytes

UNIT = 4 * 8 * 32 * 32  # eight matrices 32 × 32 of float32


def randn(shape, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)


@pytest.fixture(autouse=True)
def _small_stacks(monkeypatch):
    monkeypatch.setattr(local, "STACK_BYTES", UNIT)
    monkeypatch.setattr(elementwise, "BATCH_BYTES", UNIT)


def units(make, count, shape, dtype, stacked=False):
    """The most that the second step holds: the first makes the state."""
    held = (count, *shape) if stacked else shape
    params = [nn.Parameter(randn(held, i, dtype)) for i in range(1 if stacked else count)]
    group = {"params": params}
    if stacked:
        group |= {"rule": "matrix", "views": [{"kind": "experts"}]}
    optimizer = make([group])
    for step in range(2):
        for i, p in enumerate(params):
            p.grad = randn(held, 100 * step + i, dtype)
        with Peak() as peak:
            optimizer.step()
    size = 8 if dtype == torch.float64 else 4
    return peak.most / max(UNIT, size * math.prod(shape))


DTYPES = [torch.bfloat16, torch.float32, torch.float64]
# A stack of eight and the rest: square, tall, wide; and matrices that are larger than a stack.
CASES = [(10, (32, 32), dtype) for dtype in DTYPES] + [
    (count, shape, torch.float32)
    for count, shape in ((10, (128, 8)), (10, (8, 128)), (2, (96, 96)), (2, (64, 256)))
]
LR = 0.1


def polar_grad(**options):
    return lambda params: pg.PolarGrad(params, LR, **options)


# k with the planner's methods, for what is averaged and when.
ORDERS = {
    "no momentum": (8, polar_grad(momentum=0.0)),
    "momentum-first": (8, polar_grad()),
    "momentum-first, Nesterov": (10, polar_grad(nesterov=True)),
    "momentum-first, Nesterov, corrected": (10, polar_grad(nesterov=True, bias_correction=True)),
    "momentum-first, ascending": (8, polar_grad(maximize=True)),
    "momentum-first, decayed, gated": (8, polar_grad(weight_decay=0.1, capturable=True)),
    "polar-first": (8, polar_grad(order="polar-first")),
    "polar-first, Nesterov": (8, polar_grad(order="polar-first", nesterov=True)),
    "polyak": (8, polar_grad(order="polyak")),
    "momentum in bfloat16": (8, polar_grad(state_dtype="bfloat16")),
    "found size": (8, lambda params: pg.PolarGrad(params, momentum=0.0)),
    "found size, momentum-first, decayed": (8, lambda ps: pg.PolarGrad(ps, weight_decay=0.1)),
}
# k of each method of the polar factor, momentum first.
METHODS = {
    "svd": 11,
    "gram_eigh": 15,
    "qdwh": 11,
    "mixed_qdwh": 19,
    "zolotarev": 66,
    "gram_zolotarev": 11,
    "newton": 17,
    "newton_schulz": 6,
    "polar_express": 6,
    "preconditioned_newton_schulz": 6,
    "gram_polynomial": 11,
}
# k of the presets that use no method of the polar factor, or use one in their own way.
PRESETS = {
    "Muon": (8, lambda ps: pg.Muon(ps, LR)),
    "SSD": (6, lambda ps: optim.SSD(ps, LR, rank=4)),
    "row then polar": (9, lambda ps: optim.HybridPolarGrad(ps, LR)),
    "polar then row": (8, lambda ps: optim.HybridPolarGrad(ps, LR, hybrid="polar_then_row")),
    "gradient descent": (5, lambda ps: optim.GradientDescent(ps, LR, momentum=0.9)),
    "sign descent": (5, lambda ps: optim.SignSGD(ps, LR)),
    "row norm": (6, lambda ps: optim.RowNorm(ps, LR)),
    "row norm, centred": (7, lambda ps: optim.RowNorm(ps, LR, centred=True)),
    "column norm": (6, lambda ps: optim.ColumnNorm(ps, LR)),
    "Adam on a matrix": (
        15,
        lambda ps: pg.MatrixOptimizer(
            ps, LR, geometry="diagonal", momentum=0.9, bias_correction=True
        ),
    ),
}
KNOWN = (
    {f"order: {name}": case for name, case in ORDERS.items()}
    | {f"method: {name}": (k, polar_grad(method=name)) for name, k in METHODS.items()}
    | {f"preset: {name}": case for name, case in PRESETS.items()}
)

# These look at the values: what they need for the worst matrices is not seen in every step.
LOOKING = {f"method: {name}" for name in ("svd", "mixed_qdwh", "newton", "zolotarev")}


@pytest.mark.parametrize("name", KNOWN)
def test_a_step_holds_at_most_k_stacks(name):
    """And k is no more than it must be: some shape and dtype needs more than k − 1."""
    k, make = KNOWN[name]
    found = [units(make, *case) for case in CASES]
    # Numbers that are one for each row, column or matrix beside the stacks.
    assert max(found) <= k + 0.1
    if name not in LOOKING:
        assert max(found) > k - 1.0


@pytest.mark.parametrize("name", KNOWN)
def test_what_the_plan_says_is_enough(name):
    """``explain`` prints a k that no step passes, and not one twice as large."""
    k, make = KNOWN[name]
    # The planner takes one method for up to eight columns, another for more.
    shapes = ((32, 32), (128, 8))
    said = max(stacks_held(make([nn.Parameter(torch.ones(shape))])) for shape in shapes)
    assert k <= said <= 2 * k


def test_the_plan_of_a_step_is_printed():
    large = nn.Parameter(torch.empty(8192, 8192, device="meta"))
    optimizer = pg.PolarGrad([large], 0.1, method="newton_schulz")
    assert step_bytes(optimizer) == 6 * 4 * 8192 * 8192  # a matrix larger than a stack
    text = str(pg.explain(optimizer))
    assert "memory of a step beside the state: at most 6 stacks, 1536 MiB" in text


def test_every_geometry_has_a_plan():
    from polargrad.geometry import GEOMETRIES

    for name in GEOMETRIES:
        given = {"name": name}
        if name == "given_hessian":
            given |= {"left": [[2.0]], "right": [[1.0, 0.0], [0.0, 3.0]]}
        optimizer = pg.MatrixOptimizer([nn.Parameter(torch.ones(1, 2))], 0.1, geometry=given)
        assert stacks_held(optimizer) >= 5


def test_no_method_is_forgotten():
    assert METHODS.keys() | {"randomized_svd"} == pg.linalg.METHODS.keys()


def test_it_does_not_grow_with_the_number_of_matrices():
    for make in (polar_grad(), polar_grad(order="polar-first"), lambda ps: pg.Muon(ps, LR)):
        few, many = (units(make, n, (32, 32), torch.float32) for n in (16, 64))
        assert many <= few + 0.1


@pytest.mark.parametrize(
    ("k", "options"),
    [
        (7, {}),
        (7, {"maximize": True}),
        (7, {"capturable": True}),
        (9, {"nesterov": True}),
        (8, {"order": "polar-first"}),
        (8, {"momentum": 0.0}),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_parameter_of_many_matrices_is_no_single_matrix(k, options, dtype):
    """64 stacked experts, eight stacks of them: k is that of separate parameters."""
    assert units(polar_grad(**options), 64, (32, 32), dtype, stacked=True) <= k + 0.1


@pytest.mark.parametrize(
    ("k", "make"),
    [
        (15, lambda ps: pg.MatrixOptimizer(ps, LR, geometry="diagonal", momentum=0.9)),
        (19, lambda ps: optim.Shampoo(ps, LR)),
    ],
    ids=["diagonal", "Shampoo"],
)
def test_the_state_of_a_preconditioner_is_not_made_again_at_every_step(k, make):
    """Of 64 stacked experts: what exists already needs no zeros of its size."""
    assert units(make, 64, (32, 32), torch.float32, stacked=True) <= k + 0.1


@pytest.mark.parametrize("shape", [(128, 8), (8, 128)])
@pytest.mark.parametrize(
    ("k", "make"),
    [
        (15, lambda ps: optim.OneSidedPolarGrad(ps, LR)),
        (20, lambda ps: optim.Shampoo(ps, LR)),
        (20, lambda ps: optim.SOAP(ps, LR)),
    ],
    ids=["one-sided", "Shampoo", "SOAP"],
)
def test_a_stack_counts_the_square_matrices_that_its_direction_needs(k, make, shape):
    """A Gram matrix of the long side is 16 times the matrix here: fewer fit into a stack."""
    longest = max(shape)
    found = units(make, 20, shape, torch.float32) * UNIT
    assert found <= (k + 0.1) * max(UNIT, 4 * longest * longest)
