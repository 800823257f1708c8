"""A model with matrices of every kind, laid out over processes; and the same one on one device."""

import functools
import random

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from polargrad.optim.routing.views import conv, experts, heads, interleaved, split

# Uneven on four processes, one row, one column, and views that a shard ends in the middle of.
VIEWS = {
    "conv.weight": conv(),
    "experts.weight": experts(),
    "qkv.weight": split([4, 4, 2]),
    "turns.weight": interleaved(groups=3, sizes=[2, 1]),
    "output.weight": heads(2, dim=1),
}


class Experts(nn.Module):
    """Stacked weights, as mixtures of experts have them."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, 3, 5))


class Model(nn.Module):
    """What the layouts are tried on; it is never called."""

    def __init__(self):
        super().__init__()
        self.uneven = nn.Linear(5, 7)  # 7 × 5
        self.row = nn.Linear(6, 1, bias=False)
        self.column = nn.Linear(1, 6, bias=False)
        self.wide = nn.Linear(12, 8)
        self.tall = nn.Linear(8, 12)
        self.equal = nn.Linear(8, 12, bias=False)
        self.qkv = nn.Linear(4, 10, bias=False)
        self.turns = nn.Linear(4, 9, bias=False)
        self.output = nn.Linear(8, 4, bias=False)
        self.conv = nn.Conv2d(3, 6, 2)
        self.experts = Experts()
        self.double()


class Large(nn.Module):
    """Matrices of which the numbers beside them are nothing, and which divide evenly by four."""

    def __init__(self):
        super().__init__()
        shapes = [(64, 48), (96, 32), (32, 96), (64, 48), (128, 16), (64, 48), (48, 64), (64, 64)]
        self.layers = nn.ModuleList(nn.Linear(n, m, bias=False) for m, n in shapes)
        self.double()


class Strips(nn.Module):
    """Matrices whose smaller side is small, uneven ones among them, and one that is square."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(16, 260, bias=False)  # 260 × 16
        self.down = nn.Linear(260, 16, bias=False)
        self.odd = nn.Linear(13, 331, bias=False)
        self.same = nn.Linear(16, 260, bias=False)
        self.square = nn.Linear(64, 64, bias=False)
        self.tiny = nn.Linear(2, 40)
        self.float()


class Many(nn.Module):
    """Equal matrices."""

    def __init__(self, count):
        super().__init__()
        self.weights = nn.ParameterList(torch.empty(32, 32) for _ in range(count))


class Random(nn.Module):
    """Matrices of shapes from 0 × 1 to 7 × 7, and vectors."""

    def __init__(self, seed):
        super().__init__()
        draw = random.Random(seed)
        shapes = [(draw.randint(0, 7), draw.randint(1, 7)) for _ in range(8)]
        shapes += [(draw.randint(0, 7),) for _ in range(3)]
        self.weights = nn.ParameterList(torch.empty(shape) for shape in [*shapes, (5, 4)])
        self.double()


def weights(model=Model, dtype=torch.float64):
    """Parameters by name, as they are on one device."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: p.shape for name, p in model().named_parameters()}
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for name, shape in shapes.items()
    }


class Laid:
    """The model in a layout.

    Attributes:
        model: in the layout.
        parameters: by name, as the layout makes them.
        index: for each name the positions, in the whole parameter, of what this process holds.
        process_group: for the optimizer.
    """

    def __init__(self, layout, model=Model, dtype=torch.float64):
        kind, model = model, model()
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.arange(p.numel()).view(p.shape))
        self.process_group = (alone_here if layout == ALONE else LAYOUTS[layout])(model)
        self.model, self.parameters = model, dict(model.named_parameters())
        # The layout itself has told where each entry goes.
        self.index = {name: held(p).round().long().flatten() for name, p in self.parameters.items()}
        model.to(dtype)
        self.parameters = dict(model.named_parameters())
        self.set(weights(kind, dtype))

    def part(self, name, whole):
        """What this process holds of a whole tensor."""
        return whole.flatten()[self.index[name]].view(held(self.parameters[name]).shape)

    def set(self, values):
        """Set the parameters."""
        for name, p in self.parameters.items():
            held(p).copy_(self.part(name, values[name]))

    def set_gradients(self, gradients):
        """Set the gradients; None for a parameter that has none."""
        for name, p in self.parameters.items():
            whole = gradients[name]
            p.grad = None if whole is None else self.like(name, whole)

    def like(self, name, whole):
        """A whole tensor, laid out as a parameter is."""
        p, part = self.parameters[name], self.part(name, whole).clone()
        if not isinstance(p, DTensor):
            return part
        return DTensor.from_local(
            part, p.device_mesh, p.placements, shape=p.shape, stride=p.stride()
        )

    def groups(self):
        return groups_of(self.parameters)

    def distance(self, wholes):
        """How far the parameters are from whole ones, in what this process holds."""
        return max(
            (float((held(p) - self.part(name, wholes[name])).abs().amax()), name)
            for name, p in self.parameters.items()
            if held(p).numel()
        )


def held(p):
    """The part of a tensor on this process."""
    with torch.no_grad():
        return p.to_local() if isinstance(p, DTensor) else p.detach()


def groups_of(parameters):
    """Groups of matrices and of vectors."""
    matrices = [(name, p) for name, p in parameters.items() if p.ndim > 1]
    vectors = [(name, p) for name, p in parameters.items() if p.ndim < 2]
    views = [VIEWS.get(name, {"kind": "whole"}) for name, _ in matrices]
    groups = [{"params": matrices, "rule": "matrix", "views": views}]
    return groups + [{"params": vectors, "rule": "adamw", "lr": 0.1}] * bool(vectors)


def gradients(step, missing=(), model=Model, dtype=torch.float64):
    """The gradients of a step, the same everywhere."""
    generator = torch.Generator().manual_seed(1000 + step)
    shapes = {name: p.shape for name, p in model().named_parameters()}
    found = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for name, shape in shapes.items()
    }
    return {name: None if name in missing else g for name, g in found.items()}


def alone(make, steps, missing=(), model=Model):
    """The parameters after some steps on one device."""
    parameters = {name: nn.Parameter(x) for name, x in weights(model).items()}
    optimizer = make(groups_of(parameters))
    for step in range(steps):
        for name, g in gradients(step, missing, model).items():
            parameters[name].grad = g
        optimizer.step()
    return {name: p.detach() for name, p in parameters.items()}, optimizer


@functools.cache
def mesh_of(shape, mesh_dim_names=None):
    """A mesh, made once: each makes process groups, which takes as long as a case."""
    return init_device_mesh("cpu", shape, mesh_dim_names=mesh_dim_names)


def alone_here(model):
    """Nothing is shared."""


def replicated(model):
    return dist.group.WORLD


def by_rows(model):
    fully_shard(model, mesh=mesh_of((dist.get_world_size(),)))


def by_columns(model):
    """On the last dimension where that divides evenly, which fully_shard asks for."""
    size = dist.get_world_size()

    def place(p):
        return Shard(p.ndim - 1 if p.ndim > 1 and p.shape[-1] % size == 0 else 0)

    fully_shard(model, mesh=mesh_of((size,)), shard_placement_fn=place)


def hybrid(model):
    mesh = mesh_of((2, 2), mesh_dim_names=("replicate", "shard"))
    fully_shard(model, mesh=mesh)


def within_half(model):
    """Each half of the world shards a copy of its own."""
    mesh = mesh_of((2, 2), mesh_dim_names=("replicate", "shard"))
    fully_shard(model, mesh=mesh["shard"])


def small_mesh(model):
    """As above, and the meshes have two dimensions, of which none is the world."""
    fully_shard(model, mesh=mesh_of_half(dist.get_rank() // 2))


@functools.cache
def mesh_of_half(half):
    """A mesh of replicas of one shard for each half of the world, which all have to make."""
    meshes = [
        DeviceMesh("cpu", [[2 * k], [2 * k + 1]], mesh_dim_names=("replicate", "shard"))
        for k in range(2)
    ]
    return meshes[half]


PLAN = {
    "uneven": ColwiseParallel(),
    "tall": ColwiseParallel(),
    "wide": RowwiseParallel(),
    "output": RowwiseParallel(),
    "qkv": ColwiseParallel(),
    # Of Strips:
    "up": ColwiseParallel(),
    "down": RowwiseParallel(),
    "odd": ColwiseParallel(),
    "same": ColwiseParallel(),
    "square": ColwiseParallel(),
    "tiny": ColwiseParallel(),
}


def plan_of(model):
    return {name: style for name, style in PLAN.items() if hasattr(model, name)}


def tensor_parallel(model):
    parallelize_module(model, mesh_of((dist.get_world_size(),)), plan_of(model))


def both(model):
    mesh = mesh_of((2, 2), mesh_dim_names=("data", "tensor"))
    parallelize_module(model, mesh["tensor"], plan_of(model))
    fully_shard(model, mesh=mesh["data"])


# Beside those below, for a process that is alone.
ALONE = "alone"
LAYOUTS = {
    "replicated": replicated,
    "fully_shard": by_rows,
    "fully_shard, last dimension": by_columns,
    "hybrid": hybrid,
    "half of the world": within_half,
    "half of the world, two dimensions": small_mesh,
    "tensor parallel": tensor_parallel,
    "fully_shard and tensor parallel": both,
}
