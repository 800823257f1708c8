"""What processes do together in the tests: cases for ``ranks.launch``."""

import functools
import hashlib
import os
import re
import time
import warnings
from pathlib import Path

import layouts
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as checkpoint
from peak import Peak
from quadratics import OF_DIRECTIONS
from sent import Sent
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.tensor import DTensor, Partial
from torch.utils.flop_counter import FlopCounterMode

import polargrad as pg
from polargrad import optim
from polargrad.distributed import local
from polargrad.errors import CollectiveError, NonFiniteError
from polargrad.optim import elementwise
from polargrad.optim.step_size import NORM, PAIR

PRESETS = {
    "PolarGrad": (pg.PolarGrad, {"lr": 0.05, "weight_decay": 0.1}),
    "PolarGrad, found": (pg.PolarGrad, {"lr": None, "weight_decay": 0.1}),
    "PolarGrad, quintic, found": (pg.PolarGrad, {"lr": None, "method": "newton_schulz"}),
    "PolarGrad, recorded": (pg.PolarGrad, {"lr": 0.05, "capturable": True, "foreach": False}),
    "PolarGrad, svd": (pg.PolarGrad, {"lr": 0.05, "method": "svd", "momentum": 0.0}),
    "PolarGrad, polar-first": (pg.PolarGrad, {"lr": 0.05, "order": "polar-first"}),
    # A sum of whole steps goes up to twenty times as far.
    "PolarGrad, polyak": (pg.PolarGrad, {"lr": 0.0025, "order": "polyak"}),
    "PolarGrad, corrected": (
        pg.PolarGrad,
        {"lr": 0.05, "bias_correction": True, "nesterov": True, "maximize": True},
    ),
    "PolarGrad, polar-first, found": (
        pg.PolarGrad,
        {"lr": None, "weight_decay": 0.1} | OF_DIRECTIONS,
    ),
    "PolarGrad, rounds": (
        pg.PolarGrad,
        {"lr": 0.05, "weight_decay": 0.1, "approximation": {"name": "rounds", "every": 3}},
    ),
    "PolarGrad, found, rounds": (
        pg.PolarGrad,
        {"lr": None, "approximation": {"name": "rounds", "every": 2}},
    ),
    "PolarGrad, sketch": (
        pg.PolarGrad,
        {"lr": 0.05, "weight_decay": 0.1, "approximation": {"name": "sketch", "rank": 2}},
    ),
    "PolarMuon": (pg.PolarMuon, {"lr": 0.05}),
    "Muon": (pg.Muon, {"lr": 0.02}),
    "Muon, rounds": (pg.Muon, {"lr": 0.02, "approximation": {"name": "rounds", "every": 4}}),
    "Muon, sketch": (pg.Muon, {"lr": 0.02, "approximation": {"name": "sketch", "rank": 3}}),
    "Muon, quintic": (pg.Muon, {"lr": 0.02, "method": "newton_schulz"}),
    "MatrixSignDescent": (optim.MatrixSignDescent, {"lr": 0.02}),
    "SSD": (optim.SSD, {"lr": 0.02, "rank": 1}),
    "OneSidedPolarGrad": (optim.OneSidedPolarGrad, {"lr": 0.02, "side": "right"}),
    "HybridPolarGrad": (optim.HybridPolarGrad, {"lr": 0.02}),
    "RowNorm": (optim.RowNorm, {"lr": 0.02}),
    "ColumnNorm": (optim.ColumnNorm, {"lr": 0.02}),
    "SignSGD": (optim.SignSGD, {"lr": 0.02}),
    "GradientDescent": (optim.GradientDescent, {"lr": 0.02}),
    "Shampoo": (optim.Shampoo, {"lr": 0.02}),
    "SOAP": (optim.SOAP, {"lr": 0.02}),
}


def made(preset, groups, **more):
    """An optimizer of a preset."""
    kind, options = PRESETS[preset]
    return kind(groups, **options, **more)


def updates(layout, preset, steps=1, missing=()):
    """How far the parameters are from those of one device, and those from where they began."""
    laid = layouts.Laid(layout)
    optimizer = made(preset, laid.groups(), process_group=laid.process_group)
    for step in range(steps):
        laid.set_gradients(layouts.gradients(step, missing))
        optimizer.step()
    wholes, _ = layouts.alone(lambda groups: made(preset, groups), steps, missing)
    begun = layouts.weights()
    moved = min(
        float((wholes[name] - begun[name]).abs().amax()) for name in begun if name not in missing
    )
    return *laid.distance(wholes), moved


def norms_of_directions(layout, preset, steps=4):
    """What many processes know of the norms of directions, and what one does."""
    laid = layouts.Laid(layout)
    optimizer = made(preset, laid.groups(), process_group=laid.process_group)
    for step in range(steps):
        laid.set_gradients(layouts.gradients(step))
        optimizer.step()
    _, one = layouts.alone(lambda groups: made(preset, groups), steps)
    names = [name for group in one.param_groups for name in group["param_names"]]
    alone = dict(zip(names, (p for g in one.param_groups for p in g["params"]), strict=True))
    pairs = [(optimizer.state[p], one.state[alone[name]]) for name, p in laid.parameters.items()]
    return [
        tuple((own[NORM].tolist(), own[PAIR].tolist()) for own in pair)
        for pair in pairs
        if NORM in pair[0]
    ]


def shards_as_matrices(layout):
    """What comes out where each process takes its shards for matrices, as peers have done."""
    laid = layouts.Laid(layout)
    parts = {name: nn.Parameter(layouts.held(p)) for name, p in laid.parameters.items()}
    parts = {name: p for name, p in parts.items() if p.ndim == 2 and p.numel()}
    optimizer = pg.PolarGrad([{"params": list(parts.items())}], lr=0.05, momentum=0.0)
    for name, g in layouts.gradients(0).items():
        if name in parts:
            parts[name].grad = laid.part(name, g)
    optimizer.step()
    wholes, _ = layouts.alone(lambda groups: pg.PolarGrad(groups, lr=0.05, momentum=0.0), 1)
    return max(
        float((p.detach() - laid.part(name, wholes[name])).abs().max()) for name, p in parts.items()
    )


def products(layout, preset):
    """The multiplications of a step: of this process, and of one alone."""
    laid = layouts.Laid(layout)
    optimizer = made(preset, laid.groups(), process_group=laid.process_group)
    laid.set_gradients(layouts.gradients(0))
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    with FlopCounterMode(display=False) as whole:
        layouts.alone(lambda groups: made(preset, groups), 1)
    return counter.get_total_flops(), whole.get_total_flops()


def sent(layout, preset="PolarGrad, svd", large=True, only=None):
    """The bytes that this process sends in its second step, and the collectives that it calls."""
    model = layouts.Large if large else layouts.Model
    laid = layouts.Laid(layout, model)
    if only is not None:
        laid.parameters = {only: laid.parameters[only]}
    optimizer = made(preset, laid.groups(), process_group=laid.process_group)
    for step in range(2):
        laid.set_gradients(layouts.gradients(step, model=model))
        with Sent() as counted:
            optimizer.step()
    return counted.bytes, counted.calls


def step_counted(layout, preset):
    """Multiplications of this process in its second step, and its bytes to each process."""
    laid = layouts.Laid(layout)
    optimizer = made(preset, laid.groups(), process_group=laid.process_group)
    for step in range(2):
        laid.set_gradients(layouts.gradients(step))
        with FlopCounterMode(display=False) as counter, Sent() as counted:
            optimizer.step()
    return counter.get_total_flops(), counted.to


def memory(layout, count, matrices=2):
    """The most that a step holds beside parameters, gradients and state, in stacks."""
    unit = 4 * 32 * 32 * matrices
    kept = local.STACK_BYTES, elementwise.BATCH_BYTES
    local.STACK_BYTES = elementwise.BATCH_BYTES = unit
    try:
        model = functools.partial(layouts.Many, count)
        laid = layouts.Laid(layout, model, torch.float32)
        optimizer = made("PolarGrad", laid.groups(), process_group=laid.process_group)
        for step in range(2):
            laid.set_gradients(layouts.gradients(step, model=model, dtype=torch.float32))
            with Peak() as peak:
                optimizer.step()
        return peak.most / unit
    finally:
        local.STACK_BYTES, elementwise.BATCH_BYTES = kept


def nonfinite(layout, mode, name="tall.weight", entry=0):
    """One entry of one gradient is not finite, on the processes that hold it alone."""
    laid = layouts.Laid(layout)
    optimizer = made(
        "PolarGrad, found", laid.groups(), process_group=laid.process_group, nonfinite=mode
    )
    laid.set_gradients(layouts.gradients(0))
    optimizer.step()
    before = {n: layouts.held(p).clone() for n, p in laid.parameters.items()}
    spoilt = layouts.gradients(1)
    spoilt[name].view(-1)[entry] = float("nan")
    laid.set_gradients(spoilt)
    message = ""
    try:
        optimizer.step()
    except NonFiniteError as error:
        message = str(error)
    same = all(torch.equal(layouts.held(p), before[n]) for n, p in laid.parameters.items())
    laid.set_gradients(layouts.gradients(2))
    optimizer.step()
    after = layouts.held(laid.parameters["tall.weight"])
    return same, optimizer.skipped_steps, message, not torch.equal(after, before["tall.weight"])


def different(layout, kind):
    """The last process has its parameters in another order, or another set of gradients."""
    laid = layouts.Laid(layout)
    last = dist.get_rank() == dist.get_world_size() - 1
    groups = laid.groups()
    if kind == "order" and last:
        for key in ("params", "views"):
            groups[0][key] = groups[0][key][::-1]
    optimizer = made("PolarGrad", groups, process_group=laid.process_group)
    laid.set_gradients(layouts.gradients(0))
    if kind == "gradient" and last:
        laid.parameters["wide.weight"].grad = None
    try:
        optimizer.step()
    except CollectiveError as error:
        return str(error)
    return ""


def copies_agree(layout, preset="PolarGrad"):
    """In bfloat16 with stochastic rounding: what each process holds, to be compared with copies."""
    laid = layouts.Laid(layout, dtype=torch.bfloat16)
    optimizer = made(preset, laid.groups(), process_group=laid.process_group, rounding="stochastic")
    for step in range(3):
        laid.set_gradients(layouts.gradients(step, dtype=torch.bfloat16))
        optimizer.step()
    return {
        name: (laid.index[name], layouts.held(p).float().flatten())
        for name, p in laid.parameters.items()
        if p.ndim > 1
    }


class Tied(nn.Module):
    """A language model whose embedding and head are one matrix."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 6)
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.double()

    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.head(x + self.down(torch.relu(self.up(x))))


def trained_and_tied(steps=3):
    """Losses of a routed, tied model under fully_shard with its own backward, and of one alone."""
    rank, size = dist.get_rank(), dist.get_world_size()

    def losses(module, tokens):
        optimizer = pg.PolarGrad(pg.param_groups(module, vector_lr=0.01))  # the size is found
        found = [str(pg.explain(optimizer))]
        for _ in range(steps):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(module(tokens), tokens.roll(1))
            loss.backward()
            optimizer.step()
            found.append(float(loss.detach()))
        return found

    tokens = torch.arange(11).repeat(size)
    module = Tied()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about a view that the forward returns
        layouts.by_rows(module)
        mine = losses(module, tokens[11 * rank : 11 * (rank + 1)])
    return mine, losses(Tied(), tokens[:11])


def resumed(folder, layout, preset, load, save, first, steps):
    """Load a checkpoint, take some steps, save another; all state, whole, after both."""
    laid = layouts.Laid(layout)
    optimizer = made(preset, laid.groups(), process_group=laid.process_group)
    if load is not None:
        model, state = get_state_dict(laid.model, optimizer)
        checkpoint.load({"model": model, "optimizer": state}, checkpoint_id=f"{folder}/{load}")
        set_state_dict(laid.model, optimizer, model_state_dict=model, optim_state_dict=state)
    loaded = _all_state(laid.model, optimizer)
    for step in range(first, first + steps):
        laid.set_gradients(layouts.gradients(step))
        optimizer.step()
    model, state = get_state_dict(laid.model, optimizer)
    checkpoint.save({"model": model, "optimizer": state}, checkpoint_id=f"{folder}/{save}")
    return loaded, _all_state(laid.model, optimizer)


def _all_state(model, optimizer):
    """Parameters and state by name, whole tensors; on the first process alone."""
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    parameters, state = get_state_dict(model, optimizer, options=whole)
    flat = {f"model.{name}": value for name, value in parameters.items()}
    for name, own in state["state"].items() if state else ():
        flat |= {f"{name}.{key}": value for key, value in own.items()}
    return {name: value.clone() for name, value in flat.items()}  # a step changes them


def partial_gradient():
    """The distance where a gradient is a sum that has not been added up."""
    laid = layouts.Laid("fully_shard")
    optimizer = made("PolarGrad, svd", laid.groups())
    whole = layouts.gradients(0)
    laid.set_gradients(whole)
    p, size = laid.parameters["tall.weight"], dist.get_world_size()
    p.grad = DTensor.from_local(whole["tall.weight"] / size, p.device_mesh, [Partial()])
    optimizer.step()
    wholes, _ = layouts.alone(lambda groups: made("PolarGrad, svd", groups), 1)
    return laid.distance(wholes)[0]


def random_shapes(layout, seed):
    """Two steps of a model of random shapes."""
    model = functools.partial(layouts.Random, seed)
    laid = layouts.Laid(layout, model)
    optimizer = made("PolarGrad, found", laid.groups(), process_group=laid.process_group)
    for step in range(2):
        laid.set_gradients(layouts.gradients(step, model=model))
        optimizer.step()
    wholes, _ = layouts.alone(lambda groups: made("PolarGrad, found", groups), 2, model=model)
    return *laid.distance(wholes), 0.0


def one_by_one(layout):
    """The distance where each parameter is stepped by itself, as from a hook."""
    laid = layouts.Laid(layout)
    optimizer = made("PolarGrad", laid.groups(), process_group=laid.process_group)
    for step in range(2):
        laid.set_gradients(layouts.gradients(step))
        for p in laid.parameters.values():
            optimizer.step_parameter(p)
    wholes, _ = layouts.alone(lambda groups: made("PolarGrad", groups), 2)
    return laid.distance(wholes)[0]


def whole_state_into_shards(layout):
    """The distance after a step with the state that one process has saved, whole."""
    wholes, alone = layouts.alone(lambda groups: made("PolarGrad, found", groups), 2)
    laid = layouts.Laid(layout)
    laid.set(wholes)
    optimizer = made("PolarGrad, found", laid.groups(), process_group=laid.process_group)
    optimizer.load_state_dict(alone.state_dict())
    laid.set_gradients(layouts.gradients(2))
    optimizer.step()
    wholes, _ = layouts.alone(lambda groups: made("PolarGrad, found", groups), 3)
    return laid.distance(wholes)[0]


def shards_into_a_whole_state(layout):
    """The distance after a step on each process alone, with the state of shards."""
    laid = layouts.Laid(layout)
    optimizer = made("PolarGrad, found", laid.groups(), process_group=laid.process_group)
    for step in range(2):
        laid.set_gradients(layouts.gradients(step))
        optimizer.step()
    wholes, _ = layouts.alone(lambda groups: made("PolarGrad, found", groups), 2)
    alone = {name: nn.Parameter(x) for name, x in wholes.items()}
    again = made("PolarGrad, found", layouts.groups_of(alone))
    again.load_state_dict(optimizer.state_dict())
    for name, g in layouts.gradients(2).items():
        alone[name].grad = g
    again.step()
    wholes, _ = layouts.alone(lambda groups: made("PolarGrad, found", groups), 3)
    return max(float((p.detach() - wholes[name]).abs().max()) for name, p in alone.items())


def ratio_of_sums():
    """Of gradients that are three times those of the whole batch."""
    laid = layouts.Laid("fully_shard")
    optimizer = made("PolarGrad, svd", laid.groups())
    once = layouts.gradients(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which is what it warns of
        return optim.accumulation_ratio(
            optimizer,
            lambda: laid.set_gradients(once),
            lambda: laid.set_gradients({name: 3 * g for name, g in once.items()}),
        )


def made_too_early():
    """What an optimizer says that was made before fully_shard."""
    model = layouts.Model()
    optimizer = made("PolarGrad", layouts.groups_of(dict(model.named_parameters())))
    layouts.by_rows(model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer.step()
    return [str(warning.message) for warning in caught]


def page(path):
    """Run the code of a page, as torchrun would."""
    text = Path(path).read_text(encoding="utf-8")
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, path, "exec"), names)
    return sorted(names)


def same_everywhere(preset, steps=3):
    """Copies after some steps, as a digest of every bit."""
    laid = layouts.Laid("replicated")
    optimizer = made(preset, laid.groups(), process_group=laid.process_group)
    for step in range(steps):
        laid.set_gradients(layouts.gradients(step))
        optimizer.load_state_dict(optimizer.state_dict())  # which does not end the sharing
        with Sent() as counted:
            optimizer.step()
        assert "broadcast" in counted.calls
    digest = hashlib.sha256()
    for p in laid.parameters.values():
        digest.update(p.detach().numpy().tobytes())
        for value in optimizer.state[p].values():
            digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def dies(layout, after, sleeps=None):
    """The last process ends in the middle of a step, or sleeps; what the others are told."""
    laid = layouts.Laid(layout)
    optimizer = made("PolarGrad", laid.groups(), process_group=laid.process_group)
    for step in range(after + 1):
        laid.set_gradients(layouts.gradients(step))
        if step == after and dist.get_rank() == dist.get_world_size() - 1:
            _fail_at_the_next_exchange(sleeps)
        began = time.monotonic()
        try:
            optimizer.step()
        except CollectiveError as error:
            return str(error), time.monotonic() - began
    return "", 0.0


def _fail_at_the_next_exchange(sleeps):
    """As a process that is killed, without a word; or after so many seconds of sleep."""

    def end(*arguments, **options):
        time.sleep(sleeps or 0.0)
        os._exit(9)

    dist.all_to_all_single = dist.broadcast = end


def is_late(layout, seconds):
    """The last process comes late, but within the time limit: nothing but time is lost."""
    laid = layouts.Laid(layout)
    optimizer = made("PolarGrad", laid.groups(), process_group=laid.process_group)
    laid.set_gradients(layouts.gradients(0))
    if dist.get_rank() == dist.get_world_size() - 1:
        time.sleep(seconds)
    optimizer.step()
    wholes, _ = layouts.alone(lambda groups: made("PolarGrad", groups), 1)
    return laid.distance(wholes)[0]
