"""The errors of this package that are not plain ValueError or TypeError.

Wrong arguments raise ``ValueError`` or ``TypeError`` where they are given. What goes wrong later
(a gradient that is not finite, a folder that holds another run) raises a subclass of
:class:`PolarGradError`, whose message says which parameter, file or value it was and what to do.
"""

from __future__ import annotations

__all__ = [
    "CollectiveError",
    "DataError",
    "MissingExtraError",
    "NonFiniteError",
    "PolarGradError",
    "RankDeficiencyWarning",
    "RunFolderError",
    "ToleranceError",
    "ToleranceWarning",
]


class PolarGradError(RuntimeError):
    """Base of every run-time error of this package."""


class NonFiniteError(PolarGradError):
    """A matrix or a gradient holds an infinite or undefined entry."""


class CollectiveError(PolarGradError):
    """Processes that share parameters could not speak to each other, or hold different ones."""


class ToleranceError(PolarGradError, ValueError):
    """No method keeps the tolerance that was asked for, or the one that ran has not kept it."""


class ToleranceWarning(UserWarning):
    """A tolerance was not kept, where the caller asked to be told rather than stopped."""


class RankDeficiencyWarning(UserWarning):
    """A matrix is singular to rounding where a derivative was asked for that does not exist."""


class DataError(PolarGradError):
    """Data are missing, damaged, too short, or not what they should be."""


class RunFolderError(PolarGradError):
    """An output folder or a checkpoint belongs to something else."""


class MissingExtraError(PolarGradError, ImportError):
    """A feature needs packages of an extra that is not installed."""
