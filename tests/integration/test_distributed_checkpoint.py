"""torch.distributed.checkpoint: states by name, nested, flat and whole, in memory and in files."""

import copy
import io

import pytest
import torch
import torch.distributed.checkpoint as checkpoint
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)

import polargrad as pg

OPTIONS = {
    "nested": StateDictOptions(),
    "whole": StateDictOptions(full_state_dict=True, cpu_offload=True),
    # Whole and flat at once torch 2.13 does not load, for its own AdamW neither.
    "flat": StateDictOptions(flatten_optimizer_state_dict=True),
}
all_options = pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@all_options
@pytest.mark.parametrize("steps", [0, 2])
def test_a_loaded_state_goes_on_as_before(model, optimizer_of, train, same, options, steps):
    """Strictly, through a file of plain data, before the first step too."""
    module, again = model(), model()
    optimizer, other = optimizer_of(module), optimizer_of(again)
    train(module, optimizer, steps)
    optimizer.zero_grad()
    again.load_state_dict(copy.deepcopy(module.state_dict()), strict=True)
    saved = through_a_file(get_optimizer_state_dict(module, optimizer, options=options))
    set_optimizer_state_dict(again, other, saved, options=options)
    assert train(again, other, 2) == train(module, optimizer, 2)
    assert same(again, module)


@all_options
@pytest.mark.parametrize("form", [{}, {"bias_correction": True}, {"order": "polyak"}])
def test_a_state_read_before_the_first_step_changes_no_matrix_step(
    model, train, same, options, form
):
    """It is made by a step with zero gradients, which no counter of a momentum counts."""

    def of_matrices(module):
        for p in module.parameters():
            p.requires_grad_(p.ndim == 2)
        matrices = [p for p in module.parameters() if p.ndim == 2]
        return pg.PolarGrad(matrices, lr=0.05, weight_decay=0.1, **form)

    module, plain = model(), model()
    optimizer, other = of_matrices(module), of_matrices(plain)
    get_optimizer_state_dict(module, optimizer, options=options)
    assert train(module, optimizer, 3) == train(plain, other, 3)
    assert same(module, plain)


def test_a_flat_state_is_made_of_tensors_and_numbers(model, optimizer_of, train):
    """And every key names the parameter that it is of."""
    module = model()
    optimizer = optimizer_of(module)
    train(module, optimizer, 1)
    optimizer.zero_grad()
    flat = get_optimizer_state_dict(module, optimizer, options=OPTIONS["flat"])
    kept = {key: value for key, value in flat.items() if key.startswith("state.")}
    assert all(isinstance(value, torch.Tensor | int | float) for value in kept.values())
    owners = {key.removeprefix("state.").rsplit(".", 1)[0] for key in kept}
    assert owners == {name for name, _ in module.named_parameters()}


def test_a_missing_parameter_is_refused_by_name(model, optimizer_of, train):
    module = model()
    optimizer = optimizer_of(module)
    train(module, optimizer, 1)
    optimizer.zero_grad()
    saved = get_optimizer_state_dict(module, optimizer)
    del saved["state"]["3.weight"]
    with pytest.raises(RuntimeError, match=r"Missing optimizer state for parameter '3\.weight'"):
        set_optimizer_state_dict(module, optimizer_of(module), saved)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # it is: one process
@pytest.mark.parametrize("options", [OPTIONS["nested"], OPTIONS["flat"]], ids=["nested", "flat"])
def test_files_of_shards(model, optimizer_of, train, same, tmp_path, options):
    """``save`` and ``load``, into what a new model and a new optimizer give."""
    module, again = model(), model(seed=1)
    optimizer, other = optimizer_of(module), optimizer_of(again)
    train(module, optimizer, 2)
    optimizer.zero_grad()
    names = ("model", "optimizer")
    saved = get_state_dict(module, optimizer, options=options)
    checkpoint.save(dict(zip(names, saved, strict=True)), checkpoint_id=tmp_path, no_dist=True)
    state = dict(zip(names, get_state_dict(again, other, options=options), strict=True))
    checkpoint.load(state, checkpoint_id=tmp_path, no_dist=True)
    set_state_dict(
        again,
        other,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=options,
    )
    assert same(again, module)
    assert train(again, other, 2) == train(module, optimizer, 2)
    assert same(again, module)


@all_options
def test_a_tied_parameter_is_stored_under_one_name(model, optimizer_of, train, options):
    def tied():
        module = model()
        module[5].weight = module[0].weight
        return module

    module, again = tied(), tied()
    optimizer, other = optimizer_of(module), optimizer_of(again)
    train(module, optimizer, 2)
    optimizer.zero_grad()
    again.load_state_dict(copy.deepcopy(module.state_dict()))
    saved = get_optimizer_state_dict(module, optimizer, options=options)
    set_optimizer_state_dict(again, other, through_a_file(saved), options=options)
    assert train(again, other, 2) == train(module, optimizer, 2)


@all_options
def test_a_compiled_model_has_the_same_names(model, optimizer_of, train, options):
    """The prefix that compilation gives them is not in the saved state."""
    module, plain = model(), model()
    compiled = torch.compile(module, backend="eager")
    optimizer, other = optimizer_of(compiled), optimizer_of(plain)
    train(module, optimizer, 1)
    optimizer.zero_grad()
    plain.load_state_dict(copy.deepcopy(module.state_dict()))
    saved = get_optimizer_state_dict(compiled, optimizer, options=options)
    set_optimizer_state_dict(plain, other, through_a_file(saved), options=options)
    assert isinstance(compiled, nn.Module)
    assert train(plain, other, 2) == train(module, optimizer, 2)
