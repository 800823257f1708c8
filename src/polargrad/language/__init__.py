"""Pre-training of language models, on text that every machine has or on data of any size."""

from polargrad.language.dry_run import DryRun, dry_run
from polargrad.language.input import Input, open_input
from polargrad.language.optimizers import build_optimizer, rate_in_words
from polargrad.language.presets import PRESETS, ModelPreset, Preset
from polargrad.language.recipes import DEFAULTS, RECIPES
from polargrad.language.settings import TrainSettings
from polargrad.language.train import TrainResult, train

__all__ = [
    "DEFAULTS",
    "PRESETS",
    "RECIPES",
    "DryRun",
    "Input",
    "ModelPreset",
    "Preset",
    "TrainResult",
    "TrainSettings",
    "build_optimizer",
    "dry_run",
    "open_input",
    "rate_in_words",
    "train",
]
