"""What every preset has, whatever model it makes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any

import torch


class ModelPreset(ABC):
    """A model and the batches it is trained on, as data; its subclasses are frozen dataclasses.

    Attributes:
        name: what the preset is called.
        vocabulary: number of tokens that the model takes, numbered from 0.
        context: tokens in a training window.
        batch: windows in a training batch.
    """

    name: str
    vocabulary: int
    context: int
    batch: int

    @abstractmethod
    def module(self) -> torch.nn.Module:
        """Return the model, initialised from torch's global generator, on the default device.

        Its forward takes ``input_ids``, ``(batch, tokens)``, and returns an object whose
        ``logits`` are ``(batch, tokens, outputs)``, outputs ≥ vocabulary; those at a token depend
        on it and on those before alone.

        Raises:
            MissingExtraError: if the model is one of transformers, which is not installed.
        """

    @property
    @abstractmethod
    def attention_width(self) -> int | None:
        """Heads times their size, summed over the layers with attention; None if unknown."""

    @property
    def active_experts(self) -> float:
        """The share of its experts that each token passes through; 1 where there are none."""
        return 1.0

    def as_data(self) -> dict[str, Any]:
        """Return the preset as plain data, as settings and checkpoints keep it."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]


def require_sizes(preset: ModelPreset, *names: str) -> None:
    """Raise unless these attributes of a preset are at least 1.

    Raises:
        ValueError: naming the first that is not.
    """
    for name in names:
        if getattr(preset, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(preset, name)}")


def require_heads(width: int, heads: int) -> None:
    """Raise unless ``width`` is shared by the heads in even parts, as rotary positions need.

    Raises:
        ValueError: if it is not.
    """
    if width % heads or width // heads % 2:
        raise ValueError(f"width must be an even multiple of heads={heads}, got {width}")
