"""The engine: one torch.optim.Optimizer whose presets are points of one small space."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from polargrad.distributed import Sharing
from polargrad.geometry import Geometry
from polargrad.geometry import geometry as geometry_of
from polargrad.optim.agreement import agreed
from polargrad.optim.early_looks import Look, early_looks
from polargrad.optim.gradients import (
    active,
    all_finite,
    finite_on_host,
    place_like_parameters,
    refuse_nonfinite,
    refuse_sparse,
    warn_of_no_gradient,
)
from polargrad.optim.group_members import (
    VECTOR_KEYS,
    check_ordered,
    named_parameters,
    refuse_no_matrix,
    share_lr,
    split_by_rule,
)
from polargrad.optim.group_options import (
    GROUP_OPTIONS,
    OF_EVERY_RULE,
    OF_GROUPS,
    check_capturable,
    check_group,
    check_matrix_options,
    check_vector_options,
    settle_step_size,
    warn_of_misspellings,
)
from polargrad.optim.matrix import matrix_update
from polargrad.optim.rounding import count_attempts
from polargrad.optim.saved_state import SKIPPED, check_loadable, in_our_order, migrate, restore
from polargrad.optim.stages import stage
from polargrad.optim.step_size import FOUND, GIVEN, decay_factor
from polargrad.optim.vector import adamw_update

__all__ = ["MatrixOptimizer"]

NONFINITE = ("skip", "raise")


class MatrixOptimizer(Optimizer):
    r"""Steepest descent over matrices in a norm, with AdamW for all else, in one object.

    .. math::
       \begin{aligned}
         &\text{signal} & s &= \text{a momentum of } G,\text{ or } G \\
         &\text{direction} & d &= \arg\max_{\|D\| \le 1} \langle s, D\rangle \\
         &\text{magnitude} & a &= \|s\|_*^\alpha,\; 1,\text{ or a factor of the shape} \\
         &\text{step} & X &\leftarrow (1 - \gamma\lambda) X - \gamma\, a\, u
       \end{aligned}

    with u = d, or a momentum of directions. Every preset of this package, from
    :class:`polargrad.PolarGrad` and :class:`polargrad.Muon` to :class:`polargrad.optim.SOAP`, is a
    point of this space; use the engine itself for any other.

    ``order``, with :math:`M \leftarrow \beta M + (1-\beta)\,\cdot` (``momentum_form="ema"``) or
    :math:`M \leftarrow \beta M + \cdot` (``"heavy-ball"``):

    ======================  ==============================================================
    ``"momentum-first"``    s is the momentum of G; u = d
    ``"polar-first"``       s = G; u is the momentum of d; the magnitude is that of G
    ``"polyak"``            s = G; :math:`V \leftarrow \beta V + \gamma a d`, and V is subtracted
    ======================  ==============================================================

    With ``nesterov`` :math:`\beta M + (1-\beta)\,\cdot` (or :math:`\beta M + \cdot`) takes the
    place of M, with a number a in (0, 1) :math:`(1-a) M + a\,\cdot`; with ``bias_correction`` M is
    divided by :math:`1-\beta^t`.

    A step is a transaction: a gradient that is not finite changes neither parameters nor state nor
    counters, of any group. A parameter without a gradient is left alone. A zero gradient at zero
    state changes nothing but decay. Matrices of one shape share one batched direction, a stack of
    at most 64 MiB at a time.

    Args:
        params: parameters, ``named_parameters()``, or groups, best from
            :func:`polargrad.param_groups`. Of a plain list, matrices take the matrix rule and what
            has fewer than two dimensions takes AdamW with ``vector_lr``.
        lr: γ, a number or a tensor of one; None for a size that the run finds, of which a schedule
            moves the multiplier 1 (:func:`polargrad.optim.step_size.followed`).
        geometry: the norm or explicit preconditioner: a name, a description such as
            ``LargestRow()``, or its plain data (:mod:`polargrad.geometry`).
        magnitude: ``"dual_norm"``, ``"unit"``, or a factor of the shape
            (:func:`polargrad.geometry.magnitude`).
        exponent: α, of the dual norm.
        momentum: β in [0, 1); 0 keeps no state.
        momentum_form, order, nesterov, bias_correction: see above.
        weight_decay: λ. With the dual norm as magnitude refused where γλ ≥ 0.1.
        decay_per_step: λ' in [0, 1): multiplies by (1 − λ'·lr/initial lr) instead, which follows
            the schedule but not the unit of γ.
        first_step: with lr=None, the size of the first step in the norm; None for 0.05 of the root
            mean square of each matrix's singular values.
        step_rate: with lr=None, η, by which a step size follows; None for 0.1.
        max_dual_norm: clips each matrix's signal to this dual norm; None for no bound.
        method: how a polar factor is computed: ``"auto"``, a name, a description such as
            ``QDWH()``, or its plain data; see :func:`polargrad.polar`.
        tol: the tolerance of ``"auto"`` on the singular values of the factor; None for converged.
        compute_dtype: dtype of the products of a polynomial method; None for float32 at least.
        approximation: None for directions that are exact in every step, or
            ``{"name": "rounds", "every": 4}``, ``{"name": "sketch", "rank": 16}``, or a
            description (:mod:`polargrad.optim.approximations`).
        state_dtype: dtype of the momentum; None for that of the parameter, float32 at least.
        rounding: ``"nearest"``, or ``"stochastic"`` for bfloat16 matrices
            (:func:`polargrad.optim.rounding.round_stochastically`).
        rounding_seed: decides its random bits, with the step and the matrix.
        maximize: ascend instead.
        foreach: False for a loop over parameters in elementwise work; None and True for lists.
        capturable: never read a value on the host, on a CPU too, so that the step can be recorded.
        differentiable: must be False: a step is not differentiated.
        nonfinite: ``"skip"`` (on a GPU without any host synchronization) or ``"raise"`` (one).
        shared_lr: keep one ``lr`` in every group, and the ratio of each group's own to it in its
            ``lr_scale``, for loops that write one number into every group.
        vector_lr: AdamW's learning rate, never taken from ``lr``.
        vector_betas: AdamW's betas.
        vector_eps: AdamW's eps.
        vector_weight_decay: AdamW's decoupled decay.
        process_group: the processes that hold equal copies of all plain parameters, with equal
            gradients, as under ``DistributedDataParallel``: each matrix is then worked on by one
            of them. None: by each. DTensors say themselves who shares them (``docs/distributed``).

    Raises:
        ValueError: for an option outside its range or without effect, a vector without
            ``vector_lr``, a parameter twice, or no matrix at all.
        TypeError: for a complex or integer parameter, or one whose matrix cannot be restored.
        NonFiniteError: in :meth:`step`, with ``nonfinite="raise"``.
        CollectiveError: in :meth:`step`, where processes that share parameters cannot agree.

    Example:
        >>> X = torch.nn.Parameter(torch.eye(3))
        >>> optimizer = MatrixOptimizer([X], lr=0.1, magnitude="unit", method="svd")
        >>> X.square().sum().backward()
        >>> optimizer.step()
        >>> X.detach().diag()
        tensor([0.9000, 0.9000, 0.9000])

    Source: arXiv 2505.21799, sections 3 and 4; the table of ``docs/methods.md``.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None = None,
        *,
        geometry: str | dict[str, Any] | Geometry = "spectral",
        magnitude: str = "dual_norm",
        exponent: float = 1.0,
        momentum: float = 0.0,
        momentum_form: str = "ema",
        order: str = "momentum-first",
        nesterov: bool | float = False,
        bias_correction: bool = False,
        weight_decay: float = 0.0,
        decay_per_step: float = 0.0,
        first_step: float | None = None,
        step_rate: float | None = None,
        max_dual_norm: float | None = None,
        method: Any = "auto",
        tol: float | None = 0.11,
        compute_dtype: torch.dtype | str | None = None,
        approximation: Any = None,
        state_dtype: torch.dtype | str | None = None,
        rounding: str = "nearest",
        rounding_seed: int = 0,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        nonfinite: str = "skip",
        shared_lr: bool = False,
        vector_lr: float | Tensor | None = None,
        vector_betas: tuple[float, float] = (0.9, 0.999),
        vector_eps: float = 1e-8,
        vector_weight_decay: float = 0.0,
        process_group: ProcessGroup | None = None,
    ) -> None:
        given = dict(locals())
        if nonfinite not in NONFINITE:
            raise ValueError(f"nonfinite must be one of {', '.join(NONFINITE)}, got {nonfinite!r}")
        self.nonfinite, self.capturable, self.shared_lr = nonfinite, capturable, shared_lr
        self._sharing = Sharing(process_group)
        # Changed in place: an attribute that is set anew is lost to torch.compile.
        with torch.inference_mode(False):
            self._skipped = torch.zeros((), dtype=torch.int64, device="cpu")
        self._vector_defaults = {key: given[f"vector_{key}"] for key in VECTOR_KEYS}
        check_vector_options(self._vector_defaults)
        check_ordered(params)
        given["step_size"] = FOUND if lr is None else GIVEN
        defaults = {"lr_scale": 1.0, **{key: given[key] for key in GROUP_OPTIONS}}
        settle_step_size(defaults)
        check_matrix_options(defaults)  # torch copies them into every group
        super().__init__(params, defaults)
        refuse_no_matrix(self.param_groups)

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
        names = {name for g in self.param_groups for name in g.get("param_names", ())}
        of_matrices = [key for key in self.defaults if key not in OF_EVERY_RULE]
        vectors = [g for g in self.param_groups if g["rule"] == "adamw"]
        adamw = dict(self._vector_defaults)
        if adamw["lr"] is None and vectors:  # as those that are there already
            first = vectors[0]
            began = self.defaults["lr"] if self.shared_lr else first.get("initial_lr", first["lr"])
            adamw["lr"] = began * first["lr_scale"]
        groups = split_by_rule(group, adamw, of_matrices)
        for new in groups:
            if new["rule"] == "matrix":
                settle_step_size(new)
            for key, value in self.defaults.items():
                new.setdefault(key, value)
            named = named_parameters(new)
            for name, parameter in named:
                if id(parameter) in present:
                    raise ValueError(f"parameter {name} appears more than once")
                if name in names:
                    raise ValueError(f"the name {name} is given to two parameters of the optimizer")
                present.add(id(parameter))
            check_group(new, named)
            warn_of_misspellings(new, [*self.defaults, *OF_GROUPS])
            if self.capturable:
                check_capturable(new, [p for _, p in named])
            if self.shared_lr:
                base = self.defaults["lr"]
                share_lr(new, base, self.param_groups[0]["lr"] if self.param_groups else base)
        for new in groups:
            new[SKIPPED] = 0  # held here too: a flattened state loads only what a group has
            super().add_param_group(new)
            if new["rule"] == "matrix":
                self._geometry(new)  # made before a step is traced

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
        self._step([active(group) for group in self.param_groups])
        return loss

    @torch.no_grad()
    def step_parameter(self, parameter: Tensor) -> None:
        """Step one parameter alone, as from ``register_post_accumulate_grad_hook``.

        The same update as :meth:`step`, so that gradients can be freed one by one. What is not
        finite skips this parameter only (and counts as a skipped step), since the others may have
        been stepped already; call either this or :meth:`step`, not both.

        Raises:
            ValueError: if the optimizer does not hold the parameter.
            NonFiniteError, RuntimeError: as :meth:`step`.
        """
        chosen: list[list[Tensor]] = []
        for group in self.param_groups:
            mine = any(p is parameter for p in group["params"])
            chosen.append([parameter] if mine and parameter.grad is not None else [])
        if not any(p is parameter for group in self.param_groups for p in group["params"]):
            raise ValueError(
                f"parameter of shape {tuple(parameter.shape)} must be one of the optimizer's, "
                "got another"
            )
        self._opt_called = True  # or schedulers would warn that no step was taken
        self._step(chosen, whole=False)

    def _step(self, chosen: list[list[Tensor]], whole: bool = True) -> None:
        """Step the parameters in ``chosen``, a list for each group; all of them or none.

        ``whole`` says whether these are all that have a gradient.
        """
        for group, params in zip(self.param_groups, chosen, strict=True):
            refuse_sparse(group, params)
            place_like_parameters(group, params)
        stepped = list(itertools.chain.from_iterable(chosen))
        with stage("check"):
            finite, looks = self._finite(chosen)
            finite = agreed(self._sharing, self.param_groups, chosen, finite, whole, self._gated)
        if finite is None:
            if whole and not self.state:
                warn_of_no_gradient(self.param_groups)
            return
        if self.nonfinite == "raise" and not bool(finite):
            refuse_nonfinite(self.param_groups, stepped)
        count_attempts(self.param_groups)
        gate: Tensor | None = None
        if isinstance(finite, Tensor) and self._gated(finite):
            gate = finite
            if self._skipped.device != finite.device:
                self._skipped = self._skipped.to(finite.device)
            self._skipped.add_(finite.logical_not())
        elif not bool(finite):
            self._skipped.add_(1)
            return
        # All that can still be refused is refused before the first group changes.
        decays = [decay_factor(g) if g["rule"] == "matrix" else None for g in self.param_groups]
        work = zip(self.param_groups, chosen, decays, strict=True)
        for number, (group, params, decay) in enumerate(work):
            if not params:
                continue
            if group["rule"] == "adamw":
                with stage("adamw"):
                    adamw_update(group, params, self.state, gate, self._sharing)
            else:
                views = group["views"]
                if len(params) < len(views):
                    kept = {id(p) for p in params}
                    views = [
                        v for p, v in zip(group["params"], views, strict=True) if id(p) in kept
                    ]
                form = self._geometry(group)
                of_step = (self.state, gate, decay, self._sharing, looks)
                matrix_update(group, number, form, params, views, *of_step)

    def _geometry(self, group: dict[str, Any]) -> Geometry:
        """What the geometry of a group describes, made once: a given Hessian is decomposed."""
        data = group["geometry"]
        known: list[tuple[Any, Geometry]] = self.__dict__.setdefault("_geometries", [])
        for held, form in known:
            if held == data:
                return form
        form = geometry_of(data)
        if len(known) > len(self.param_groups):  # data of before a load
            known.clear()
        known.append((copy.deepcopy(data), form))
        return form

    def _finite(
        self, chosen: list[list[Tensor]]
    ) -> tuple[Tensor | bool | None, Mapping[Tensor, Look]]:
        """The verdict on the gradients, a tensor or on a CPU known at once, and what else is."""
        params = list(itertools.chain.from_iterable(chosen))
        elsewhere = any(p.device.type != "cpu" for p in params) or torch.compiler.is_compiling()
        if elsewhere or (params and self._gated(params[0])):
            return all_finite(params), {}
        looks = early_looks(self.param_groups, chosen, self.state, self._sharing)
        return finite_on_host(params, looks), looks

    def _gated(self, held: Tensor) -> bool:
        """Whether the verdict stays on the device of a tensor: on a CPU reading costs nothing."""
        recorded = self.capturable or torch.compiler.is_compiling()
        return (recorded or held.device.type != "cpu") and self.nonfinite == "skip"

    def state_dict(self) -> dict[str, Any]:
        """Return torch's state, with the number of skipped steps in every group."""
        for group in self.param_groups:
            group[SKIPPED] = self.skipped_steps
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, checked against the parameters before anything changes.

        Where both have names the state of each parameter goes to the one of its name, whatever
        their order. Momentum keeps its own dtype: float32 beside bfloat16 parameters stays float32.
        Options that an older version did not save are those of this optimizer.

        Raises:
            ValueError: if groups, rules, names, views or shapes are those of another model.
        """
        loaded: dict[str, Any] = {}

        def check(_: Optimizer, adapted: dict[str, Any]) -> dict[str, Any]:
            by_name = in_our_order(self, adapted)
            check_loadable(self, by_name)
            for saved, group in zip(by_name["param_groups"], self.param_groups, strict=True):
                if self.capturable:
                    check_capturable(self.defaults | saved, group["params"])
            loaded.update(by_name)
            return by_name

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
        for group in self.param_groups:
            self._skipped.fill_(group.setdefault(SKIPPED, 0))
            migrate(group, self.defaults)
            if group["rule"] == "matrix":
                self._geometry(group)
        restore(self, state_dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._skipped = torch.as_tensor(self._skipped).clone()  # a number in older pickles
        if "_sharing" not in self.__dict__:  # process groups are not pickled, but stay at a load
            self._sharing = Sharing()

    def __getstate__(self) -> dict[str, Any]:
        own = ("nonfinite", "capturable", "shared_lr", "_skipped", "_vector_defaults")
        return {**super().__getstate__(), **{key: self.__dict__[key] for key in own}}
