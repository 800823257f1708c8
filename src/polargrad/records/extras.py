"""Optional packages, imported when they are needed and named when they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from polargrad.errors import MissingExtraError


def require(module: str, *, extra: str) -> Any:
    """Import and return ``module``, which the extra ``polargrad[extra]`` installs.

    Raises:
        MissingExtraError: if it is not installed; the message holds the command that installs it.

    Example:
        >>> require("json", extra="language").dumps([1])
        '[1]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and module.split(".")[0] != error.name.split(".")[0]:
            raise  # the package is there, something below it is broken: not ours to explain
        raise MissingExtraError(
            f"this needs the package {module.split('.')[0]!r}, which is not installed: "
            f"pip install 'polargrad[{extra}]'"
        ) from None
