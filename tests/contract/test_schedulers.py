"""Every scheduler of torch that works with SGD works here, on all groups."""

import inspect
import warnings

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler, swa_utils

import polargrad as pg

# Each multiplies the learning rates of all groups by the same numbers.
SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda k: 1 / (1 + k)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda k: 0.5),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 3], 0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.25, 2),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.25, total_iters=3),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.5),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 6),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 6),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(
        o, [g["lr"] for g in o.param_groups], [4 * g["lr"] for g in o.param_groups], 2
    ),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(
        o, [2 * g["lr"] for g in o.param_groups], total_steps=8
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, 0.25, total_iters=2), lr_scheduler.ExponentialLR(o, 0.5)],
        milestones=[2],
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ExponentialLR(o, 0.5), lr_scheduler.StepLR(o, 2, 0.5)]
    ),
}


def lrs(optimizer):
    return [float(g["lr"]) for g in optimizer.param_groups]


def advance(optimizer, scheduler, model, set_gradients, step):
    set_gradients(model.parameters(), step)
    optimizer.step()
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(1.0)
    else:
        scheduler.step()


def test_none_is_forgotten():
    known = {
        name
        for name, cls in inspect.getmembers(lr_scheduler, inspect.isclass)
        if issubclass(cls, lr_scheduler.LRScheduler) and not name.startswith("_")
    }
    assert known - {"LRScheduler"} == set(SCHEDULERS)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_as_with_sgd(routed, model, set_gradients, name):
    """The learning rates are those of SGD with the same groups, and their ratio stays."""
    module = model()
    optimizer = routed(module)
    ratio = lrs(optimizer)[1] / lrs(optimizer)[0]
    reference = model()
    names = [g["param_names"] for g in optimizer.param_groups]
    peer = torch.optim.SGD(
        [
            {"params": [reference.get_parameter(n) for n in group], "lr": lr}
            for group, lr in zip(names, lrs(optimizer), strict=True)
        ],
        momentum=0.9,
    )
    with warnings.catch_warnings():
        # SequentialLR of torch 2.13 calls its parts with a deprecated argument.
        warnings.filterwarnings("ignore", message="The epoch parameter", category=UserWarning)
        scheduler, other = SCHEDULERS[name](optimizer), SCHEDULERS[name](peer)
        for step in range(6):
            assert lrs(optimizer) == lrs(peer)
            if lrs(optimizer)[0]:
                assert lrs(optimizer)[1] / lrs(optimizer)[0] == pytest.approx(ratio)
            advance(optimizer, scheduler, module, set_gradients, step)
            advance(peer, other, reference, set_gradients, step)


def test_the_schedule_reaches_the_step():
    """A scheduled lr is the lr of the step, of both rules."""
    params = [nn.Parameter(torch.zeros(3, 3)), nn.Parameter(torch.zeros(3))]
    optimizer = pg.PolarGrad(params, lr=1.0, momentum=0.0, method="svd", vector_lr=1.0)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    for step in range(3):
        before = [p.detach().clone() for p in params]
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        scheduler.step()
        # All ones: norm 3 times 1/3. AdamW at a constant gradient moves by its lr.
        for p, b in zip(params, before, strict=True):
            torch.testing.assert_close(b - p.detach(), torch.full_like(p, 0.5**step))


def test_one_cycle_moves_the_momentum_of_the_matrices(model, set_gradients):
    """As it does for SGD; AdamW's betas stay as they were given."""
    module = model()
    optimizer = pg.PolarGrad(pg.param_groups(module, vector_betas=(0.8, 0.9)), lr=0.1)
    scheduler = lr_scheduler.OneCycleLR(
        optimizer, [0.1, 0.01], total_steps=6, base_momentum=0.5, max_momentum=0.75
    )
    seen = []
    for step in range(5):
        seen.append(optimizer.param_groups[0]["momentum"])
        advance(optimizer, scheduler, module, set_gradients, step)
    assert seen[0] == 0.75
    assert min(seen) == pytest.approx(0.5, abs=0.05)
    assert optimizer.param_groups[1]["betas"] == (0.8, 0.9)


def test_averaged_weights_and_their_scheduler(routed, model, set_gradients):
    module = model()
    optimizer = routed(module)
    averaged = swa_utils.AveragedModel(module)
    scheduler = swa_utils.SWALR(optimizer, swa_lr=[0.5, 0.05], anneal_epochs=1)
    for step in range(3):
        set_gradients(module.parameters(), step)
        optimizer.step()
        averaged.update_parameters(module)
        scheduler.step()
    assert lrs(optimizer) == [0.5, 0.05]
    assert not torch.equal(averaged.module["first"].weight, module["first"].weight)
