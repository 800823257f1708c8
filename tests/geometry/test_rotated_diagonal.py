"""SOAP, against its algorithm followed matrix by matrix in float64."""

import pytest
import torch
from matrices import conditioned, eps

from polargrad.geometry import Diagonal, RotatedDiagonal

SHAPES = [(1, 1), (1, 4), (4, 1), (5, 3), (3, 5), (4, 4)]


def gauss(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Soap:
    """Algorithm 3 of arXiv 2409.11321 for one matrix: step, then factors, then bases if due.

    The first bases are given to it, since eigenvectors of a singular factor are not unique.
    """

    def __init__(self, beta, beta2, eps, refresh, bias_correction):
        self.options = beta, beta2, eps, refresh, bias_correction
        self.steps = -1

    def step(self, g):
        """What is subtracted for the gradient g, without a first moment."""
        beta, beta2, epsilon, refresh, bias_correction = self.options
        self.steps += 1
        if self.steps == 0:
            self.left, self.right = (1 - beta) * g @ g.T, (1 - beta) * g.T @ g
            self.v = torch.zeros_like(g)
            return torch.zeros_like(g)
        ql, qr = self.bases
        turned = ql.T @ g @ qr
        self.v = beta2 * self.v + (1 - beta2) * turned**2
        v = self.v / (1 - beta2**self.steps) if bias_correction else self.v
        update = ql @ (turned / (v.sqrt() + epsilon)) @ qr.T
        self.left = beta * self.left + (1 - beta) * g @ g.T
        self.right = beta * self.right + (1 - beta) * g.T @ g
        if self.steps % refresh == 0:
            orders = []
            for k, factor in enumerate((self.left, self.right)):
                q = self.bases[k]
                order = torch.diag(q.T @ factor @ q).argsort(descending=True)
                self.bases[k] = torch.linalg.qr(factor @ q[:, order]).Q
                orders.append(order)
            self.v = self.v[orders[0]][:, orders[1]]
        return update


def assert_eigenvectors(a, v):
    """V is orthogonal, VᵀAV diagonal, and its entries fall."""
    identity = torch.eye(len(a), dtype=a.dtype)
    turned = v.T @ a @ v
    assert (v.T @ v - identity).abs().max() <= 1e-13
    assert (turned - torch.diag(turned.diagonal())).abs().max() <= 1e-13 * a.abs().max()
    assert (turned.diagonal().diff() <= 1e-13 * a.abs().max()).all()


# Of a factor that is still singular a refresh is not unique: thin matrices wait for it.
AGES = [(s, k) for s in SHAPES for k in (1, 3, 10) if k > 1 or min(s) > 1 or s == (1, 1)]


@pytest.mark.parametrize(("shape", "refresh"), AGES, ids=str)
@pytest.mark.parametrize("bias_correction", [True, False])
def test_every_step_is_that_of_the_algorithm(shape, refresh, bias_correction):
    options = {"beta": 0.9, "beta2": 0.8, "eps": 1e-8}
    options |= {"refresh": refresh, "bias_correction": bias_correction}
    geometry, soaps = RotatedDiagonal(**options), [Soap(**options) for _ in range(2)]
    state = geometry.start(torch.zeros(2, *shape, dtype=torch.float64))
    for t in range(12):
        g = torch.stack([gauss(shape, 2 * t), gauss(shape, 2 * t + 1)])
        state = geometry.accumulate(state, g)
        found = geometry.sharp(g, state)
        for k, soap in enumerate(soaps):
            assert (found[k] - soap.step(g[k])).abs().max() <= 1e-6
            if t == 0:
                soap.bases = [state[key][k].clone() for key in ("left_basis", "right_basis")]
                for factor, basis in zip((soap.left, soap.right), soap.bases, strict=True):
                    assert_eigenvectors(factor, basis)
    assert torch.equal(state["count"], torch.tensor([12, 12]))


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1.0, 1e15, 1e30])
def test_every_step_of_float32_gradients_of_any_size_is_that_of_the_algorithm(scale):
    """With bases of float32 between sums of float64; square, as thin bases are not unique."""
    options = {"beta": 0.9, "beta2": 0.8, "eps": 0.0, "refresh": 3, "bias_correction": True}
    geometry, soap = RotatedDiagonal(**options), Soap(**options)
    state = geometry.start(torch.zeros(1, 4, 4))
    for t in range(12):
        g = gauss((1, 4, 4), t).float() * scale
        state = geometry.accumulate(state, g)
        step = soap.step(g[0].double())
        if t == 0:
            soap.bases = [state[key][0].double() for key in ("left_basis", "right_basis")]
        assert (geometry.sharp(g, state)[0] - step).abs().max() <= 1e3 * eps(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_bases_stay_orthogonal_and_turn_towards_the_eigenvectors(dtype):
    """Power iteration with the factor of one gradient, seen again and again."""
    geometry = RotatedDiagonal(refresh=1)
    first, g = gauss((1, 6, 4), 0).to(dtype), conditioned((1, 6, 4), 100.0, dtype, seed=5)
    state = geometry.accumulate(geometry.start(g), first)

    def off_diagonal(factor, basis):
        basis = basis.to(factor.dtype)
        turned = basis.mT @ factor @ basis
        return (turned - turned.diagonal(dim1=-2, dim2=-1).diag_embed()).norm() / turned.norm()

    offs = []
    for _ in range(100):
        state = geometry.accumulate(state, g)
        offs.append(off_diagonal(state["left"], state["left_basis"]).item())
    for key in ("left_basis", "right_basis"):
        q = state[key]
        defect = q.mT @ q - torch.eye(q.shape[-1], dtype=dtype)
        assert defect.abs().max() <= 20 * eps(dtype)
    assert offs[-1] < 1e-2 * offs[0]


def test_matrices_of_a_stack_may_be_of_different_age():
    """Which is due for a new basis is looked up for each."""
    geometry = RotatedDiagonal(refresh=2)
    sequence = [gauss((1, 4, 3), seed) for seed in range(7)]
    states = [geometry.start(sequence[0])]
    for g in sequence:
        states.append(geometry.accumulate(states[-1], g))
    g = gauss((1, 4, 3), 99)
    ages = [0, 1, 2, 3, 4, 5]
    mixed = {key: torch.cat([states[age][key] for age in ages]) for key in states[0]}
    together = geometry.accumulate(mixed, g.expand(len(ages), 4, 3))
    for k, age in enumerate(ages):
        for key, value in geometry.accumulate(states[age], g).items():
            torch.testing.assert_close(together[key][k], value[0])


def test_no_gradient_is_measured_in_a_basis_that_has_seen_it():
    """The first gives bases alone; one at its refresh is measured in the bases before."""
    geometry = RotatedDiagonal(refresh=1)
    sequence = [gauss((1, 4, 3), seed) for seed in range(3)]
    state = geometry.accumulate(geometry.start(sequence[0]), sequence[0])
    assert not state["second_moment"].any()
    assert not geometry.ascent(sequence[0], state).direction.any()
    for g in sequence[1:]:
        new = geometry.accumulate(state, g)
        other = geometry.accumulate(state, 2.0 * g)
        for key in ("left_basis", "right_basis"):
            assert torch.equal(new[key], other[key])
        state = new


def test_in_coordinates_that_are_the_eigenvectors_it_is_adam():
    """Diagonal gradients: the bases are permutations, under which Adam is equivariant."""
    rotated, diagonal = RotatedDiagonal(beta2=0.9), Diagonal(beta2=0.9)
    sequence = [torch.diag(torch.tensor([4.0, 3.0, 2.0]) + k)[None].double() for k in range(4)]
    states = rotated.start(sequence[0]), diagonal.start(sequence[0])
    states = rotated.accumulate(states[0], sequence[0]), states[1]
    for g in sequence[1:]:
        states = rotated.accumulate(states[0], g), diagonal.accumulate(states[1], g)
        torch.testing.assert_close(rotated.sharp(g, states[0]), diagonal.sharp(g, states[1]))
