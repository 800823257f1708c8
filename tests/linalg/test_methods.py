"""The methods: polynomials act on singular values, tables are recomputed, the published oracle."""

import pytest
import torch
from matrices import conditioned, double, eps, orthogonality, polar_oracle

import polargrad as pg
from polargrad.linalg import METHODS, QDWH, SVD, NewtonSchulz, PolarExpress, label, method, plain
from polargrad.linalg.coefficients import (
    CLASSIC_CUBIC,
    MUON_QUINTIC,
    POLAR_EXPRESS,
    compose,
    deviation,
    minimax_quintics,
)

POLYNOMIAL = [
    NewtonSchulz(),
    NewtonSchulz("cubic", steps=7),
    NewtonSchulz((2.0, -1.5, 0.5), steps=3),
    PolarExpress(),
    PolarExpress(steps=5),
    PolarExpress(steps=6, bound="schatten4"),
    PolarExpress(steps=10, safety=1.05),
]


@pytest.mark.parametrize("description", POLYNOMIAL, ids=label)
@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (30, 30), (3, 20, 8)], ids=str)
def test_polynomial_acts_on_the_singular_values(description, shape):
    """U = W p(Σ/s) Vᴴ, with the polynomial written out here and s the stated bound."""
    a = conditioned(shape, 300.0, torch.float32)
    w, sigma, vh = torch.linalg.svd(double(a), full_matrices=False)
    power = 4.0 if getattr(description, "bound", "") == "schatten4" else 2.0
    bound = sigma.pow(power).sum(-1, keepdim=True) ** (1.0 / power)
    x = sigma / bound / getattr(description, "safety", 1.0)
    for p, q, r in description.polynomials:
        x = p * x + q * x**3 + r * x**5
    expected = (w * x.unsqueeze(-2)) @ vh
    assert (double(pg.polar_factor(a, method=description)) - expected).abs().max() <= 1e-5


def test_published_polynomials():
    """Muon's five quintics, and Polar Express with its safety on all but the last kind."""
    assert NewtonSchulz().polynomials == (MUON_QUINTIC,) * 5 == ((3.4445, -4.7750, 2.0315),) * 5
    assert CLASSIC_CUBIC == (1.5, -0.5, 0.0)
    rows = PolarExpress(steps=9).polynomials
    a, b, c = POLAR_EXPRESS[0]
    assert rows[0] == (a / 1.01, b / 1.01**3, c / 1.01**5)
    assert rows[7] == rows[8] == (1.875, -1.25, 0.375)


def test_polar_express_table_is_what_its_generator_gives():
    rows = minimax_quintics(1e-3, 8, cushion=0.02407327424182761)
    for printed, computed in zip(POLAR_EXPRESS, rows, strict=True):
        assert computed == pytest.approx(printed, rel=1e-8)


def test_the_other_published_list_comes_from_the_same_generator():
    """Five steps, safety 2e-2, cushion 2e-2: the list of modded-nanogpt and dion (1.02)."""
    published = [
        (8.156554524902461, -22.48329292557795, 15.878769915207462),
        (4.042929935166739, -2.808917465908714, 0.5000178451051316),
        (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
        (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
        (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
    ]
    rows = minimax_quintics(1e-3, 5, cushion=0.02, safety=1.02)
    for printed, computed in zip(published, rows, strict=True):
        assert computed == pytest.approx(printed, rel=1e-10)


@pytest.mark.parametrize("lower", [0.5, 0.1, 0.03])
def test_a_minimax_quintic_equioscillates(lower):
    """The error takes its largest size at four points with alternating signs, and nowhere more."""
    ((a, b, c),) = minimax_quintics(lower, 1)
    x = torch.linspace(lower, 1.0, 200_001, dtype=torch.float64)
    error = a * x + b * x**3 + c * x**5 - 1.0
    turns = (error.diff()[1:] * error.diff()[:-1] < 0).nonzero().flatten() + 1
    extremes = [error[0], *error[turns], error[-1]]
    largest = error.abs().max().item()
    assert [value.item() for value in extremes] == pytest.approx(
        [-largest, largest, -largest, largest], rel=1e-6
    )


def test_deviation_is_the_largest_over_the_interval():
    x = torch.logspace(-3, 0, 5001, dtype=torch.float64)
    for steps in (4, 5, 6, 7):
        description = PolarExpress(steps=steps)
        y = x / 1.01
        for a, b, c in description.polynomials:
            y = a * y + b * y**3 + c * y**5
        assert description.deviation == pytest.approx((y - 1).abs().max().item(), rel=1e-2)
    assert deviation((CLASSIC_CUBIC,), 1.0) == 0.0
    assert compose([CLASSIC_CUBIC, CLASSIC_CUBIC], 0.0) == 0.0


def test_published_oracle_on_a_gaussian():
    """paper.md 4.8: nuclear ratio 0.903 and size 0.839 after two float32 steps from eps."""
    ratios, sizes = [], []
    for seed in range(3):
        g = torch.randn(500, 100, generator=torch.Generator().manual_seed(seed))
        result = pg.polar(g, method=QDWH.reference())
        ratios.append(result.nuclear_norm.item() / torch.linalg.svdvals(g.double()).sum().item())
        sizes.append(result.U.double().square().sum().item() / 100)
    assert all(abs(ratio - 0.903) <= 0.005 for ratio in ratios)
    assert all(abs(size - 0.839) <= 0.010 for size in sizes)


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize("shape", [(60, 25), (25, 60)], ids=str)
def test_reference_is_its_rational_function_of_the_singular_values(steps, shape):
    """An independent float64 evaluation: scaling, weights from eps of float32, final cubic."""
    a = conditioned(shape, 20.0, torch.float32)
    w, sigma, vh = torch.linalg.svd(double(a), full_matrices=False)
    entries = double(a).abs()
    x = sigma / (entries.sum(0).max() * entries.sum(1).max()).sqrt()
    low, taken = 2.0**-23, 0
    while low + 5 * 2.0**-23 < 1 and taken < steps:
        d = (4 * (1 - low**2) / low**4) ** (1 / 3)
        p = (1 + d) ** 0.5 + 0.5 * (8 - 4 * d + 8 * (2 - low**2) / (low**2 * (1 + d) ** 0.5)) ** 0.5
        q = (p - 1) ** 2 / 4
        r = p + q - 1
        x = x * (p + q * x**2) / (1 + r * x**2)
        low, taken = low * (p + q * low**2) / (1 + r * low**2), taken + 1
    expected = (w * (1.5 * x - 0.5 * x**3)) @ vh
    found = double(pg.polar_factor(a, method=QDWH.reference(steps=steps)))
    assert (found - expected).abs().max() <= 50 * eps(torch.float32)


def test_reference_with_five_steps_is_converged():
    g = torch.randn(500, 100, generator=torch.Generator().manual_seed(0))
    u = pg.polar_factor(g, method=QDWH.reference(steps=5))
    assert orthogonality(u) <= 20 * eps(torch.float32)
    assert (double(u) - polar_oracle(g)).norm() / 10 <= 20 * eps(torch.float32)


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float32, (2, 2)), (torch.float64, (2, 4))])
def test_factorizations_are_those_of_the_schedule(monkeypatch, dtype, expected):
    """Counted: QR steps, then Cholesky steps, and one Cholesky more that proves full rank."""
    counts = {"qr": 0, "cholesky_ex": 0, "svd": 0}
    for name in counts:
        original = getattr(torch.linalg, name)

        def counted(*args, _name=name, _original=original, **kwargs):
            counts[_name] += 1
            return _original(*args, **kwargs)

        monkeypatch.setattr(torch.linalg, name, counted)
    a = conditioned((60, 40), 1e3, dtype)
    counts.update(dict.fromkeys(counts, 0))
    pg.polar_factor(a, method="qdwh")
    qr, cholesky = expected
    assert counts == {"qr": qr, "cholesky_ex": cholesky + 1, "svd": 0}
    counts.update(dict.fromkeys(counts, 0))
    pg.polar_factor(a, method=QDWH(steps=2))
    assert counts["svd"] == 0
    assert counts["qr"] + counts["cholesky_ex"] == 2


@pytest.mark.parametrize(("description", "products"), [(NewtonSchulz(), 15), (PolarExpress(), 24)])
def test_products_are_three_a_quintic_step(description, products):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket.__name__ in ("mm", "addmm", "bmm", "baddbmm"):
                self.seen += 1
            return func(*args, **(kwargs or {}))

    for shape in ((20, 8), (4, 20, 8)):
        with Count() as count:
            pg.polar_factor(torch.ones(shape), method=description)
        assert count.seen == products


@pytest.mark.parametrize("name", METHODS)
def test_descriptions_are_plain_data_and_back(name):
    description = method(name)
    data = plain(description)
    assert data["name"] == name
    assert method(data) == description
    assert label(description) == name


def test_a_saved_triple_comes_back_as_one():
    description = NewtonSchulz([2.0, -1.5, 0.5], steps=3)
    assert description == NewtonSchulz((2.0, -1.5, 0.5), steps=3)
    assert hash(description) == hash(NewtonSchulz((2.0, -1.5, 0.5), steps=3))
    assert label(QDWH.reference()) == f"qdwh(steps=2, lower_bound={2.0**-23}, polish=True)"
    assert method(SVD()) == SVD()
