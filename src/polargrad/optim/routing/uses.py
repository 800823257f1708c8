"""Uses: the places where the modules of a model hold a parameter, and what stands around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from polargrad.optim.routing.views import View

# Modules that stand between a module and its place without being one: torch.compile's, activation
# checkpointing's, and the layer of peft around the layer it adapts.
WRAPPED = ("_orig_mod", "_checkpoint_wrapped_module", "base_layer")


class Finding(NamedTuple):
    """What a parameter was found to be.

    Attributes:
        role: a key of ``ROLES``.
        view: its logical matrices.
        reason: how it was found, in a few words.
        per_head: its view with one matrix for each attention head, where the heads are known.
    """

    role: str
    view: View
    reason: str
    per_head: View | None = None


@dataclass(frozen=True)
class Use:
    """One place where a module holds a parameter, itself or through a parametrization.

    Attributes:
        module: the module that computes with it.
        attribute: what it is called there.
        name: its qualified name in the model.
        parameter: the parameter.
        holders: the modules around ``module``, nearest first, each with the name under which it
            holds the one inside.
    """

    module: nn.Module
    attribute: str
    name: str
    parameter: Tensor
    holders: tuple[tuple[nn.Module, str], ...] = ()

    @property
    def parent(self) -> nn.Module | None:
        """The module around ``module``, wrappers apart."""
        return self._place[0]

    @property
    def child(self) -> str:
        """The name under which the parent holds ``module``."""
        return self._place[1]

    @property
    def _place(self) -> tuple[nn.Module | None, str]:
        return next(((m, name) for m, name in self.holders if name not in WRAPPED), (None, ""))


def origins(module: nn.Module) -> set[str]:
    """Return the packages from which a module's class and its bases come.

    Example:
        >>> origins(nn.Linear(1, 1)) >= {"torch"}
        True
    """
    return {kind.__module__.partition(".")[0] for kind in type(module).__mro__}


def from_transformers(module: nn.Module | None) -> bool:
    """Whether a module's class comes from transformers, or from a model that it has loaded."""
    return module is not None and not origins(module).isdisjoint(
        {"transformers", "transformers_modules"}
    )


def said(holder: object, name: str) -> Any:
    """Return an attribute of a module or of a configuration, None where there is no one answer.

    A configuration of transformers whose layers differ answers with an error of its own.
    """
    try:
        return getattr(holder, name, None)
    except Exception:
        return None


def trainable(model: nn.Module) -> Iterator[list[Use]]:
    """Yield the uses of each trainable parameter; parameters of one storage are tied."""
    uses: dict[object, list[Use]] = {}
    for use in _uses(model):
        uses.setdefault(_identity(use.parameter), []).append(use)
    # A parameter that is held twice as one object is stepped once; two objects on one storage are
    # two parameters for torch, and each is listed with the uses of both.
    for parameter in model.parameters():
        if parameter.requires_grad:
            every = uses[_identity(parameter)]
            own = [use for use in every if use.parameter is parameter]
            yield own + [use for use in every if use.parameter is not parameter]


def _uses(model: nn.Module) -> Iterator[Use]:
    """Yield every place where a module holds a parameter."""
    modules = dict(model.named_modules())
    for path, module in modules.items():
        for attribute, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{attribute}" if path else attribute
            if isinstance(module, ParametrizationList):  # "….parametrizations.weight", of "…"
                owner, _, tensor = path.rpartition("parametrizations.")
                owner = owner.removesuffix(".")
                yield Use(modules[owner], tensor, name, parameter, _holders(modules, owner))
            else:
                yield Use(module, attribute, name, parameter, _holders(modules, path))


def _holders(modules: dict[str, nn.Module], path: str) -> tuple[tuple[nn.Module, str], ...]:
    """The modules around a path, nearest first."""
    holders = []
    while path:
        path, _, name = path.rpartition(".")
        if path in modules:
            holders.append((modules[path], name))
    return tuple(holders)


def _identity(parameter: Tensor) -> object:
    """What makes two parameters the same memory: storage, offset and shape."""
    if parameter.is_meta or parameter.numel() == 0 or hasattr(parameter, "device_mesh"):
        return id(parameter)
    storage = parameter.untyped_storage().data_ptr()
    return (parameter.device, storage, parameter.storage_offset(), tuple(parameter.shape))
