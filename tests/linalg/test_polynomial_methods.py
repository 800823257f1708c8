"""The polynomial methods: polynomials act on singular values, in as few products as stated."""

import dataclasses
import json
import math

import pytest
import torch
from matrices import (
    COMPLEX,
    HALF,
    REAL,
    conditioned,
    double,
    eps,
    geometric,
    orthogonality,
    polar_oracle,
    with_singular_values,
)
from torch.utils._python_dispatch import TorchDispatchMode

import polargrad as pg
from polargrad.linalg.methods.gram_polynomial import GramPolynomial
from polargrad.linalg.methods.newton_schulz import NewtonSchulz
from polargrad.linalg.methods.polar_express import PolarExpress
from polargrad.linalg.methods.preconditioned_newton_schulz import PreconditionedNewtonSchulz
from polargrad.linalg.minimax import minimax_polynomials

ORDINARY = [
    NewtonSchulz(),
    NewtonSchulz("cubic", steps=7),
    NewtonSchulz((2.0, -1.5, 0.5), steps=3),
    NewtonSchulz("cubic5"),
    NewtonSchulz("tuned_quintics", eps=1e-7),
    NewtonSchulz("deepseek_v4"),
    NewtonSchulz(minimax_polynomials(0.1, 2, degree=(7, 3))),
    PolarExpress(),
    PolarExpress(steps=5),
    PolarExpress(steps=6, bound="schatten4"),
    PolarExpress(steps=10, safety=1.05),
    PolarExpress(steps=4, degree=(5, 9, 9, 9)),
    PolarExpress(steps=3, degree=7, lower=1e-2, bound="schatten4"),
    PolarExpress(steps=8, degree=3, cushion=0.0),
    PreconditionedNewtonSchulz(),
    PreconditionedNewtonSchulz(lower=2.0**-7, tol=1e-3, bound="schatten4"),
]
GRAM = [
    GramPolynomial(),
    GramPolynomial("quintic", restarts=(), safety=1.0),
    GramPolynomial("cubic", steps=6, restarts=(2, 4), safety=1.0),
    GramPolynomial(steps=5, restarts=(1, 3), bound="schatten4", safety=1.05),
    GramPolynomial(
        minimax_polynomials(1e-2, 3, degree=(9, 7, 5), safety=1.01), restarts=(1,), safety=1.0
    ),
]
METHODS = ORDINARY + GRAM
TALL = [(1, 1), (6, 1), (30, 30), (40, 24), (3, 20, 8)]


def unit(a):
    """The stack over the power of two that brings the largest entry of each below 1."""
    size = torch.view_as_real(a).abs().amax(-1) if a.is_complex() else a.abs()
    largest = size.amax(dim=(-2, -1), keepdim=True)
    return a / torch.where(largest > 0, torch.exp2(torch.frexp(largest).exponent.double()), 1.0).to(
        largest.dtype
    )


def polynomials_of(description, dtype):
    found = description.polynomials
    return found(dtype) if callable(found) else found


def values(description, sigma, dtype):
    """What the polynomials, written out here, make of σ over the stated bound."""
    power = 4.0 if getattr(description, "bound", "") == "schatten4" else 2.0
    bound = sigma.pow(power).sum(-1, keepdim=True) ** (1.0 / power)
    x = sigma / bound / getattr(description, "safety", 1.0)
    for polynomial in polynomials_of(description, dtype):
        x = sum(c * x ** (2 * i + 1) for i, c in enumerate(polynomial))
    return x


@pytest.mark.parametrize("description", METHODS, ids=str)
@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
def test_acts_on_the_singular_values(description, dtype):
    """U = W p(Σ) Vᴴ, against a float64 SVD; real and complex, single and stacked."""
    gram = isinstance(description, GramPolynomial)
    for shape in TALL:
        a = unit(conditioned(shape, 300.0, dtype))
        w, sigma, vh = torch.linalg.svd(double(a), full_matrices=False)
        expected = (w * values(description, sigma, dtype).unsqueeze(-2)) @ vh
        before = a.clone()
        factor = description(a)
        assert torch.equal(a, before)
        assert (factor.U.dtype, factor.U.shape) == (dtype, shape)
        assert factor.steps == len(polynomials_of(description, dtype))
        error = (double(factor.U) - expected).abs().max()
        assert error <= (20_000 if gram else 200) * eps(dtype), shape


@pytest.mark.parametrize("lower", [1e-6, 1e-3, 0.05])
@pytest.mark.parametrize("degree", [3, 5, 7, 9, (9, 5, 3, 3)])
@pytest.mark.parametrize("safety", [1.0, 1.01])
def test_deviation_is_the_largest_over_the_interval(lower, degree, safety):
    description = PolarExpress(steps=4, degree=degree, lower=lower, safety=safety)
    x = torch.logspace(math.log10(lower), 0, 20_001, dtype=torch.float64) / safety
    for polynomial in description.polynomials:
        x = sum(c * x ** (2 * i + 1) for i, c in enumerate(polynomial))
    largest = (x - 1.0).abs().max().item()
    assert largest <= description.deviation + 1e-12
    assert largest == pytest.approx(description.deviation, rel=2e-2, abs=1e-12)


class Count(TorchDispatchMode):
    """The matrix products that are carried out, and how many of them have m rows."""

    def __init__(self, rows=0):
        super().__init__()
        self.seen = self.large = 0
        self.rows = rows

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in ("mm", "bmm", "addmm", "baddbmm", "matmul"):
            self.seen += 1
            self.large += any(self.rows in one.shape for one in args if torch.is_tensor(one))
        return func(*args, **(kwargs or {}))


PRODUCTS = [
    (NewtonSchulz(), 15),
    (NewtonSchulz("cubic"), 10),
    (NewtonSchulz("cubic5"), 10),
    (PolarExpress(), 24),
    (PolarExpress(bound="schatten4"), 24),
    (PolarExpress(steps=4, degree=3), 8),
    (PolarExpress(steps=4, degree=7), 16),
    (PolarExpress(steps=4, degree=9), 16),
    (PolarExpress(steps=4, degree=(5, 9, 9, 9)), 15),
    (PreconditionedNewtonSchulz(), 28),
    # Gram, then R², and Q and R twice for every further step of a segment, X at its end.
    (GramPolynomial("quintic", steps=1, restarts=()), 3),
    (GramPolynomial("quintic", steps=5, restarts=()), 2 + 5 + 4 * 3),
    (GramPolynomial("quintic", steps=5, restarts=(2,)), 4 + 5 + 3 * 3),
    (GramPolynomial("cubic", steps=5, restarts=(2,)), 4 + 3 * 3),
]


@pytest.mark.parametrize(("description", "products"), PRODUCTS, ids=str)
def test_products_are_as_few_as_stated(description, products):
    for shape in ((20, 8), (4, 20, 8)):
        with Count(rows=20) as count:
            description(torch.full(shape, 0.5))
        assert count.seen == products
        if isinstance(description, GramPolynomial):
            assert count.large == 2 * len(description.segments)


@pytest.mark.parametrize("description", METHODS, ids=str)
def test_nothing_waits_for_the_device(description):
    """On the meta device there are no numbers to wait for: a look at one is an error."""
    for shape in ((20, 8), (4, 20, 8)):
        factor = description(torch.empty(shape, device="meta"))
        assert factor.U.shape == shape


@pytest.mark.parametrize("description", METHODS, ids=str)
@pytest.mark.parametrize("dtype", [*REAL, torch.complex64], ids=str)
def test_zero_stays_zero_and_neighbours_stay_apart(description, dtype):
    stack = unit(conditioned((4, 14, 9), 20.0, dtype))
    stack[1] = 0
    stack[2] = stack[2, :, :1] @ stack[2, :1, :]
    stack = unit(stack)
    together = description(stack).U
    assert not together[1].any()
    for index, alone in enumerate(stack):
        # Rounding in the null space of a matrix of rank one grows by the slope at zero.
        atol = (30_000 if index == 2 else 500) * eps(dtype)
        torch.testing.assert_close(together[index], description(alone).U, rtol=0, atol=atol)
    other = stack.clone()
    other[:2] = unit(conditioned((2, 14, 9), 1e4, dtype, seed=7))
    assert torch.equal(description(other).U[2:], together[2:])
    assert torch.equal(description(stack).U, together)


ORDINARY_OF = [
    PolarExpress(),
    NewtonSchulz("quintic"),
    NewtonSchulz("cubic", steps=6),
    PolarExpress(steps=5, bound="schatten4", safety=1.05),
    NewtonSchulz(minimax_polynomials(1e-2, 3, degree=(9, 7, 5), safety=1.01)),
]


@pytest.mark.parametrize(("gram", "ordinary"), list(zip(GRAM, ORDINARY_OF, strict=True)), ids=str)
def test_the_gram_form_is_the_ordinary_form(gram, ordinary):
    """In float64, from singular values of a thousandth of the norm on."""
    for shape in ((60, 30), (30, 30), (2, 40, 10)):
        a = unit(conditioned(shape, 500.0))
        assert (gram(a).U - ordinary(a).U).abs().max() <= 1e-10


def spiked(lower, columns, rows):
    """One singular value of nearly 1, all others ``lower`` times the Frobenius norm."""
    tail = lower / (1.0 - (columns - 1) * lower**2) ** 0.5
    sigma = torch.full((columns,), tail, dtype=torch.float64)
    sigma[0] = 1.0
    return unit(with_singular_values((rows, columns), sigma, torch.float32))


@pytest.mark.parametrize(("restarts", "error"), [((), 0.06), ((2,), 1e-3), ((2, 4), 3e-4)], ids=str)
def test_restarts_keep_the_gram_form_accurate_in_float32(restarts, error):
    """From 1e-3 on, eight steps: some hundredths without a restart, and then as documented."""
    description = GramPolynomial(restarts=restarts)
    matrices = [
        spiked(1.001e-3, 100, 400),
        spiked(1.001e-3, 100, 100),
        unit(with_singular_values((400, 100), geometric(100, 250.0), torch.float32)),
    ]
    found = [
        torch.linalg.matrix_norm(double(description(a).U) - polar_oracle(a), 2) for a in matrices
    ]
    assert max(found) <= error
    if not restarts:
        assert max(found) >= 3e-3  # the bound above is not vacuous: this is what restarts are for


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("lower", [1e-5, 2.0**-7, 0.3])
def test_preconditioned_steps_follow_from_the_bound(dtype, lower):
    """Both stages as short as their scalar recurrences allow, and the factor exact after them."""
    description = PreconditionedNewtonSchulz(lower=lower)
    rows = description.polynomials(dtype)
    steep = [row for row in rows if row != (1.5, -0.5)]
    assert list(rows) == steep + [(1.5, -0.5)] * (len(rows) - len(steep))
    a = 1.5 * 3.0**0.5 - 0.1
    low = lower
    for row in steep:
        assert row == pytest.approx((a, -4.0 / 27.0 * a**3))
        assert low < 0.1
        low = min(p * low + q * low**3 for p, q in [row])
        low = min(low, sum(row))
    assert low >= 0.1
    for _ in rows[len(steep) :]:
        assert 1.0 - low > eps(dtype)
        low = 1.5 * low - 0.5 * low**3
    assert 1.0 - low <= eps(dtype)
    matrix = unit(conditioned((40, 20), 0.2 / lower if lower < 0.1 else 1.0, dtype))
    norm = torch.linalg.matrix_norm(matrix)
    if torch.linalg.svdvals(matrix)[-1] >= lower * norm:
        u = description(matrix).U
        assert orthogonality(u) <= 40 * eps(dtype)
    else:
        assert lower == 0.3  # twenty equal singular values are 0.22 of the norm: not promised


SPECTRA = {
    "flat": lambda n: torch.ones(n),
    "half": lambda n: torch.arange(n).lt((n + 1) // 2),
    "one": lambda n: torch.arange(n).lt(1),
    "geometric": lambda n: geometric(n, 1e3),
    "power law": lambda n: 1.0 / torch.arange(1, n + 1),
    "steps": lambda n: torch.tensor([1.0, 1e-2, 1e-7]).repeat_interleave((n + 2) // 3)[:n],
}


@pytest.mark.parametrize(
    "description", [*METHODS, PolarExpress(steps=5, cushion=0.0, safety=1.0)], ids=str
)
@pytest.mark.parametrize("dtype", [*REAL, torch.complex64], ids=str)
def test_promises_are_kept(description, dtype):
    """For every σ from the stated share of the bound on, whatever the others are."""
    power = 4.0 if getattr(description, "bound", "") == "schatten4" else 2.0
    for rows, columns in ((8, 8), (64, 64), (150, 40)):
        promised = description.promise(rows, columns, dtype)
        assert promised.deviation >= 0.0
        for name, spectrum in SPECTRA.items():
            sigma = spectrum(columns).double()
            a = unit(with_singular_values((rows, columns), sigma, dtype, seed=columns))
            found = torch.linalg.svdvals(double(a))
            counted = int((found >= promised.down_to * found.pow(power).sum() ** (1 / power)).sum())
            u = double(description(a).U)
            out = torch.linalg.svdvals(u)[:counted]
            assert (out - 1.0).abs().max() <= promised.deviation, (name, rows)
            if counted == int((found > 1e-12).sum()):
                h = u.mH @ double(a)
                gap = double(a) - u @ (0.5 * (h + h.mH))
                # This residual has itself the rounding of float64.
                limit = promised.residual + 20 * eps(torch.float64)
                assert gap.norm() <= limit * double(a).norm(), (name, rows)


@pytest.mark.parametrize(
    "description",
    [NewtonSchulz("cans"), PolarExpress(steps=5, cushion=0.0, safety=1.0), PolarExpress()],
    ids=str,
)
@pytest.mark.parametrize("bound", ["frobenius", "schatten4"])
def test_large_matrices_of_rank_one_stay_within_their_norm(description, bound):
    """σ₁ is the norm itself, where polynomials without safety are steep: it must not exceed 1."""
    if isinstance(description, PolarExpress):
        description = dataclasses.replace(description, bound=bound)
    for rows, columns in ((1000, 300), (3000, 1000)):
        g = torch.Generator().manual_seed(rows)
        left = torch.randn(rows, 1, generator=g)
        a = unit(left @ torch.randn(1, columns, generator=g))
        u = description(a).U
        largest = torch.linalg.vector_norm(u.double())  # of rank one, too
        promised = description.promise(rows, columns, torch.float32).deviation
        assert abs(largest.item() - 1.0) <= min(promised, 0.4)


def test_promises_say_something():
    """Close to the exact deviation in float32; nothing where the Gram form cannot be trusted."""
    for description in (PolarExpress(steps=5), PolarExpress(steps=4, degree=(5, 9, 9, 9))):
        promised = description.promise(1000, 1000, torch.float32)
        assert description.deviation <= promised.deviation <= description.deviation + 0.01
        assert (promised.down_to, promised.residual) == (
            1e-3,
            promised.deviation * (2.0 + promised.deviation),
        )
    assert PolarExpress().promise(500, 100, torch.float32).deviation <= 2e-3
    assert PolarExpress().promise(500, 100, torch.float64).deviation <= 1e-12
    assert PolarExpress(steps=3, lower=0.1).promise(9, 9, torch.float32).down_to == 0.1
    assert GramPolynomial().promise(500, 100, torch.float32).deviation <= 0.05
    assert GramPolynomial(restarts=()).promise(500, 100, torch.float32).deviation == math.inf
    assert GramPolynomial(restarts=()).promise(500, 100, torch.float64).deviation <= 1e-7


def test_the_gram_form_blows_up_only_where_it_promises_nothing():
    """Twelve steps: rounding in the null space turns an eigenvalue of R negative, and it runs."""
    a = unit(with_singular_values((100, 100), torch.arange(100).lt(5).double(), torch.float32))
    for restarts, trusted in (((), False), ((2, 4, 7), True)):
        description = GramPolynomial(steps=12, restarts=restarts)
        assert math.isfinite(description.promise(100, 100, torch.float32).deviation) == trusted
        assert bool(description(a).U.isfinite().all()) == trusted


def test_rank_deficient_stays_finite():
    """Null directions stay small: 3.4 to the eighth times rounding is far below 1."""
    a = unit(with_singular_values((50, 50), torch.arange(50).lt(5).double(), torch.float32))
    for description in METHODS:
        out = torch.linalg.svdvals(double(description(a).U))
        assert out[5:].max() <= 0.01, description


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_has_degree_five_at_most(dtype):
    """In bfloat16 degree 9 has given values of 1e18: refused, not computed."""
    a = unit(conditioned((40, 20), 100.0, torch.float32)).to(dtype)
    for description in (PolarExpress(steps=5), NewtonSchulz("cubic"), NewtonSchulz()):
        out = torch.linalg.svdvals(double(description(a).U))
        assert out.max() <= 1.3
    for degree in (7, 9):
        with pytest.raises(ValueError, match=f"degrees 7 and 9 need float32 or more, .*{dtype}"):
            PolarExpress(steps=2, degree=degree)(a)


@pytest.mark.parametrize("description", METHODS, ids=str)
def test_descriptions_are_plain_data_and_back(description):
    """Through JSON, which has lists for tuples."""
    data = json.loads(json.dumps(dataclasses.asdict(description)))
    again = type(description)(**data)
    assert again == description
    assert hash(again) == hash(description)
    assert polynomials_of(again, torch.float32) == polynomials_of(description, torch.float32)


@pytest.mark.parametrize("kind", [NewtonSchulz, PolarExpress, PreconditionedNewtonSchulz])
@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 4)], ids=str)
def test_first_derivatives(kind, shape):
    a = conditioned(shape, 5.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: kind()(x).U, a)
    assert torch.autograd.gradcheck(lambda x: GramPolynomial()(x).U, a)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("shape", [(5000, 3), (320, 320), (70000, 2), (4, 300, 200)], ids=str)
@pytest.mark.parametrize("bound", ["frobenius", "schatten4"])
def test_norms_do_not_overflow_half_precision(dtype, shape, bound):
    """Their squares end at 65504, and an infinite norm would silently give the factor zero."""
    a = conditioned(shape, 3.0, torch.float32)
    a = a / a.abs().max()
    for scaled in (a, torch.ones(shape)):
        rank = min(shape[-2:]) if scaled is a else 1
        u = pg.polar_factor(scaled, method=PolarExpress(6, bound=bound), compute_dtype=dtype)
        sizes = torch.linalg.svdvals(u.double())[..., :rank]
        assert (sizes - 1.0).abs().max() <= 0.15


@pytest.mark.parametrize("shape", [(2, 520, 512), (2, 600, 530)])
def test_large_matrices_of_a_stack_are_as_if_alone_to_the_bit(shape):
    """On a CPU they are taken one by one: the batched product is slower, and rounds otherwise."""
    A = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    for method in (pg.linalg.NewtonSchulz(), pg.linalg.PolarExpress()):
        together = pg.polar_factor(A, method=method)
        for one, factor in zip(A, together, strict=True):
            assert torch.equal(pg.polar_factor(one, method=method), factor)


@pytest.mark.filterwarnings("ignore")
def test_a_traced_stack_of_large_matrices_may_be_of_any_number():
    """What is looped on a CPU is batched where it is traced: a loop would fix the number."""
    A = torch.randn(2, 520, 512, generator=torch.Generator().manual_seed(4))

    class Factor(torch.nn.Module):
        def forward(self, x):
            return pg.polar_factor(x, method="newton_schulz", nonfinite="propagate")

    shapes = {"x": {0: torch.export.Dim("b", min=2, max=8)}}
    exported = torch.export.export(Factor(), (A,), dynamic_shapes=shapes).module()
    torch.testing.assert_close(exported(A), Factor()(A), rtol=0, atol=1e-4)
    assert exported(A[:1].repeat(3, 1, 1)).shape == (3, 520, 512)
