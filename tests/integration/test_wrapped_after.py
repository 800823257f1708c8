"""What frameworks do to an optimizer after it has been made: swap, flatten, read, name."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard

import polargrad as pg

INPUTS = torch.arange(9)


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(9, 4),
        nn.Linear(4, 6),
        nn.Tanh(),
        nn.Linear(6, 4),
        nn.LayerNorm(4),
        nn.Linear(4, 9, bias=False),
    )


def optimizer_of(module):
    return pg.PolarGrad(pg.param_groups(module, vector_lr=0.01), lr=0.05)


def backward(module):
    loss = nn.functional.cross_entropy(module(INPUTS), INPUTS)
    loss.backward()
    return loss.item()


def step(module, optimizer):
    optimizer.zero_grad()
    loss = backward(module)
    optimizer.step()
    return loss


def test_a_parameter_swapped_for_a_shard_is_stepped(tmp_path):
    """As accelerate prepares FSDP2: the optimizer exists before the shards."""
    plain = model()
    other = optimizer_of(plain)
    wanted = [step(plain, other) for _ in range(3)]
    where = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=where, rank=0, world_size=1)
    try:
        module = model()
        optimizer = optimizer_of(module)
        names = {id(p): name for name, p in module.named_parameters()}
        fully_shard(module)
        shards = dict(module.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [shards[names[id(p)]] for p in group["params"]]
        assert [step(module, optimizer) for _ in range(3)] == pytest.approx(wanted, rel=1e-6)
    finally:
        dist.destroy_process_group()


def test_names_given_beside_routed_parameters_are_kept():
    groups = pg.param_groups(model(), vector_lr=0.01)
    for group in groups:
        names, params = zip(*group["params"], strict=True)
        group |= {"params": list(params), "param_names": list(names)}
    optimizer = pg.PolarGrad(groups, lr=0.05)
    kept = [group.get("param_names") for group in optimizer.param_groups]
    assert kept == [group["param_names"] for group in groups]


def test_skipped_steps_survive_a_flat_state():
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    module, again = model(), model()
    optimizer, loaded = optimizer_of(module), optimizer_of(again)
    step(module, optimizer)
    optimizer.zero_grad()
    backward(module)
    module[1].weight.grad[0, 0] = float("nan")
    optimizer.step()
    optimizer.zero_grad()
    flat = get_optimizer_state_dict(module, optimizer, options=options)
    set_optimizer_state_dict(again, loaded, flat, options=options)
    assert loaded.skipped_steps == 1


def test_a_state_read_before_the_first_step_changes_no_step():
    """torch makes it by a step with zero gradients and lr 0, which must not count."""
    read, plain = model(), model()
    optimizer, other = optimizer_of(read), optimizer_of(plain)
    get_optimizer_state_dict(read, optimizer)
    for _ in range(3):
        assert step(read, optimizer) == step(plain, other)


def test_nor_the_bits_of_stochastic_rounding():
    ends = []
    for read in (False, True):
        torch.manual_seed(0)
        module = nn.Linear(6, 6, bias=False, dtype=torch.bfloat16)
        optimizer = pg.PolarGrad(module.parameters(), lr=1e-3, rounding="stochastic")
        if read:
            get_optimizer_state_dict(module, optimizer)
        module.weight.grad = torch.eye(6, dtype=torch.bfloat16)
        optimizer.step()
        ends.append(module.weight.detach())
    assert torch.equal(*ends)
