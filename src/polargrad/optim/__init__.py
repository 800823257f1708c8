"""Optimizers over matrices: one engine, its presets, and the routing of a model's parameters."""

from polargrad.optim.accumulation import accumulation_ratio
from polargrad.optim.approximation_errors import ApproximationError, approximation_error
from polargrad.optim.approximations import Rounds, Sketch
from polargrad.optim.convert import convert_state
from polargrad.optim.engine import MatrixOptimizer
from polargrad.optim.gradient_descent import GradientDescent
from polargrad.optim.hybrid import HybridPolarGrad
from polargrad.optim.matrix_sign_descent import MatrixSignDescent
from polargrad.optim.muon import Muon
from polargrad.optim.one_sided import OneSidedPolarGrad
from polargrad.optim.polar_grad import PolarGrad
from polargrad.optim.polar_muon import PolarMuon
from polargrad.optim.routing import Explanation, explain, param_groups
from polargrad.optim.row_norm import ColumnNorm, RowNorm
from polargrad.optim.shampoo import Shampoo
from polargrad.optim.sign_sgd import SignSGD
from polargrad.optim.soap import SOAP
from polargrad.optim.stochastic_spectral_descent import SSD
from polargrad.optim.translate import Translation, translate_lr
from polargrad.optim.update_size import Rule, update_rms

__all__ = [
    "SOAP",
    "SSD",
    "ApproximationError",
    "ColumnNorm",
    "Explanation",
    "GradientDescent",
    "HybridPolarGrad",
    "MatrixOptimizer",
    "MatrixSignDescent",
    "Muon",
    "OneSidedPolarGrad",
    "PolarGrad",
    "PolarMuon",
    "Rounds",
    "RowNorm",
    "Rule",
    "Shampoo",
    "SignSGD",
    "Sketch",
    "Translation",
    "accumulation_ratio",
    "approximation_error",
    "convert_state",
    "explain",
    "param_groups",
    "translate_lr",
    "update_rms",
]
