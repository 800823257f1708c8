"""Runs with the exact polar factor that several checks of the theory look at."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from polargrad.experiments.theory.check import Record
from polargrad.experiments.theory.form import ErrorForm, Setting
from polargrad.linalg import polar

CERTAIN = "1/(L r)"
NATURAL = "1/L_op"
EDGE = "0.98 · 2/L_op"
CONDITIONED = "1/(L r), κ_G = 1 at the start"
GRADIENT_DESCENT = "gradient descent, 1/L"
STEPS = 1000
# How far below and above the exact one-step limit a step is tried.
OFF_LIMIT = 1e-3


@functools.lru_cache(maxsize=2)
def exact_trajectories(setting: Setting) -> tuple[Record, ...]:
    """PolarGrad with constant steps from the paper's start, and from one whose gradient has κ = 1.

    Each record holds the gaps before and after a step, the gaps after a step just below and just
    above the exact one-step limit 2/‖A U B‖², and what the bounds are made of. Gradient descent
    with 1/L stands beside it, with its gaps alone.
    """
    form, steps = setting.form, setting.extent.steps(STEPS)
    certain = form.certain_step
    return (
        *_polar_grad(CERTAIN, form, form.start, certain, steps),
        *_polar_grad(NATURAL, form, form.start, 1.0 / form.spectral_smoothness, steps),
        *_polar_grad(EDGE, form, form.start, 0.98 * form.stability_limit, steps),
        *_polar_grad(CONDITIONED, form, conditioned_start(form), certain, steps),
        *_gradient_descent(form, steps),
    )


def conditioned_start(form: ErrorForm) -> Tensor:
    """An E with the size of the start's whose gradient has orthonormal columns: κ_G = 1."""
    U = polar(form.gradient(form.start)).U
    E: Tensor = torch.linalg.solve(form.left, torch.linalg.solve(form.right, U, left=False))
    return E * float(form.start.norm() / E.norm())


def _polar_grad(
    trajectory: str, form: ErrorForm, start: Tensor, gamma: float, steps: int
) -> Iterator[Record]:
    """The records of E ← E - γ ν U with the exact factor, in float64."""
    E = start
    G = form.gradient(E)
    for step in range(steps):
        U = polar(G).U
        nuclear_norm = float((G * U).sum())
        singular_values = torch.linalg.svdvals(G)
        rank = int((singular_values > 1e-12 * singular_values[0]).sum())
        curvature = form.curvature(U)
        limit = 2.0 / float(curvature)
        below, above = (
            float(form.gap(E - factor * limit * nuclear_norm * U))
            for factor in (1.0 - OFF_LIMIT, 1.0 + OFF_LIMIT)
        )
        gap = float(form.gap(E, G))
        E = E - gamma * nuclear_norm * U
        G = form.gradient(E)
        yield {
            "trajectory": trajectory,
            "step": step,
            "gamma": gamma,
            "gap": gap,
            "next_gap": float(form.gap(E, G)),
            "nuclear_norm": nuclear_norm,
            "rank": rank,
            "gradient_condition": float(singular_values[0] / singular_values[rank - 1]),
            "one_step_limit": limit,
            "gap_below_limit": below,
            "gap_above_limit": above,
        }


def _gradient_descent(form: ErrorForm, steps: int) -> Iterator[Record]:
    """The gaps of E ← E - G/L."""
    E = form.start
    for step in range(steps):
        G = form.gradient(E)
        yield {"trajectory": GRADIENT_DESCENT, "step": step, "gap": float(form.gap(E, G))}
        E = E - G / form.smoothness
