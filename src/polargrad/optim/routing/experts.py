"""Mixtures of experts: stacked experts, lists of experts, and the routers beside them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from polargrad.optim.routing.uses import Finding, Use, from_transformers
from polargrad.optim.routing.views import WHOLE, View, experts, interleaved, split

TURNED: View = {**WHOLE, "transpose": True}
# What the experts of transformers call their matrices.
STACKED = ("gate_up_proj", "gate_proj", "up_proj", "down_proj")


def find_experts(model: nn.Module) -> dict[int, Finding]:
    """Return what the shapes of neighbours say of experts and routers, by parameter's ``id``.

    A router has one row for each expert: a matrix (E, d) in the module that also holds a list of E
    equal modules which take d features, or at least two parameters (E, ·, ·) with d among their
    dimensions.

    Example:
        >>> block = nn.ModuleDict(
        ...     {
        ...         "gate": nn.Linear(8, 4),
        ...         "experts": nn.ModuleList(
        ...             nn.Sequential(nn.Linear(8, 9), nn.Linear(9, 8)) for _ in range(4)
        ...         ),
        ...     }
        ... )
        >>> [(found.role, found.reason) for found in find_experts(block).values()]
        [('router', 'one row for each of 4 experts beside it')]
    """
    found: dict[int, Finding] = {}
    for module in model.modules():
        found |= {id(p): bias for p, bias in _stacked_biases(module)}
        holders = [module, *module.children()]
        for holder in holders:
            stacks, lists = _stacks(holder), list(_list_of_experts(holder))
            for router in (p for other in holders if other is not holder for p in _tables(other)):
                count, width = router.shape
                beside = [p for p in stacks if p.shape[0] == count]
                connected = len(beside) > 1 and all(width in p.shape[1:] for p in beside)
                if connected:
                    reason = f"{count} matrices, beside a router of {count} rows"
                    for p in beside:
                        found[id(p)] = Finding("stacked experts", experts(), reason)
                if connected or (count, width) in lists:
                    reason = f"one row for each of {count} experts beside it"
                    found[id(router)] = Finding("router", WHOLE, reason)
    return found


def _tables(module: nn.Module) -> list[Tensor]:
    """The matrices of two rows and more that a module holds itself, embeddings apart."""
    if isinstance(module, nn.Embedding):
        return []
    return [p for p in module.parameters(recurse=False) if p.ndim == 2 and p.shape[0] > 1]


def _stacked_biases(module: nn.Module) -> Iterator[tuple[Tensor, Finding]]:
    """The (E, m) beside an (E, m, n) or (E, n, m): one bias for each matrix of the stack."""
    for bias in _tables(module):
        for p in _stacks(module):
            if p.shape[0] == bias.shape[0] and bias.shape[1] in p.shape[1:]:
                reason = f"a bias for each of the {p.shape[0]} matrices beside it"
                yield bias, Finding("vector", WHOLE, reason)


def _stacks(module: nn.Module) -> list[Tensor]:
    """The parameters (E, ·, ·) that a module holds itself, E at least 2."""
    own = module.parameters(recurse=False)
    return [p for p in own if p.ndim == 3 and p.shape[0] > 1 and min(p.shape[1:]) > 1]


def _list_of_experts(module: nn.Module) -> Iterator[tuple[int, int]]:
    """The (E, d) of a list of E equal modules that take d features, for each d inside them."""
    children = list(module.children())
    if not isinstance(module, nn.ModuleList) or len(children) < 2:
        return
    if len({type(child) for child in children}) > 1 or not list(children[0].children()):
        return
    for linear in children[0].children():
        if isinstance(linear, nn.Linear):
            yield len(children), linear.in_features


def expert_layout(use: Use) -> Finding | None:
    """Return what a parameter of transformers' experts and routers is, or None.

    Their classes say how many experts there are, whether matrices are stored as (inputs, outputs)
    (``is_transposed``) and whether gate and up are two blocks or take turns (``is_concatenated``).
    """
    module, p = use.module, use.parameter
    if isinstance(module, nn.Linear) and from_transformers(use.parent):
        if use.attribute != "weight" or "Router" not in type(use.parent).__name__:
            return None
        return Finding("router", WHOLE, f"{type(use.parent).__name__}: {use.child}")
    if not from_transformers(module):
        return None
    kind, count = type(module).__name__, getattr(module, "num_experts", None)
    if kind == "DbrxExpertGLU" and p.ndim == 2:
        # Stacked along the rows; w2 is stored as (inputs, outputs).
        count = int(module.moe_num_experts)  # type: ignore[arg-type]
        down = use.attribute == "w2"
        role = "expert down" if down else "expert gate/up"
        return Finding(
            role, split(count, each=TURNED if down else None), f"{kind}: {count} experts"
        )
    if p.ndim == 3 and use.attribute in STACKED and "Experts" in kind:
        return _stacked(use, p.shape[0])
    if not isinstance(count, int) or p.shape[0] != count:
        return None
    if p.ndim == 2 and use.attribute.endswith("bias"):
        return Finding("vector", WHOLE, f"{kind}: a bias for each of {count} experts")
    if p.ndim == 2 and use.attribute == "weight" and hasattr(module, "top_k"):
        return Finding("router", WHOLE, f"{kind}: one row for each of {count} experts")
    if p.ndim == 3:
        return _stacked(use, count)
    return None


def _stacked(use: Use, count: int) -> Finding:
    """The matrices of stacked experts."""
    module, kind, attribute = use.module, type(use.module).__name__, use.attribute
    transpose = bool(getattr(module, "is_transposed", kind.startswith("Llama4")))
    each: View = TURNED if transpose else WHOLE
    if attribute == "gate_up_proj":
        turns = interleaved if getattr(module, "is_concatenated", True) is False else split
        each = turns(2, transpose=transpose)
        role, holds = "expert gate/up", "gate and up of "
    elif attribute in ("up_proj", "gate_proj"):
        role, holds = "expert gate/up", ""
    elif attribute == "down_proj":
        role, holds = "expert down", ""
    else:
        role, holds = "stacked experts", ""
    return Finding(
        role, experts(each if each != WHOLE else None), f"{kind}: {holds}{count} experts"
    )
