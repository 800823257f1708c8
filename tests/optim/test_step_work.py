"""What a step of small matrices on a CPU does: operations counted, and looked at once."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import polargrad as pg
from polargrad.linalg import direct
from polargrad.optim.gradients import all_finite, finite_on_host


class Calls(TorchDispatchMode):
    """Counts operations that compute; views of tensors are not counted."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        schema = function._schema
        written = any(a.alias_info and a.alias_info.is_write for a in schema.arguments)
        if written or not any(a.alias_info for a in schema.returns):
            self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


def optimizer_of(*shapes, scale=1.0, **options):
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for p in params:
        p.grad = scale * torch.randn(p.shape, generator=generator)
    optimizer = pg.PolarGrad(params, lr=1e-3, momentum=0.0, **options)
    optimizer.step()
    return optimizer, params


@pytest.mark.parametrize(
    ("shapes", "most", "products"),
    [([(400, 100)], 29, 6), ([(100, 450)], 29, 6), ([(500, 5), (250, 5)], 2 * 15, 2 * 3)],
    ids=str,
)
def test_operations_of_a_step(shapes, most, products):
    """The paper's experiments: no mask is made, and the last product is the step itself."""
    optimizer, _ = optimizer_of(*shapes)
    with Calls() as calls:
        optimizer.step()
    assert len(calls.names) <= most, calls.names
    assert sum(name in ("mm", "addmm", "addmm_") for name in calls.names) == products
    assert not {"isfinite", "full_like", "zeros_like", "frexp", "ldexp"} & set(calls.names)


@pytest.mark.parametrize("shape", [(500, 100), (100, 500), (40, 40)], ids=str)
def test_a_step_makes_nothing_as_large_as_the_matrix(shape):
    """The direction is a product that is added to the parameter: it is never there by itself."""
    optimizer, _ = optimizer_of(shape)
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            made = isinstance(result, torch.Tensor) and all(
                result.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
                for x in args
                if isinstance(x, torch.Tensor)
            )
            sizes.extend([result.numel()] if made else [])
            return result

    with Sizes():
        optimizer.step()
    assert sizes
    assert max(sizes) == min(shape) ** 2


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e6, 1e-12, 1e12, 1e-30, 1e30])
@pytest.mark.parametrize("shape", [(40, 5), (50, 10), (10, 50), (40, 20), (20, 40)], ids=str)
def test_the_short_way_takes_the_step_of_the_general_one(scale, shape):
    """With capturable nothing is read on the host, so that every matrix is prepared.

    Products alone multiply rounding by the slopes of their polynomials: 180 eps seen.
    """
    _, (one,) = optimizer_of(shape, scale=scale)
    _, (other,) = optimizer_of(shape, scale=scale, capturable=True)
    assert one.detach().any()
    difference = torch.linalg.matrix_norm(one - other, 2) / torch.linalg.matrix_norm(other, 2)
    slopes = 1000 if 20 in shape else 32
    assert difference < slopes * torch.finfo(torch.float32).eps


GROUPS = {
    "momentum": {"momentum": 0.9},
    "ascending": {"maximize": True},
    "momentum, ascending": {"momentum": 0.9, "maximize": True},
    "decay": {"weight_decay": 0.1, "lr": 1e-5},
    "clipped": {"max_dual_norm": 2.0},
    "root": {"exponent": 0.5},
    "unit": {"magnitude": "unit"},
    "as Moonlight": {"magnitude": "match_rms_adamw"},
    "lr is a tensor": {"lr": torch.tensor(1e-3)},
}


@pytest.mark.parametrize("options", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("shape", [(40, 5), (40, 20), (20, 40)], ids=str)
def test_every_option_of_the_short_way_is_that_of_the_general_one(shape, options):
    """Two steps from a start that is not zero, so that decay and momentum are seen."""
    generator = torch.Generator().manual_seed(1)
    start, *gradients = (torch.randn(shape, generator=generator) for _ in range(3))
    ends = []
    for capturable in (False, True):
        parameter = torch.nn.Parameter(start.clone())
        chosen = {"lr": 1e-3, "momentum": 0.0} | options
        optimizer = pg.MatrixOptimizer([parameter], capturable=capturable, **chosen)
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        ends.append(parameter.detach())
    moved = torch.linalg.matrix_norm(ends[1] - start, 2)
    assert moved > 0
    eps = torch.finfo(torch.float32).eps
    bound = 64 * eps * moved + 4 * eps * torch.linalg.matrix_norm(start, 2)
    assert torch.linalg.matrix_norm(ends[0] - ends[1], 2) < bound


def test_a_momentum_that_is_not_finite_is_not_a_factorization_that_fails():
    """Gradients are looked at, momenta are not: an overflow there spreads, as in others."""
    parameter = torch.nn.Parameter(torch.zeros(6, 4))
    optimizer = pg.PolarGrad([parameter], lr=1e-3, momentum=0.9)
    for value in (0.0, torch.inf):
        parameter.grad = torch.ones(6, 4)
        optimizer.state[parameter].get("momentum_buffer", torch.zeros(1)).add_(value)
        optimizer.step()
    assert parameter.isnan().any()


@pytest.mark.parametrize("value", [3e38, -3e38, 1e-45, torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_both_verdicts_on_gradients_agree(value, dtype):
    """A norm that overflows tells nothing: then every entry is looked at."""
    params = [torch.nn.Parameter(torch.zeros(3, 4, dtype=dtype)) for _ in range(2)]
    for p in params:
        p.grad = torch.ones_like(p)
    params[1].grad[2, 3] = value
    expected = bool(torch.isfinite(params[1].grad).all())
    assert finite_on_host(params) == expected == bool(all_finite(params))
    assert finite_on_host([]) is None


@pytest.mark.parametrize(
    ("make", "norms"),
    [
        (lambda params: pg.PolarGrad(params, lr=1e-3, tol=0.11), 1),
        (lambda params: pg.PolarGrad(params, tol=0.11), 0),
        (
            lambda params: pg.PolarGrad(
                params, momentum=0.932, order="polar-first", nesterov=0.035
            ),
            0,
        ),
        (lambda params: pg.Muon(params, lr=1e-3, method="auto", tol=0.11), 0),
    ],
    ids=["given", "found", "found along averages", "Muon"],
)
def test_a_dual_norm_is_computed_where_it_is_a_part_of_the_step(make, norms, monkeypatch):
    calls, original = [], direct.inner
    monkeypatch.setattr(direct, "inner", lambda a, u: calls.append(1) or original(a, u))
    params = [torch.nn.Parameter(torch.zeros(60, 40)) for _ in range(2)]
    optimizer = make(params)
    for p in params:
        p.grad = torch.randn(60, 40, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    assert len(calls) == norms  # of a stack
    assert all(bool(p.isfinite().all()) and bool(p.any()) for p in params)


def test_a_profiler_sees_the_stages():
    optimizer, _ = optimizer_of((6, 4))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        optimizer.step()
    names = {event.key for event in profiler.key_averages()}
    assert {f"polargrad::{stage}" for stage in ("check", "direction", "update")} <= names
