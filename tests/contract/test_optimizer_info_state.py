"""What torch demands of its optimizers beside the step: state, copies, hooks, scalers, refusals.

The demands are those of torch's own test_optim.py, as we understand them; the list of inputs is in
``optimizer_infos``.
"""

import copy
import pickle

import pytest
import torch
from optimizer_infos import Problem, cases, infos, same, through_a_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)


@cases
@pytest.mark.parametrize("names", ["none", "saved", "loaded", "both"])
def test_a_loaded_state_goes_on_alike(info, given, names):
    """To the bit, whichever of the two optimizers knows names."""
    first, second = Problem(), Problem()

    def named(problem, known):
        return list(zip("wb", problem.params, strict=True)) if known else problem.params

    optimizer = info.make(named(first, names in ("saved", "both")), **given.kwargs)
    first.run(optimizer, 3)
    # Whether a value may be read on the host is the optimizer's, not the state's.
    own = {key: value for key, value in given.kwargs.items() if key == "capturable"}
    loaded = info.make(named(second, names in ("loaded", "both")), **own)
    loaded.load_state_dict(through_a_file(optimizer.state_dict()))
    with torch.no_grad():
        for p, q in zip(second.params, first.params, strict=True):
            p.copy_(q)
    assert first.run(optimizer, 3) == second.run(loaded, 3)
    assert same(first.values(), second.values())


@infos
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_state_loads_beside_parameters_of_another_dtype(info, dtype):
    saved, fresh, loaded = Problem(), Problem(dtype=dtype), Problem(dtype=dtype)
    optimizers = [info.make(p.params) for p in (saved, fresh, loaded)]
    for problem, optimizer in zip((saved, fresh), optimizers[:2], strict=True):
        problem.run(optimizer, 1)
    optimizers[2].load_state_dict(optimizers[0].state_dict())
    for p, q in zip(fresh.params, loaded.params, strict=True):
        theirs, mine = optimizers[1].state[p], optimizers[2].state[q]
        assert {k: v.dtype for k, v in mine.items()} == {k: v.dtype for k, v in theirs.items()}
    loaded.run(optimizers[2], 2)
    assert all(p.isfinite().all() for p in loaded.params)


@infos
@pytest.mark.parametrize("number", [3, 3.0], ids=["int", "float"])
def test_a_counter_that_is_a_plain_number_loads(info, number):
    """As checkpoints of older torch hold it."""
    first, second = Problem(), Problem()
    optimizer, loaded = info.make(first.params), info.make(second.params)
    first.run(optimizer, 3)
    state = copy.deepcopy(optimizer.state_dict())
    for entry in state["state"].values():
        if "step" in entry:
            entry["step"] = number
    loaded.load_state_dict(state)
    assert loaded.state[second.bias]["step"] == 3
    second.run(loaded, 1)
    assert loaded.state[second.bias]["step"] == 4


@cases
@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_has_all_public_attributes_and_goes_on(info, given, way):
    problem = Problem()
    optimizer = info.make(problem.params, **given.kwargs)
    seen = []
    handle = optimizer.register_step_post_hook(noted)
    noted.seen = seen
    problem.run(optimizer, 2)
    other = way(optimizer)
    public = {name for name in vars(optimizer) if not name.startswith("_")}
    assert public == {name for name in vars(other) if not name.startswith("_")}
    handle.remove()
    params = [p for group in other.param_groups for p in group["params"]]
    assert not {id(p) for p in params} & {id(p) for p in problem.params}
    for p, q in zip(problem.params, params, strict=True):
        p.grad = torch.ones_like(p)
        q.grad = torch.ones_like(q)
    optimizer.step()
    other.step()
    assert same(problem.params, params)
    assert seen[:2] == [optimizer, optimizer]


def noted(optimizer, *_):
    noted.seen.append(optimizer)


@infos
def test_step_hooks_run_in_torch_s_order_and_may_be_removed(info):
    """Those of all optimizers around those of this one; one before may change the arguments."""
    problem, seen = Problem(), []
    optimizer = info.make(problem.params)

    def note(word):
        return lambda *_: seen.append(word)

    handles = [
        register_optimizer_step_pre_hook(note("all, before")),
        register_optimizer_step_post_hook(note("all, after")),
        optimizer.register_step_pre_hook(note("own, before")),
        optimizer.register_step_post_hook(note("own, after")),
        optimizer.register_step_pre_hook(
            lambda _, args, kwargs: ((args[0], lambda: "changed"), {})
        ),
    ]
    assert optimizer.step() == "changed"
    assert seen == ["all, before", "own, before", "own, after", "all, after"]
    for handle in handles:
        handle.remove()
    assert optimizer.step() is None
    assert len(seen) == 4


@infos
def test_state_dict_hooks(info):
    """Before and after saving and loading, the prepended first."""
    problem, seen = Problem(), []
    optimizer = info.make(problem.params)
    problem.run(optimizer, 1)
    optimizer.register_state_dict_pre_hook(lambda _: seen.append("saving"))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "more": 1})
    optimizer.register_load_state_dict_pre_hook(lambda *_: seen.append("second"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: seen.append("first"), prepend=True)
    optimizer.register_load_state_dict_post_hook(lambda _: seen.append("loaded"))
    state = optimizer.state_dict()
    assert state["more"] == 1
    optimizer.load_state_dict(state)
    assert seen == ["saving", "first", "second", "loaded"]


@cases
def test_groups_of_every_dtype(info, given):
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    problems = [Problem(dtype=dtype) for dtype in dtypes]
    optimizer = info.make([{"params": p.params} for p in problems], **given.kwargs)
    before = [problem.values() for problem in problems]
    for problem in problems:
        problem.loss().backward()
    optimizer.step()
    optimizer.step()  # SOAP's first step makes its basis and moves nothing
    for problem, old, dtype in zip(problems, before, dtypes, strict=True):
        for p, b in zip(problem.params, old, strict=True):
            assert p.dtype == dtype
            assert p.isfinite().all()
            assert not torch.equal(p, b)


@infos
def test_two_optimizers_on_the_same_parameters_share_nothing(info):
    problem = Problem()
    first, second = info.make(problem.params), info.make(problem.params)
    problem.run(first, 1)
    assert not second.state
    assert first.defaults is not second.defaults
    problem.run(second, 1)
    pointers = [
        [t.data_ptr() for state in one.state.values() for t in state.values()]
        for one in (first, second)
    ]
    assert not set(pointers[0]) & set(pointers[1])
    first.param_groups[0]["lr"] = 7.0
    assert second.param_groups[0]["lr"] != 7.0


@infos
def test_a_scaler_grows_unscales_and_backs_off(info):
    """It finds infinities itself: the optimizer has no part in it, and says so."""
    problem, plain = Problem(), Problem()
    optimizer, reference = info.make(problem.params), info.make(plain.params)
    assert not hasattr(optimizer, "_step_supports_amp_scaling")
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
    for _ in range(2):
        optimizer.zero_grad()
        scaler.scale(problem.loss()).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(problem.params, 1.0)
        scaler.step(optimizer)
        scaler.update()
        reference.zero_grad()
        plain.loss().backward()
        nn.utils.clip_grad_norm_(plain.params, 1.0)
        reference.step()
    assert scaler.get_scale() == 32.0
    assert same(problem.values(), plain.values())
    problem.bias.grad[0] = float("inf")
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 16.0
    assert same(problem.values(), plain.values())


def complex_weight():
    return [("weight", nn.Parameter(torch.ones(2, 3, dtype=torch.complex64)))]


WEIGHT = nn.Parameter(torch.eye(3))
REFUSED = {
    "a tensor, not a list": (lambda: WEIGHT, {}, TypeError, "iterable of Tensors or dicts"),
    "no parameters": (list, {}, ValueError, "empty parameter list"),
    "twice in a group": (lambda: [WEIGHT, WEIGHT], {}, ValueError, "more than once"),
    "in two groups": (
        lambda: [{"params": WEIGHT}, {"params": WEIGHT}],
        {},
        ValueError,
        "more than once",
    ),
    "lr of two elements": (
        lambda: [WEIGHT],
        {"lr": torch.tensor([0.001, 0.001])},
        ValueError,
        "must hold one number",
    ),
    "negative lr": (lambda: [WEIGHT], {"lr": -0.5}, ValueError, "lr must be at least 0"),
    "names for some": (
        lambda: [("weight", WEIGHT), nn.Parameter(torch.eye(2))],
        {},
        ValueError,
        "with/without names",
    ),
    "names in some groups": (
        lambda: [{"params": [WEIGHT]}, {"params": [("b", nn.Parameter(torch.eye(2)))]}],
        {},
        ValueError,
        "with/without names",
    ),
    "complex": (complex_weight, {}, TypeError, r"parameter weight is of torch\.complex64"),
    "three dimensions": (
        lambda: [nn.Parameter(torch.ones(2, 3, 4))],
        {},
        ValueError,
        r"\(2, 3, 4\) is not a matrix",
    ),
    "an unknown option": (lambda: [WEIGHT], {"momentun": 0.9}, TypeError, "momentun"),
    "negative decay": (
        lambda: [WEIGHT],
        {"weight_decay": -1.0},
        ValueError,
        "weight_decay must be at least 0",
    ),
    "differentiable": (
        lambda: [WEIGHT],
        {"differentiable": True},
        (TypeError, ValueError, NotImplementedError),
        "differentiable",
    ),
}


@infos
@pytest.mark.parametrize("refused", REFUSED.values(), ids=list(REFUSED))
def test_what_is_refused_at_construction(info, refused):
    params, options, error, message = refused
    with pytest.raises(error, match=message):
        info.make(params(), **options)


@infos
def test_a_sparse_gradient_is_refused_by_name_and_nothing_moves(info):
    table, weight = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.eye(3))
    optimizer = info.make([("weight", weight), ("table", table)])
    weight.grad = torch.eye(3)
    table.grad = torch.ones(4, 3).to_sparse()
    with pytest.raises(RuntimeError, match="parameter table has a sparse gradient"):
        optimizer.step()
    assert torch.equal(weight, torch.eye(3))
    assert not optimizer.state


@infos
@pytest.mark.parametrize("to_none", [True, False])
def test_zero_grad_is_torch_s_own(info, to_none):
    assert info.cls.zero_grad is Optimizer.zero_grad
    problem = Problem()
    optimizer = info.make(problem.params)
    problem.loss().backward()
    optimizer.zero_grad(set_to_none=to_none)
    for p in problem.params:
        assert (p.grad is None) if to_none else not p.grad.any()
