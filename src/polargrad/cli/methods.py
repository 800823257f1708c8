"""``polargrad methods``: the table of methods."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from polargrad.geometry import taxonomy

FLAG = tyro.conf.arg(help_behavior_hint="")


@dataclass(frozen=True)
class Methods:
    """List the methods of the paper's frame and which optimizer of this package each one is.

    For every method: whether it sees the parameter as a vector or as a matrix, which anisotropy it
    addresses, with which preconditioner, whether its step goes to zero with the gradients, the
    degree of its step in their scale, the symmetries that it commutes with and a bound on the
    condition number of its update; below, its update and the class that it is.
    """

    json: Annotated[bool, FLAG] = False
    """Print the entries as JSON instead of a table."""

    def run(self) -> int:
        """Print the table and return the exit code."""
        if self.json:
            print(json.dumps(taxonomy.to_data(), ensure_ascii=False, indent=2))
        else:
            print(taxonomy.as_text())
        return 0
