"""The paper's experiments: an experiment as data, runs, records, figures, a report."""

from polargrad.experiments.completion import completion
from polargrad.experiments.experiment import Experiment, Figure, Panel, Run
from polargrad.experiments.logistic import logistic
from polargrad.experiments.quadratic import quadratic
from polargrad.experiments.reproduce import Reproduction, choose, reproduce
from polargrad.experiments.results import Results

__all__ = [
    "Experiment",
    "Figure",
    "Panel",
    "Reproduction",
    "Results",
    "Run",
    "choose",
    "completion",
    "logistic",
    "quadratic",
    "reproduce",
]
