"""The methods: what is published of them, descriptions as plain data, and what they refuse."""

import math

import pytest
import torch
from matrices import conditioned, double, eps, orthogonality, polar_oracle

import polargrad as pg
from polargrad.linalg import METHODS, QDWH, SVD, NewtonSchulz, PolarExpress, label, method, plain
from polargrad.linalg.coefficients import MUON_QUINTIC, POLAR_EXPRESS, SETS
from polargrad.linalg.methods.gram_polynomial import GramPolynomial
from polargrad.linalg.methods.preconditioned_newton_schulz import PreconditionedNewtonSchulz


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


@pytest.mark.parametrize("name", [name for name in METHODS if name != "randomized_svd"])
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


def test_published_polynomials():
    """Muon's five quintics, and Polar Express with its safety on all but the last kind."""
    assert NewtonSchulz().polynomials == (MUON_QUINTIC,) * 5 == ((3.4445, -4.7750, 2.0315),) * 5
    rows = PolarExpress(steps=9).polynomials
    for row, (a, b, c) in zip(rows, POLAR_EXPRESS[:7], strict=False):
        assert row == (a / 1.01, b / 1.01**3, c / 1.01**5)
    assert rows[7] == rows[8] == (1.875, -1.25, 0.375)
    assert PolarExpress(safety=1.0).polynomials == POLAR_EXPRESS
    assert GramPolynomial(steps=9).polynomials == rows


def test_muon_to_the_bit():
    """The formula as its users write it, with the floor under the norm."""
    for shape in ((20, 8), (4, 20, 8)):
        a = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        x = a / torch.linalg.matrix_norm(a, keepdim=True).clamp(min=1e-7)
        for _ in range(5):
            gram = x.mH @ x
            fused = torch.addmm if a.ndim == 2 else torch.baddbmm
            weight = fused(gram, gram, gram, beta=-4.7750, alpha=2.0315)
            x = fused(x, x, weight, beta=3.4445)
        assert torch.equal(NewtonSchulz("quintic", steps=5, eps=1e-7)(a).U, x)


def test_the_stated_deviations():
    """What the documentation says of the published list, and of fifteen products."""
    for steps, stated in ((5, 0.16), (6, 0.0065), (8, 0.0)):
        assert PolarExpress(steps=steps).deviation == pytest.approx(stated, rel=0.01, abs=1e-12)
    mixed = {"steps": 4, "degree": (5, 9, 9, 9)}
    assert PolarExpress(**mixed).deviation == pytest.approx(0.0715, abs=1e-4)
    assert PolarExpress(**mixed, cushion=0.0).deviation == pytest.approx(0.0626, abs=1e-4)


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_a_method_of_its_own_length(name):
    description = NewtonSchulz(name)
    assert len(description.polynomials) == SETS[name].steps
    assert NewtonSchulz(SETS[name].polynomials).polynomials == SETS[name].polynomials
    if SETS[name].open_ended:
        assert len(NewtonSchulz(name, steps=11).polynomials) == 11
    else:
        with pytest.raises(ValueError, match=f"steps must be None or .*{name!r}, got 11"):
            NewtonSchulz(name, steps=11)


@pytest.mark.parametrize("name", [name for name in SETS if name != "cubic"])
def test_the_documented_values_of_every_set(name):
    """The table of the docstring, against the polynomials on a dense grid of [1e-3, 1]."""
    (line,) = [
        row for row in NewtonSchulz.__doc__.splitlines() if row.strip().startswith(f"``{name}`` ")
    ]
    low, high = map(float, line[line.index("[") + 1 : line.index("]")].split(","))
    x = torch.cat([torch.logspace(-3, 0, 100_001), torch.linspace(1e-3, 1, 100_001)]).double()
    for polynomial in NewtonSchulz(name).polynomials:
        x = sum(c * x ** (2 * i + 1) for i, c in enumerate(polynomial))
    assert (x.min().item(), x.max().item()) == pytest.approx((low, high), abs=1e-3)


BAD = [
    (lambda: NewtonSchulz(steps=0), ValueError, "steps must be at least 1, got 0"),
    (lambda: NewtonSchulz(steps=True), TypeError, "steps must be an int, got True"),
    (lambda: NewtonSchulz("aol"), ValueError, "cubic, quintic or a triple .*got 'aol'"),
    (lambda: NewtonSchulz([(1.0,)]), ValueError, "two to five finite numbers"),
    (lambda: NewtonSchulz("cans", steps=4), ValueError, "steps must be None or 5, .*'cans', got 4"),
    (lambda: NewtonSchulz(eps=math.nan), ValueError, "eps must be None or at least 0, got nan"),
    (lambda: PolarExpress(degree=4), ValueError, "one of 3, 5, 7, 9, got 4"),
    (lambda: PolarExpress(degree=(9, 5)), ValueError, r"one a step, 8, got \(9, 5\)"),
    (lambda: PolarExpress(lower=0.0), ValueError, r"lower must lie in \(0, 1\), got 0.0"),
    (lambda: PolarExpress(cushion=1.0), ValueError, r"cushion must lie in \[0, 1\), got 1.0"),
    (lambda: PolarExpress(safety=math.inf), ValueError, "safety must be at least 1.*got inf"),
    (lambda: PreconditionedNewtonSchulz(lower=1.0), ValueError, r"lower .*\(0, 1\), got 1.0"),
    (lambda: PreconditionedNewtonSchulz(tol=0.0), ValueError, r"tol .*\(0, 1\), got 0.0"),
    (lambda: PreconditionedNewtonSchulz(bound="two"), ValueError, "frobenius, schatten4, got 'two"),
    (lambda: GramPolynomial(restarts=(0,)), ValueError, r"from 1 to 7, got \(0,\)"),
    (lambda: GramPolynomial(restarts=(8,)), ValueError, r"from 1 to 7, got \(8,\)"),
    (lambda: GramPolynomial(restarts=(4, 2)), ValueError, r"increasing .*got \(4, 2\)"),
    (lambda: GramPolynomial(safety=0.5), ValueError, "safety must be at least 1.*got 0.5"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[m for _, _, m in BAD])
def test_bad_options_are_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
