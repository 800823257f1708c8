"""The options of a parameter group: checked, and turned into plain data."""

from __future__ import annotations

import difflib
import math
import numbers
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from polargrad.distributed import check_layout
from polargrad.geometry import MAGNITUDES, geometry
from polargrad.geometry import plain as plain_geometry
from polargrad.linalg import method as method_of
from polargrad.linalg import plain
from polargrad.linalg.planner import plan
from polargrad.linalg.precision import COMPUTE_DTYPES
from polargrad.linalg.preparation import check_choice
from polargrad.optim.approximations import check_approximation
from polargrad.optim.routing.views import logical_shapes
from polargrad.optim.signal import FORMS, is_averaged
from polargrad.optim.step_size import FOUND, GIVEN, STEP_SIZES, is_found

ORDERS = ("momentum-first", "polar-first", "polyak")
ROUNDINGS = ("nearest", "stochastic")
# Not float16: a gradient of 1e5 is finite, and its average in float16 would not be.
STATE_DTYPES = ("bfloat16", "float32", "float64")
# PolarGrad's lr has the unit of 1/L: with a decay tied to it, what shrinks the parameter by a tenth
# or more at every step is a decay that was meant for another optimizer's lr.
LARGEST_DECAY_A_STEP = 0.1
# Below this tolerance the planner takes converged methods.
CONVERGED_BELOW = 0.05
# The numbers of the matrix rule, and what each must stay below.
MATRIX_NUMBERS = {
    "lr": math.inf,
    "lr_scale": math.inf,
    "weight_decay": math.inf,
    "decay_per_step": 1.0,
    "momentum": 1.0,
    "exponent": math.inf,
}
MATRIX_CHOICES: dict[str, tuple[object, ...]] = {
    "order": ORDERS,
    "momentum_form": FORMS,
    "magnitude": MAGNITUDES,
    "bias_correction": (True, False),
    "rounding": ROUNDINGS,
    "step_size": STEP_SIZES,
}
# The arguments of the engine that every group may have of its own.
GROUP_OPTIONS = (
    *("lr", "geometry", "magnitude", "exponent", "momentum", "momentum_form", "order"),
    *("nesterov", "bias_correction", "weight_decay", "decay_per_step", "max_dual_norm"),
    *("method", "tol", "compute_dtype", "approximation", "state_dtype", "rounding"),
    "rounding_seed",
    *("step_size", "step_rate", "first_step", "maximize", "foreach", "differentiable"),
)
# What groups hold beside options.
OF_GROUPS = (
    *("vector_lr", "vector_betas", "vector_eps", "vector_weight_decay"),
    *("params", "param_names", "rule", "roles", "views", "reasons", "base_lr", "resolved"),
    *(
        "attempts",
        "skipped_steps",
        "betas",
        "eps",
        "initial_lr",
        "max_lr",
        "min_lr",
        "max_momentum",
    ),
    *("base_momentum", "swa_lr", "fused", "capturable", "foreach", "lr_scale"),
)
# Of every group, whatever its rule.
OF_EVERY_RULE = ("maximize", "foreach", "differentiable")
COMMON_CHOICES: dict[str, tuple[object, ...]] = {
    "maximize": (True, False),
    "foreach": (None, True, False),
}


def check_group(group: dict[str, Any], named: list[tuple[str, Tensor]]) -> None:
    """Check every option and parameter of a completed group, and make its method plain data.

    Raises:
        ValueError: for an option outside its range, or a parameter that its view does not fit.
        TypeError: for a complex or integer parameter, or one whose matrix cannot be restored.
    """
    for name, parameter in named:
        check_layout(parameter, name)
        if not parameter.is_floating_point():
            raise TypeError(
                f"parameter {name} is of {parameter.dtype}; allowed are real floating-point types"
            )
        steps = zip(parameter.stride(), parameter.shape, strict=True)
        if any(step == 0 < size - 1 for step, size in steps):
            raise ValueError(
                f"parameter {name} of shape {tuple(parameter.shape)} is an expanded tensor, of "
                "which several entries are one number: give its contiguous copy"
            )
        if not (parameter.is_leaf or parameter.retains_grad):
            raise ValueError(f"parameter {name} must be a leaf, got the result of an operation")
    if group["rule"] == "adamw":
        check_vector_options(group)
        group["lr_scale"] = _number("lr_scale", group["lr_scale"])
        _check_common(group)
        return
    check_matrix_options(group)
    if group["rounding"] == "stochastic" and all(p.dtype != torch.bfloat16 for _, p in named):
        raise ValueError(
            "rounding='stochastic' is for parameters of bfloat16, and the group has none: "
            f"{named[0][0]} is of {named[0][1].dtype}"
            if named
            else "got no parameter"
        )
    group.setdefault("base_lr", float(group["lr"]))
    group.setdefault("resolved", {})
    _check_shrinking(group)
    for (name, parameter), view in zip(named, group["views"], strict=True):
        try:
            logical_shapes(view, tuple(parameter.shape))
        except ValueError as error:
            raise ValueError(f"parameter {name}: {error}") from None


def settle_step_size(options: dict[str, Any]) -> None:
    """Say whether the step size is given or found: with lr=None the run finds it.

    ``lr`` becomes 1 then, a multiplier for schedules. Options that say neither stay as they are.

    Raises:
        ValueError: for another ``step_size``, or one that is to be given and is not.
    """
    if "step_size" not in options:
        if "lr" not in options:
            return
        options["step_size"] = FOUND if options["lr"] is None else GIVEN
    check_choice("step_size", options["step_size"], STEP_SIZES)
    if options.get("lr") is None:
        if options["step_size"] == GIVEN:
            raise ValueError(f"step_size={GIVEN!r} needs lr, got None")
        options["lr"] = 1.0


def check_matrix_options(options: dict[str, Any]) -> None:
    """Check the options of the matrix rule, and make them plain data: numbers, names, dicts."""
    for key, below in MATRIX_NUMBERS.items():
        options[key] = _number(key, options[key], below)
    for key, allowed in MATRIX_CHOICES.items():
        check_choice(key, options[key], allowed)
    _check_nesterov(options)
    _check_common(options)
    for key, allowed in (("compute_dtype", tuple(COMPUTE_DTYPES)), ("state_dtype", STATE_DTYPES)):
        if options[key] is not None:
            name = str(options[key]).removeprefix("torch.")
            check_choice(key, name, allowed)
            options[key] = name
    if not isinstance(options["rounding_seed"], int) or options["rounding_seed"] < 0:
        raise ValueError(
            f"rounding_seed must be an integer of at least 0, got {options['rounding_seed']!r}"
        )
    form = geometry(options["geometry"])
    options["geometry"] = plain_geometry(form)
    _check_combination(options)
    check_approximation(options)
    plan(shape=(1, 1), tol=options["tol"], dtype=torch.float32)  # raises for a wrong tol
    if options["method"] == "auto":
        return
    description = method_of(options["method"])
    options["method"] = plain(description)
    if not description.products_only and options["compute_dtype"] in ("float16", "bfloat16"):
        raise ValueError(
            f"compute_dtype must be None, float32 or float64 for method {description.name!r}, "
            f"got {options['compute_dtype']}"
        )


def _check_nesterov(options: dict[str, Any]) -> None:
    """Check Nesterov's look ahead: whether, or by which share of the newest."""
    given = options["nesterov"]
    if isinstance(given, bool):
        return
    number = isinstance(given, (int, float)) and 0.0 < given < 1.0
    if not number:
        raise ValueError(
            f"nesterov must be one of True, False, or a share of the newest in (0, 1), "
            f"got {given!r}"
        )
    options["nesterov"] = float(given)
    if options["momentum_form"] != "ema":
        raise ValueError(
            f"nesterov={given} is a share of an average, for momentum_form='ema', got "
            f"{options['momentum_form']!r}"
        )
    if not is_averaged(options):
        raise ValueError(f"nesterov={given} needs a momentum above 0, got 0: it would do nothing")


def _check_common(options: Mapping[str, Any]) -> None:
    """Check the options that groups of every rule have."""
    for key, allowed in COMMON_CHOICES.items():
        check_choice(key, options[key], allowed)
    if options["differentiable"]:
        raise ValueError(
            "differentiable must be False: a step is taken in place, under no_grad. To "
            "differentiate through one write X - lr * nuclear_norm * U with polargrad.polar"
        )


def _check_combination(options: dict[str, Any]) -> None:
    """Raise ValueError for an option that would have no effect beside the others."""
    _check_found(options)
    scaled = options["magnitude"] == "dual_norm"
    if options["max_dual_norm"] is not None:
        _number("max_dual_norm", options["max_dual_norm"])
        if not scaled:
            raise ValueError(
                f"max_dual_norm={options['max_dual_norm']} bounds a step that grows with the dual "
                f"norm; with magnitude={options['magnitude']!r} it would have no effect"
            )
    if options["exponent"] != 1.0 and not scaled:
        raise ValueError(
            f"exponent={options['exponent']} is one of the dual norm; with "
            f"magnitude={options['magnitude']!r} it would have no effect"
        )
    averaged = isinstance(options["momentum"], Tensor) or options["momentum"] > 0
    if options["order"] == "polyak" and options["momentum_form"] != "ema":
        raise ValueError(
            f"momentum_form={options['momentum_form']!r} has no meaning for order='polyak', whose "
            "momentum is of steps"
        )
    for key in ("nesterov", "bias_correction"):
        if options[key] and options["order"] == "polyak":
            raise ValueError(f"{key}=True has no meaning for order='polyak', a momentum of steps")
    if options["order"] == "polyak" and not averaged:
        raise ValueError("order='polyak' is a momentum of steps: momentum must be above 0, got 0")
    if options["bias_correction"] and options["momentum_form"] == "heavy-ball":
        raise ValueError("bias_correction=True is for momentum_form='ema', got 'heavy-ball'")


def _check_found(options: dict[str, Any]) -> None:
    """Raise ValueError for what does not go with the way to the step size."""
    for key in ("first_step", "step_rate"):
        value = options[key]
        if value is None:
            continue
        if not is_found(options):
            raise ValueError(
                f"{key}={value} is of a step size that the run finds: give lr=None, or leave it out"
            )
        options[key] = float(_number(key, value, below=1.0 if key == "step_rate" else math.inf))
        if not options[key]:
            raise ValueError(f"{key} must be above 0, got 0: no step would be found")
    if not is_found(options):
        return
    if options["order"] == "polyak":
        raise ValueError(
            "order='polyak' sums whole steps, whose size cannot be found from the last direction: "
            "give lr, or order='momentum-first' or 'polar-first'"
        )
    for key, neutral in (("exponent", 1.0), ("max_dual_norm", None)):
        if options[key] != neutral:
            raise ValueError(
                f"{key}={options[key]} is of the dual norm, which a step size that is found takes "
                "the place of: it would have no effect"
            )


def _check_shrinking(group: Mapping[str, Any]) -> None:
    """Raise ValueError for a decay that was meant for the learning rate of another optimizer."""
    if group["decay_per_step"] and not group["base_lr"]:
        raise ValueError(
            f"decay_per_step={group['decay_per_step']} is a decay at the initial lr, which must be "
            f"above 0 then, got lr={group['lr']}"
        )
    if is_found(group):
        return  # in every step a size of its own
    shrink = float(group["lr"]) * group["lr_scale"] * group["weight_decay"]
    if group["magnitude"] == "dual_norm" and shrink >= LARGEST_DECAY_A_STEP:
        raise ValueError(
            f"lr={group['lr']} with weight_decay={group['weight_decay']} shrinks every matrix by "
            f"the factor 1 − {shrink:.3g} at every step; lr·weight_decay must stay below "
            f"{LARGEST_DECAY_A_STEP}. For a decay that follows the schedule but not the unit of "
            "lr, give decay_per_step="
        )


def _from_one_side(form: Mapping[str, Any]) -> bool:
    """Whether a polar factor comes from the eigenvalues of a Gram matrix."""
    inner = form.get("inner")
    own = form.get("side") is not None or bool(form.get("damping"))
    return own or (isinstance(inner, Mapping) and _from_one_side(inner))


def warn_of_misspellings(group: Mapping[str, Any], known: Collection[str]) -> None:
    """Warn of a key that is nearly an option; other keys of its own a framework may keep there."""
    for key in group:
        near = [] if key in known else difflib.get_close_matches(key, known, 1, cutoff=0.85)
        if near and key[0] == near[0][0] and abs(len(key) - len(near[0])) < 2:
            warnings.warn(
                f"parameter group: {key!r} is no option and has no effect; is {near[0]!r} meant?",
                stacklevel=4,
            )


def check_capturable(group: Mapping[str, Any], params: Iterable[Tensor]) -> None:
    """Raise ValueError unless a step of this group reads no value on the host.

    A method that stops when it has converged has to look; so has torch's SVD, and SOAP's counter.
    """
    if group["rule"] == "adamw":
        return
    if group["rounding"] == "stochastic":
        raise ValueError(
            "capturable=True with rounding='stochastic': the random bits are seeded on the host, "
            "and a recorded step would draw the same ones again"
        )
    if (group["approximation"] or {}).get("name") == "rounds":
        raise ValueError(
            "capturable=True with approximation 'rounds': the host decides whose turn it is, "
            "and a recorded step would find the same directions again"
        )
    form = geometry(group["geometry"])
    elsewhere = any(p.device.type != "cpu" for p in params)
    if elsewhere and (form.accumulates or _from_one_side(group["geometry"])):
        raise ValueError(
            f"capturable=True: geometry {form.name!r} needs an eigendecomposition, for which torch "
            "waits on a GPU"
        )
    if form.begins_with_first:
        raise ValueError(
            f"capturable=True: geometry {form.name!r} reads its counter on the host, to refresh"
        )
    if not form.uses_polar:
        return
    if group["method"] == "auto":
        if group["tol"] is None or group["tol"] < CONVERGED_BELOW:
            raise ValueError(
                f"capturable=True with tol={group['tol']}: a converged method looks at values; "
                "give tol=0.11, or method='newton_schulz' or 'polar_express'"
            )
        return
    description = method_of(group["method"])
    waits = ("svd", "gram_eigh", "randomized_svd") if elsewhere else ("svd",)
    if description.adaptive or description.name in waits:
        raise ValueError(
            f"capturable=True: method {description.name!r} looks at values on the host; give "
            "tol=0.11 with method='auto', or method='newton_schulz' or 'polar_express'"
        )


def check_vector_options(options: dict[str, Any]) -> None:
    """Check the options of AdamW, lr, betas, eps and weight_decay, and make them plain numbers."""
    if options["lr"] is not None:
        options["lr"] = _number("vector_lr", options["lr"])
    betas = options["betas"]
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ValueError(f"vector_betas must be two numbers in [0, 1), got {betas!r}")
    # As plain numbers: torch's AdamW would read a tensor at every step.
    options["betas"] = tuple(float(_number("vector_betas", beta, below=1.0)) for beta in betas)
    options["eps"] = float(_number("vector_eps", options["eps"]))
    options["weight_decay"] = float(_number("vector_weight_decay", options["weight_decay"]))


def _number(name: str, value: Any, below: float = math.inf) -> float | Tensor:
    """Return a number in [0, below) as a plain one, or the tensor that holds one; raise for others.

    Numbers of other packages (numpy's) would be refused by ``torch.load(weights_only=True)``.
    """
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"{name} as a tensor must hold one number, got shape {tuple(value.shape)}")
    held = value.item() if isinstance(value, Tensor) else value
    if isinstance(held, bool) or not isinstance(held, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(held)
    if not 0.0 <= number < below:
        allowed = "at least 0 and finite" if below == math.inf else f"in [0, {below:g})"
        raise ValueError(f"{name} must be {allowed}, got {value}")
    return value if isinstance(value, Tensor) else number
