"""What processes do together in the tests of approximations: cases for ``ranks.launch``."""

import layouts
from sent import Sent
from shared_cases import made, resumed, updates
from torch.utils.flop_counter import FlopCounterMode

from polargrad.optim.approximation_errors import approximation_error

__all__ = ["errors", "resumed", "steps_counted", "updates"]


def steps_counted(layout, preset, steps, large=True, only=None):
    """For each step its multiplications, the bytes sent and summed, and the collectives."""
    model = layouts.Large if large else layouts.Model
    laid = layouts.Laid(layout, model)
    if only is not None:
        laid.parameters = {only: laid.parameters[only]}
    optimizer = made(preset, laid.groups(), process_group=laid.process_group)
    found = []
    for step in range(steps):
        laid.set_gradients(layouts.gradients(step, model=model))
        with FlopCounterMode(display=False) as counter, Sent() as counted:
            optimizer.step()
        flops = counter.get_total_flops()
        found.append((flops, counted.bytes, counted.reduced, counted.calls))
    return found


def errors(layout, preset, steps):
    """The errors that all processes together measure, and those of one device."""
    laid = layouts.Laid(layout)
    optimizer = made(preset, laid.groups(), process_group=laid.process_group)
    for step in range(steps):
        laid.set_gradients(layouts.gradients(step))
        optimizer.step()
    _, alone = layouts.alone(lambda groups: made(preset, groups), steps)
    return [
        {(e.name, e.matrix, e.shape): (e.distance, e.cosine) for e in approximation_error(one)}
        for one in (optimizer, alone)
    ]
