"""The loss of a language model: of some windows, and over the held-out tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from polargrad.language.data import Tokens, evaluation_batches
from polargrad.language.models import ModelPreset
from polargrad.language.ranks import Ranks

# The loss of two models on the same 256 windows is compared far more exactly than either is known;
# measuring it costs as much as five training steps of the tiny preset, and ten of the small one.
VALIDATION_WINDOWS = 256


def language_model_loss(model: torch.nn.Module, windows: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy of each token of ``windows`` after the first, given those before.

    Args:
        model: a causal language model: called with ``input_ids``, it returns ``logits``.
        windows: tokens, ``(batch, context + 1)``.
        reduction: "mean" or "sum" over the predicted tokens.
    """
    logits = model(input_ids=windows[:, :-1]).logits
    return cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction=reduction)


def validation_loss(
    model: torch.nn.Module,
    tokens: Tokens,
    preset: ModelPreset,
    ranks: Ranks | None = None,
    *,
    windows: int = VALIDATION_WINDOWS,
) -> float:
    """Return the mean cross-entropy over the validation windows, in nats per token.

    The model is asked as it will be used, without dropout, and left in the mode it was in.

    Args:
        model: a causal language model, as :func:`language_model_loss` takes it.
        tokens: the validation tokens.
        preset: the sizes of a window and of a batch; the result does not depend on the latter
            beyond rounding.
        ranks: the processes that share the windows out among them; None for this one alone.
        windows: how many windows of the tokens are measured, the same ones every time.
    """
    batches = evaluation_batches(
        tokens, batch=preset.batch, context=preset.context, windows=windows
    )
    device = next(model.parameters()).device
    total, count = 0.0, 0
    training = model.training
    model.eval()
    with torch.no_grad():
        for batch, counts in _alone(batches) if ranks is None else ranks.share(batches):
            loss = language_model_loss(model, batch.to(device), reduction="sum").item()
            if counts:
                total += loss
                count += batch[:, 1:].numel()
    model.train(training)
    if ranks is not None and ranks.count > 1:
        sums = ranks.mean(torch.tensor([total, count], dtype=torch.float64, device=device))
        return sums[0] / sums[1]
    return total / count


def _alone(batches: Iterator[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    """All batches, as those of a process that shares them with no other."""
    return ((batch, True) for batch in batches)
