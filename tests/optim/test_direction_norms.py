"""Norms of directions, by products with vectors: against an SVD, and what they keep up."""

import math

import pytest
import torch
from matrices import with_singular_values
from quadratics import OF_DIRECTIONS, randn
from torch import nn

import polargrad as pg
from polargrad.optim.direction_norms import followed_pairs, images_of, start_norms
from polargrad.optim.hypergradient import COLUMNS, FALLS, RATE, STEADY, followed
from polargrad.optim.step_size import NORM, PAIR, SIZE

SHAPES = [(1, 1), (5, 1), (1, 6), (7, 4), (4, 7), (40, 40), (90, 12)]
CPU = torch.device("cpu")


def started(*shapes):
    state = start_norms(shapes, CPU)
    assert state[NORM].tolist() == [0.0] * len(shapes)
    return [pair[None] for pair in torch.split(state[PAIR], [m + n for m, n in shapes])]


def spectral(x):
    return float(torch.linalg.svdvals(x.double())[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_norm_is_found_from_below(shape, dtype):
    """It is a bound at every step, whatever the matrix does."""
    (pair,) = started(shape)
    for k in range(30):
        matrix = randn(*shape, seed=k).to(dtype)
        pair, norm = followed_pairs(images_of(matrix[None], pair), pair, shape[0])
        assert float(norm) <= spectral(matrix) * (1 + 1e-5)
        assert norm.dtype == pair.dtype == torch.float32
        for vector in torch.split(pair[0], list(shape)):
            assert float(vector.norm()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("gap", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (40, 40), (90, 12)], ids=str)
def test_the_norm_of_a_matrix_that_stays(shape, gap):
    sigma = torch.full((min(shape),), gap, dtype=torch.float64)
    sigma[0] = 1.0
    matrix = with_singular_values(shape, sigma).float()
    (pair,) = started(shape)
    steps = math.ceil(math.log(1e-3) / math.log(gap)) + 4
    for _ in range(steps):
        pair, norm = followed_pairs(images_of(matrix[None], pair), pair, shape[0])
    assert float(norm) == pytest.approx(1.0, abs=3e-3)


@pytest.mark.parametrize("first", [0, 1])
def test_a_direction_that_comes_up_later_is_found(first):
    """Though the vectors have long lain across it, in exact zeros."""
    (pair,) = started((2, 2))
    for leading, steps in ((first, 400), (1 - first, 40)):
        matrix = torch.full((2,), 0.1)
        matrix[leading] = 0.9
        for _ in range(steps):
            pair, norm = followed_pairs(images_of(torch.diag(matrix)[None], pair), pair, 2)
        assert float(norm) == pytest.approx(0.9, abs=1e-3)


def test_a_zero_direction_has_no_norm_and_turns_no_vector():
    (pair,) = started((5, 3))
    for _ in range(2):
        same, norm = followed_pairs(images_of(torch.zeros(1, 5, 3), pair), pair, 5)
        assert float(norm) == 0.0
        assert torch.equal(same, pair)


@pytest.mark.parametrize("shape", [(7, 4), (6, 6)], ids=str)
def test_a_transposed_matrix_has_the_same_norm(shape):
    matrix = randn(*shape).float()
    (pair,), (turned,) = started(shape), started(shape[::-1])
    for _ in range(5):
        pair, norm = followed_pairs(images_of(matrix[None], pair), pair, shape[0])
        turned, same = followed_pairs(images_of(matrix.mT[None], turned), turned, shape[1])
        torch.testing.assert_close(norm, same)


def test_a_stack_is_its_matrices():
    matrices = torch.stack([randn(6, 4, seed=k).float() for k in range(3)])
    pairs = torch.cat(started(*[(6, 4)] * 3))
    found, norms = followed_pairs(images_of(matrices, pairs), pairs, 6)
    for k, matrix in enumerate(matrices):
        pair, norm = followed_pairs(images_of(matrix[None], pairs[k : k + 1]), pairs[k : k + 1], 6)
        torch.testing.assert_close(found[k], pair[0])
        torch.testing.assert_close(norms[k], norm[0])


def test_the_norms_that_a_run_keeps_are_those_of_its_directions():
    """Of a fused parameter and of one alone: near while all go on, and never too large."""
    view = {"kind": "split", "sizes": [4, 6]}
    fused, single = nn.Parameter(randn(10, 8)), nn.Parameter(randn(8, 10))
    target = randn(10, 8, seed=1), randn(8, 10, seed=2)
    groups = [{"params": [fused, single], "rule": "matrix", "views": [view, {"kind": "whole"}]}]
    optimizer = pg.PolarGrad(groups, first_step=1e-3, **OF_DIRECTIONS)
    for k in range(60):
        before = fused.detach().clone(), single.detach().clone()
        fused.grad, single.grad = (fused - target[0]).detach(), (single - target[1]).detach()
        optimizer.step()
        if k == 0:
            continue  # the first step is longer than the average of one is
        moved = *(before[0] - fused.detach()).split([4, 6]), before[1] - single.detach()
        norms = [*optimizer.state[fused][NORM].tolist(), *optimizer.state[single][NORM].tolist()]
        sizes = [*optimizer.state[fused][SIZE].tolist(), *optimizer.state[single][SIZE].tolist()]
        for norm, size, step in zip(norms, sizes, moved, strict=True):
            true = spectral(step) / size
            assert norm <= true * (1 + 1e-3)
            assert k >= 15 or norm >= 0.98 * true


@pytest.mark.parametrize(("norms", "falls"), [(STEADY + 0.01, False), (STEADY - 0.01, True)])
def test_no_size_falls_while_a_direction_persists(norms, falls):
    evidence = torch.zeros(2, len(COLUMNS) + 1)
    assert evidence.shape[1] == len((*COLUMNS, FALLS))
    sizes, far = torch.ones(2), torch.full((2,), math.inf)
    slopes = torch.ones(2)
    found, _ = followed(
        sizes, evidence, torch.full((2,), -0.5), far, RATE, 1.0, slopes, torch.full((2,), norms)
    )
    expected = math.exp(-1.1 * RATE) if falls else 1.0
    torch.testing.assert_close(found, torch.full((2,), expected))


def test_a_matrix_without_a_look_has_no_say_in_that():
    """Its last direction is not of this step."""
    evidence = torch.zeros(2, len(COLUMNS) + 1)
    far = torch.full((2,), math.inf)
    norms = torch.tensor([0.1, 2.0])
    cosines = torch.tensor([-0.5, 0.0])
    found, _ = followed(torch.ones(2), evidence, cosines, far, RATE, 1.0, torch.ones(2), norms)
    assert float(found[0]) < 1.0


@pytest.mark.parametrize(("shape", "seed"), [((40, 40), 0), ((40, 40), 2), ((64, 48), 0)], ids=str)
def test_no_direction_is_left_behind(shape, seed):
    """Whose curvatures have a condition number of 1e6: without the norms these do not arrive."""
    generator = torch.Generator().manual_seed(seed)
    sides = []
    for size in shape:
        q, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
        sides.append((q * torch.logspace(0, -3, size, dtype=torch.float64)) @ q.mT)
    left, right = sides
    start = randn(*shape, seed=seed + 1)
    X = nn.Parameter(start.clone())
    optimizer = pg.PolarGrad([X], tol=None, **OF_DIRECTIONS)
    for _ in range(450):
        X.grad = left @ X.detach() @ right
        optimizer.step()
    gap = float((X.detach() * (left @ X.detach() @ right)).sum())
    assert gap <= 1e-12 * float((start * (left @ start @ right)).sum())
