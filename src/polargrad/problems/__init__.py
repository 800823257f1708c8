"""Objectives over matrices, with their gradients, constants, data and optimum."""

from polargrad.problems.bilinear import BilinearProblem
from polargrad.problems.completion import LowRankCompletion
from polargrad.problems.factored import FactoredProblem
from polargrad.problems.huber_completion import HuberCompletion
from polargrad.problems.logistic import MatrixLogisticRegression
from polargrad.problems.minimise import Minimum, minimise
from polargrad.problems.problem import ConvexProblem, OptimumError, Problem, SingleMatrixProblem
from polargrad.problems.quadratic import MatrixQuadraticRegression
from polargrad.problems.reduced_rank import ReducedRankRegression
from polargrad.problems.row_batches import RowBatches
from polargrad.problems.sensing import MatrixSensing

__all__ = [
    "BilinearProblem",
    "ConvexProblem",
    "FactoredProblem",
    "HuberCompletion",
    "LowRankCompletion",
    "MatrixLogisticRegression",
    "MatrixQuadraticRegression",
    "MatrixSensing",
    "Minimum",
    "OptimumError",
    "Problem",
    "ReducedRankRegression",
    "RowBatches",
    "SingleMatrixProblem",
    "minimise",
]
