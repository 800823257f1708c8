"""``polargrad cost``: what a step takes on a mesh of processes, without the processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from polargrad.distributed.mesh_sizes import DIMENSIONS, MeshSizes
from polargrad.language.cost import DEVICES, Speeds, step_cost
from polargrad.language.presets import PRESETS
from polargrad.language.recipes import POLAR_METHODS, RECIPES

MODEL = tyro.conf.arg(metavar="{" + ",".join(PRESETS) + "}|PATH")
MESH = tyro.conf.arg(metavar="dp=INT,fsdp=INT,tp=INT", help_behavior_hint="(required)")
OPTIMIZER = tyro.conf.arg(
    metavar="{" + ",".join(name for name, recipe in RECIPES.items() if recipe.preset) + "}"
)
METHOD = tyro.conf.arg(
    metavar="{" + ",".join(POLAR_METHODS) + "}", help_behavior_hint="(default: the optimizer's)"
)
TOKENS = tyro.conf.arg(metavar="INT", help_behavior_hint="(default: the preset's batch)")
DEVICE = tyro.conf.arg(metavar="{" + ",".join(DEVICES) + "}")
FLOPS = tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: unknown)")
LINKS = tyro.conf.arg(metavar="fsdp=FLOAT,...", help_behavior_hint="(default: unknown)")


@dataclass(frozen=True)
class Cost:
    """Say what a step of an optimizer takes on a mesh of processes, without the processes.

    For each process, the least, the mean and the most: FLOPs, bytes sent over each link, memory of
    stacks and buffers; how evenly the work is divided, and the share of a training step. No weight
    is allocated. Owners and bytes are those of the plan by which a step is executed.
    """

    mesh: Annotated[str, MESH]
    """Replicas (dp), shards of fully_shard (fsdp) and of tensor parallelism (tp); 1 if left out."""
    model: Annotated[str, MODEL] = "tiny"
    """Sizes of the model, or a config.json of transformers, or its folder."""
    optimizer: Annotated[str, OPTIMIZER] = "polargrad"
    """Who steps the matrices."""
    method: Annotated[str | None, METHOD] = None
    """How the polar factor of the hidden matrices is computed."""
    tokens: Annotated[int | None, TOKENS] = None
    """Tokens of a training step on each process, of tp processes together."""
    device: Annotated[str, DEVICE] = "cuda"
    """Kind of device for which methods are chosen."""
    flops: Annotated[float | None, FLOPS] = None
    """Operations that a process does in a second; with --link-bandwidths, for the share of time."""
    link_bandwidths: Annotated[str | None, LINKS] = None
    """Bytes that a process sends in a second over the link of each dimension of the mesh."""

    def run(self) -> int:
        """Print the cost and return the exit code."""
        cost = step_cost(
            self.model,
            MeshSizes.parse(self.mesh),
            optimizer=self.optimizer,
            method=self.method,
            tokens=self.tokens,
            device=self.device,
            speeds=self.speeds(),
        )
        print(cost)
        return 0

    def speeds(self) -> Speeds | None:
        """The speeds that were given, None for none."""
        if self.flops is None:
            if self.link_bandwidths is not None:
                raise ValueError("flops must be given with link_bandwidths, got None")
            return None
        return Speeds(self.flops, bandwidths(self.link_bandwidths or ""))


def bandwidths(text: str) -> dict[str, float]:
    """Return the speed of each link that a text such as ``"dp=2e10,fsdp=4e11"`` gives.

    Raises:
        ValueError: for another form, an unknown dimension or one that is there twice.

    Example:
        >>> bandwidths("fsdp=4e11")
        {'fsdp': 400000000000.0}
    """
    found: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, speed = (piece.strip() for piece in part.partition("="))
        try:
            value = float(speed)
        except ValueError:
            value = 0.0
        if name not in DIMENSIONS or name in found or not value > 0.0:
            raise ValueError(
                f"link_bandwidths must be one number above 0 for some of {', '.join(DIMENSIONS)}, "
                f"such as 'dp=2e10,fsdp=4e11', got {text!r}"
            )
        found[name] = value
    return found
