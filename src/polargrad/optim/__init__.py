"""Optimizers over matrices: one engine, its presets, and the routing of a model's parameters."""

from polargrad.optim.engine import MatrixOptimizer
from polargrad.optim.muon import Muon
from polargrad.optim.polar_grad import PolarGrad
from polargrad.optim.routing import Explanation, explain, param_groups

__all__ = ["Explanation", "MatrixOptimizer", "Muon", "PolarGrad", "explain", "param_groups"]
