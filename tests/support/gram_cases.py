"""What processes do with matrices whose Gram matrices they exchange: cases for ``ranks.launch``."""

import layouts
import torch
from matrices import with_singular_values
from peak import Peak
from sent import Sent
from shared_cases import made
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import polargrad as pg

SINGLE = torch.float32
CONDITIONED = ("up.weight", "down.weight", "odd.weight")


def started(layout, preset, **options):
    """The strips in float32, and an optimizer of them: of a preset, or PolarGrad with options."""
    laid = layouts.Laid(layout, layouts.Strips, SINGLE)
    options["process_group"] = laid.process_group
    if preset is None:
        return laid, pg.PolarGrad(laid.groups(), lr=0.1, **options)
    return laid, made(preset, laid.groups(), **options)


def alone(preset, gradients, **options):
    """The same numbers on one device in double precision."""
    wholes = layouts.weights(layouts.Strips, SINGLE)
    parameters = {name: nn.Parameter(x.double()) for name, x in wholes.items()}
    optimizer = made(preset, layouts.groups_of(parameters), **options)
    for given in gradients:
        for name, p in parameters.items():
            p.grad = given[name].double()
        optimizer.step()
    return {name: p.detach() for name, p in parameters.items()}, optimizer


def compared(laid, wholes):
    """For each parameter the distance from the reference, as a share of the largest entry."""
    found = {}
    for name, p in laid.parameters.items():
        mine, whole = layouts.held(p).double(), laid.part(name, wholes[name])
        if mine.numel():
            found[name] = float((mine - whole).abs().max() / wholes[name].abs().max())
    return found


def updates(layout, preset, steps=1, state_dtype=None):
    """Distances after some steps, and how many stacks of Gram matrices the last one exchanged."""
    options = {} if state_dtype is None else {"state_dtype": state_dtype}
    laid, optimizer = started(layout, preset, **options)
    given = [layouts.gradients(step, (), layouts.Strips, SINGLE) for step in range(steps)]
    for gradients in given:
        laid.set_gradients(gradients)
        with Sent() as counted:
            optimizer.step()
    wholes, _ = alone(preset, given)
    return compared(laid, wholes), counted.grams


def conditioned(layout, method, kappa, seed):
    """The same after a step from zero along a gradient of this condition number."""
    options = {"momentum": 0.0, "method": method, "weight_decay": 0.0}
    laid, optimizer = started(layout, None, **options)
    given = layouts.gradients(0, (), layouts.Strips, SINGLE)
    torch.manual_seed(seed)  # the same on all processes
    for name in CONDITIONED:
        shape = tuple(given[name].shape)
        sigma = torch.logspace(0, -torch.log10(torch.tensor(kappa)).item(), min(shape)).double()
        given[name] = with_singular_values(shape, sigma).float()
    zeros = {name: torch.zeros_like(x) for name, x in given.items()}
    laid.set(zeros)
    laid.set_gradients(given)
    optimizer.step()
    parameters = {name: nn.Parameter(x.double()) for name, x in zeros.items()}
    one = pg.PolarGrad(layouts.groups_of(parameters), lr=0.1, **options)
    for name, p in parameters.items():
        p.grad = given[name].double()
    one.step()
    found = compared(laid, {name: p.detach() for name, p in parameters.items()})
    return max(value for name, value in found.items() if name in CONDITIONED)


def counted(layout, preset):
    """Operations, Gram matrices in bytes, and all bytes to each process, in a second step."""
    laid, optimizer = started(layout, preset)
    for step in range(2):
        laid.set_gradients(layouts.gradients(step, (), layouts.Strips, SINGLE))
        with FlopCounterMode(display=False) as counter, Sent() as sent:
            optimizer.step()
    return counter.get_total_flops(), sent.gram_bytes, sent.to


def nonfinite(layout, **options):
    """A gradient that is not finite on one process: is everything as it was, and counted?"""
    laid, optimizer = started(layout, "PolarGrad", **options)
    laid.set_gradients(layouts.gradients(0, (), layouts.Strips, SINGLE))
    optimizer.step()
    before = {name: layouts.held(p).clone() for name, p in laid.parameters.items()}
    spoilt = layouts.gradients(1, (), layouts.Strips, SINGLE)
    spoilt["up.weight"][0, 0] = float("inf")
    laid.set_gradients(spoilt)
    optimizer.step()
    same = all(torch.equal(layouts.held(p), before[n]) for n, p in laid.parameters.items())
    return same, optimizer.skipped_steps


def extreme(layout):
    """Directions of gradients as small and as large as float32 has, and of none: all finite?"""
    found = []
    for scale in (1e-38, 1e37, 0.0):
        laid, optimizer = started(layout, "Muon")
        zeros = {name: torch.zeros_like(x) for name, x in layouts.weights(layouts.Strips).items()}
        laid.set(zeros)
        given = layouts.gradients(0, (), layouts.Strips, SINGLE)
        laid.set_gradients({name: x * scale for name, x in given.items()})
        optimizer.step()
        found.append(layouts.held(laid.parameters["up.weight"]).clone())
    return found


def held(layout):
    """The most bytes that a step holds beside parameters, gradients and state."""
    laid, optimizer = started(layout, "PolarGrad")
    for step in range(2):
        laid.set_gradients(layouts.gradients(step, (), layouts.Strips, SINGLE))
        with Peak() as peak:
            optimizer.step()
    return peak.most
