"""What the optimizer's step takes on a mesh of processes, beside the model's own work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from polargrad.distributed.mesh_sizes import DIMENSIONS, MeshSizes
from polargrad.language.flops import flops_per_token
from polargrad.language.models import ModelPreset
from polargrad.language.optimizers import build_optimizer
from polargrad.language.presets import meta_model, preset_of
from polargrad.language.recipes import RECIPES, recipe_of
from polargrad.language.tensor_plan import cut_by
from polargrad.language.units import bytes_in_words, count_in_words
from polargrad.optim import MatrixOptimizer
from polargrad.optim.simulate import StepOnMesh, simulate
from polargrad.records import require

__all__ = ["Speeds", "StepCost", "step_cost"]

DEVICES = ("cuda", "cpu")
# To whom the bytes over each link go.
LINKS = ("sent to other replicas (dp)", "sent within the replica (fsdp)", "sent within tp")
BETA2, WEIGHT_DECAY = 0.95, 0.0  # of no influence here


@dataclass(frozen=True)
class Speeds:
    """How fast a process is.

    Args:
        flops: operations in a second.
        bandwidths: bytes in a second that it sends over the link of a dimension of the mesh.

    Raises:
        ValueError: for a speed that is not above 0.
    """

    flops: float
    bandwidths: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, speed in {"flops": self.flops, **self.bandwidths}.items():
            if not speed > 0.0:
                raise ValueError(f"the speed {name} must be above 0, got {speed}")

    def seconds(self, flops: float, sent: Sequence[float]) -> float:
        """The time of some operations and of what is sent over each link, one after the other."""
        links = zip(DIMENSIONS, sent, strict=True)
        return flops / self.flops + sum(n / self.bandwidths[name] for name, n in links if n)


@dataclass(frozen=True)
class StepCost:
    """What a step takes; as text, the report of ``polargrad cost``.

    Args:
        name: of the model.
        optimizer: its name.
        mesh: the processes.
        step: what each of them does in the step of the matrix rule.
        tokens: of a training step, in each group of processes that share their tokens.
        model_flops: of forward and backward, for each process.
        speeds: of a process, None where they are not known.
    """

    name: str
    optimizer: str
    mesh: MeshSizes
    step: StepOnMesh
    tokens: int
    model_flops: float
    speeds: Speeds | None

    @property
    def imbalance(self) -> float:
        """By how much the busiest process has more to do than the average one, as a share of it."""
        mean = float(self.step.flops.double().mean())
        return float(self.step.flops.max()) / mean - 1.0 if mean else 0.0

    @property
    def flop_share(self) -> float:
        """The busiest process's step of the optimizer, of all its operations in a training step."""
        most = float(self.step.flops.max())
        return most / (most + self.model_flops)

    def __str__(self) -> str:
        sizes = zip(DIMENSIONS, self.mesh.sizes, strict=True)
        mesh = ", ".join(f"{name}={size}" for name, size in sizes)
        return "\n".join(
            [
                f"{self.name} with {self.optimizer} on {self.mesh.ranks:,} processes ({mesh}): "
                f"{self.step.matrices:,} matrices of {self.step.kinds} kinds",
                "",
                *self._table(),
                "",
                *self._load(),
                "",
                *self._share(),
            ]
        )

    def _table(self) -> list[str]:
        """The least, mean and most of the processes."""
        lines = [
            ["a step of the optimizer, a process", "least", "mean", "most"],
            ["FLOPs", *_spread(self.step.flops, count_in_words)],
        ]
        for link, (label, size) in enumerate(zip(LINKS, self.mesh.sizes, strict=True)):
            if size > 1:
                lines.append([label, *_spread(self.step.sent[:, link], bytes_in_words)])
        lines.append(["stacks and buffers, at most", *_spread(self.step.held, bytes_in_words)])
        return [f"{name:<36}" + "".join(f"{cell:>12}" for cell in cells) for name, *cells in lines]

    def _load(self) -> list[str]:
        """How evenly the work is divided, and what is not counted."""
        idle = int((self.step.flops == 0).sum())
        lines = [f"the busiest process has {100 * self.imbalance:.1f} % more to do than the mean"]
        if idle and self.step.flops.any():
            lines[0] += f"; {idle:,} of {self.mesh.ranks:,} have no matrix to work on"
        if self.step.estimated:
            names = ", ".join(self.step.estimated)
            lines.append(f"FLOPs are estimated, not counted, for the factorizations of {names}")
        return lines

    def _share(self) -> list[str]:
        """The step's part of a training step."""
        most = float(self.step.flops.max())
        lines = [
            f"a training step of {self.tokens:,} tokens: {count_in_words(self.model_flops)} FLOPs "
            "of the model on each process",
            f"  the optimizer's share of the FLOPs of the busiest: {100 * self.flop_share:.2f} %",
        ]
        if self.speeds is None:
            return [*lines, "  speeds were not given, so there is no share of time"]
        sent = self.step.sent.max(dim=0).values.tolist()
        own = self.speeds.seconds(most, sent)
        whole = own + self.model_flops / self.speeds.flops
        return [
            *lines,
            f"  its share of the time: at most {100 * own / whole:.2f} %, {own:.3g} of "
            f"{whole:.3g} s, if nothing overlaps and the model sends nothing",
        ]


def step_cost(
    model: str | ModelPreset,
    mesh: MeshSizes,
    *,
    optimizer: str = "polargrad",
    method: str | None = None,
    tokens: int | None = None,
    device: str = "cuda",
    speeds: Speeds | None = None,
) -> StepCost:
    """Return what a step takes on a mesh, from the sizes of the model alone.

    Args:
        model: a preset, its name, or the path of a configuration of transformers.
        mesh: the processes, which need not exist.
        optimizer: a name of :data:`polargrad.language.recipes.RECIPES` but ``"adamw"``.
        method: of the polar factor; None for the recipe's.
        tokens: of a training step, on each process, and where there is tensor parallelism on each
            of its groups together; None for the preset's batch.
        device: for which methods are chosen, ``"cuda"`` or ``"cpu"``.
        speeds: of a process; None if they are not known.

    Raises:
        ValueError: for an unknown name, AdamW, a number below 1, speeds of links that are missing,
            or tensor parallelism for a model without a plan of it.
        MissingExtraError: if transformers is missing.

    Example:
        >>> cost = step_cost("tiny", MeshSizes(fsdp=4), optimizer="muon")
        >>> cost.step.matrices, round(cost.imbalance, 3)
        (28, 0.0)
    """
    require("transformers", extra="language")
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if tokens is not None and tokens < 1:
        raise ValueError(f"tokens must be at least 1, got {tokens}")
    _check_links(mesh, speeds)
    recipe, preset = recipe_of(optimizer), preset_of(model)
    if recipe.preset is None:
        others = ", ".join(name for name, other in RECIPES.items() if other.preset)
        raise ValueError(
            f"optimizer must be one of {others}, got {optimizer!r}, which steps entries where they "
            "are, sends nothing and multiplies no matrices"
        )
    module, rates = meta_model(preset), recipe.defaults
    made = build_optimizer(
        module,
        optimizer,
        lr=rates.lr,
        vector_lr=rates.vector_lr,
        embedding_lr=rates.embedding_lr,
        method=method,
        beta2=BETA2,
        weight_decay=WEIGHT_DECAY,
    )
    assert isinstance(made, MatrixOptimizer)  # as every recipe with a preset makes
    cuts = cut_by(module, preset.name) if mesh.tp > 1 else None
    tokens = preset.batch * preset.context if tokens is None else tokens
    return StepCost(
        preset.name,
        optimizer,
        mesh,
        simulate(made, mesh, cut_by=cuts, device=device),
        tokens,
        flops_per_token(preset, module).training * tokens / mesh.tp,
        speeds,
    )


def _check_links(mesh: MeshSizes, speeds: Speeds | None) -> None:
    """Raise ValueError where a link of the mesh has no speed, or a speed no link."""
    if speeds is None:
        return
    links = {name for name, size in zip(DIMENSIONS, mesh.sizes, strict=True) if size > 1}
    if set(speeds.bandwidths) != links:
        raise ValueError(
            f"link_bandwidths must be given for {', '.join(sorted(links)) or 'no dimension'}, as "
            f"the mesh has them, got {', '.join(sorted(speeds.bandwidths)) or 'none'}"
        )


def _spread(values: Tensor, words: Callable[[float], str]) -> list[str]:
    """The least, mean and most, in words."""
    values = values.double()
    return [words(float(value)) for value in (values.min(), values.mean(), values.max())]
