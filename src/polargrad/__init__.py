"""polargrad: optimizers and polar decompositions for matrices."""

from polargrad import linalg, optim
from polargrad.errors import PolarGradError
from polargrad.linalg import polar, polar_factor
from polargrad.optim import (
    MatrixOptimizer,
    Muon,
    PolarGrad,
    PolarMuon,
    explain,
    param_groups,
    translate_lr,
)

__all__ = [
    "MatrixOptimizer",
    "Muon",
    "PolarGrad",
    "PolarGradError",
    "PolarMuon",
    "explain",
    "linalg",
    "optim",
    "param_groups",
    "polar",
    "polar_factor",
    "translate_lr",
]
