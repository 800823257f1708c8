"""The state of one optimizer as the state of another: Muon, PolarGrad and AdamW."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from polargrad.linalg.precision import working_dtype
from polargrad.optim.buffers import BUFFER
from polargrad.optim.entries import count_of
from polargrad.optim.matrix import STEP
from polargrad.optim.signal import FORMS

__all__ = ["convert_state"]

MOMENT = "exp_avg"
# What momentum is an average of, by order: only like goes to like.
AVERAGES = {
    "momentum-first": "gradients",
    "polar-first": "directions",
    "polyak": "steps",
}


@dataclass(frozen=True)
class Held:
    """What an optimizer holds of one parameter.

    Attributes:
        name: for messages.
        group: the options of its group.
        place: its position there.
        state: its state, never changed.
    """

    name: str
    group: Mapping[str, Any]
    place: int
    state: Mapping[str, Any]

    @property
    def is_adam(self) -> bool:
        """Whether AdamW steps it."""
        return self.group["rule"] == "adamw" if self.is_ours else "betas" in self.group

    @property
    def is_ours(self) -> bool:
        """Whether the optimizer is one of this package."""
        return "rule" in self.group

    @property
    def order(self) -> str:
        """Where momentum stands; AdamW's, and that of other packages, averages gradients."""
        return "momentum-first" if self.is_adam else str(self.group.get("order", "momentum-first"))


def convert_state(
    source: Optimizer | Mapping[str, Any] | Sequence[Optimizer | Mapping[str, Any]],
    target: Optimizer,
    *,
    momentum_form: str | None = None,
    warm_start: bool = False,
    steps: int | None = None,
) -> dict[str, Any]:
    r"""Return the state of an optimizer in the form that another one loads.

    .. math:: M_\text{EMA} = (1-\beta)\,M_\text{heavy ball}

    The average of the gradients carries over: between EMA and heavy ball by the factor above, with
    the source's β on the way in and the target's on the way out; from AdamW, if ``warm_start``, its
    first moment, which is that average with β₁. (``exp_avg`` is not divided by 1 − β₁ᵗ; neither is
    the momentum here, so both are short by the same part in the first steps.) AdamW's moments of
    vectors are copied, and so is the memory of Shampoo or SOAP between equal geometries and views.
    Options stay the target's: translate learning rates with
    :func:`polargrad.optim.translate.translate_lr`.

    Parameters are matched by name where both sides were made from ``named_parameters()``; then the
    target may have fewer. Otherwise they are matched by position and have to be equally many.

    Args:
        source: an optimizer, its ``state_dict()``, or several of them (Muon and AdamW apart).
        target: an optimizer of this package, ``torch.optim.Muon`` or ``torch.optim.AdamW``.
        momentum_form: ``"ema"`` or ``"heavy-ball"``, of a source that is neither of this package
            nor torch's Muon.
        warm_start: take AdamW's first moment as momentum where a matrix comes from AdamW.
        steps: how many steps the source has taken, for a target with ``bias_correction`` where the
            source does not count.

    Returns:
        A new dict for ``target.load_state_dict``; it shares no memory with source or target, and
        neither is changed.

    Raises:
        ValueError: for parameters that cannot be matched or differ in shape, an average of
            something else (polar-first), a second moment that is not there, an unknown form of
            momentum, or AdamW's moments for a matrix without ``warm_start``.
        TypeError: if ``source`` or ``target`` is something else.

    Example:
        >>> import polargrad as pg
        >>> X = torch.nn.Parameter(torch.eye(3))
        >>> muon = torch.optim.Muon([X], lr=0.02)
        >>> X.grad = torch.ones(3, 3)
        >>> muon.step()
        >>> optimizer = pg.PolarGrad([X], lr=0.1)
        >>> optimizer.load_state_dict(convert_state(muon, optimizer))
        >>> torch.equal(optimizer.state[X]["momentum_buffer"], muon.state[X]["momentum_buffer"])
        True

    Source: the two forms of momentum in torch.optim.Muon and in K. Jordan's first version.
    """
    if not isinstance(target, Optimizer):
        raise TypeError(f"target must be an optimizer, got {type(target).__name__}")
    if momentum_form not in (None, *FORMS):
        raise ValueError(f"momentum_form must be None, {', '.join(FORMS)}, got {momentum_form!r}")
    if steps is not None and not (isinstance(steps, int) and steps >= 1):
        raise ValueError(f"steps must be None or a positive integer, got {steps!r}")
    new: dict[str, Any] = copy.deepcopy({**target.state_dict(), "state": {}})
    wanted = list(_held(new, "target"))
    parameters = [p for group in target.param_groups for p in group["params"]]
    identifiers = [i for group in new["param_groups"] for i in group["params"]]
    found = _matched(source, wanted)
    for identifier, parameter, have, want in zip(
        identifiers, parameters, found, wanted, strict=True
    ):
        if have.state:
            own = _converted(have, want, parameter, momentum_form, warm_start, steps)
            if own:
                new["state"][identifier] = own
    return new


def _held(state_dict: Mapping[str, Any], role: str) -> Iterator[Held]:
    """What a state holds of each parameter, in order."""
    position = 0
    for group in state_dict["param_groups"]:
        if "betas" not in group and "momentum" not in group:
            raise ValueError(
                f"{role} must have momentum or betas in every group, got the options "
                f"{', '.join(key for key in group if key != 'params')}"
            )
        names = group.get("param_names")
        for place, identifier in enumerate(group["params"]):
            name = names[place] if names else f"number {position}"
            yield Held(name, group, place, state_dict["state"].get(identifier, {}))
            position += 1


def _matched(source: object, wanted: list[Held]) -> list[Held]:
    """What the source holds of each parameter of the target."""
    several = isinstance(source, Sequence) and not isinstance(source, str)
    parts = list(source) if isinstance(source, Sequence) and several else [source]
    held = [one for part in parts for one in _held(_state_dict(part), "source")]
    if all("param_names" in h.group for h in (*held, *wanted)):
        by_name = {h.name: h for h in held}
        if len(by_name) < len(held):
            twice = next(n for n in by_name if sum(h.name == n for h in held) > 1)
            raise ValueError(f"source has parameter {twice} more than once")
        for want in wanted:
            if want.name not in by_name:
                raise ValueError(
                    f"source has no parameter {want.name}, only {', '.join(list(by_name)[:4])}"
                    f"{', …' if len(by_name) > 4 else ''}"
                )
        return [by_name[want.name] for want in wanted]
    if len(held) != len(wanted):
        raise ValueError(
            f"source has {len(held)} parameters, target {len(wanted)}: give both "
            "named_parameters(), so that they can be matched by name"
        )
    return held


def _state_dict(source: object) -> Mapping[str, Any]:
    if isinstance(source, Optimizer):
        return source.state_dict()
    if isinstance(source, Mapping) and {"state", "param_groups"} <= set(source):
        return source
    raise TypeError(
        f"source must be an optimizer or its state_dict(), or a list of them, got "
        f"{type(source).__name__}"
    )


def _converted(
    have: Held,
    want: Held,
    parameter: Tensor,
    momentum_form: str | None,
    warm_start: bool,
    steps: int | None,
) -> dict[str, Any]:
    """The state of one parameter, as the target keeps it."""
    for key in (BUFFER, MOMENT):
        value = have.state.get(key)
        if isinstance(value, Tensor) and value.shape != parameter.shape:
            raise ValueError(
                f"{key} of parameter {want.name} must have the parameter's shape "
                f"{tuple(parameter.shape)}, got {tuple(value.shape)}"
            )
    if want.is_adam:
        return _moments(have, want)
    own: dict[str, Any] = {}
    if float(want.group["momentum"]):
        average = _average(have, want, momentum_form, warm_start)
        if average is not None:
            scale = 1.0
            if want.group.get("momentum_form") == "heavy-ball" and want.order != "polyak":
                scale = 1.0 / (1.0 - float(want.group["momentum"]))
            own[BUFFER] = average if scale == 1.0 else average * scale
            if want.group.get("bias_correction"):
                count = count_of(parameter, want.group["views"][want.place])
                own[STEP] = _count(have, want, steps, count)
    if _same_geometry(have, want):
        own.update(
            (key, value.clone())
            for key, value in have.state.items()
            if key not in (BUFFER, STEP, *own)
        )
    return own


def _moments(have: Held, want: Held) -> dict[str, Any]:
    """AdamW's state of a parameter."""
    keys = [STEP, MOMENT, "exp_avg_sq"]
    if want.group.get("amsgrad"):
        keys.append("max_exp_avg_sq")
    missing = [key for key in keys if key not in have.state]
    if missing:
        raise ValueError(
            f"AdamW needs {', '.join(missing)} of parameter {want.name}, and source holds "
            f"{', '.join(have.state)} alone: start it afresh, without its state in source"
        )
    values = {key: have.state[key] for key in keys}
    # A momentum of matrices counts for each; AdamW has one counter for all.
    values[STEP] = torch.as_tensor(values[STEP], dtype=torch.float32).max()
    return {key: value.clone() for key, value in values.items()}


def _average(have: Held, want: Held, momentum_form: str | None, warm_start: bool) -> Tensor | None:
    """The momentum as an average whose weights add up to 1, as new; None if there is none."""
    if have.is_adam:
        if not warm_start:
            raise ValueError(
                f"parameter {want.name} comes from AdamW, which keeps a first moment and no "
                "momentum: pass warm_start=True to begin with that, or start it afresh, without "
                "its state in source"
            )
        buffer = have.state.get(MOMENT)
        scale = 1.0
    else:
        buffer = have.state.get(BUFFER)
        scale = _weight(have, momentum_form)
    if buffer is None:
        if not have.is_ours and BUFFER not in have.state:
            raise ValueError(
                f"source must hold {BUFFER} of parameter {want.name}, got {', '.join(have.state)}"
            )
        return None
    if AVERAGES[have.order] != AVERAGES[want.order]:
        raise ValueError(
            f"the momentum of parameter {want.name} is one of {AVERAGES[have.order]} (order "
            f"{have.order!r}), and the target averages {AVERAGES[want.order]} (order "
            f"{want.order!r}): start it afresh"
        )
    wide: Tensor = buffer.detach().to(working_dtype(buffer.dtype), copy=True)
    return wide if scale == 1.0 else wide * scale


def _weight(have: Held, momentum_form: str | None) -> float:
    """What turns the momentum of a source into an average."""
    if have.order == "polyak":
        return 1.0
    if have.is_ours:
        form = have.group.get("momentum_form", "ema")
    elif "ns_coefficients" in have.group:  # torch.optim.Muon: a lerp, whatever its formula says
        form = "ema"
    elif momentum_form is None:
        raise ValueError(
            f"momentum_form must be given, ema or heavy-ball, got None: the options of source "
            f"({', '.join(key for key in have.group if key != 'params')}) do not say"
        )
    else:
        form = momentum_form
    return 1.0 if form == "ema" else 1.0 - float(have.group["momentum"])


def _count(have: Held, want: Held, steps: int | None, count: int) -> Tensor:
    """How many gradients the average of each matrix holds, for the correction of its bias."""
    if STEP in have.state:
        counts = torch.as_tensor(have.state[STEP], dtype=torch.float32)
        return counts.clone() if counts.shape == (count,) else counts.max().repeat(count)
    if steps is None:
        raise ValueError(
            f"target corrects the bias of its momentum, and source does not count the steps of "
            f"parameter {want.name}: pass steps="
        )
    return torch.full((count,), float(steps))


def _same_geometry(have: Held, want: Held) -> bool:
    """Whether what a geometry has accumulated means the same to the target."""
    if not (have.is_ours and want.is_ours) or have.is_adam:
        return False
    return bool(
        have.group.get("geometry") == want.group.get("geometry")
        and have.group["views"][have.place] == want.group["views"][want.place]
    )
