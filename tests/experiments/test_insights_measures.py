"""What is measured of an update and of a layer's curvature, against independent float64 oracles."""

import math

import pytest
import torch

from polargrad.experiments.insights.measures import (
    MATRICES,
    Spread,
    UpdateProbe,
    layer_curvature,
    spread,
)
from polargrad.geometry.anisotropy import anisotropy


def matrix(singular_values, shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    m, n = shape
    r = len(singular_values)
    u = torch.linalg.qr(torch.randn(m, r, generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(n, r, generator=generator, dtype=torch.float64)).Q
    return (u * torch.tensor(singular_values, dtype=torch.float64) @ v.mT).to(dtype)


@pytest.mark.parametrize("shape", [(5, 5), (9, 5), (5, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spread_of_known_singular_values(shape, dtype):
    found = spread(matrix([8.0, 4.0, 2.0, 1.0, 0.5], shape, dtype))
    exact = Spread(16.0, 4.0, (64 + 16 + 4 + 1 + 0.25) / 64, 8.0)
    assert found == pytest.approx(exact, rel=200 * torch.finfo(dtype).eps)


def test_spread_agrees_with_the_measures_of_the_geometry():
    """κ₂ and stable rank are those of polargrad.geometry, its cutoff for rounding included."""
    for values in ([3.0, 1.0, 1e-3], [1.0, 1e-3, 1e-9]):
        G = matrix(values, (7, 3), torch.float32)
        known = anisotropy(G)
        found = spread(G)
        assert found.condition == pytest.approx(float(known.condition_number), rel=1e-9)
        assert found.stable_rank == pytest.approx(float(known.stable_rank), rel=1e-9)


def test_spread_of_a_polar_factor_is_one():
    found = spread(matrix([1.0] * 4, (6, 4)))
    assert found == pytest.approx((1.0, 1.0, 4.0, 1.0), rel=1e-12)


def test_spread_where_there_is_none():
    assert spread(torch.zeros(3, 2)) == (1.0, 1.0, 0.0, 0.0)
    assert all(math.isnan(value) for value in spread(torch.tensor([[math.inf, 0.0]])))


@pytest.fixture
def step():
    """A step of an optimizer on ½‖A X − B‖² + ½‖b‖², looked at by a probe."""

    def take(make):
        generator = torch.Generator().manual_seed(3)
        A, B = (torch.randn(6, n, generator=generator) for n in (5, 4))
        X = torch.nn.Parameter(torch.randn(5, 4, generator=generator))
        b = torch.nn.Parameter(torch.ones(3))
        idle = torch.nn.Parameter(torch.ones(2))  # has no gradient: must not be asked for one
        optimizer = make([X, b])

        def loss():
            return 0.5 * ((A @ X - B) ** 2).sum() + 0.5 * (b**2).sum()

        first = loss()
        first.backward()
        before = X.detach().clone()
        probe = UpdateProbe({"X": X}, [X, b, idle])
        optimizer.step()
        record = probe.record(optimizer, first.item(), loss().item())
        return record, X.grad, X.detach() - before, b.grad

    return take


def test_a_gradient_step_is_what_its_first_order_says(step):
    lr = 1e-3
    make = lambda params: torch.optim.SGD(params, lr=lr, momentum=0.9)  # noqa: E731
    record, G, _, g = step(make)
    squared = float(G.square().sum() + g.square().sum())
    assert record["predicted"] == pytest.approx(-lr * squared, rel=1e-4)
    # The Hessian's largest eigenvalue is below 40 here: curvature adds at most lr · 20 of it.
    assert record["predicted"] < record["change"] < (1 - 20 * lr) * record["predicted"]
    for field in ("condition", "effective", "stable_rank"):
        assert record["update"][field] == pytest.approx(record["gradient"][field], rel=1e-3)
    assert record["update"]["largest"][0] == pytest.approx(
        lr * record["gradient"]["largest"][0], rel=1e-3
    )


def test_adams_first_update_is_a_sign_and_its_momentum_a_multiple_of_the_gradient(step):
    record, G, update, _ = step(lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0))
    torch.testing.assert_close(update, -0.01 * G.sign(), rtol=1e-4, atol=0)
    assert record["update"]["condition"] == pytest.approx([spread(G.sign()).condition], rel=1e-3)
    assert record["momentum"]["condition"] == pytest.approx(record["gradient"]["condition"])
    assert set(MATRICES) <= record.keys()


def quadratic(A, B):
    """½‖A X B‖²_F, whose Hessian is (B Bᵀ) ⊗ (AᵀA)."""
    X = torch.randn(A.shape[1], B.shape[0], dtype=torch.float64, requires_grad=True)
    return X, lambda: 0.5 * (A @ X @ B).square().sum()


def test_curvature_of_a_quadratic():
    A, B = torch.diag(torch.tensor([3.0, 1.0, 0.5])), torch.diag(torch.tensor([2.0, 1.0]))
    X, closure = quadratic(A.double(), B.double())
    found = layer_curvature(
        closure, X, products=6, probes=4000, generator=torch.Generator().manual_seed(0)
    )
    eigenvalues = torch.kron(B @ B.mT, A.mT @ A).diagonal().double()
    assert found["largest"] == pytest.approx(36.0, rel=1e-9)
    assert found["smallest"] == pytest.approx(0.25, rel=1e-9)
    # The estimate's relative deviation is at most √(2/4000) = 0.022.
    exact = float(eigenvalues.square().sum()) / 36.0**2
    assert found["stable_rank"] == pytest.approx(exact, rel=0.1)
    G = A.double().mT @ A.double() @ X.detach() @ B.double() @ B.double().mT
    assert found["gradient_condition"] == pytest.approx(spread(G).condition, rel=1e-9)
    assert found["gradient_stable_rank"] == pytest.approx(spread(G).stable_rank, rel=1e-9)
    assert (found["dimension"], found["gradient_dimension"]) == (6, 2)


def test_curvature_of_a_saddle_has_both_signs():
    X = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    closure = lambda: X[0, 0] ** 2 - 3 * X[1, 1] ** 2 + X.sum()  # noqa: E731
    found = layer_curvature(closure, X, products=4, probes=1, generator=generator)
    assert found["largest"] == pytest.approx(2.0, rel=1e-9)
    assert found["smallest"] == pytest.approx(-6.0, rel=1e-9)
    # Never below what the two eigenvalues alone come to, few as the probes are.
    assert found["stable_rank"] >= (4 + 36) / 36 - 1e-9
