"""The explicit preconditioners as norms, against loops over single matrices in float64."""

import pytest
import torch
from matrices import conditioned, eps, polar_oracle
from preconditioner_equations import CASES, accumulated, gauss, gradients, hessian_factors

from polargrad.geometry import (
    Diagonal,
    GivenHessian,
    Kronecker,
    OneSidedKronecker,
    RotatedDiagonal,
)

SHAPES = [(2, 1, 1), (2, 1, 5), (2, 5, 1), (3, 6, 3), (2, 3, 6), (1, 4, 4)]


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(params=[*CASES, "soap"])
def make(request):
    if request.param == "soap":
        return lambda m, n: RotatedDiagonal(refresh=2)
    return CASES[request.param][0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_dual_norm_times_the_direction_is_the_preconditioned_signal(case, shape, dtype):
    """P⁻¹S, from the equations in a float64 loop over the matrices."""
    build, oracle = case
    geometry = build(*shape[1:])
    # As many gradients as make the factors regular: float32 rounding of L is not to be inverted.
    sequence = gradients(shape, 8, dtype)
    s = gauss(shape, 99, dtype)
    found = geometry.sharp(s, accumulated(geometry, sequence))
    for k in range(shape[0]):
        expected = oracle(s[k].double(), [g[k].double() for g in sequence])
        scale = expected.abs().max()
        # Rounding of the state is blown up by the condition of P, some 10³ here.
        assert (found[k] - expected).abs().max() <= 2e4 * eps(dtype) * scale


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_duality_and_hoelder(make, shape):
    """⟨D, PD⟩ = 1, ⟨S, D⟩ = ‖S‖_{P⁻¹} and |⟨S, X⟩| ≤ ‖S‖_{P⁻¹} ‖X‖_P."""
    geometry = make(*shape[1:])
    state = accumulated(geometry, gradients(shape, 8))
    s = gauss(shape, 99)
    direction, dual_norm = geometry.ascent(s, state)
    torch.testing.assert_close(geometry.norm(direction, state), torch.ones(shape[0]).double())
    torch.testing.assert_close((s * direction).sum((-2, -1)), dual_norm)
    for seed in range(100, 120):
        x = gauss(shape, seed)
        bound = dual_norm * geometry.norm(x, state)
        assert ((s * x).sum((-2, -1)).abs() <= bound * (1 + 1e-8)).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_scale_equivariance_in_a_given_norm(make, scale, dtype):
    geometry = make(5, 4)
    state = accumulated(geometry, gradients((2, 5, 4), dtype=dtype))
    s = gauss((2, 5, 4), 99, dtype)
    one, other = geometry.ascent(s, state), geometry.ascent(s * scale, state)
    torch.testing.assert_close(other.direction, one.direction, rtol=0.0, atol=1e-5)
    torch.testing.assert_close(other.dual_norm, one.dual_norm * scale, rtol=1e-5, atol=0.0)
    size = geometry.norm(s * scale, state)
    torch.testing.assert_close(size, geometry.norm(s, state) * scale, rtol=1e-5, atol=0.0)


def orthogonal(n, seed):
    return torch.linalg.qr(gauss((n, n), seed)).Q


def signed_permutation(n, seed):
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (n,), generator=generator).double() * 2 - 1
    return torch.eye(n, dtype=torch.float64)[torch.randperm(n, generator=generator)] * signs


@pytest.mark.parametrize(
    ("geometry", "group"),
    [
        (Diagonal(), signed_permutation),
        (Kronecker(), orthogonal),
        (OneSidedKronecker("left"), orthogonal),
        (OneSidedKronecker("right"), orthogonal),
        (RotatedDiagonal(refresh=2), orthogonal),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_equivariance(geometry, group):
    """If all gradients are PGQᵀ, so is the step."""
    p, q = group(5, 1), group(4, 2)
    sequence = gradients((2, 5, 4))
    turned = [p @ g @ q.T for g in sequence]
    one = geometry.sharp(sequence[-1], accumulated(geometry, sequence))
    other = geometry.sharp(turned[-1], accumulated(geometry, turned))
    torch.testing.assert_close(p @ one @ q.T, other, rtol=0.0, atol=1e-8)


def test_the_first_step_of_shampoo_is_the_polar_factor():
    """(GGᵀ)^(-1/4) G (GᵀG)^(-1/4) = (GGᵀ)^(-1/2) G = G (GᵀG)^(-1/2), of any shape and rank."""
    for shape in SHAPES:
        g = conditioned(shape, 10.0)
        g[..., -1] = g[..., 0]  # of deficient rank where it is wide enough
        expected = polar_oracle(g, 1e-7)
        for geometry in (
            Kronecker(damping=0.0),
            OneSidedKronecker("left", damping=0.0),
            OneSidedKronecker("right", damping=0.0),
        ):
            found = geometry.sharp(g, accumulated(geometry, [g]))
            assert (found - expected).abs().max() <= 1e-8


def test_steps_are_those_of_torch_adam():
    """Without a first moment, β₁ = 0, five steps in float32."""
    parameter = torch.nn.Parameter(torch.zeros(5, 4))
    optimizer = torch.optim.Adam([parameter], lr=1.0, betas=(0.0, 0.99), eps=1e-6)
    geometry = Diagonal(beta2=0.99, eps=1e-6)
    state = geometry.start(parameter.detach()[None])
    for g in gradients((5, 4), 5, torch.float32):
        before = parameter.detach().clone()
        parameter.grad = g.clone()
        optimizer.step()
        state = geometry.accumulate(state, g[None])
        step = before - parameter.detach()
        assert (geometry.sharp(g[None], state)[0] - step).abs().max() <= 40 * eps(torch.float32)


def test_newton_reaches_the_minimum_of_a_quadratic_in_one_step():
    """½‖CXD − E‖² has the Hessian X ↦ CᵀC X DDᵀ."""
    c, d, e = gauss((9, 5), 1), gauss((4, 7), 2), gauss((9, 7), 3)
    x = gauss((5, 4), 4)
    gradient = c.T @ (c @ x @ d - e) @ d.T
    x = x - GivenHessian(c.T @ c, d @ d.T).sharp(gradient[None])[0]
    assert (c.T @ (c @ x @ d - e) @ d.T).abs().max() <= 1e-10 * gradient.abs().max()


def test_newton_with_a_singular_factor_leaves_its_null_space():
    geometry = GivenHessian(torch.diag(torch.tensor([4.0, 0.0])), torch.eye(3))
    s = torch.ones(1, 2, 3)
    expected = torch.tensor([[[0.25] * 3, [0.0] * 3]])
    torch.testing.assert_close(geometry.sharp(s), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(make, dtype):
    """Sums of squares and products are float64, bases and results float32 but for float64."""
    geometry = make(4, 3)
    g = gauss((2, 4, 3), 0).to(dtype)
    state = accumulated(geometry, [g, g, g])
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    of_their_own = {"count": torch.int64, "left_basis": expected, "right_basis": expected}
    for key, value in state.items():
        assert value.dtype == of_their_own.get(key, torch.float64)
        assert value.dtype == geometry.start(g)[key].dtype
        assert len(value) == 2
    direction, dual_norm = geometry.ascent(g, state)
    assert direction.dtype == dual_norm.dtype == expected
    assert (dual_norm > 0).all()


def test_zero(make):
    """A zero signal has the direction zero, at zero state and later, and so has any at zero state.

    But for the given Hessian, which has no state, and for Adam's eps.
    """
    geometry = make(4, 3)
    zero, g = torch.zeros(2, 4, 3), gauss((2, 4, 3), 0, torch.float32)
    states = [geometry.start(g), accumulated(geometry, [zero]), accumulated(geometry, [g] * 3)]
    for state in states:
        direction, dual_norm = geometry.ascent(zero, state)
        assert not direction.any()
        assert not dual_norm.any()
        assert not geometry.norm(zero, state).any()
    if isinstance(geometry, Kronecker | OneSidedKronecker | RotatedDiagonal):
        assert not geometry.ascent(g, states[0]).direction.any()
        assert torch.isfinite(geometry.ascent(g, states[1]).direction).all()


def test_a_stack_is_a_loop(make):
    geometry = make(5, 4)
    sequence = [g * torch.tensor([1e-6, 1.0, 1e6]).view(3, 1, 1) for g in gradients((3, 5, 4))]
    state = accumulated(geometry, sequence)
    direction, dual_norm = geometry.ascent(sequence[-1], state)
    for k in range(3):
        alone = accumulated(geometry, [g[k : k + 1] for g in sequence])
        for key, value in alone.items():
            torch.testing.assert_close(state[key][k], value[0])
        one = geometry.ascent(sequence[-1][k : k + 1], alone)
        torch.testing.assert_close(direction[k], one.direction[0])
        torch.testing.assert_close(dual_norm[k], one.dual_norm[0])


@pytest.mark.parametrize("when", [0, 1, 3, "signal"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_matrix(make, when, bad):
    """In the signal, or in a gradient: of the state and the direction of that matrix alone."""
    geometry = make(5, 4)
    clean, broken = (gradients((3, 5, 4), 4, torch.float32) for _ in range(2))
    s = gauss((3, 5, 4), 99, torch.float32)
    expected = geometry.ascent(s, accumulated(geometry, clean))
    (s if when == "signal" else broken[when])[1, 2, 3] = bad
    direction, dual_norm = geometry.ascent(s, accumulated(geometry, broken))
    for k in (0, 2):
        torch.testing.assert_close(direction[k], expected.direction[k])
        torch.testing.assert_close(dual_norm[k], expected.dual_norm[k])
    if when == "signal" or (geometry.accumulates and bad is torch.nan):
        # (Adam with β₂ = 0 has forgotten it by the next gradient.)
        forgets = isinstance(geometry, Diagonal) and geometry.beta2 == 0.0 and when in (0, 1)
        assert forgets or direction[1].isnan().all()
        assert forgets or dual_norm[1].isnan()


def test_nothing_given_is_changed_and_the_state_is_new(make):
    geometry = make(5, 4)
    sequence = gradients((2, 5, 4), 5)
    state = geometry.start(sequence[0])
    for g in sequence:
        kept, gradient = {key: value.clone() for key, value in state.items()}, g.clone()
        new = geometry.accumulate(state, g)
        geometry.ascent(g, new)
        geometry.norm(g, new)
        assert torch.equal(g, gradient)
        for key, value in state.items():
            assert torch.equal(value, kept[key])
            assert new[key].data_ptr() != value.data_ptr()
        state = new


def test_a_state_is_needed_and_must_fit():
    geometry = Kronecker()
    s = torch.ones(2, 4, 3)
    with pytest.raises(ValueError, match=r"kronecker keeps a state: .* got None"):
        geometry.ascent(s)
    with pytest.raises(ValueError, match=r"kronecker keeps a state: .* got None"):
        geometry.norm(s)
    with pytest.raises(ValueError, match=r"must hold \{'left': \(2, 4, 4\), .* got \{\}"):
        geometry.ascent(s, {})
    with pytest.raises(ValueError, match=r"got \{'left': \(2, 3, 3\), 'right': \(2, 4, 4\)\}"):
        geometry.accumulate(geometry.start(s.mT), s)
    with pytest.raises(ValueError, match=r"takes a stack \(B, m, n\) .* got shape \(4, 3\)"):
        geometry.ascent(s[0], geometry.start(s))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Diagonal(beta2=1.0), ValueError, r"beta2 must be in \[0, 1\), got 1.0"),
        (lambda: Diagonal(eps=-1.0), ValueError, "eps must be at least 0 and finite, got -1.0"),
        (lambda: Diagonal(bias_correction=None), TypeError, "bias_correction must be True or"),
        (lambda: Kronecker(beta=1.5), ValueError, r"beta must be in \[0, 1\), got 1.5"),
        (lambda: Kronecker(damping=True), TypeError, "damping must be a number, got True"),
        (lambda: OneSidedKronecker(None), ValueError, "side must be 'left' or 'right', got None"),
        (lambda: OneSidedKronecker(damping=-1), ValueError, "damping must be at least 0"),
        (lambda: RotatedDiagonal(refresh=0), ValueError, "refresh must be at least 1, got 0"),
        (lambda: RotatedDiagonal(refresh=2.0), TypeError, "refresh must be a whole number"),
        (lambda: RotatedDiagonal(beta=None), TypeError, "beta must be a number, got None"),
        (lambda: GivenHessian([[1.0, 2.0]], [[1.0]]), ValueError, r"left must be a square matrix"),
        (lambda: GivenHessian([[1.0]], [[-1.0]]), ValueError, "right is no factor of a Hessian"),
        (lambda: GivenHessian("ab", [[1.0]]), ValueError, "left must be a matrix of real numbers"),
        (
            lambda: GivenHessian([[1.0]], [[1.0]]).ascent(torch.ones(1, 2, 1)),
            ValueError,
            r"the given Hessian is of \(1, 1\) matrices, got \(1, 2, 1\)",
        ),
    ],
)
def test_refuses(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_a_given_hessian_is_a_value():
    a, b = hessian_factors(3, 2)
    geometry, same = GivenHessian(a, b), GivenHessian(a.tolist(), b.tolist())
    assert geometry == same
    assert hash(geometry) == hash(same)
    assert geometry != GivenHessian(2 * a, b)
    a.zero_()  # a copy was taken
    assert geometry == same
