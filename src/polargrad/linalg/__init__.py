"""Polar decompositions: matrices in, polar factors out."""

from polargrad.linalg.decompose import PolarResult, polar, polar_factor
from polargrad.linalg.methods import (
    METHODS,
    QDWH,
    SVD,
    Method,
    NewtonSchulz,
    PolarExpress,
    label,
    method,
    plain,
)
from polargrad.linalg.planner import Plan, plan

__all__ = [
    "METHODS",
    "QDWH",
    "SVD",
    "Method",
    "NewtonSchulz",
    "Plan",
    "PolarExpress",
    "PolarResult",
    "label",
    "method",
    "plain",
    "plan",
    "polar",
    "polar_factor",
]
