"""Losses of training runs that were never run: valleys over the logarithms of the rates."""

import math

from polargrad.experiments.pretraining.halving import next_session


class Valley:
    """A validation loss with its least value where each rate is ``best``, which falls with steps.

    Args:
        best: the best value of each rate; of the others all are as good.
        diverges_above: a first rate beyond which the loss is infinite.
    """

    def __init__(self, best, diverges_above=math.inf):
        self.best, self.limit = best, diverges_above

    def __call__(self, session):
        rates = dict(session.run.rates)
        if rates.get("lr", 0.0) > self.limit:
            return math.inf
        distance = sum(math.log(rates[name] / best) ** 2 for name, best in self.best.items())
        return 1.0 + distance / 10 + 100 / session.step + session.run.seed / 1000


def run_all(protocol, surface, losses=None, most=1000):
    """Let the scheduler ask for all it wants; return the losses in the order they were asked."""
    losses = {} if losses is None else losses
    for _ in range(most):
        session = next_session(protocol, losses)
        if session is None:
            return losses
        losses[session] = surface(session)
    raise AssertionError("the sweep does not end")
