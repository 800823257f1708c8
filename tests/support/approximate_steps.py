"""Steps of small matrices with an approximation: what tests of each of them begin with."""

import io

import torch
from torch import nn


def drawn(shapes, dtype):
    """Gaussian matrices, the same every time."""
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return [nn.Parameter(x.to(dtype)) for x in values]


def resumed(make, weights, approximation, set_gradients, at, steps):
    """Take steps, from step ``at`` on with an optimizer that is loaded from a file.

    The second optimizer is made without an approximation: the state says what it is.
    """
    first = make(weights, approximation=approximation)
    for step in range(at):
        set_gradients(weights, step)
        first.step()
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    again = [nn.Parameter(p.detach().clone()) for p in weights]
    second = make(again, approximation=None)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    for step in range(at, steps):
        set_gradients(again, step)
        second.step()
    return again, second
