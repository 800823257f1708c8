"""Layouts: what a parameter is by the type of the module that holds it, and by its place there."""

from __future__ import annotations

from collections import Counter

from torch import Tensor, nn

from polargrad.optim.routing.attention import attention_layout
from polargrad.optim.routing.experts import expert_layout
from polargrad.optim.routing.uses import Finding, Use, from_transformers, origins
from polargrad.optim.routing.views import FLATTEN, WHOLE, conv, heads, split

GATES: dict[type[nn.Module], int] = {nn.LSTM: 4, nn.GRU: 3, nn.LSTMCell: 4, nn.GRUCell: 3}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# The adapters of peft that are factors of a matrix.
FACTORS = (
    *("lora_A", "lora_B", "lora_embedding_B", "hira_A", "hira_B", "hira_embedding_B"),
    *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    *("lokr_w1", "lokr_w2", "lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"),
)
# The factors with one column for each token.
TOKEN_FACTORS = ("lora_embedding_A", "hira_embedding_A")
# What models of transformers call tables that are added to activations.
TABLES = ("embed", "position", "rel_pos", "token", "latents", "attention_biases")
# … and what multiplies activations entry by entry.
ENTRIES = ("A_log", "D")


def by_module(use: Use) -> Finding:
    """Return what the parameter of a use is, as far as the module and its place can tell."""
    parameter, module = use.parameter, use.module
    kind = type(module).__name__
    known = adapter_layout(use) or expert_layout(use) or _convolution(use)
    if known:
        return known
    if parameter.ndim > 2:
        return _of_many_dimensions(parameter, kind)
    if isinstance(module, nn.Linear):
        place = attention_layout(use, transpose=False) or _torch_attention(use) or _gated(use)
        return place or Finding("hidden matrix", WHOLE, kind + _perhaps_fused(parameter))
    if isinstance(module, nn.MultiheadAttention):
        return _torch_attention(use) or Finding("hidden matrix", WHOLE, kind)
    gates = next((count for type_, count in GATES.items() if isinstance(module, type_)), 1)
    if gates > 1 and parameter.shape[0] % gates == 0 and not use.attribute.startswith("weight_hr"):
        return Finding("hidden matrix", split(gates), f"{kind}: {gates} gates in one")
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return Finding("hidden matrix", WHOLE, kind)
    if kind == "Conv1D" and getattr(module, "nf", None) == parameter.shape[1]:
        return attention_layout(use, transpose=True) or Finding(
            "hidden matrix", {**WHOLE, "transpose": True}, f"{kind}: stored (inputs, outputs)"
        )
    if from_transformers(module):
        if any(name in use.attribute for name in TABLES):
            return Finding("embedding", WHOLE, f"{kind}: {use.attribute}")
        by_entry = use.attribute in ENTRIES or use.attribute.startswith("time_")
        if by_entry or "bias" in use.attribute:
            return Finding("vector", WHOLE, f"{kind}: {use.attribute}, used entry by entry")
    return Finding("unknown matrix", WHOLE, f"2-D parameter of {kind}, a type not known here")


def _perhaps_fused(parameter: Tensor) -> str:
    """A question where a plain linear map has the shape of query, key and value in one."""
    if parameter.ndim == 2 and parameter.shape[0] == 3 * parameter.shape[1]:
        return "; query, key and value in one? then roles: 'fused QKV'"
    return ""


def adapter_layout(use: Use) -> Finding | None:
    """Return what a parameter that an adapter of peft has added is, or None for any other."""
    inside = (use.module, use.attribute)
    for holder, name in (inside, *use.holders[:2]):
        if name == "base_layer" or name in ("original_module", "modules_to_save"):
            return None
        if "peft" not in origins(holder) or not hasattr(holder, "adapter_layer_names"):
            continue
        if name in TOKEN_FACTORS:
            return Finding("embedding", WHOLE, f"{name}: a column for each token")
        if name in FACTORS and use.parameter.ndim >= 2:
            view = WHOLE if use.parameter.ndim == 2 else FLATTEN
            return Finding("low-rank adapter", view, f"{name} of {type(holder).__name__}")
        return Finding("other", WHOLE, f"{name} of {type(holder).__name__}, no known factor")
    return None


def _convolution(use: Use) -> Finding | None:
    """A convolution's weight."""
    module, kind = use.module, type(use.module).__name__
    if not isinstance(module, CONVOLUTIONS + TRANSPOSED):
        return None
    if module.groups > 1:
        return Finding("other", WHOLE, f"{kind} of {module.groups} groups")
    if isinstance(module, TRANSPOSED):
        return Finding("convolution", conv(transpose=True), f"{kind}: (outputs · taps) × inputs")
    return Finding("convolution", FLATTEN, f"{kind}: outputs × (inputs · taps)")


def _of_many_dimensions(parameter: Tensor, kind: str) -> Finding:
    """A parameter of more than two dimensions in a module of unknown layout."""
    if parameter.shape[0] == 1 and parameter.ndim == 3:
        # Activations are (batch, place, features): 1 stands for the batch.
        return Finding("embedding", WHOLE, f"{kind}: a row for each place, added to activations")
    return Finding("other", WHOLE, f"{parameter.ndim}-D parameter of {kind}, layout unknown")


def _torch_attention(use: Use) -> Finding | None:
    """A projection of torch's own MultiheadAttention, None for any other."""
    own = isinstance(use.module, nn.MultiheadAttention)
    attention = use.module if own else use.parent
    if not isinstance(attention, nn.MultiheadAttention):
        return None
    kind, count = type(attention).__name__, attention.num_heads
    if not own:
        return Finding("hidden matrix", WHOLE, f"{kind}: {use.child}", heads(count, dim=1))
    if use.attribute == "in_proj_weight":
        reason = f"{kind}: query, key and value in one"
        return Finding("fused QKV", split(3), reason, split(3, each=heads(count)))
    return Finding("hidden matrix", WHOLE, f"{kind}: {use.attribute}", heads(count))


def _gated(use: Use) -> Finding | None:
    """A matrix of a gated feed-forward part, by the shapes of its neighbours, None for any other.

    Three linear maps in one module, two d → r of one shape and one r → d; or one of transformers'
    with gate and up in one, which it takes apart as two blocks.
    """
    if use.parent is None or use.attribute != "weight":
        return None
    kind = type(use.parent).__name__
    if from_transformers(use.parent) and use.child in ("gate_up_proj", "Wi"):
        if use.parameter.shape[0] % 2 == 0:
            return Finding("gate/up", split(2), f"{kind}: gate and up in one")
        return None
    linear = [m for m in use.parent.children() if isinstance(m, nn.Linear)]
    outputs, inputs = use.parameter.shape
    if from_transformers(use.parent) and use.child in ("down_proj", "Wo"):
        fused = any((m.in_features, m.out_features) == (outputs, 2 * inputs) for m in linear)
        if fused:
            return Finding("down", WHOLE, f"{kind}: beside gate and up in one")
    shapes = Counter((m.out_features, m.in_features) for m in linear)
    if sorted(shapes.values()) != [1, 2]:
        return None
    (pair, _), (single, _) = shapes.most_common()
    if pair != single[::-1]:
        return None
    role = "gate/up" if (outputs, inputs) == pair else "down"
    return Finding(role, WHOLE, f"{kind}: two maps {pair[1]} → {pair[0]}, and one back")
