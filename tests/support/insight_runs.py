"""A protocol of the insights that takes seconds, and made-up runs with known effects."""

import math
import random

from polargrad.experiments.insights.protocol import (
    FAMILIES,
    InsightRun,
    InsightsProtocol,
    all_runs,
)
from polargrad.experiments.insights.results import InsightsResults, InsightTrace
from polargrad.language import Preset

SMALL = Preset(name="small", layers=1, width=8, feed_forward=16, heads=2, context=8, batch=2)


EVERY_FAMILY = tuple(FAMILIES.values())


def protocol(families=EVERY_FAMILY, steps=40, **changes):
    """All runs of some families on a model of one block of width 8."""
    settings = {
        "version": "full",
        "runs": all_runs(families),
        "steps": steps,
        "dense": 8,
        "every": 4,
        "curvature_at": (0, steps),
        "curvature_windows": 2,
        "curvature_stride": 3,
        "products": 4,
        "probes": 2,
        "preset": SMALL,
    }
    return InsightsProtocol(**{**settings, **changes})


def sample(step, *, gradient=100.0, update=10.0, change=-0.5, predicted=-1.0):
    """A record of an update, with the same κ₂ = σ₁/median in two layers."""

    def measures(value):
        return {
            "condition": [value, value],
            "effective": [value, value],
            "stable_rank": [2.0, 2.0],
            "largest": [1.0, 1.0],
        }

    return {
        "step": step,
        "change": change,
        "predicted": predicted,
        "gradient": measures(gradient),
        "momentum": measures(gradient),
        "update": measures(update),
    }


def look(*, stable_rank=2.0, dimension=400, gradient_stable_rank=2.0, smallest=-1.0):
    """A record of a look at one layer's Hessian."""
    layer = {
        "smallest": smallest,
        "largest": 10.0,
        "smallest_error": 0.0,
        "largest_error": 0.0,
        "stable_rank": stable_rank,
        "dimension": dimension,
        "gradient_condition": 1e4,
        "gradient_effective": 1e2,
        "gradient_stable_rank": gradient_stable_rank,
        "gradient_dimension": 4,
    }
    return {"step": 40, "curvature": {"layer": layer}}


def made_up(make, seeds=(0, 1, 2), steps=100):
    """Results of all runs; ``make(run, seed, random)`` gives the samples, final loss and looks."""
    known = protocol(steps=steps)
    traces = []
    for seed in seeds:
        for number, run in enumerate(known.runs):
            noise = random.Random(1000 * seed + number)
            samples, validation, looks = make(run, seed, noise)
            losses = tuple(3.0 - k / steps + (validation - 2.0) for k in range(steps))
            trace = InsightTrace(
                run, seed, ("a", "b"), losses, tuple(samples), tuple(looks), validation, 1.0
            )
            traces.append(trace)
    return InsightsResults(known, tuple(traces))


def plain(run: InsightRun, seed: int, noise: random.Random):
    """Nothing depends on anything."""
    samples = [
        sample(step, update=10 * math.exp(noise.gauss(0, 1)), change=noise.gauss(-0.5, 0.1))
        for step in range(0, 100, 2)
    ]
    return samples, 2.0 + noise.gauss(0, 0.001), []
