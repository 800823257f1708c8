"""One of several processes of a test: ``data_parallel_worker.py RANK WORLD FOLDER``.

Rank 0 leaves in FOLDER what the runs ended with, and what they were to end with.
"""

import copy
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.nn.parallel import DistributedDataParallel

import polargrad as pg

TOKENS = torch.arange(8)
STEPS = 3


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Embedding(8, 4), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4), nn.Linear(4, 8)
    ).double()


def routed(module):
    return pg.PolarGrad(pg.param_groups(module, vector_lr=0.01), lr=0.05, weight_decay=0.1)


def train(module, optimizer, tokens, steps=STEPS):
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(tokens), tokens).backward()
        optimizer.step()
    optimizer.zero_grad()


def parameters(module):
    return [p.detach().clone() for p in module.parameters()]


def data_parallel(rank, world, report):
    """Half of the batch in each process; groups made of the wrapped module."""
    wrapped = DistributedDataParallel(model())
    optimizer = routed(wrapped)
    train(wrapped, optimizer, TOKENS[rank::world])
    plain = model()
    train(plain, routed(plain), TOKENS)
    everywhere = [torch.empty_like(p) for p in wrapped.parameters()]
    for p, q in zip(everywhere, wrapped.parameters(), strict=True):
        p.copy_(q.detach())
        dist.broadcast(p, src=1)
    report["data parallel"] = (parameters(wrapped), parameters(plain))
    report["on every rank"] = (parameters(wrapped), everywhere)
    return wrapped, optimizer


def broadcast_from_one(rank, world, wrapped, optimizer, report):
    """A state that rank 0 alone has read, given to all."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    saved = get_optimizer_state_dict(wrapped, optimizer, options=options)
    again = DistributedDataParallel(model(seed=1))
    again.load_state_dict(copy.deepcopy(wrapped.state_dict()))
    other = routed(again)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_optimizer_state_dict(again, other, saved if rank == 0 else {}, options=options)
    for module, stepper in ((wrapped, optimizer), (again, other)):
        train(module, stepper, TOKENS[rank::world])
    last = [torch.empty_like(p) for p in again.parameters()]
    for p, q in zip(last, again.parameters(), strict=True):
        p.copy_(q.detach())
        dist.broadcast(p, src=1)
    report["loaded by broadcast"] = (last, parameters(wrapped))


def zero_redundancy(rank, world, report):
    """The matrices shared out among the processes, each with its own optimizer object."""
    from torch.distributed.optim import ZeroRedundancyOptimizer  # warns where it is imported

    def matrices(module):
        return [p for p in module.parameters() if p.ndim == 2]

    module, plain = model(), model()
    optimizer = ZeroRedundancyOptimizer(matrices(module), optimizer_class=pg.PolarGrad, lr=0.05)
    train(module, optimizer, TOKENS)
    train(plain, pg.PolarGrad(matrices(plain), lr=0.05), TOKENS)
    report["zero redundancy"] = (parameters(module), parameters(plain))
    report["matrices kept here"] = len(optimizer.optim.param_groups[0]["params"])
    groups = [
        {**group, "params": [p for _, p in group["params"]]}
        for group in pg.param_groups(model(), vector_lr=0.01)
    ]
    try:
        ZeroRedundancyOptimizer(groups, optimizer_class=pg.PolarGrad, lr=0.05)
    except ValueError as error:
        report["routed groups shared out"] = str(error)


def main():
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world
    )
    report = {}
    wrapped, optimizer = data_parallel(rank, world, report)
    broadcast_from_one(rank, world, wrapped, optimizer, report)
    zero_redundancy(rank, world, report)
    if rank == 0:
        torch.save(report, folder / "report.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
