"""What a step of small matrices on a CPU does: operations counted, and looked at once."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import polargrad as pg
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
    [([(500, 100)], 41, 6), ([(1000, 100)], 41, 6), ([(500, 5), (250, 5)], 2 * 29, 2 * 3)],
    ids=str,
)
def test_operations_of_a_step(shapes, most, products):
    """The paper's experiments: looked at for norm and largest entry; no mask is made."""
    optimizer, _ = optimizer_of(*shapes)
    with Calls() as calls:
        optimizer.step()
    assert len(calls.names) <= most, calls.names
    assert sum(name in ("mm", "addmm") for name in calls.names) == products
    # One of each gradient; the other is that of the Gram matrix.
    assert calls.names.count("linalg_vector_norm") == 2
    assert not {"isfinite", "full_like", "zeros_like", "frexp", "ldexp"} & set(calls.names)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e6, 1e-12, 1e12, 1e-30, 1e30])
@pytest.mark.parametrize("shape", [(40, 5), (40, 20), (20, 40)], ids=str)
def test_the_short_way_takes_the_step_of_the_general_one(scale, shape):
    """With capturable nothing is read on the host, so that every matrix is prepared."""
    _, (one,) = optimizer_of(shape, scale=scale)
    _, (other,) = optimizer_of(shape, scale=scale, capturable=True)
    assert one.detach().any()
    torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


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


def test_a_profiler_sees_the_stages():
    optimizer, _ = optimizer_of((6, 4))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        optimizer.step()
    names = {event.key for event in profiler.key_averages()}
    assert {f"polargrad::{stage}" for stage in ("check", "direction", "update")} <= names
