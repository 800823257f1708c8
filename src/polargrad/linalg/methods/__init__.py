"""The methods: each file describes one way to the polar factor and does it for a tall stack."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

from polargrad.linalg.descriptions import named_options, options_of
from polargrad.linalg.methods.gram_eigh import GramEigh
from polargrad.linalg.methods.gram_polynomial import GramPolynomial
from polargrad.linalg.methods.gram_zolotarev import GramZolotarev
from polargrad.linalg.methods.mixed_qdwh import MixedQDWH
from polargrad.linalg.methods.newton import Newton
from polargrad.linalg.methods.newton_schulz import NewtonSchulz
from polargrad.linalg.methods.polar_express import PolarExpress
from polargrad.linalg.methods.preconditioned_newton_schulz import PreconditionedNewtonSchulz
from polargrad.linalg.methods.qdwh import QDWH
from polargrad.linalg.methods.randomized_svd import RandomizedSVD
from polargrad.linalg.methods.svd import SVD
from polargrad.linalg.methods.zolotarev import Zolotarev

__all__ = [
    "METHODS",
    "QDWH",
    "SVD",
    "GramEigh",
    "GramPolynomial",
    "GramZolotarev",
    "Method",
    "MixedQDWH",
    "Newton",
    "NewtonSchulz",
    "PolarExpress",
    "PreconditionedNewtonSchulz",
    "RandomizedSVD",
    "Zolotarev",
    "label",
    "method",
    "plain",
]

Method = (
    SVD
    | RandomizedSVD
    | GramEigh
    | QDWH
    | MixedQDWH
    | Zolotarev
    | GramZolotarev
    | Newton
    | NewtonSchulz
    | PolarExpress
    | PreconditionedNewtonSchulz
    | GramPolynomial
)
METHODS: dict[str, type[Method]] = {kind.name: kind for kind in get_args(Method)}
# What a name alone stands for, made once: torch.compile cannot look into the making.
_DEFAULTS: dict[str, Method] = {
    name: kind()  # type: ignore[call-arg]  # all but the one that needs its rank
    for name, kind in METHODS.items()
    if kind is not RandomizedSVD
}

# The options of each method and whether each must be given, for the same reason.
_OPTIONS = {name: options_of(kind) for name, kind in METHODS.items()}


def method(spec: str | Mapping[str, Any] | Method) -> Method:
    """Return the method that a name, plain data or a description stands for.

    Raises:
        ValueError: for an unknown name or options that the method does not have.
        TypeError: for anything else.

    Example:
        >>> method("qdwh")
        QDWH(steps=None, lower_bound=None, polish=False)
        >>> method({"name": "qdwh", "steps": 2}).steps
        2
    """
    if isinstance(spec, Method):
        return spec
    if isinstance(spec, str) and spec in _DEFAULTS:
        return _DEFAULTS[spec]
    name, options = named_options("method", spec, _OPTIONS, "auto")
    return METHODS[name](**options)


def plain(description: Method) -> dict[str, Any]:
    """Return a description as plain data, which :func:`method` turns back into it.

    Example:
        >>> plain(QDWH(steps=2))
        {'name': 'qdwh', 'steps': 2, 'lower_bound': None, 'polish': False}
    """
    return {"name": description.name, **dataclasses.asdict(description)}


def label(description: Method) -> str:
    """Return a short text: the name, and the options that are not at their defaults.

    Example:
        >>> label(QDWH()), label(QDWH(steps=2))
        ('qdwh', 'qdwh(steps=2)')
    """
    changed = [
        f"{field.name}={getattr(description, field.name)}"
        for field in dataclasses.fields(description)
        if getattr(description, field.name) != field.default
    ]
    return f"{description.name}({', '.join(changed)})" if changed else description.name
