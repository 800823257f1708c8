"""The tiny language model without a learning rate for its matrices, against tuned ones.

    python benchmarks/found_steps_language.py --out runs/found-language [--part 1/2] [--table]

One seed for the sweeps, five for each best point and for the rule; embedding, head and vectors have
the same AdamW everywhere. A finished run is one line of OUT/results.jsonl and is not run again, so
that the command can be stopped and started as often as is convenient; with ``--part i/n`` each of n
processes takes its share. At the end the results are printed as a Markdown table.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from found_steps import WAYS
from resumable import Results
from step_rules import RULES

import polargrad as pg
from polargrad.errors import NonFiniteError
from polargrad.language import Input, open_input
from polargrad.language.evaluation import language_model_loss, validation_loss
from polargrad.language.optimizers import MOMENTUM
from polargrad.language.presets import build_model, preset_of
from polargrad.language.schedules import linear

PRESET = preset_of("tiny")
VECTOR_LR = 3e-2  # the best of benchmarks/tiny_sweep.py for every optimizer
BETAS = (0.9, 0.95)
FOUND, MUON, POLAR, ADAM = "found", "Muon", "PolarGrad", "AdamW"
DIRECTIONS = "found, of directions"


@dataclass(frozen=True, order=True)
class Run:
    """One run.

    Attributes:
        method: the rule of the hidden matrices.
        number: its learning rate, or first step; None for the default.
        schedule: "decay" (warmup, constant, linear to zero) or "constant".
        seed: of the model and the batches.
        steps: how many.
    """

    method: str
    number: float | None
    schedule: str
    seed: int
    steps: int


def planned(steps: int, seeds: Sequence[int]) -> list[Run]:
    """All runs in the order of their use."""
    first, *others = seeds
    runs = [Run(FOUND, None, "decay", seed, steps) for seed in (first, others[0])]
    runs += [Run(FOUND, start, "decay", first, steps) for start in (1e-1, 1e-4)]
    runs += [Run(FOUND, None, "decay", seed, steps) for seed in others]
    runs += [Run(MUON, lr, "decay", first, steps) for lr in (5e-3, 1e-2, 2e-2)]
    runs += [Run(FOUND, start, "decay", first, steps) for start in (1e-3, 1e-2)]
    runs += [Run(MUON, 1e-2, "decay", seed, steps) for seed in others]
    runs += [Run(POLAR, lr, "decay", first, steps) for lr in (3e-2, 6e-2, 1.2e-1)]
    runs += [Run(FOUND, None, "constant", first, steps)]
    runs += [Run(MUON, lr, "constant", first, steps) for lr in (5e-3, 1e-2)]
    runs += [Run(FOUND, start, "decay", others[0], steps) for start in (1e-4, 1e-1)]
    runs += [Run(FOUND, start, "decay", s, steps) for s in others[1:] for start in (1e-4, 1e-1)]
    runs += [Run(FOUND, start, "decay", others[0], steps) for start in (1e-3, 1e-2)]
    runs += [Run(FOUND, start, "decay", s, steps) for s in others[1:] for start in (1e-3, 1e-2)]
    runs += [Run("DoG", start, "decay", first, steps) for start in (1e-4, 1e-2)]
    runs += [Run("Prodigy", start, "decay", first, steps) for start in (1e-4, 1e-2)]
    runs += [Run("OptMuon, θ", lr, "decay", first, steps) for lr in (1e-2, 1e-1, 1.0)]
    runs += [Run(ADAM, lr, "decay", first, steps) for lr in (1e-3, 2e-3)]
    runs += [Run(MUON, lr, "decay", first, steps) for lr in (2.5e-3, 4e-2, 8e-2)]
    runs += [Run(POLAR, 6e-2, "decay", seed, steps) for seed in others]
    runs += [Run(DIRECTIONS, None, "decay", seed, steps) for seed in (first, *others)]
    runs += [Run(DIRECTIONS, start, "decay", first, steps) for start in (1e-4, 1e-1)]
    runs += [Run(DIRECTIONS, None, "constant", first, steps)]
    runs += [Run("Prodigy", 1e-2, "decay", seed, steps) for seed in others[:2]]
    runs += [Run("Prodigy", start, "decay", first, steps) for start in (1e-3, 1e-1, 1.0)]
    runs += [Run("DoG", start, "decay", first, steps) for start in (1e-6, 1e-3)]
    runs += [Run("OptMuon, θ", lr, "decay", first, steps) for lr in (0.03, 0.3, 3.0)]
    runs += [Run(ADAM, lr, "decay", first, steps) for lr in (5e-4, 4e-3, 8e-3, 1.6e-2)]
    runs += [Run(POLAR, lr, "decay", first, steps) for lr in (1.5e-2, 2.4e-1, 4.8e-1)]
    runs += [Run(POLAR, lr, "constant", first, steps) for lr in (3e-2, 6e-2, 1.2e-1)]
    runs += [Run("Prodigy", 1e-2, "constant", first, steps)]
    runs += [Run("OptMuon, θ", lr, "constant", first, steps) for lr in (1e-1, 1.0)]
    runs += [Run(ADAM, lr, "constant", first, steps) for lr in (1e-3, 2e-3)]
    runs += [Run(MUON, lr, "constant", first, steps) for lr in (2.5e-3, 2e-2)]
    courses, free = ("constant", "decay"), (5e-3, 1e-2, 2e-2, 4e-2)
    runs += [Run("schedule-free Muon", lr, s, first, steps) for s in courses for lr in free]
    runs += [Run("schedule-free Muon", lr, "decay", first, steps) for lr in (8e-2, 1.6e-1)]
    runs += [Run("OptMuon, θ", 0.3, "decay", seed, steps) for seed in others[:2]]
    runs += [Run(ADAM, 2e-3, "decay", seed, steps) for seed in others[:2]]
    for rule in ("D-adaptation", "Mechanic"):
        runs += [Run(rule, start, "decay", first, steps) for start in (1e-4, 1e-2)]
    return runs


class Hidden:
    """The rule of the hidden matrices."""

    def __init__(self, run: Run, matrices: Sequence[torch.nn.Parameter]) -> None:
        self.matrices, self.rule, self.optimizer = list(matrices), None, None
        number = run.number
        if run.method == DIRECTIONS:
            self.optimizer = pg.PolarGrad(self.matrices, first_step=number, **WAYS["directions"])
        elif run.method in (FOUND, POLAR):
            start = {"first_step": number} if run.method == FOUND else {"lr": number}
            self.optimizer = pg.PolarGrad(self.matrices, momentum=MOMENTUM, nesterov=True, **start)
        elif run.method == MUON:
            self.optimizer = pg.Muon(self.matrices, number, momentum=MOMENTUM, weight_decay=0.0)
        elif run.method == ADAM:
            self.optimizer = torch.optim.AdamW(self.matrices, number, BETAS, weight_decay=0.0)
        else:
            data = [p.data for p in self.matrices]
            self.rule = RULES[run.method](data, number, momentum=MOMENTUM)
        self.lr = 1.0 if run.method in (FOUND, DIRECTIONS) else number

    @torch.no_grad()
    def step(self, share: float) -> None:
        """Step with this share of the learning rate."""
        if self.rule is not None:
            self.rule.step([p.grad for p in self.matrices], share)
            return
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * share
        self.optimizer.step()

    @torch.no_grad()
    def end(self) -> None:
        """Leave what the run ends with where the model has its weights."""
        if self.rule is not None:
            for p, value in zip(self.matrices, self.rule.results(), strict=True):
                p.copy_(value)


def trained(run: Run, data: Input) -> float:
    """The validation loss after a run, in nats per byte; infinite where it diverged."""
    model = build_model(PRESET, run.seed)
    groups = pg.param_groups(model, vector_lr=VECTOR_LR)
    chosen = {
        rule: [p for g in groups if g["rule"] == rule for _, p in g["params"]]
        for rule in ("matrix", "adamw")
    }
    hidden = Hidden(run, chosen["matrix"])
    rest = torch.optim.AdamW(chosen["adamw"], VECTOR_LR, BETAS, weight_decay=0.0)
    batches = data.batches(PRESET, run.seed)
    for step in range(run.steps):
        loss = language_model_loss(model, batches[step])
        if not math.isfinite(loss.item()):
            return math.inf
        model.zero_grad(set_to_none=True)
        loss.backward()
        share = linear(step, run.steps) if run.schedule == "decay" else 1.0
        rest.param_groups[0]["lr"] = VECTOR_LR * share
        rest.step()
        try:
            hidden.step(share)
        except NonFiniteError:
            return math.inf
    hidden.end()
    return validation_loss(model, data.data.validation, PRESET)


def table(losses: dict[Run, float]) -> list[str]:
    """The results as Markdown: one line a method, number and schedule."""
    rows: dict[tuple[str, str, float | None], dict[int, float]] = defaultdict(dict)
    for run, loss in losses.items():
        rows[run.method, run.schedule, run.number][run.seed] = loss
    lines = ["| matrices | schedule | lr or first step | seeds | validation loss | mean |"]
    lines.append("|---|---|---|---|---|---|")
    for (method, schedule, number), by_seed in sorted(
        rows.items(), key=lambda row: (row[0][0], row[0][1], row[0][2] or 0.0)
    ):
        values = [f"{by_seed[seed]:.4f}" for seed in sorted(by_seed)]
        lines.append(
            f"| {method} | {schedule} | {'default' if number is None else f'{number:g}'} "
            f"| {len(values)} | {', '.join(values)} | {statistics.mean(by_seed.values()):.4f} |"
        )
    return lines


def main() -> None:
    """Run what is left, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--part", default="1/1", metavar="I/N")
    parser.add_argument("--table", action="store_true", help="run nothing, print what is there")
    options = parser.parse_args()
    results = Results(options.out, Run, "validation_loss")
    if not options.table:
        data = open_input(PRESET)
        part, parts = map(int, options.part.split("/"))
        results.complete(
            planned(options.steps, options.seeds)[part - 1 :: parts],
            lambda run: trained(run, data),
            more={"corpus": data.data.digest},
        )
    print("\n".join(table(results.known())))


if __name__ == "__main__":
    main()
