"""Attention in transformers' models: which rows of a projection belong to which head.

The layouts are those of transformers 5, where each attention class says in ``forward`` how it takes
its fused projection apart. Only classes of that package, and of this one, are read this way:
elsewhere an attribute's name is no evidence.
"""

from __future__ import annotations

from torch import nn

from polargrad.optim.routing.uses import Finding, Use, from_transformers, origins, said
from polargrad.optim.routing.views import WHOLE, View, heads, interleaved, split

FUSED = ("query_key_value", "qkv_proj", "qkv", "Wqkv", "c_attn", "att_proj")
INPUTS = (
    *("q_proj", "k_proj", "v_proj", "query", "key", "value", "q", "k", "v"),
    *("q_lin", "k_lin", "v_lin", "q_attn"),
)
OUTPUTS = ("o_proj", "out_proj", "o", "out_lin", "dense", "c_proj", "Wo", "proj", "projection")
# Query, value and key of each of four blocks: CodeGen was trained on a mesh of four.
CODEGEN_BLOCKS = 4


def attention_layout(use: Use, transpose: bool) -> Finding | None:
    """Return role and views of a projection in an attention module of known layout, or None.

    ``transpose`` says whether the weight is stored as (inputs, outputs), as GPT-2's are.
    """
    attention, child = use.parent, use.child
    if attention is None or use.attribute != "weight" or use.parameter.ndim != 2:
        return None
    if not from_transformers(attention) and "polargrad" not in origins(attention):
        return None
    kind = type(attention).__name__
    if "attention" not in kind.lower():
        return None
    turned = {"transpose": True} if transpose else {}
    rows, columns = use.parameter.shape[::-1] if transpose else use.parameter.shape
    count, key_count, size = _heads(attention)
    if child in FUSED:
        found = _fused(attention, child, rows)
        if found is None:
            return None
        view, per_head = found
        return Finding(
            "fused QKV",
            {**view, **turned},
            f"{kind}: {_parts(view)} in one",
            {**per_head, **turned} if per_head else None,
        )
    each: View | None = None
    if size and child in INPUTS and rows % size == 0 and rows // size in (count, key_count):
        each = heads(rows // size, transpose=transpose)
    if size and child in OUTPUTS and columns == count * size:
        each = heads(count, dim=1, transpose=transpose)
    if each is None:
        return None
    return Finding("hidden matrix", {**WHOLE, **turned}, f"{kind}: {child}", each)


def _parts(view: View) -> str:
    """What a fused projection holds."""
    count = view.get("parts") or len(view["sizes"])
    return "key and value" if count == 2 else "query, key and value"


def _fused(attention: nn.Module, child: str, rows: int) -> tuple[View, View | None] | None:
    """The views of a fused projection of so many rows: its parts, and its heads if they are known.

    None where the rows are not what the class is known to hold.
    """
    kind = type(attention).__name__
    count, key_count, size = _heads(attention)
    if child == "qkv_proj" and kind.startswith("CodeGen"):
        if rows % (3 * CODEGEN_BLOCKS):
            return None
        sizes = [rows // (3 * CODEGEN_BLOCKS)] * 3
        per_head = None
        if size and sizes[0] % size == 0:
            per_head = interleaved(groups=CODEGEN_BLOCKS, sizes=sizes, each=heads(count))
        return interleaved(groups=CODEGEN_BLOCKS, sizes=sizes), per_head
    if child == "c_attn" and getattr(attention, "is_cross_attention", False):
        each = heads(count) if size and rows == 2 * count * size else None
        return (split(2), split(2, each=each) if each else None) if rows % 2 == 0 else None
    grouped = child == "query_key_value" or "LightningAttention" in kind
    if child == "c_attn" and getattr(attention, "multi_query", True) is False:
        grouped = True  # GPTBigCode without it: query, key and value of each head
    if not size or (count + 2 * key_count) * size != rows:
        return (split(3), None) if rows % 3 == 0 and not grouped else None
    each_part = [heads(count), heads(key_count), heads(key_count)]
    if grouped and key_count > 1:
        sizes = [count // key_count * size, size, size]
        return (
            interleaved(groups=key_count, sizes=sizes),
            interleaved(groups=key_count, sizes=sizes, each=each_part),
        )
    if key_count == count:
        return split(3), split(3, each=heads(count))
    sizes = [count * size, key_count * size, key_count * size]
    return split(sizes), split(sizes, each=each_part)


def _heads(attention: nn.Module) -> tuple[int, int, int]:
    """How many query heads, how many key heads, and how many features each; 0 for unknown."""
    count = _number(attention, "num_heads", "num_attention_heads", "n_heads", "n_head")
    if getattr(attention, "multi_query", False) and not getattr(
        attention, "new_decoder_architecture", False
    ):
        key_count = 1
    else:
        key_count = _number(attention, "num_key_value_heads", "num_kv_heads", "kv_heads") or count
    size = _number(
        attention, "head_dim", "attention_head_size", "head_size", "key_value_proj_dim", "d_kv"
    )
    if not size and count:
        width = _number(attention, "embed_dim", "hidden_size", "d_model", "dim", "all_head_size")
        size = width // count
    return count, key_count, size if count else 0


def _number(attention: nn.Module, *names: str) -> int:
    """The first positive integer of these names, of the module itself or of its configuration."""
    for holder in (attention, said(attention, "config")):
        for name in names:
            value = said(holder, name)
            if isinstance(value, int) and value > 0:
                return value
    return 0
