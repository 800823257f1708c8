"""The engine: one torch.optim.Optimizer whose presets are points of one small space."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from polargrad.errors import NonFiniteError
from polargrad.linalg.precision import working_dtype
from polargrad.optim.group_options import (
    check_group,
    check_matrix_options,
    check_ordered,
    check_vector_options,
    named_parameters,
    split_by_rule,
)
from polargrad.optim.matrix import BUFFER, decay_factor, matrix_update
from polargrad.optim.vector import adamw_update

__all__ = ["MatrixOptimizer"]

NONFINITE = ("skip", "raise")


class MatrixOptimizer(Optimizer):
    r"""Steepest descent over matrices in the spectral norm, with AdamW for all else, in one object.

    .. math::
       \begin{aligned}
         &\text{momentum-first:} & M &\leftarrow \beta M + (1-\beta) G, &
             U H &= \operatorname{polar}(M), & u &= U \\
         &\text{polar-first:} & U H &= \operatorname{polar}(G), &
             M &\leftarrow \beta M + (1-\beta) U, & u &= M \\
         & & X &\leftarrow (1 - \gamma\lambda) X - \gamma\, a\, u
       \end{aligned}

    with :math:`a = \operatorname{tr} H` (``magnitude="nuclear"``), 1, or a factor of the shape;
    with ``nesterov`` :math:`\beta M + (1-\beta)\,\cdot` takes the place of M. The presets
    :class:`polargrad.PolarGrad` and :class:`polargrad.Muon` are points of this space; use the
    engine itself for any other.

    A step is a transaction: a gradient that is not finite changes neither parameters nor state nor
    counters, of any group. A parameter without a gradient is left alone. A zero gradient at zero
    state changes nothing but decay. Matrices of one shape share one batched polar decomposition.

    Args:
        params: parameters, ``named_parameters()``, or groups, best from
            :func:`polargrad.param_groups`. Of a plain list, matrices take the matrix rule and what
            has fewer than two dimensions takes AdamW with ``vector_lr``.
        lr: γ, a number or a tensor of one.
        momentum: β in [0, 1); 0 keeps no state.
        order: ``"momentum-first"`` or ``"polar-first"``.
        nesterov: see above.
        magnitude: ``"nuclear"``, ``"unit"``, ``"original"`` or ``"match_rms_adamw"``
            (:func:`polargrad.geometry.magnitude`).
        weight_decay: λ. With the nuclear magnitude refused where γλ ≥ 0.1.
        decay_per_step: λ' in [0, 1): multiplies by (1 − λ'·lr/initial lr) instead, which follows
            the schedule but not the unit of γ.
        method: how the polar factor is computed: ``"auto"``, a name, a description such as
            ``QDWH()``, or its plain data; see :func:`polargrad.polar`.
        tol: the tolerance of ``"auto"`` on the singular values of the factor; None for converged.
        compute_dtype: dtype of the products of a polynomial method; None for float32 at least.
        nonfinite: ``"skip"`` (on a GPU without any host synchronization) or ``"raise"`` (one).
        vector_lr: AdamW's learning rate, never taken from ``lr``.
        vector_betas: AdamW's betas.
        vector_eps: AdamW's eps.
        vector_weight_decay: AdamW's decoupled decay.

    Raises:
        ValueError: for an option outside its range, a vector without ``vector_lr``, a parameter
            twice, or no matrix at all.
        TypeError: for a complex, integer or sharded parameter.
        NonFiniteError: in :meth:`step`, with ``nonfinite="raise"``.

    Example:
        >>> X = torch.nn.Parameter(torch.eye(3))
        >>> optimizer = MatrixOptimizer([X], lr=0.1, magnitude="unit", method="svd")
        >>> X.square().sum().backward()
        >>> optimizer.step()
        >>> X.detach().diag()
        tensor([0.9000, 0.9000, 0.9000])

    Source: arXiv 2505.21799, section 4; the design of the update rule in this module's layer.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        *,
        momentum: float = 0.0,
        order: str = "momentum-first",
        nesterov: bool = False,
        magnitude: str = "nuclear",
        weight_decay: float = 0.0,
        decay_per_step: float = 0.0,
        method: Any = "auto",
        tol: float | None = 0.11,
        compute_dtype: torch.dtype | str | None = None,
        nonfinite: str = "skip",
        vector_lr: float | Tensor | None = None,
        vector_betas: tuple[float, float] = (0.9, 0.999),
        vector_eps: float = 1e-8,
        vector_weight_decay: float = 0.0,
    ) -> None:
        if nonfinite not in NONFINITE:
            raise ValueError(f"nonfinite must be one of {', '.join(NONFINITE)}, got {nonfinite!r}")
        self.nonfinite = nonfinite
        self._skipped: int | Tensor = 0
        self._vector_defaults = {
            "lr": vector_lr,
            "betas": vector_betas,
            "eps": vector_eps,
            "weight_decay": vector_weight_decay,
        }
        check_vector_options(self._vector_defaults)
        check_ordered(params)
        defaults: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "order": order,
            "nesterov": nesterov,
            "magnitude": magnitude,
            "weight_decay": weight_decay,
            "decay_per_step": decay_per_step,
            "method": method,
            "tol": tol,
            "compute_dtype": compute_dtype,
        }
        check_matrix_options(defaults)  # torch copies them into every group
        super().__init__(params, defaults)
        if not any(g["params"] for g in self.param_groups if g["rule"] == "matrix"):
            raise ValueError(
                f"params hold no matrix among {sum(len(g['params']) for g in self.param_groups)} "
                "parameters: use torch.optim.AdamW, or polargrad.param_groups(model, roles=...)"
            )

    @property
    def skipped_steps(self) -> int:
        """How many steps were skipped for a gradient that was not finite (waits for the device)."""
        return int(self._skipped)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, checked whole before anything changes; a mixed list becomes two groups.

        Raises:
            ValueError, TypeError: as the constructor.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, got {type(param_group).__name__}")
        if "params" not in param_group:
            raise ValueError(f"param_group must have params, got {', '.join(param_group)}")
        group = dict(param_group)
        check_ordered(group["params"])
        if not isinstance(group["params"], Tensor):
            group["params"] = list(group["params"])  # a generator is read once
        present = {id(p) for g in self.param_groups for p in g["params"]}
        groups = split_by_rule(group, self._vector_defaults, self.defaults)
        for new in groups:
            for key, value in self.defaults.items():
                new.setdefault(key, value)
            named = named_parameters(new)
            for name, parameter in named:
                if id(parameter) in present:
                    raise ValueError(f"parameter {name} appears more than once")
                present.add(id(parameter))
            check_group(new, named)
        for new in groups:
            super().add_param_group(new)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one step; ``closure`` recomputes the loss and is run once, under enabled grad.

        Returns:
            What ``closure`` returned, or None.

        Raises:
            NonFiniteError: for a gradient that is not finite, with ``nonfinite="raise"``.
            RuntimeError: for a sparse gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        active = [self._active(group) for group in self.param_groups]
        finite = self._all_finite(list(itertools.chain.from_iterable(active)))
        if finite is None:
            return loss
        gate: Tensor | None = None
        if self._gated(finite):
            gate = finite
            self._skipped = self._skipped + finite.logical_not().int()
        elif not bool(finite):
            self._skipped = self._skipped + 1
            return loss
        # All that can still be refused is refused before the first group changes.
        decays = [decay_factor(g) if g["rule"] == "matrix" else None for g in self.param_groups]
        for group, params, decay in zip(self.param_groups, active, decays, strict=True):
            if not params:
                continue
            if group["rule"] == "adamw":
                adamw_update(group, params, self.state, gate)
            else:
                kept = {id(p) for p in params}
                views = [
                    v for p, v in zip(group["params"], group["views"], strict=True) if id(p) in kept
                ]
                matrix_update(group, params, views, self.state, gate, decay)
        return loss

    def _active(self, group: dict[str, Any]) -> list[Tensor]:
        """The parameters of a group that have a gradient."""
        active = [p for p in group["params"] if p.grad is not None]
        if any(p.grad.is_sparse for p in active):
            name = next(
                n for n, p in named_parameters(group) if p.grad is not None and p.grad.is_sparse
            )
            raise RuntimeError(
                f"parameter {name} has a sparse gradient, which no rule here reads: "
                "use Embedding(sparse=False)"
            )
        return active

    def _all_finite(self, params: list[Tensor]) -> Tensor | None:
        """One boolean tensor for all gradients, None if there are none; may raise, as was asked."""
        gradients = [p.grad for p in params if p.grad is not None and p.grad.numel()]
        if not gradients:
            return None
        device = gradients[0].device
        # Wide enough for each: what float64 holds may be infinite in float32.
        wide = torch.float64 if any(g.dtype == torch.float64 for g in gradients) else torch.float32
        # The largest magnitude of a tensor is NaN or infinite exactly if one of its entries is.
        largest = torch._foreach_norm(gradients, float("inf"))
        finite = torch.isfinite(torch.stack([x.to(device, wide) for x in largest])).all()
        if self.nonfinite == "raise" and not bool(finite):
            bad = [n for g in self.param_groups for n, p in named_parameters(g) if _broken(p)]
            raise NonFiniteError(
                f"the gradient of {', '.join(bad[:5])} is not finite ({len(bad)} parameters in "
                "all); parameters and state are as they were"
            )
        return finite

    def _gated(self, finite: Tensor) -> bool:
        """Whether the verdict stays on the device: on a CPU reading it costs nothing."""
        return finite.device.type != "cpu" and self.nonfinite == "skip"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, checked against the parameters before anything changes.

        Momentum keeps its own dtype: float32 beside bfloat16 parameters stays float32.

        Raises:
            ValueError: if groups, rules, views or shapes are those of another model.
        """
        loaded: dict[str, Any] = {}

        def check(_: Optimizer, adapted: dict[str, Any]) -> None:
            self._check_loadable(adapted)
            loaded.update(adapted)

        # Last of the hooks before and first of those after: the user's may adapt the state.
        before = self.register_load_state_dict_pre_hook(check)
        after = self.register_load_state_dict_post_hook(
            lambda _: self._restore(loaded), prepend=True
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()

    def _restore(self, state_dict: dict[str, Any]) -> None:
        """Undo what torch does to a loaded state: it casts momentum and leaves counters behind."""
        for saved_id, (_, parameter) in self._pairs(state_dict):
            for key, value in state_dict["state"].get(saved_id, {}).items():
                if key == BUFFER:
                    dtype = working_dtype(parameter.dtype)
                    self.state[parameter][key] = value.to(parameter.device, dtype, copy=True)
                elif key == "step":
                    self.state[parameter][key] = value.to(parameter.device)

    def _pairs(self, state_dict: dict[str, Any]) -> Iterator[tuple[int, tuple[str, Tensor]]]:
        """The identifiers of a state with our parameters and their names, in order."""
        saved_ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        named = [pair for group in self.param_groups for pair in named_parameters(group)]
        return zip(saved_ids, named, strict=True)

    def _check_loadable(self, state_dict: dict[str, Any]) -> None:
        """Raise ValueError unless the state is one of parameters like ours."""
        mine = [(g["rule"], len(g["params"])) for g in self.param_groups]
        theirs = [(g.get("rule"), len(g["params"])) for g in state_dict["param_groups"]]
        if mine != theirs:
            raise ValueError(
                f"state_dict has the groups (rule, parameters) {theirs}, this optimizer {mine}"
            )
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for (name, _), ours, view in zip(
                named_parameters(group), group["views"], saved["views"], strict=True
            ):
                if ours != view:
                    raise ValueError(
                        f"state_dict is of another model or other roles: parameter {name} has the "
                        f"view {view} there, {ours} here"
                    )
        for saved_id, (name, parameter) in self._pairs(state_dict):
            for key, value in state_dict["state"].get(saved_id, {}).items():
                if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                    raise ValueError(
                        f"state_dict is of another model: {key} of parameter {name} has shape "
                        f"{tuple(value.shape)}, the parameter {tuple(parameter.shape)}"
                    )

    def __getstate__(self) -> dict[str, Any]:
        own = ("nonfinite", "_skipped", "_vector_defaults")
        return {**super().__getstate__(), **{key: self.__dict__[key] for key in own}}


def _broken(parameter: Tensor) -> bool:
    """Whether a parameter has a gradient that is not finite."""
    return parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
