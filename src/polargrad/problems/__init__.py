"""Objectives over matrices, with their gradients, constants, data and optimum."""

from polargrad.problems.quadratic import MatrixQuadraticRegression

__all__ = ["MatrixQuadraticRegression"]
