"""Pre-training of small language models on text that every machine has."""

from polargrad.language.corpus import Corpus, load_corpus
from polargrad.language.dry_run import DryRun, dry_run
from polargrad.language.optimizers import DEFAULTS, build_optimizer, rate_in_words
from polargrad.language.presets import PRESETS, ModelPreset, Preset
from polargrad.language.settings import TrainSettings
from polargrad.language.train import TrainResult, train

__all__ = [
    "DEFAULTS",
    "PRESETS",
    "Corpus",
    "DryRun",
    "ModelPreset",
    "Preset",
    "TrainResult",
    "TrainSettings",
    "build_optimizer",
    "dry_run",
    "load_corpus",
    "rate_in_words",
    "train",
]
