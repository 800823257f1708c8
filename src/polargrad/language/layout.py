"""How the model of a run lies over its processes: as copies, or cut up among them."""

from __future__ import annotations

import contextlib
import math
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from polargrad.distributed import is_distributed, local_part
from polargrad.distributed.placement import boxes
from polargrad.language.ranks import Ranks
from polargrad.language.tensor_plan import cut_up
from polargrad.optim.saved_state import OF_ITS_SHAPE

__all__ = ["Copies", "Layout", "Shards", "largest_entry", "lay_out", "views_returned", "whole"]


class Layout(ABC):
    """A model that processes train together.

    Attributes:
        model: the model itself, whose parameters the optimizer takes.
        called: what is called in its place.
        process_group: the processes that hold copies of all plain parameters and divide the work
            on them; None where each does its own, or parameters say themselves who has them.
    """

    model: nn.Module
    called: nn.Module
    process_group: dist.ProcessGroup | None = None

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a micro-batch, of which a step has ``accumulate``."""

    @abstractmethod
    def micro_batch(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Within it a micro-batch goes forward and backward; gradients are whole after the last."""

    @abstractmethod
    def norm(self, parameters: Sequence[Tensor]) -> Tensor:
        """The Euclidean norm of the gradients of all parameters together."""

    @abstractmethod
    def clip(self, parameters: Sequence[Tensor], largest: float, norm: Tensor) -> None:
        """Scale the gradients down where their norm is above the largest."""

    def rest(self) -> None:  # noqa: B027 - copies have nothing to do
        """Give up what a forward pass has gathered for a backward pass that will not come."""

    @abstractmethod
    def saved(self, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
        """The states of model and optimizer as one process has them, on the first process."""

    @abstractmethod
    def placed(self, contents: Mapping[str, Any], optimizer: Optimizer) -> Mapping[str, Any]:
        """The contents of a checkpoint, with this process's part of what is cut up."""


def lay_out(
    model: nn.Module, name: str, ranks: Ranks, *, accumulate: int, precision: str
) -> Layout:
    """Lay a model over the processes, as their mesh says.

    Args:
        model: with the same numbers on all processes.
        name: what an error calls it.
        ranks: the processes.
        accumulate: micro-batches of a step.
        precision: "no" or "bf16".

    Raises:
        ValueError: if the model cannot be cut up as it is asked for.
    """
    if ranks.sharded:
        return Shards(model, name, ranks, accumulate=accumulate, precision=precision)
    return Copies(model, ranks)


class Copies(Layout):
    """Each process has the model: ``DistributedDataParallel``, by accelerate.

    Where a mesh was asked for, each matrix is stepped by one process; without one, by all.
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self.model = model
        self._accelerator = ranks.accelerator
        self.called = self._accelerator.prepare_model(model)
        if ranks.mesh is not None and ranks.count > 1:
            self.process_group = dist.group.WORLD

    def backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def micro_batch(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        quiet: contextlib.AbstractContextManager[Any] = self._accelerator.no_sync(self.called)
        return contextlib.nullcontext() if last else quiet

    def norm(self, parameters: Sequence[Tensor]) -> Tensor:
        return get_total_norm([p.grad for p in parameters if p.grad is not None])

    def clip(self, parameters: Sequence[Tensor], largest: float, norm: Tensor) -> None:
        clip_grads_with_norm_(list(parameters), largest, norm)

    def saved(self, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.model.state_dict(), optimizer.state_dict()

    def placed(self, contents: Mapping[str, Any], optimizer: Optimizer) -> Mapping[str, Any]:
        return contents


class Shards(Layout):
    """The processes hold parts of the model: ``fully_shard``, within it tensor parallelism.

    Each block of the model is gathered for its own pass, and what is in no block for the whole of
    it. A mesh without shards (``tp`` alone, or with replicas) has them of one process, so that all
    parameters are DTensors, whatever the mesh.

    Args:
        model: with the same numbers on all processes; it is changed in place.
        name: what an error calls it.
        ranks: the processes.
        accumulate: micro-batches of a step.
        precision: "no"; "bf16" gathers weights and computes in bfloat16, and sums up gradients in
            float32.

    Raises:
        ValueError: if tensor parallelism cannot cut the model, or it has a parameter of no
            dimension.
    """

    def __init__(
        self, model: nn.Module, name: str, ranks: Ranks, *, accumulate: int, precision: str
    ) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        assert ranks.mesh is not None  # or it would not be sharded
        numbers = [parameter for parameter, p in model.named_parameters() if p.ndim == 0]
        if numbers:
            raise ValueError(
                f"mesh: fsdp and tp must be 1, for {numbers[0]} of {name} has no dimension to be "
                "cut in; make it one of one entry"
            )
        self.model = self.called = model
        self._ranks, self._accumulate = ranks, accumulate
        names = ("dp", "fsdp", "tp")
        mesh = init_device_mesh(ranks.device.type, ranks.mesh.sizes, mesh_dim_names=names)
        if ranks.mesh.tp > 1:
            cut_up(model, name, mesh["tp"])
        self._replicated = ranks.mesh.dp > 1
        low = torch.bfloat16 if precision == "bf16" else torch.float32
        of_block = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32)
        of_root = replace(of_block, output_dtype=torch.float32)
        part = mesh["dp", "fsdp"] if self._replicated else mesh["fsdp"]
        for block in blocks(model):
            fully_shard(block, mesh=part, mp_policy=of_block)
        self._root: Any = fully_shard(model, mesh=part, mp_policy=of_root)

    def backward(self, loss: Tensor) -> None:
        (loss / self._accumulate).backward()  # type: ignore[no-untyped-call]

    def micro_batch(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        # Gradients are cut up after each micro-batch, or every process would hold whole ones;
        # replicas of a part are added up once.
        if self._replicated:
            self._root.set_requires_all_reduce(last)
        return contextlib.nullcontext()

    def norm(self, parameters: Sequence[Tensor]) -> Tensor:
        """One sum over all processes, of parts that several have in proportion."""
        held: dict[int, list[Tensor]] = {}
        for p in parameters:
            if p.grad is not None:
                shares = self._ranks.count // _parts(p.grad)
                held.setdefault(shares, []).append(local_part(p.grad))
        total = torch.zeros((), dtype=torch.float64, device=self._ranks.device)
        for shares, gradients in held.items():
            total += get_total_norm(gradients).double().square() / shares
        dist.all_reduce(total)
        return total.sqrt()

    def clip(self, parameters: Sequence[Tensor], largest: float, norm: Tensor) -> None:
        """As torch scales whole gradients, by what is the same on all processes."""
        factor = (largest / (norm + 1e-6)).clamp(max=1.0).float()
        for p in parameters:
            if p.grad is not None:
                local_part(p.grad).mul_(factor)

    def rest(self) -> None:
        self._root.reshard()

    def saved(self, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
        """Tensor by tensor: beside what the first process keeps, one is whole at a time."""
        done: dict[int, Tensor | None] = {}  # a weight that two modules share is saved once
        model = {}
        for name, value in self.model.state_dict(keep_vars=True).items():
            if id(value) not in done:
                done[id(value)] = self._saved(value)
            model[name] = done[id(value)]
        state = optimizer.state_dict()
        of_parameters = {
            key: {name: self._saved(value) for name, value in held.items()}
            for key, held in state["state"].items()
        }
        return model, {**state, "state": of_parameters}

    def _saved(self, value: Any) -> Any:
        """A tensor in the memory of the first process, nothing on the others; other data as is."""
        if not isinstance(value, Tensor):
            return value
        value = whole(value.detach())
        return value.to("cpu") if self._ranks.first else None

    def placed(self, contents: Mapping[str, Any], optimizer: Optimizer) -> Mapping[str, Any]:
        """Nothing is sent: each process takes its part out of the file."""
        model = dict(contents["model"])
        for name, parameter in self.model.state_dict(keep_vars=True).items():
            if name in model:
                model[name] = _part_of(model[name], parameter)
        saved = contents["optimizer"]
        ids = [i for group in saved["param_groups"] for i in group["params"]]
        members = [p for group in optimizer.param_groups for p in group["params"]]
        parameters = dict(zip(ids, members, strict=True))
        state = {
            i: {
                key: _part_of(value, parameters[i]) if key in OF_ITS_SHAPE else value
                for key, value in held.items()
            }
            for i, held in saved["state"].items()
        }
        return {**contents, "model": model, "optimizer": {**saved, "state": state}}


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the modules of the outermost lists, which share no parameter with others.

    A model is cut up block by block, so that one block is whole at a time. What shares a parameter
    is gathered with the model.

    Example:
        >>> layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        >>> layers[2].weight = layers[0].weight
        >>> blocks(nn.Sequential(nn.Linear(2, 2), layers)) == [layers[1]]
        True
    """
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    inner = {name for name in lists for other in lists if name.startswith(f"{other}.")}
    every = [b for name in lists if name not in inner for b in model.get_submodule(name).children()]
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    found = []
    for block in every:
        own = Counter(id(p) for _, p in block.named_parameters(remove_duplicate=False))
        if own and all(uses[each] == count for each, count in own.items()):
            found.append(block)
    return found


@contextlib.contextmanager
def views_returned() -> Iterator[None]:
    """Within it torch does not warn of a model that returns a view, as of a head that is gathered.

    A change of it in place would be lost; the loss changes nothing in place.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        yield


def largest_entry(model: nn.Module) -> Tensor:
    """Return the largest absolute value of the parameters that this process holds.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, -3.0)
        >>> largest_entry(model)
        tensor(3.)
    """
    held = [local_part(p.detach()) for p in model.parameters()]
    # Torch's max, unlike Python's, is undefined when any of its arguments is.
    each = [part.abs().max() for part in held if part.numel()]
    return torch.stack(each).max() if each else torch.zeros((), device=held[0].device)


def whole(x: Tensor) -> Tensor:
    """Return a DTensor as one tensor, on all processes of its mesh together; any other as it is."""
    if not is_distributed(x):
        return x
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(x, DTensor)
    # The outermost dimension first, as tensor parallelism has cut before fully_shard: at once
    # torch would do the same, and warn.
    placements = list(x.placements)
    for dimension in range(len(placements)):
        placements[dimension] = Replicate()
        x = x.redistribute(placements=placements)
    return x.full_tensor()


def _parts(x: Tensor) -> int:
    """Into how many parts a tensor is cut."""
    if not is_distributed(x):
        return 1
    cuts = zip(x.device_mesh.shape, x.placements, strict=True)  # type: ignore[attr-defined]
    return math.prod(size for size, placement in cuts if not placement.is_replicate())


def _part_of(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, laid out as a parameter is.

    Raises:
        ValueError: if the tensor has another shape.
    """
    if not is_distributed(like):
        return value
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor)
    if value.shape != like.shape:
        raise ValueError(
            f"size mismatch: {tuple(value.shape)} there, {tuple(like.shape)} in this model"
        )
    mesh = like.device_mesh
    held = boxes(tuple(like.shape), tuple(mesh.shape), tuple(like.placements))
    here = held[mesh.mesh.flatten().tolist().index(dist.get_rank())]
    ends = zip(here.start, here.shape, strict=True)
    part = value[tuple(slice(start, start + size) for start, size in ends)]
    return DTensor.from_local(
        part.to(like.device, copy=True).contiguous(),
        mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
