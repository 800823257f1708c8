"""Any causal language model of `transformers`, from a configuration on this machine."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from polargrad.language.models.preset import ModelPreset, require_sizes
from polargrad.records import require

CONFIGURATION = "config.json"
# A window is at most this long unless another length is asked for, and a batch holds so many.
CONTEXT = 512
BATCH = 8
# What models call the number of experts that a token passes through, and of all.
CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class ConfigPreset(ModelPreset):
    """A model that a configuration of ``transformers`` describes, initialised at random.

    The weights beside the configuration are not read, code beside it is not run, and nothing is
    downloaded.

    Args:
        configuration: the contents of a ``config.json``.
        context: tokens in a training window.
        batch: windows in a training batch.

    Raises:
        ValueError: if transformers has no causal language model of this kind, a size is less than
            1, or the windows are longer than the model's positions.
        MissingExtraError: if transformers is not installed.

    Source: ``transformers.AutoModelForCausalLM.from_config``.
    """

    configuration: dict[str, Any]
    context: int
    batch: int
    name: str = field(init=False)
    vocabulary: int = field(init=False)

    def __post_init__(self) -> None:
        require_sizes(self, "context", "batch")
        config = self._config()
        vocabulary = getattr(config, "vocab_size", None)
        if not isinstance(vocabulary, int) or vocabulary < 1:
            raise ValueError(
                f"configuration must have a vocab_size of at least 1, got {vocabulary!r}"
            )
        positions = _positions(config)
        if positions is not None and self.context > positions:
            raise ValueError(
                f"context must be at most the model's {positions} positions, got {self.context}"
            )
        object.__setattr__(self, "name", config.model_type)
        object.__setattr__(self, "vocabulary", vocabulary)

    @property
    def attention_width(self) -> int | None:
        """As if every layer had full attention, an upper bound for sliding windows; None if the
        configuration does not say how many layers and heads there are.
        """
        config = self._config()
        layers, heads, width = (
            getattr(config, name, None)
            for name in ("num_hidden_layers", "num_attention_heads", "hidden_size")
        )
        if not (isinstance(layers, int) and isinstance(heads, int) and isinstance(width, int)):
            return None
        size = getattr(config, "head_dim", None) or width // heads
        return layers * heads * int(size)

    @property
    def active_experts(self) -> float:
        """What the configuration says of its experts; 1 if it says nothing."""
        config = self._config()
        chosen = next((n for key in CHOSEN if (n := getattr(config, key, None))), None)
        experts = next((n for key in EXPERTS if (n := getattr(config, key, None))), None)
        return chosen / experts if chosen and experts else 1.0

    def module(self) -> torch.nn.Module:
        """Return the model of ``transformers``, in float32.

        Raises:
            ValueError: if the sizes do not fit each other, or a token's logits depend on those
                after it, as an encoder's do. Without numbers, on the meta device, neither shows.
        """
        transformers = require("transformers", extra="language")
        config = self._config()
        config.use_cache = False
        model: torch.nn.Module = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32
        )
        _require_causal(model, self.name, self.vocabulary)
        return model

    def _config(self) -> Any:
        """The configuration as an object of its class, a new one each time."""
        transformers = require("transformers", extra="language")
        kind = self.configuration.get("model_type")
        try:
            made = transformers.AutoConfig.for_model(kind)
        except ValueError:
            raise ValueError(
                f"configuration has the model_type {kind!r}, which this transformers, "
                f"{transformers.__version__}, does not know"
            ) from None
        if type(made) not in transformers.AutoModelForCausalLM._model_mapping:
            raise ValueError(
                f"configuration has the model_type {kind!r}: transformers has no causal language "
                "model of this kind"
            )
        return type(made).from_dict(dict(self.configuration))


def read_configuration(path: Path) -> ConfigPreset:
    """Return the preset of a configuration that transformers has written.

    Windows are as long as the model's positions, at most 512 tokens, and a batch holds 8.

    Args:
        path: the file, or the folder with a ``config.json``.

    Raises:
        ValueError: if the file is not there or no configuration of a causal language model.
        MissingExtraError: if transformers is not installed.
    """
    file = path / CONFIGURATION if path.is_dir() else path
    try:
        configuration = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"preset is {str(path)!r}, and there is no file {str(file)!r}") from None
    except ValueError as error:
        raise ValueError(f"preset is {str(path)!r}, which is not JSON: {error}") from None
    if not isinstance(configuration, dict) or "model_type" not in configuration:
        raise ValueError(
            f"preset is {str(path)!r}, which is no configuration of transformers: it has no "
            "model_type"
        )
    longest = _positions(ConfigPreset(configuration, context=1, batch=1)._config())
    return ConfigPreset(configuration, context=min(longest or CONTEXT, CONTEXT), batch=BATCH)


def _positions(config: Any) -> int | None:
    """How many positions a model has, None if its configuration names no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None


def _require_causal(model: torch.nn.Module, name: str, vocabulary: int) -> None:
    """Raise if the logits of a first token change with the second; on the meta device pass.

    Raises:
        ValueError: if they do, for the loss would be that of a text that is known; or if there are
            none, as the sizes do not fit each other.
    """
    if next(model.parameters()).is_meta or vocabulary < 2:
        return
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            one, other = model(input_ids=torch.tensor([[0, 0, 0], [0, 1, 1]])).logits[:, 0]
    except RuntimeError as error:
        raise ValueError(f"configuration of {name} makes a model that fails: {error}") from error
    model.train(training)
    if not torch.allclose(one, other, rtol=1e-4, atol=1e-5):
        raise ValueError(
            f"configuration of {name}: a token's logits depend on later tokens, so this is no "
            "causal model; an encoder becomes one with is_decoder=true"
        )
