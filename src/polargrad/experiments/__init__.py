"""The paper's experiments: a protocol as data, runs, records, figures, a report."""

from polargrad.experiments.quadratic import FULL, QUICK, reproduce_quadratic
from polargrad.experiments.quadratic_results import Results

__all__ = ["FULL", "QUICK", "Results", "reproduce_quadratic"]
