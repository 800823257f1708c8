"""The paper's claims on matrix problems, each with our evidence, a verdict and a command."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from polargrad.experiments.results import Results

HOLDS, HOLDS_IF, FAILS, NOT_TESTED = "holds", "holds if", "does not hold", "not tested"
VERDICTS = (HOLDS, HOLDS_IF, FAILS, NOT_TESTED)


@dataclass(frozen=True)
class Claim:
    """A claim and what became of it.

    Args:
        claim: what the paper, or its code's README, says.
        evidence: our numbers.
        verdict: one of :data:`VERDICTS`.
        condition: under which it holds, for ``"holds if"``.
        command: that shows it.
    """

    claim: str
    evidence: str
    verdict: str
    command: str
    condition: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict must be one of {', '.join(VERDICTS)}, got {self.verdict!r}")
        if bool(self.condition) != (self.verdict == HOLDS_IF):
            raise ValueError(
                f"condition must be given exactly for {HOLDS_IF!r}, "
                f"got {self.condition!r} for {self.verdict!r}"
            )

    @property
    def judgement(self) -> str:
        """The verdict with its condition."""
        return f"{self.verdict} {self.condition}".strip()


@dataclass(frozen=True)
class Evidence:
    """What has been run: the experiments by name, and claims judged by other commands."""

    experiments: Mapping[str, Results]
    judged: Sequence[Claim] = field(default=())


def judge(evidence: Evidence) -> list[Claim]:
    """Return the paper's claims on matrix problems, judged by what there is."""
    found: list[Claim] = []
    for experiment, judges in _JUDGES.items():
        results = evidence.experiments.get(experiment)
        for statement, judged_by, needed in judges:
            command = results.command if results else f"polargrad reproduce {experiment}"
            missing = set(needed) - ({run["name"] for run in results.runs} if results else set())
            if results is None or missing:
                lacking = f"this version has no {', '.join(sorted(missing))}" if results else ""
                found.append(Claim(statement, lacking, NOT_TESTED, command))
            else:
                found.append(judged_by(statement, results, command))
    return [*found, *evidence.judged]


def _outperforms(statement: str, results: Results, command: str) -> Claim:
    """PolarGrad's published runs against Adam's and Muon's, by final metric and by speed."""
    families = {
        "PolarGrad": ("polargrad", "polargrad-decay"),
        "Muon": ("muon-qdwh", "muon-qdwh-decay"),
        "Adam": ("adam", "adam-decay"),
    }
    known = {run["name"] for run in results.runs}
    best = {
        family: {
            seed: _best(results, [n for n in names if n in known], seed) for seed in results.seeds
        }
        for family, names in families.items()
    }
    bound = _GOOD[results.settings["experiment"]]
    fastest = {
        family: [
            _fastest(results, [n for n in names if n in known], bound, seed)
            for seed in results.seeds
        ]
        for family, names in families.items()
    }
    text = "; ".join(
        f"{family} {_figure(best[family].values())}, {_steps(fastest[family])} to {bound:g}"
        for family in families
    )
    wins = sum(
        best["PolarGrad"][seed] < min(best["Muon"][seed], best["Adam"][seed])
        for seed in results.seeds
    )
    quicker = sum(
        ours < min(muon, adam)
        for ours, muon, adam in zip(*(fastest[f] for f in families), strict=True)
    )
    baselines, overtaken = _baselines(results, bound, statistics.median(fastest["PolarGrad"]))
    evidence = f"{results.settings['metric_title']}, best of the published runs: {text}.{baselines}"
    seeds = len(results.seeds)
    if wins == 0 and quicker == 0:
        return Claim(statement, evidence, FAILS, command)
    if wins == seeds and quicker == seeds:
        condition = "the learning rates are the published ones"
    else:
        by_value = f"judged by the final value (better on {wins} of {seeds} seeds)"
        by_steps = f"judged by the steps to {bound:g} (fewer on {quicker} of {seeds} seeds)"
        condition = " or ".join(
            by for by, count in ((by_value, wins), (by_steps, quicker)) if count > 0
        )
        if min(wins, quicker) == 0:
            condition += f", not {by_value if wins == 0 else by_steps}"
    if overtaken:
        condition += f"; and {', '.join(overtaken)} left out: fewer steps to the same bound"
    return Claim(statement, evidence, HOLDS_IF, command, condition)


def _baselines(results: Results, bound: float, ours: float) -> tuple[str, list[str]]:
    """What a user would pick instead, in steps and time to a bound; which need fewer than ours."""
    parts, fewer = [], []
    for run in results.runs:
        if run["group"] != "baseline":
            continue
        steps = [results.first_step_below(run["name"], bound, seed=s) for s in results.seeds]
        reached = [step for step in steps if step is not None]
        if len(reached) < len(steps):
            parts.append(f"{run['label']} not in {_most_steps(results, run['name'])} steps")
            continue
        step = statistics.median(reached)
        if step < ours:
            fewer.append(run["label"])
        timing = results.timing.get("runs", {}).get(run["name"])
        seconds = ""
        if timing is not None:
            spent = 1e-3 * step * (timing["gradient_ms"] + timing["update_ms"])
            seconds = f" ({spent:.2g} s)"
        parts.append(f"{run['label']} in {step:g} step{'' if step == 1 else 's'}{seconds}")
    return (f" To the same bound: {'; '.join(parts)}." if parts else ""), fewer


def _plateau(statement: str, results: Results, command: str) -> Claim:
    """Muon with a constant rate: does its metric stop falling, and does decay help?"""
    halves = []
    for seed in results.seeds:
        curve = results.curves[seed]["muon-qdwh"]
        metric = results.settings["metric"]
        middle = next(r for r in curve if r["step"] >= curve[-1]["step"] / 2)
        halves.append(curve[-1][metric] / middle[metric])
    constant = results.finals("muon-qdwh")
    decayed = results.finals("muon-qdwh-decay")
    ratio = statistics.median(halves)
    evidence = (
        f"over the second half of its steps Muon (QDWH) with a constant rate keeps "
        f"{ratio:.2g} of its {results.settings['metric_title']}, and ends at "
        f"{_figure(constant)}; with decay at {_figure(decayed)}"
    )
    flat = ratio > 0.5
    helps = statistics.median(decayed) < statistics.median(constant)
    if not math.isfinite(ratio) or not (flat or helps):
        return Claim(statement, evidence, FAILS, command)
    if flat and helps:
        return Claim(statement, evidence, HOLDS, command)
    if helps:
        condition = "decay alone is meant: it helps, but the constant rate goes on falling"
    else:
        condition = "the plateau alone is meant: decay does not end lower"
    return Claim(statement, evidence, HOLDS_IF, command, condition)


def _oracles_alike(statement: str, results: Results, command: str) -> Claim:
    """Does a better polar factor remove Muon's plateau?"""
    finals = {name: statistics.median(results.finals(name)) for name in _ORACLES}
    labels = {run["name"]: run["label"] for run in results.runs}
    evidence = ", ".join(f"{labels[name]} {value:.3g}" for name, value in finals.items())
    coarse, *better = (finals[name] for name in _ORACLES)
    gain = coarse / min(better)
    verdict = HOLDS if gain < 3.0 else FAILS
    text = f"{evidence}: the best of the others ends at 1/{gain:.2g} of Newton–Schulz"
    return Claim(statement, text, verdict, command)


def _scale_needed(statement: str, results: Results, command: str) -> Claim:
    """Constant rates: PolarGrad goes on, Muon does not."""
    polargrad = statistics.median(results.finals("polargrad"))
    muon = statistics.median(results.finals("muon-qdwh"))
    evidence = (
        f"constant rates: PolarGrad ends at {polargrad:.3g}, Muon, the same without the nuclear "
        f"norm, at {muon:.3g}"
    )
    verdict = HOLDS if polargrad < 0.01 * muon else FAILS
    return Claim(statement, evidence, verdict, command)


def _momentum_helps(statement: str, results: Results, command: str) -> Claim:
    """Momentum in either order against none, each at the published rates of one schedule."""
    bound = _GOOD[results.settings["experiment"]]
    known = {run["name"] for run in results.runs}
    parts: list[str] = []
    faster: list[str] = []
    others: list[str] = []
    for schedule, ending in _SCHEDULES.items():
        if _PLAIN[0] + ending not in known:
            continue
        steps = {
            what: [_fastest(results, [name + ending], bound, seed) for seed in results.seeds]
            for what, name in _ORDERS.items()
            if name + ending in known
        }
        parts.append(
            f"{schedule}: "
            + ", ".join(
                f"{what} {_steps(counts)} "
                f"({statistics.median(results.finals(_ORDERS[what] + ending)):.3g})"
                for what, counts in steps.items()
            )
        )
        plain = statistics.median(steps.pop("none"))
        for what, counts in steps.items():
            found = faster if statistics.median(counts) < plain else others
            found.append(f"{what} at {schedule}")
    evidence = f"steps to {bound:g} (final value) at {'; at '.join(parts)}"
    if not faster:
        return Claim(statement, evidence, FAILS, command)
    if not others:
        return Claim(statement, evidence, HOLDS, command)
    condition = f"it is {' or '.join(faster)}; not {', '.join(others)}"
    return Claim(statement, evidence, HOLDS_IF, command, condition)


def _noise_floor(statement: str, results: Results, command: str) -> Claim:
    """PolarSGD with a constant rate falls to a floor, which decay lowers."""
    finals = {name: results.finals(name) for name in ("polargrad", "polargrad-decay")}
    metric = results.settings["metric"]
    ratios = []
    for seed in results.seeds:
        curve = results.curves[seed]["polargrad"]
        at = next(r for r in curve if r["step"] >= 0.4 * curve[-1]["step"])
        ratios.append(curve[-1][metric] / at[metric])
    best = [values["optimum_per_entry"] for values in results.constants.values()]
    optimum = f"; the optimum is {_figure(best)}" if best else ""
    evidence = (
        f"constant rate {_figure(finals['polargrad'])} (over the last 60 % of the steps it keeps "
        f"{statistics.median(ratios):.3g} of it), decay {_figure(finals['polargrad-decay'])}"
        f"{optimum}"
    )
    lower = statistics.median(finals["polargrad-decay"]) < statistics.median(finals["polargrad"])
    settled = 0.9 < statistics.median(ratios) < math.inf
    return Claim(statement, evidence, HOLDS if lower and settled else FAILS, command)


# What counts as solved when steps are compared, in each experiment's metric.
_GOOD = {"quadratic": 1.0, "logistic": 0.75, "completion": 1e-8}

_Judge = Callable[[str, Results, str], Claim]
_MUON = ("muon-qdwh", "muon-qdwh-decay")
_ORACLES = ("muon-ns", "muon-qdwh", "muon-zolotarev")
_PLAIN = ("polargrad", "polargrad-decay")
_ORDERS = {
    "none": "polargrad",
    "polar-first": "polargrad-polar-first",
    "momentum-first": "polargrad-momentum-first",
}
_SCHEDULES = {"a constant rate": "", "a falling rate": "-decay"}
_MOMENTUM = ("polargrad", "polargrad-momentum-first")
_JUDGES: dict[str, tuple[tuple[str, _Judge, tuple[str, ...]], ...]] = {
    "quadratic": (
        ("PolarGrad outperforms Adam and Muon on quadratic regression (6.1)", _outperforms, ()),
        (
            "The nuclear norm is needed to converge at a constant rate (6.1, README)",
            _scale_needed,
            ("polargrad", "muon-qdwh"),
        ),
        ("Muon stops at a plateau and needs decay (6.1, T3)", _plateau, _MUON),
        ("A better polar factor does not remove Muon's plateau (6.1)", _oracles_alike, _ORACLES),
        (
            "Momentum, in either order, makes PolarGrad faster (6.1)",
            _momentum_helps,
            _MOMENTUM,
        ),
    ),
    "logistic": (
        ("PolarSGD outperforms Adam and Muon on logistic regression (6.2)", _outperforms, ()),
        ("PolarSGD falls to a noise floor that decay lowers (6.2, T2)", _noise_floor, _PLAIN),
        ("Muon stops at a plateau and needs decay (6.2)", _plateau, _MUON),
        ("Momentum, in either order, makes PolarSGD faster (6.2)", _momentum_helps, _MOMENTUM),
    ),
    "completion": (
        ("PolarGrad outperforms Adam and Muon on matrix completion (6.3)", _outperforms, ()),
        ("Muon stops at a plateau and needs decay (6.3)", _plateau, _MUON),
        (
            "Momentum, in either order, makes PolarGrad faster (6.3)",
            _momentum_helps,
            _MOMENTUM,
        ),
    ),
}


def _best(results: Results, names: Iterable[str], seed: int) -> float:
    """The least final metric of some runs on a seed; infinity for what diverged."""
    index = results.seeds.index(seed)
    return min((results.finals(name)[index] for name in names), default=math.inf)


def _fastest(results: Results, names: Iterable[str], bound: float, seed: int) -> float:
    """The fewest steps of some runs to a bound; infinity where none comes there."""
    steps = [results.first_step_below(name, bound, seed=seed) for name in names]
    return min((step for step in steps if step is not None), default=math.inf)


def _most_steps(results: Results, name: str) -> int:
    return max(int(curves[name][-1]["step"]) for curves in results.curves.values())


def _figure(values: Iterable[float]) -> str:
    """Median and range in words."""
    known = list(values)
    median = f"{statistics.median(known):.3g}"
    if len(known) == 1 or min(known) == max(known):
        return median
    return f"{median} [{min(known):.3g} … {max(known):.3g}]"


def _steps(counts: Sequence[float]) -> str:
    """Median and range of numbers of steps in words."""
    median = statistics.median(counts)
    if math.isinf(median):
        return "never"
    return f"{_figure(counts)} steps"
