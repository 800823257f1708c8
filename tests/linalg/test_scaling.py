"""Powers of two by which matrices are divided, and the entry that decides them."""

import math

import pytest
import torch

from polargrad.linalg.scaling import (
    greatest_entry,
    largest_entry,
    scale_by_power_of_two,
    times_power_of_two,
)

LAYOUTS = {
    "rows": lambda x: x,
    "columns": lambda x: x.mT.contiguous().mT,
    "every second": lambda x: torch.stack([x, 9.0 * x], dim=-1)[..., 0],
}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)


def drawn(dtype, shape=(7, 5)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_greatest_entry_of_any_layout(layout, dtype, sign):
    x = LAYOUTS[layout](sign * drawn(dtype))
    parts = torch.view_as_real(x.contiguous()) if x.is_complex() else x
    assert greatest_entry(x) == max(abs(v) for v in parts.flatten().tolist())
    assert greatest_entry(x) == float(largest_entry(x))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_the_greatest(layout, value):
    x = drawn(torch.float32)
    x[3, 2] = value
    found = greatest_entry(LAYOUTS[layout](x))
    assert math.isnan(found) if math.isnan(value) else found == math.inf


@pytest.mark.parametrize("value", [0.0, 2.0**-149, 3.4e38])
def test_the_ends_of_the_range(value):
    assert greatest_entry(torch.tensor([[value, -value]])) == float(torch.tensor(value))


def test_it_has_no_graph():
    x = drawn(torch.float32).requires_grad_()
    assert greatest_entry(x) == greatest_entry(x.detach())


@pytest.mark.parametrize("power", [-140, -30, 0, 17, 120])
def test_scaling_is_exact_and_undone(power):
    x = drawn(torch.float64, (3, 4, 2)) * 2.0**power
    scaled, exponent = scale_by_power_of_two(x)
    assert bool(((scaled.abs().amax((-2, -1)) >= 0.5) & (scaled.abs().amax((-2, -1)) < 1)).all())
    assert torch.equal(times_power_of_two(scaled, exponent[:, None, None]), x)
