"""What the loop of ``polargrad train`` costs beside the step itself.

    python benchmarks/train_loop.py [--preset tiny] [--optimizer adamw] [--steps 60]

Two models of the same seed take the same steps on the same windows, one step each in turn: one in a
bare loop (loss, backward, optimizer, schedule, the loss read), one in a run of ``polargrad train``
with everything that it does between one step and the next (micro-batches, gradient norm, checks,
records, progress, the look at signals). Evaluations and checkpoints are left out: how many there
are is the user's choice. The ratio is the median over the pairs of steps. Both have the same losses
to rounding, which is checked.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from polargrad.language import TrainSettings, open_input, train
from polargrad.language.evaluation import language_model_loss
from polargrad.language.optimizers import optimizer_for
from polargrad.language.presets import PRESETS, build_model
from polargrad.language.ranks import training_device
from polargrad.language.recipes import DEFAULTS
from polargrad.language.schedules import build_schedule
from polargrad.language.stepper import Step, Stepper
from polargrad.records import read_records

# The first steps fill caches and states.
LEFT_OUT = 5


def bare_loop(settings: TrainSettings) -> Callable[[int], float]:
    """A function that takes one step of a loop with nothing in it, and returns the loss."""
    preset, device = settings.model_preset, training_device()
    batches = open_input(preset).batches(preset, settings.seed)
    model = build_model(preset, settings.seed).to(device)
    optimizer = optimizer_for(model, settings)
    schedule = build_schedule(optimizer, settings.schedule_factor)

    def take(step: int) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = language_model_loss(model, batches[step].to(device))
        loss.backward()
        optimizer.step()
        schedule.step()
        return loss.item()

    return take


class Pairs:
    """The times of both loops, taken within the run: the bare step comes before each of its own.

    Attributes:
        bare: seconds of each step of the bare loop.
        run: seconds from the end of a bare step to the beginning of the next, which is all that
            the run does in a step.
        losses: of the bare loop.
    """

    def __init__(self, settings: TrainSettings) -> None:
        self._take = bare_loop(settings)
        self._mark = 0.0
        self.bare: list[float] = []
        self.run: list[float] = []
        self.losses: list[float] = []

    def before(self, step: int) -> None:
        """Close the run's own step, and take a bare one."""
        if self._mark:
            self.run.append(time.perf_counter() - self._mark)
        began = time.perf_counter()
        self.losses.append(self._take(step))
        self._mark = time.perf_counter()
        self.bare.append(self._mark - began)


def measure(settings: TrainSettings) -> tuple[Pairs, list[dict[str, float]]]:
    """The pairs of a run, and its records."""
    pairs = Pairs(settings)
    take = Stepper.take

    def paired(stepper: Stepper, step: int) -> Step:
        pairs.before(step)
        return take(stepper, step)

    Stepper.take = paired
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = train(replace(settings, out=Path(folder) / "run"))
            records = [r for r in read_records(result.out / "records.jsonl") if "loss" in r]
    finally:
        Stepper.take = take
    return pairs, records


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--optimizer", choices=DEFAULTS, default="adamw")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    seldom = 10 * options.steps
    settings = TrainSettings(
        preset=options.preset,
        optimizer=options.optimizer,
        steps=options.steps,
        eval_every=seldom,
        eval_windows=8,
        checkpoint_every=seldom,
    )
    pairs, records = measure(settings)
    torch.testing.assert_close([r["loss"] for r in records], pairs.losses, rtol=1e-5, atol=0)
    both = list(zip(pairs.bare, pairs.run, strict=False))[LEFT_OUT:]
    ratio = statistics.median(bare / run for bare, run in both)
    tokens = settings.model_preset.batch * settings.model_preset.context
    share = statistics.median(r["optimizer_seconds"] / r["seconds"] for r in records[LEFT_OUT:])
    print(
        f"{options.preset}, {options.optimizer}, {len(both)} pairs: the run has {ratio:.3f} of the "
        f"bare loop's throughput, {tokens / statistics.median(run for _, run in both):,.0f} "
        f"tokens a second; the optimizer takes {share:.0%} of a step"
    )


if __name__ == "__main__":
    main()
