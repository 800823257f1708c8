"""PolarGrad without a learning rate on the paper's problems: one setting, five seeds, any start."""

import pytest
import torch
from quadratics import OF_DIRECTIONS
from torch import nn

import polargrad as pg
from polargrad.experiments import completion, logistic, quadratic
from polargrad.problems import MatrixQuadraticRegression

SEEDS = (42, 142, 242, 7, 1000)
WAYS = {"of directions": OF_DIRECTIONS, "no momentum": {"momentum": 0.0}}


def curve(experiment, seed, at, way):
    """The metric of an experiment after some steps with the default first step."""
    task = experiment.build(seed, experiment.era)
    unknowns = [nn.Parameter(X.detach().clone()) for X in task.start]
    optimizer = pg.PolarGrad(unknowns, **WAYS[way])
    found = []
    for step in range(max(at)):
        task.advance()
        for X, G in zip(unknowns, task.gradients([X.detach() for X in unknowns]), strict=True):
            X.grad = G
        optimizer.step()
        if step + 1 in at:
            found.append(task.measure([X.detach() for X in unknowns])[experiment.metric])
    return found


def test_the_published_start_is_that_of_the_experiment():
    problem, start = MatrixQuadraticRegression.published(42)
    task = quadratic().build(42, "reference")
    assert torch.equal(task.start[0], start)
    assert type(task.problem) is type(problem)


@pytest.mark.slow
@pytest.mark.parametrize("first", [None, 1e-4, 1e-2, 1.0, 1e2])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("way", WAYS)
def test_the_quadratic_comes_to_rounding_from_any_start(way, seed, first):
    problem, start = MatrixQuadraticRegression.published(seed)
    problem = problem.to(torch.float64)
    X = nn.Parameter(start.double())
    optimizer = pg.PolarGrad([X], tol=None, first_step=first, **WAYS[way])
    gaps = {}
    for step in range(300):
        X.grad = problem.gradient(X.detach())
        optimizer.step()
        if step == 0 and first is not None:
            moved = torch.linalg.matrix_norm(X.detach() - start.double(), 2)
            assert float(moved) == pytest.approx(first, rel=1e-6)
        gaps[step + 1] = float(problem.gap(X.detach()))
    assert gaps[300] < 1e-6
    if first is None:
        assert gaps[200] < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("way", WAYS)
def test_logistic_regression(way, seed):
    early, late = curve(logistic(), seed, (300, 1500), way)
    assert early < 0.70
    assert late < 0.682


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("way", WAYS)
def test_completion(way, seed):
    (error,) = curve(completion(), seed, (150,), way)
    assert error < 1e-12
