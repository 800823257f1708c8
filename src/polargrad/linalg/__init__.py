"""Polar decompositions: matrices in, polar factors out."""

from polargrad.linalg.certificate import Certificate
from polargrad.linalg.decompose import PolarResult, polar, polar_factor
from polargrad.linalg.methods import (
    METHODS,
    QDWH,
    SVD,
    GramEigh,
    GramPolynomial,
    GramZolotarev,
    Method,
    MixedQDWH,
    Newton,
    NewtonSchulz,
    PolarExpress,
    PreconditionedNewtonSchulz,
    RandomizedSVD,
    Zolotarev,
    label,
    method,
    plain,
)
from polargrad.linalg.norms import orthogonality_defect, spectral_norm_bound
from polargrad.linalg.nuclear import NuclearNorm, nuclear_norm
from polargrad.linalg.planner import Plan, PlanTable, load_plan_table, plan
from polargrad.linalg.roots import inverse_root

__all__ = [
    "METHODS",
    "QDWH",
    "SVD",
    "Certificate",
    "GramEigh",
    "GramPolynomial",
    "GramZolotarev",
    "Method",
    "MixedQDWH",
    "Newton",
    "NewtonSchulz",
    "NuclearNorm",
    "Plan",
    "PlanTable",
    "PolarExpress",
    "PolarResult",
    "PreconditionedNewtonSchulz",
    "RandomizedSVD",
    "Zolotarev",
    "inverse_root",
    "label",
    "load_plan_table",
    "method",
    "nuclear_norm",
    "orthogonality_defect",
    "plain",
    "plan",
    "polar",
    "polar_factor",
    "spectral_norm_bound",
]
