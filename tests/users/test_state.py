"""Defects 38 to 44 of the peers: state and checkpoints. See docs/peer_defects.md."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import state_dict as dcp

import polargrad as pg

# What the groups of the first checkpoints held.
FIRST = {
    *("params", "param_names", "rule", "roles", "views", "reasons", "lr", "weight_decay"),
    *("momentum", "order", "nesterov", "magnitude", "decay_per_step", "base_lr"),
    *("method", "tol", "compute_dtype", "resolved", "betas", "eps"),
}


def model(dtype=torch.float32):
    """Two matrices of one shape, one of another, an embedding, a head and vectors."""
    torch.manual_seed(0)
    layers = (nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 6))
    return nn.Sequential(*layers, nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 7)).to(dtype)


def optimizer_of(module, **options):
    options = {"lr": 0.05, "weight_decay": 0.1, **options}
    return pg.PolarGrad(pg.param_groups(module, vector_weight_decay=0.1), **options)


@pytest.fixture
def advance(randn):
    """Steps whose gradients depend on their numbers alone."""

    def advance(module, optimizer, numbers, missing=()):
        for number in numbers:
            for index, (name, p) in enumerate(module.named_parameters()):
                p.grad = None if name in missing else randn(p.shape, 100 * number + index, p.dtype)
            optimizer.step()

    return advance


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_c38_a_float32_momentum_stays_float32_beside_bfloat16(advance, through_a_file):
    module, again = model(torch.bfloat16), model(torch.bfloat16)
    optimizer, loaded = optimizer_of(module), optimizer_of(again)
    advance(module, optimizer, range(2))
    loaded.load_state_dict(through_a_file(optimizer.state_dict()))
    for p, q in zip(module.parameters(), again.parameters(), strict=True):
        for key, value in optimizer.state[p].items():
            assert loaded.state[q][key].dtype == value.dtype
            assert torch.equal(loaded.state[q][key], value)
    buffer = loaded.state[again[1].weight]["momentum_buffer"]
    assert buffer.dtype == torch.float32
    assert not torch.equal(buffer.bfloat16().float(), buffer)  # a cast would have lost something
    # What torch's own loading does to the same buffer.
    peer = torch.optim.SGD([again[1].weight], lr=0.1, momentum=0.9)
    saved = {"state": {0: {"momentum_buffer": buffer}}, **groups_of(peer)}
    peer.load_state_dict(saved)
    assert peer.state[again[1].weight]["momentum_buffer"].dtype == torch.bfloat16


def groups_of(optimizer):
    return {"param_groups": optimizer.state_dict()["param_groups"]}


def test_c39_a_checkpoint_without_the_later_options_loads(advance, through_a_file):
    """What an older version did not write keeps the value that this optimizer has."""
    module, again = model(), model()
    optimizer, loaded = optimizer_of(module), optimizer_of(again)
    advance(module, optimizer, range(2))
    old = copy.deepcopy(optimizer.state_dict())
    old["param_groups"] = [
        {key: value for key, value in group.items() if key in FIRST}
        for group in old["param_groups"]
    ]
    for group in old["param_groups"]:
        group["magnitude"] = "nuclear"  # the dual norm of the one norm that there was
    old = {key: old[key] for key in ("state", "param_groups")}
    loaded.load_state_dict(through_a_file(old))
    again.load_state_dict(module.state_dict())
    for one, stepper in ((module, optimizer), (again, loaded)):
        advance(one, stepper, range(2, 4))
    assert same(module, again)
    loaded.add_param_group({"params": [("late", nn.Parameter(torch.eye(3)))]})
    assert str(pg.explain(loaded))


@pytest.mark.parametrize("method", ["qdwh", "svd", "newton_schulz", "auto"])
def test_c39_no_state_belongs_to_a_method(advance, through_a_file, method):
    """A checkpoint of one way to compute the factor goes on with another."""
    module, again = model(), model()
    optimizer = optimizer_of(module, method="svd")
    advance(module, optimizer, range(2))
    loaded = optimizer_of(again, method=method)
    loaded.load_state_dict(through_a_file(optimizer.state_dict()))
    again.load_state_dict(module.state_dict())
    for group in loaded.param_groups:
        if group["rule"] == "matrix":
            group["method"] = method
    advance(module, optimizer, [2])
    advance(again, loaded, [2])
    for p, q in zip(module.parameters(), again.parameters(), strict=True):
        assert p.shape == q.shape
        torch.testing.assert_close(p, q, rtol=0, atol=0.2 if method != "qdwh" else 1e-5)
    assert all(p.isfinite().all() for p in again.parameters())


def numbers_of(optimizer):
    """Learning rates, momenta and all other plain options of the groups."""
    return [
        {key: value for key, value in group.items() if not isinstance(value, list | dict)}
        for group in optimizer.param_groups
    ]


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
def test_c40_a_distributed_state_dict_is_complete_and_changes_nothing(advance, steps, flat):
    """Neither empty before the first step, nor with the optimizer other after than before."""
    options = dcp.StateDictOptions(flatten_optimizer_state_dict=flat)
    module, again = model(), model()
    optimizer, loaded = optimizer_of(module), optimizer_of(again)
    advance(module, optimizer, range(steps))
    optimizer.zero_grad()
    weights, groups = copy.deepcopy(module.state_dict()), numbers_of(optimizer)
    saved = copy.deepcopy(dcp.get_optimizer_state_dict(module, optimizer, options=options))
    assert numbers_of(optimizer) == groups
    assert optimizer.skipped_steps == 0
    assert all(torch.equal(module.state_dict()[name], x) for name, x in weights.items())
    names = [name for name, _ in module.named_parameters()]
    keys = saved if flat else saved["state"]
    assert all(any(name in key for key in keys) for name in names)
    again.load_state_dict(weights)
    dcp.set_optimizer_state_dict(again, loaded, saved, options=options)
    for one, stepper in ((module, optimizer), (again, loaded)):
        advance(one, stepper, range(steps, steps + 2))
    assert same(module, again)


def test_c41_ranks_with_other_missing_gradients_have_the_same_state():
    """Made for all parameters at once, as a checkpoint asks, it does not depend on who had a token.

    Of two processes one has no gradient for a matrix, the other none for a vector.
    """
    layouts = []
    for missing in ("1.weight", "5.bias"):
        module = model()
        optimizer = optimizer_of(module)
        dcp.get_optimizer_state_dict(module, optimizer)
        for name, p in module.named_parameters():
            p.grad = None if name == missing else torch.ones_like(p)
        optimizer.step()
        state = optimizer.state_dict()["state"]
        layouts.append(
            {(i, k): tuple(v.shape) for i, entry in state.items() for k, v in entry.items()}
        )
    assert layouts[0] == layouts[1]
    assert {i for i, _ in layouts[0]} == set(range(len(list(module.parameters()))))


def test_c41_a_state_with_gaps_loads_and_goes_on(advance, through_a_file):
    """Also without that: what had no gradient has no state, and gets it when it has one."""
    module, again = model(), model()
    optimizer, loaded = optimizer_of(module), optimizer_of(again)
    advance(module, optimizer, range(2), missing=("1.weight", "5.bias"))
    loaded.load_state_dict(through_a_file(optimizer.state_dict()))
    again.load_state_dict(module.state_dict())
    for one, stepper in ((module, optimizer), (again, loaded)):
        advance(one, stepper, range(2, 4))
    assert same(module, again)


def test_c42_nothing_is_remembered_under_an_address(advance):
    """An id is given to another object as soon as its first one is gone."""
    module = model()
    optimizer = optimizer_of(module)
    advance(module, optimizer, range(2))
    ids = {id(x) for x in (module, optimizer, *module.modules(), *module.parameters())}
    ids |= {p.data_ptr() for p in module.parameters()}

    def numbers(x):
        if isinstance(x, dict):
            for key, value in x.items():
                yield from (*numbers(key), *numbers(value))
        elif isinstance(x, list | tuple | set | frozenset):
            for value in x:
                yield from numbers(value)
        elif isinstance(x, int):
            yield x

    found = list(numbers({k: v for k, v in vars(optimizer).items() if k != "state"}))
    found += list(numbers(list(optimizer.state.values())))
    assert found
    assert not ids & set(found)


def test_c42_a_parameter_in_the_place_of_another_starts_afresh(advance):
    """Same group, same place, perhaps the same address, another matrix: no state is taken over."""
    first, second = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    optimizer = pg.PolarGrad([first, second], lr=0.1, momentum=0.9)
    for p in (first, second):
        p.grad = torch.eye(4)
    optimizer.step()
    late = nn.Parameter(torch.ones(6, 2))
    late.grad = torch.ones(6, 2)
    optimizer.param_groups[0]["params"][0] = late
    optimizer.step()
    alone = nn.Parameter(torch.ones(6, 2))
    alone.grad = torch.ones(6, 2)
    pg.PolarGrad([alone], lr=0.1, momentum=0.9).step()
    torch.testing.assert_close(late, alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("order", ["momentum-first", "polar-first"])
def test_c43_a_resumed_run_is_the_run_itself_to_the_bit(advance, through_a_file, dtype, order):
    """n steps, a file, m steps: as n + m, with a schedule, a skipped step and missing gradients."""

    def start():
        module = model(dtype)
        optimizer = optimizer_of(module, order=order, method="auto")
        return module, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)

    def go(parts, numbers):
        module, optimizer, scheduler = parts
        for number in numbers:
            missing = ("2.weight", "6.bias") if number == 1 else ()
            advance(module, optimizer, [number], missing)
            if number == 2:
                for p in module.parameters():
                    p.grad = torch.full_like(p, float("nan"))
                optimizer.step()
            scheduler.step()

    straight, resumed = start(), start()
    go(straight, range(4))
    saved = through_a_file([part.state_dict() for part in straight])
    for part, state in zip(resumed, saved, strict=True):
        part.load_state_dict(state)
    go(straight, range(4, 8))
    go(resumed, range(4, 8))
    assert same(straight[0], resumed[0])
    for p, q in zip(straight[0].parameters(), resumed[0].parameters(), strict=True):
        mine, theirs = straight[1].state[p], resumed[1].state[q]
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[k], theirs[k]) for k in mine)


@pytest.mark.parametrize("first", [torch.bfloat16, torch.float32], ids=str)
def test_c44_the_dtype_of_the_state_is_not_that_of_a_gradient(randn, first):
    """A checkpoint's zero gradients are bfloat16, those of the training float32, or the reverse."""
    layouts = []
    for start in (first, None):
        p = nn.Parameter(randn((4, 4), 0, torch.bfloat16))
        p.grad_dtype = None  # any
        optimizer = pg.PolarGrad([p], lr=0.0, momentum=0.9)
        if start is not None:
            p.grad = torch.zeros(4, 4, dtype=start)
            optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.1
        for dtype in (torch.float32, torch.bfloat16):
            p.grad = randn((4, 4), 1, dtype)
            optimizer.step()
        layouts.append({k: (v.dtype, v.clone()) for k, v in optimizer.state[p].items()})
    assert layouts[0].keys() == layouts[1].keys()
    for key, (dtype, value) in layouts[0].items():
        assert dtype == layouts[1][key][0]
        assert torch.equal(value, layouts[1][key][1])
    assert layouts[0]["momentum_buffer"][0] == torch.float32
