"""polargrad: optimizers and polar decompositions for matrices."""

from polargrad import linalg
from polargrad.errors import PolarGradError
from polargrad.linalg import polar, polar_factor
from polargrad.optim import MatrixOptimizer, Muon, PolarGrad, explain, param_groups

__all__ = [
    "MatrixOptimizer",
    "Muon",
    "PolarGrad",
    "PolarGradError",
    "explain",
    "linalg",
    "param_groups",
    "polar",
    "polar_factor",
]
