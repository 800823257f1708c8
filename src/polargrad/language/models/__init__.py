"""Language models as data: the sizes of each kind, and the module that they make."""

from polargrad.language.models.from_config import ConfigPreset
from polargrad.language.models.mixture import MixturePreset
from polargrad.language.models.preset import ModelPreset
from polargrad.language.models.qwen2 import Preset, TokenPreset
from polargrad.language.models.value_gpt import ValueGPTPreset

__all__ = [
    "ConfigPreset",
    "MixturePreset",
    "ModelPreset",
    "Preset",
    "TokenPreset",
    "ValueGPTPreset",
]
