"""Pre-training of small language models on text that every machine has."""

from polargrad.language.corpus import Corpus, load_corpus
from polargrad.language.optimizers import DEFAULTS, build_optimizer
from polargrad.language.presets import PRESETS, Preset
from polargrad.language.settings import TrainSettings
from polargrad.language.train import TrainResult, train

__all__ = [
    "DEFAULTS",
    "PRESETS",
    "Corpus",
    "Preset",
    "TrainResult",
    "TrainSettings",
    "build_optimizer",
    "load_corpus",
    "train",
]
