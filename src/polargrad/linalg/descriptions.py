"""Descriptions as plain data: a name and options, and back into a frozen dataclass."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["Options", "named_options", "options_of"]

# The options of a kind of description, and whether each must be given.
Options = Mapping[str, bool]


def options_of(kind: type[Any], without: Collection[str] = ()) -> dict[str, bool]:
    """Return the arguments of a dataclass but those ``without``, and whether each must be given."""
    return {
        field.name: field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        for field in dataclasses.fields(kind)
        if field.init and field.name not in without
    }


def named_options(
    what: str, spec: object, known: Mapping[str, Options], *more: str
) -> tuple[str, dict[str, Any]]:
    """Return the name and the options that a name or plain data gives.

    Args:
        what: how a message calls the argument.
        spec: a name, or a mapping with ``"name"`` and options.
        known: the options of each kind, by name.
        *more: names that a message lists too, for what is understood elsewhere.

    Raises:
        ValueError: for an unknown name, or options that the kind does not have or needs.
        TypeError: for anything else.

    Example:
        >>> named_options("shape", {"name": "disc", "radius": 2}, {"disc": {"radius": True}})
        ('disc', {'radius': 2})
    """
    if isinstance(spec, str):
        spec = {"name": spec}
    if not isinstance(spec, Mapping):
        raise TypeError(
            f"{what} must be a name, a description or its plain data, got {type(spec).__name__}"
        )
    given = dict(spec)
    name = given.pop("name", None)
    if name not in known:
        raise ValueError(f"{what} must be one of {', '.join([*more, *known])}, got {name!r}")
    options = known[name]
    unknown = [option for option in given if option not in options]
    if unknown:
        has = f"has the options {', '.join(options)}" if options else "has no options"
        raise ValueError(f"{what} {name!r} {has}, got {', '.join(map(repr, unknown))}")
    missing = [option for option, needed in options.items() if needed and option not in given]
    if missing:
        raise ValueError(f"{what} {name!r} needs the options {', '.join(missing)}, got {spec!r}")
    return name, given
