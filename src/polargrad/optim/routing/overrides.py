"""The user's own word on parameters: patterns on names, module classes, or predicates."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from polargrad.optim.routing.policies import check_entry
from polargrad.optim.routing.uses import Use
from polargrad.optim.routing.views import View

Predicate = Callable[[str, nn.Module, Tensor], bool]
Pattern = str | type[nn.Module] | Predicate
Word = str | Mapping[str, Any]
# Of a mapping the type of the keys is invariant, so that no one type would take all patterns.
RoleRules = Mapping[Any, Word] | Sequence[tuple[Pattern, Word]]


class Told(NamedTuple):
    """What one of the user's rules says.

    Attributes:
        key: the pattern, class or predicate.
        pattern: how a message calls it.
        role: a key of ``ROLES``, None for the one that is found.
        view: a view, None for the one that is found.
        options: the rule and the options of the group.
    """

    key: Any
    pattern: str
    role: str | None
    view: View | None
    options: dict[str, Any]

    @property
    def says_what(self) -> bool:
        """Whether it says what the parameter is, and not only how it is stepped."""
        return self.role is not None or self.view is not None


def parse(roles: RoleRules | None, known: Sequence[str]) -> list[Told]:
    """Return the user's rules, checked as far as they can be without parameters.

    Raises:
        TypeError: for what is neither a mapping nor a list of pairs, or a key that is neither a
            string nor a module class nor a predicate.
        ValueError: for an unknown role or option.
    """
    return [_rule(key, word, known) for key, word in _pairs(roles)]


def _pairs(roles: RoleRules | None) -> Iterable[tuple[Any, Word]]:
    """Keys and words, in order."""
    if roles is None:
        return []
    if isinstance(roles, Mapping):
        return list(roles.items())
    if isinstance(roles, list | tuple) and all(
        isinstance(pair, tuple | list) and len(pair) == 2 for pair in roles
    ):
        return [(pair[0], pair[1]) for pair in roles]
    raise TypeError(f"roles must map patterns to roles, or be a list of such pairs, got {roles!r}")


def _rule(key: Any, word: Word, known: Sequence[str]) -> Told:
    """One of the user's rules."""
    if isinstance(key, type) and issubclass(key, nn.Module):
        pattern = key.__name__
    elif isinstance(key, str):
        pattern = repr(key)
    elif callable(key) and not isinstance(key, type):
        pattern = getattr(key, "__name__", repr(key))
    else:
        raise TypeError(
            "roles: a key must be a pattern on names, a module class or a function of (name, "
            f"module, parameter), got {key!r}"
        )
    options: dict[str, Any] = {"role": word} if isinstance(word, str) else dict(word)
    role, view = options.pop("role", None), options.pop("view", None)
    if role is not None and role not in known:
        raise ValueError(f"roles: {pattern} must be one of {', '.join(known)}, got {role!r}")
    check_entry(f"roles: {pattern}", {"rule": "matrix", **options})
    return Told(key, pattern, role, view, options)


def tell(every: list[list[Use]], rules: list[Told]) -> list[Told | None]:
    """Return for each parameter the first rule that matches it, None where none does.

    Raises:
        ValueError: for a rule that decides nothing.
    """
    told = [next((rule for rule in rules if _matches(rule.key, uses)), None) for uses in every]
    deciding = {id(word) for word in told if word is not None}
    for rule in rules:
        if id(rule) not in deciding:
            names = ", ".join(uses[0].name for uses in every[:5])
            raise ValueError(
                f"roles: the pattern {rule.pattern} matches no trainable parameter that an earlier "
                f"pattern has not taken; there are {names}, …"
            )
    return told


def _matches(key: Any, uses: list[Use]) -> bool:
    """Whether a key is meant for a parameter that is used in these places."""
    if isinstance(key, str):
        return any(fnmatch.fnmatchcase(use.name, key) for use in uses)
    if isinstance(key, type):
        return any(isinstance(use.module, key) for use in uses)
    return any(bool(key(use.name, use.module, use.parameter)) for use in uses)
