"""Numerics of a step: degrees, zero and deficient gradients, magnitudes, and exact equalities."""

import pytest
import torch
from optimizer_infos import INFOS
from torch import nn

import polargrad as pg
from polargrad import optim
from polargrad.linalg import QDWH

LR = 0.5
SHAPES = [(6, 4), (4, 6), (5, 5)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
ORDERS = ("momentum-first", "polar-first", "polyak")


def randn(shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def polar_grad(**options):
    return lambda params: pg.PolarGrad(params, LR, **options)


def walk(make, gradients, dtype=torch.float64, start=0.0):
    """Where a history of gradients, one list a step, leads from constant matrices."""
    params = [nn.Parameter(torch.full_like(g, start, dtype=dtype)) for g in gradients[0]]
    optimizer = make(params)
    for row in gradients:
        for p, g in zip(params, row, strict=True):
            p.grad = g.to(p.dtype)
        optimizer.step()
    return [p.detach() for p in params]


def history(c=1.0, dtype=torch.float64, steps=4, shapes=SHAPES):
    rows = [[randn(s, 10 * k + i) for i, s in enumerate(shapes)] for k in range(steps)]
    return [[(c * g).to(dtype) for g in row] for row in rows]


# Every preset, and the degree of its step in the scale of all gradients so far.
DEGREES = {
    "PolarGrad": (polar_grad(), 1.0),
    "PolarGrad, no momentum": (polar_grad(momentum=0.0, tol=None), 1.0),
    "PolarGrad, Nesterov, corrected": (polar_grad(nesterov=True, bias_correction=True), 1.0),
    "PolarGrad, heavy ball": (polar_grad(momentum_form="heavy-ball", momentum=0.5), 1.0),
    "PolarGrad, polar-first": (polar_grad(order="polar-first", nesterov=True), 1.0),
    "PolarGrad, polyak": (polar_grad(order="polyak", momentum=0.5, method="qdwh"), 1.0),
    "PolarMuon": (lambda ps: pg.PolarMuon(ps, LR), 1.0),
    "SSD": (lambda ps: optim.SSD(ps, LR, rank=2), 1.0),
    "gradient descent": (lambda ps: optim.GradientDescent(ps, LR, momentum=0.9), 1.0),
    "sign descent": (lambda ps: optim.SignSGD(ps, LR, scaled=True), 1.0),
    "row norm, scaled": (lambda ps: optim.RowNorm(ps, LR, scaled=True, centred=True), 1.0),
    "column norm, scaled": (lambda ps: optim.ColumnNorm(ps, LR, scaled=True), 1.0),
    "one-sided": (lambda ps: optim.OneSidedPolarGrad(ps, LR, damping=0.1), 1.0),
    "one-sided, α = ½": (
        lambda ps: optim.OneSidedPolarGrad(ps, LR, exponent=0.5, centred=True),
        0.5,
    ),
    "polar then row, α = ½": (
        lambda ps: optim.HybridPolarGrad(ps, LR, hybrid="polar_then_row", exponent=0.5),
        0.5,
    ),
    "row then polar": (lambda ps: optim.HybridPolarGrad(ps, LR, exponent=2.0), 0.0),
    "one-sided, α = 0": (lambda ps: optim.OneSidedPolarGrad(ps, LR, exponent=0.0), 0.0),
    # Its bound √(‖·‖₁‖·‖∞) is no power of two times that of a matrix scaled by an odd one.
    "PolarGrad, published oracle": (
        lambda ps: pg.PolarGrad(ps, LR, momentum=0.0, method=QDWH.reference()),
        1.0,
    ),
    "matrix sign descent": (lambda ps: optim.MatrixSignDescent(ps, LR), 0.0),
    "Muon": (lambda ps: pg.Muon(ps, LR, weight_decay=0.0), 0.0),
    "signSGD": (lambda ps: optim.SignSGD(ps, LR, momentum=0.9), 0.0),
    "row norm": (lambda ps: optim.RowNorm(ps, LR), 0.0),
    "column norm": (lambda ps: optim.ColumnNorm(ps, LR, centred=True), 0.0),
}
# These keep products of gradients; with eps = 0 their degree is 0.
ACCUMULATING = {
    "Shampoo": lambda ps: optim.Shampoo(ps, LR),
    "Shampoo, one side": lambda ps: optim.Shampoo(ps, LR, side="left", beta2=0.9),
    "SOAP": lambda ps: optim.SOAP(ps, LR, eps=0.0, weight_decay=0.0),
    "Adam": lambda ps: pg.MatrixOptimizer(ps, LR, geometry={"name": "diagonal", "eps": 0.0}),
}


# The first gradient leaves a part of a basis of SOAP to rounding unless the matrix is square.
ITS_SHAPES = {"SOAP": [(5, 5), (4, 4)]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("power", [-100, -34, -1, 5, 34, 100])
@pytest.mark.parametrize("name", DEGREES)
def test_the_step_has_its_degree(name, power, dtype):
    """From 8e-31 to 1e30; powers of two change no bit where the degree is a whole number."""
    make, degree = DEGREES[name]
    one = walk(make, history(dtype=dtype), dtype)
    scaled = walk(make, history(2.0**power, dtype), dtype)
    for x, y in zip(one, scaled, strict=True):
        assert x.any()
        if degree in (0.0, 1.0):
            assert torch.equal(y, x * 2.0 ** (degree * power))
        else:
            torch.testing.assert_close(y / 2.0 ** (degree * power), x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("c", [1e-30, 3e-8, 7.0, 1e30])
@pytest.mark.parametrize("name", [*DEGREES, *ACCUMULATING])
def test_the_step_has_its_degree_for_any_factor(name, c):
    make, degree = DEGREES[name] if name in DEGREES else (ACCUMULATING[name], 0.0)
    shapes = ITS_SHAPES.get(name, SHAPES)
    one, scaled = (walk(make, history(s, shapes=shapes)) for s in (1.0, c))
    for x, y in zip(one, scaled, strict=True):
        torch.testing.assert_close(y / c**degree, x, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("c", [1e-30, 1e-14, 1e14, 1e30])
@pytest.mark.parametrize("name", ACCUMULATING)
def test_products_of_float32_gradients_do_not_leave_their_range(name, c):
    make, shapes = ACCUMULATING[name], ITS_SHAPES.get(name, SHAPES)
    one, scaled = (
        walk(make, history(s, torch.float32, shapes=shapes), torch.float32) for s in (1.0, c)
    )
    for x, y in zip(one, scaled, strict=True):
        torch.testing.assert_close(y, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("c", [1e-30, 1e30])
@pytest.mark.parametrize("name", [*DEGREES, *ACCUMULATING])
def test_a_finite_gradient_never_makes_a_parameter_nan(name, c):
    """Neither a square nor a product nor a dual norm leaves the range of what it is kept in."""
    make = DEGREES[name][0] if name in DEGREES else ACCUMULATING[name]
    for x in walk(make, history(c, torch.float32, steps=3), torch.float32):
        assert x.isfinite().all()


@pytest.mark.parametrize("state_dtype", ["float16", "bfloat16"])
def test_a_finite_gradient_does_not_overflow_a_narrow_state(state_dtype):
    """A float16 momentum ends at 65504, where a float32 gradient does not."""
    try:
        make = polar_grad(state_dtype=state_dtype)
        (x,) = walk(make, [[1e7 * torch.eye(3)]] * 2, torch.float32)
    except ValueError:
        return  # refused with a reason: as good
    assert x.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", DEGREES)
def test_half_precision_gradients_of_any_size_they_can_have(name, dtype):
    """Powers of two within the range of the dtype, with an lr that brings the step back to 1."""
    make, degree = DEGREES[name]
    ends = []
    for power in (-8, 0, 8):
        params = [nn.Parameter(torch.zeros(s, dtype=dtype)) for s in SHAPES]
        optimizer = make(params)
        optimizer.param_groups[0]["lr"] = LR * 2.0 ** (-power * degree)
        for row in history(1.0, dtype, steps=2):
            for p, g in zip(params, row, strict=True):
                p.grad = (g.clamp(min=2.0**-6) * 2.0**power).to(dtype)
            optimizer.step()
        ends.append([p.detach() for p in params])
    for others in (ends[0], ends[2]):
        for x, y in zip(ends[1], others, strict=True):
            eps = 0.0 if degree in (0.0, 1.0) else 4 * torch.finfo(dtype).eps
            torch.testing.assert_close(y, x, rtol=eps, atol=eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("info", INFOS, ids=lambda i: i.cls.__name__)
def test_zero_gradients_before_the_first_are_as_if_there_had_been_none(info, dtype):
    """At zero state nothing changes, counters of matrices included, but what decay leaves."""
    ends = []
    for zeros in (0, 2):
        p = nn.Parameter(randn((5, 4), 0, dtype))
        optimizer = info.make([p])
        for g in [torch.zeros(5, 4)] * zeros + [randn((5, 4), k) for k in range(3)]:
            p.grad = g.to(dtype)
            optimizer.param_groups[0]["weight_decay"] = 0.0
            optimizer.step()
        ends.append(p.detach())
    assert torch.equal(*ends)


@pytest.mark.parametrize("eps", [0.0, 1e-8, 1e-320])
@pytest.mark.parametrize("dtypes", [DTYPES, DTYPES[::-1]], ids=["float16 first", "float64 first"])
@pytest.mark.parametrize("foreach", [None, False, True])
def test_a_vector_with_a_zero_gradient_stays_for_every_eps_that_is_allowed(eps, dtypes, foreach):
    """0/0 is no step; also beside vectors of other dtypes, in which another eps is zero."""
    vectors = [nn.Parameter(torch.ones(3, dtype=dtype)) for dtype in dtypes]
    w = nn.Parameter(torch.eye(2))
    optimizer = pg.PolarGrad([w, *vectors], lr=0.1, vector_lr=0.1, vector_eps=eps, foreach=foreach)
    for p in (w, *vectors):
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(torch.equal(v, torch.ones_like(v)) for v in vectors)


# Of whole numbers, so that half precision holds them and the rank is exact.
DEFICIENT = torch.tensor([[1.0, 2, 3, 4], [2, 0, 2, 0], [1, -2, -1, -4], [0, 1, 1, 2]]).repeat(2, 1)
METHODS = [m for m in pg.linalg.METHODS if m != "randomized_svd"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("method", METHODS)
def test_a_deficient_gradient_moves_nothing_outside_of_its_range(method, order, dtype):
    """Also transposed; a converged method takes the step of the partial isometry."""
    beta = 0.5
    u, sigma, vh = torch.linalg.svd(DEFICIENT.double(), full_matrices=False)
    rank = int((sigma > 1e-10).sum())
    assert rank == 2
    u, sigma, vh = u[:, :rank], sigma[:rank], vh[:rank]
    step = sigma.sum() * u @ vh
    if order != "polyak":
        step = (1.0 - beta) * step
    tall, wide = walk(
        lambda ps: pg.PolarGrad(ps, 2.0**-5, momentum=beta, order=order, method=method),
        [[DEFICIENT, DEFICIENT.T]],
        dtype,
    )
    converged = pg.linalg.method(method).converged
    eps = torch.finfo(dtype).eps
    # Rounding in the null space is raised by at most what the method does to a small value.
    tolerance = 32 * eps if converged else 32 * eps + 5000 * torch.finfo(torch.float32).eps
    if dtype == torch.float64:
        tolerance = (64 if converged else 5000) * eps
    for moved in (-32.0 * tall.double(), -32.0 * wide.double().T):
        size = moved.norm()
        assert size > 0.1 * step.norm()
        assert (moved - u @ (u.T @ moved)).norm() <= tolerance * size
        assert (moved - (moved @ vh.T) @ vh).norm() <= tolerance * size
        if converged:
            assert (moved - step).norm() <= tolerance * step.norm()


class TestNuclearNormOfFiveSteps:
    """⟨S, Û⟩ of a factor that has not converged, and what ``correct`` makes of it."""

    @staticmethod
    def magnitude(signal, **geometry):
        """How far the step goes along Û, for γ = 1."""
        (moved,) = walk(
            lambda ps: pg.MatrixOptimizer(
                ps, 1.0, geometry={"name": "spectral", **geometry}, method="newton_schulz"
            ),
            [[signal]],
        )
        factor = pg.polar(signal, method="newton_schulz").U
        return -(moved * factor).sum() / factor.square().sum(), factor

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 3.0])
    def test_the_bias_is_that_of_the_singular_values(self, shape, power):
        """Off by at most max |δ|; corrected, by at most max 3/2 δ² + ½|δ|³: u (3 − u²)/2."""
        u, _, vh = torch.linalg.svd(randn(shape, 1), full_matrices=False)
        sigma = torch.arange(1.0, 1.0 + min(shape), dtype=torch.float64) ** -power
        signal = u * sigma @ vh
        plain, factor = self.magnitude(signal)
        corrected, _ = self.magnitude(signal, correct=True)
        delta = torch.linalg.svdvals(factor) - 1.0
        nuclear = sigma.sum()
        assert abs(plain / nuclear - 1.0) <= delta.abs().max() + 1e-10
        assert (
            abs(corrected / nuclear - 1.0)
            <= (1.5 * delta.square() + 0.5 * delta.abs() ** 3).max() + 1e-10
        )
        assert delta.abs().max() > 1e-3
        torch.testing.assert_close(plain, (signal * factor).sum(), rtol=1e-10, atol=0)


@pytest.mark.parametrize("form", ["ema", "heavy-ball"])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("corrected", [False, True])
def test_for_a_constant_gradient_both_orders_are_the_same_method(form, nesterov, corrected):
    """The momentum of G is a multiple of G, that of U the same multiple of U."""
    if corrected and form == "heavy-ball":
        pytest.skip("bias correction is for an average")
    rows = [[randn((5, 4), 3)]] * 4
    common = {"nesterov": nesterov, "bias_correction": corrected, "momentum_form": form}
    for steps in range(1, 5):
        first, second = (
            walk(polar_grad(order=order, method="svd", **common), rows[:steps])[0]
            for order in ("momentum-first", "polar-first")
        )
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ["momentum-first", "polar-first"])
def test_bias_correction_makes_every_step_of_a_constant_gradient_the_same(order):
    g = randn((5, 4), 3)
    (one,) = walk(polar_grad(momentum=0.0, method="svd"), [[g]])
    (four,) = walk(polar_grad(bias_correction=True, method="svd", order=order), [[g]] * 4)
    torch.testing.assert_close(four, 4.0 * one, rtol=1e-12, atol=0)


def test_bias_correction_of_a_matrix_does_not_depend_on_the_dtype_of_another():
    rows = history(dtype=torch.float32)
    ends = []
    for others in ([], [torch.zeros(6, 4, dtype=torch.float64)]):
        params = [nn.Parameter(torch.zeros(s)) for s in SHAPES] + [nn.Parameter(x) for x in others]
        optimizer = pg.PolarGrad(params, LR, bias_correction=True)
        for row in rows:
            for p, g in zip(params, [*row, row[0].double()], strict=False):
                p.grad = g
            optimizer.step()
        ends.append([p.detach() for p in params[:3]])
    assert all(map(torch.equal, *ends))


@pytest.mark.parametrize("order", ["momentum-first", "polar-first"])
def test_bias_correction_of_stacked_experts_is_that_of_separate_matrices(order):
    """An expert that got no token in the first steps: its zeros do not count, stacked or not."""
    rows = [[randn((3, 3), 2 * k), float(k > 1) * randn((3, 3), 2 * k + 1)] for k in range(4)]

    def make(params):
        return pg.PolarGrad(params, LR, bias_correction=True, order=order, method="svd")

    separate = walk(make, rows)
    stacked = nn.Parameter(torch.zeros(2, 3, 3, dtype=torch.float64))
    optimizer = make([{"params": [stacked], "rule": "matrix", "views": [{"kind": "experts"}]}])
    for row in rows:
        stacked.grad = torch.stack(row)
        optimizer.step()
    torch.testing.assert_close(stacked.detach(), torch.stack(separate), rtol=1e-12, atol=1e-12)


class TestClipping:
    """``max_dual_norm`` shortens the signal and never turns it."""

    @pytest.mark.parametrize("order", ["momentum-first", "polar-first"])
    @pytest.mark.parametrize("exponent", [1.0, 0.5])
    @pytest.mark.parametrize("geometry", ["spectral", "frobenius", "largest_row", "max_entry"])
    def test_the_step_is_that_of_the_shortened_signal(self, order, exponent, geometry):
        """min(‖S‖*, limit)^α along the same direction, each matrix by itself."""
        common = {"geometry": geometry, "exponent": exponent, "order": order, "method": "svd"}
        row = [randn((5, 4), 1), 1e-3 * randn((5, 4), 2), torch.zeros(5, 4)]
        free = walk(lambda ps: pg.MatrixOptimizer(ps, LR, momentum=0.5, **common), [row])
        clipped = walk(
            lambda ps: pg.MatrixOptimizer(ps, LR, momentum=0.5, max_dual_norm=0.25, **common),
            [row],
        )
        for g, x, y in zip(row, free, clipped, strict=True):
            signal = 0.5 * g if order == "momentum-first" else g
            dual = pg.geometry.geometry(geometry).dual_norm(signal.double())
            share = (0.25 / dual).clamp(max=1.0) ** exponent if dual else 1.0
            torch.testing.assert_close(y, share * x, rtol=1e-12, atol=1e-15)
        assert not torch.equal(free[0], clipped[0])
        assert torch.equal(free[1], clipped[1])

    @pytest.mark.parametrize("c", [1.0, 1e10, 1e30])
    def test_beyond_the_limit_the_degree_is_zero(self, c):
        one, scaled = (
            walk(polar_grad(momentum=0.0, max_dual_norm=1e-3, method="svd"), history(s))
            for s in (1.0, c)
        )
        for x, y in zip(one, scaled, strict=True):
            torch.testing.assert_close(y, x, rtol=1e-10, atol=1e-13)

    def test_a_limit_of_zero_stops_and_the_momentum_goes_on(self):
        p = nn.Parameter(torch.eye(3))
        optimizer = pg.PolarGrad([p], LR, max_dual_norm=0.0)
        p.grad = torch.ones(3, 3)
        optimizer.step()
        assert torch.equal(p, torch.eye(3))
        assert optimizer.state[p]["momentum_buffer"].any()


@pytest.mark.parametrize("lr", [1e-9, 1e-3])
def test_a_tensor_lr_does_not_lose_the_decay_of_float64_matrices(lr):
    """1 − γλ of a float32 γ is 1 for a small γ; the matrix has the digits for it."""
    ends = []
    for value in (lr, torch.tensor(lr, dtype=torch.float64), torch.tensor(lr)):
        p = nn.Parameter(torch.ones(3, 3, dtype=torch.float64))
        optimizer = pg.PolarGrad([p], lr=value, weight_decay=1.0)
        p.grad = torch.zeros_like(p)
        optimizer.step()
        ends.append(1.0 - p[0, 0].item())
    assert ends[1:] == pytest.approx(ends[:1] * 2, rel=1e-6)
