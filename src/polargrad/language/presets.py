"""The presets by name, and the model that one of them makes."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from polargrad.language.models import (
    MixturePreset,
    ModelPreset,
    Preset,
    TokenPreset,
    ValueGPTPreset,
)
from polargrad.language.models.from_config import read_configuration

__all__ = ["PRESETS", "TINY", "ModelPreset", "Preset", "build_model", "meta_model", "preset_of"]

TINY = Preset(name="tiny", layers=4, width=128, feed_forward=512, heads=4, context=128, batch=16)

PRESETS: dict[str, ModelPreset] = {
    preset.name: preset
    for preset in [
        TINY,
        TokenPreset(
            name="small",
            layers=6,
            width=320,
            feed_forward=960,
            heads=5,
            context=256,
            batch=8,
            vocabulary=4096,
        ),
        # Tiny with four times the feed-forward parameters; a token passes through as many as there.
        MixturePreset(
            name="moe",
            vocabulary=256,
            layers=4,
            width=128,
            feed_forward=256,
            heads=4,
            experts=8,
            chosen=2,
            context=128,
            batch=16,
        ),
        # The paper's model and batches, section 6.4, as its independent replication has them.
        TokenPreset(
            name="qwen2.5",
            layers=12,
            width=1024,
            feed_forward=4864,
            heads=16,
            context=512,
            batch=16,
            vocabulary=151_936,
            rotary_base=1_000_000.0,
        ),
        # The paper's models on FineWeb; windows and batches are ours, theirs were not found.
        ValueGPTPreset(
            name="gpt2-small",
            vocabulary=50_304,
            outputs=50_304,
            layers=12,
            width=768,
            feed_forward=3072,
            heads=6,
            value_embeddings=3,
            layer_without_attention=7,
            scalars_for_all=False,
            context=1024,
            batch=16,
        ),
        ValueGPTPreset(
            name="gpt2-medium",
            vocabulary=50_257,
            outputs=50_304,
            layers=16,
            width=1024,
            feed_forward=4096,
            heads=8,
            value_embeddings=3,
            layer_without_attention=7,
            scalars_for_all=True,
            context=1024,
            batch=16,
        ),
    ]
}


def preset_of(preset: str | ModelPreset) -> ModelPreset:
    """Return the preset of this name, or of the configuration at this path.

    Args:
        preset: a name of :data:`PRESETS`; the path of a ``config.json`` of transformers or of a
            folder with one (a folder beside a preset of its name is ``./tiny``); or a preset, which
            is returned as it is.

    Raises:
        ValueError: if there is no such preset, or no such configuration.

    Example:
        >>> preset_of("gpt2-small").vocabulary
        50304
    """
    if isinstance(preset, ModelPreset):
        return preset
    if preset in PRESETS:
        return PRESETS[preset]
    path = Path(preset)
    if path.exists() or os.sep in preset or preset.endswith(".json"):
        return read_configuration(path)
    raise ValueError(
        f"unknown preset {preset!r}: choose from {', '.join(PRESETS)}, or give the path of a "
        "configuration of transformers"
    )


def build_model(preset: ModelPreset, seed: int) -> torch.nn.Module:
    """Return the preset's model in float32, its parameters drawn with ``seed``.

    The draw uses a generator state of its own: it neither depends on torch's global generator nor
    changes it. Nothing is downloaded.

    Raises:
        ValueError: if a configuration of transformers makes no causal model.
        MissingExtraError: if transformers is not installed, and the model is one of its own.

    Example:
        >>> model = build_model(preset_of("tiny"), seed=0)
        >>> sum(parameter.numel() for parameter in model.parameters())
        1116800
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = preset.module()
    return model.to(torch.float32)


def meta_model(preset: ModelPreset) -> torch.nn.Module:
    """Return the preset's model without its numbers: shapes and types alone, in no time.

    Raises:
        MissingExtraError: as :func:`build_model`.

    Example:
        >>> model = meta_model(preset_of("gpt2-small"))
        >>> sum(parameter.numel() for parameter in model.parameters())
        275742772
    """
    with torch.device("meta"):
        return preset.module().to(torch.float32)
