"""The figures of the insights, one a phenomenon, drawn from the records."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from polargrad.experiments.insights.curvature import (
    START,
    concentrations,
    layers_looked_at,
    spreads,
)
from polargrad.experiments.insights.protocol import ADAM_FAMILIES, ADAMW, FAMILIES, SAME_VECTORS
from polargrad.experiments.insights.results import InsightsResults, InsightTrace, rise
from polargrad.experiments.insights.statistics import median
from polargrad.language.schedules import WARMUP_STEPS
from polargrad.records.figures import COLOURS, panels, save_png

INSTABILITY_FIGURE, SPEED_FIGURE = "instability.png", "speed.png"
WARMUP_FIGURE, CURVATURE_FIGURE = "warmup.png", "curvature.png"
FIGURES = (INSTABILITY_FIGURE, SPEED_FIGURE, WARMUP_FIGURE, CURVATURE_FIGURE)

COLOUR = dict(zip(FAMILIES, COLOURS, strict=False))
# Learning rates of one family, ascending: other colours than the families'.
RATE_COLOURS = COLOURS[4:7]
MARKERS = "osD^v"
BY_RATE = "○ □ ◇: ascending rates"
RATIO = "σ₁ / median σ"

Curve = tuple[list[int], list[float]]


def draw_insights(results: InsightsResults, folder: Path) -> None:
    """Draw all figures as PNG files in ``folder``."""
    _draw_instability(results, folder / INSTABILITY_FIGURE)
    _draw_speed(results, folder / SPEED_FIGURE)
    _draw_warmup(results, folder / WARMUP_FIGURE)
    _draw_curvature(results, folder / CURVATURE_FIGURE)


def over_steps(traces: Sequence[InsightTrace], value: Callable[[dict[str, Any]], float]) -> Curve:
    """Return the sampled steps, and the median over runs of a value at each of them."""
    by_step: dict[int, list[float]] = {}
    for trace in traces:
        for sample in trace.samples:
            by_step.setdefault(sample["step"], []).append(value(sample))
    steps = sorted(by_step)
    return steps, [median(by_step[step]) for step in steps]


def _of(kind: str, field: str) -> Callable[[dict[str, Any]], float]:
    """The median over layers of a measure in a sample."""
    return lambda sample: median(sample[kind][field])


def _draw_instability(results: InsightsResults, path: Path) -> None:
    family = FAMILIES[ADAMW.name]
    figure, (condition, change, final) = panels(
        [
            f"{family.label}: {RATIO} (median layer)",
            f"{family.label}: rise of the batch's own loss",
            "Each run of AdamW (hollow: no warmup)",
        ],
        extra="language",
        height=4.2,
    )
    for index, lr in enumerate(results.rates(family.name)):
        traces = results.chosen([family.name], lr=lr, warmup=True)
        colour = RATE_COLOURS[index % len(RATE_COLOURS)]
        condition.plot(
            *over_steps(traces, _of("gradient", "effective")),
            color=colour,
            linestyle=":",
            label=f"gradient, lr {lr:g}",
        )
        condition.plot(
            *over_steps(traces, _of("update", "effective")),
            color=colour,
            label=f"update, lr {lr:g}",
        )
        change.plot(*over_steps(traces, rise), color=colour)
    change.axhline(0.0, color="black", linewidth=0.8)
    change.set_ylabel("Δf / |⟨G, ΔX⟩|")
    for name in ADAM_FAMILIES:
        _scatter_runs(
            final,
            results.chosen([name]),
            name,
            x=lambda t: t.middle("update", "effective"),
            y=lambda t: t.validation,
        )
    final.set_xscale("log")
    final.set_xlabel(f"{RATIO} of the updates ({BY_RATE})")
    final.set_ylabel("final validation loss")
    condition.set_yscale("log")
    for axis in (condition, change):
        axis.set_xlabel("step")
    _finish(figure, [condition, final], path)


def _scatter_runs(
    axis: Any,
    traces: Sequence[InsightTrace],
    family: str,
    *,
    x: Callable[[InsightTrace], float],
    y: Callable[[InsightTrace], float],
) -> None:
    """A point a run: filled with warmup, hollow without; the shape stands for the rate."""
    rates = sorted({trace.run.lr for trace in traces})
    for trace in traces:
        filled = trace.run.warmup
        first = trace is traces[0]
        axis.plot(
            [x(trace)],
            [y(trace)],
            linestyle="none",
            marker=MARKERS[rates.index(trace.run.lr) % len(MARKERS)],
            color=COLOUR[family],
            markerfacecolor=COLOUR[family] if filled else "white",
            label=FAMILIES[family].label if first else None,
        )


def _draw_speed(results: InsightsResults, path: Path) -> None:
    figure, (gradient, update, loss) = panels(
        [f"Gradients: {RATIO}", "Updates: σ₁ / median σ, dotted κ₂", "Training loss"],
        extra="language",
        height=4.2,
    )
    for name in SAME_VECTORS:
        if not results.chosen([name], warmup=True):
            continue
        traces = results.best(name)
        style = {"color": COLOUR[name]}
        label = f"{FAMILIES[name].label}, lr {results.best_rate(name):g}"
        gradient.plot(*over_steps(traces, _of("gradient", "effective")), **style)
        update.plot(*over_steps(traces, _of("update", "effective")), **style)
        update.plot(*over_steps(traces, _of("update", "condition")), linestyle=":", **style)
        steps = list(range(results.protocol.steps))
        losses = [median([t.loss_near(step) for t in traces]) for step in steps]
        loss.plot(steps, losses, label=label, **style)
    loss.set_ylabel("nats per byte, mean of 11 steps")
    for axis in (gradient, update):
        axis.set_yscale("log")
    for axis in (gradient, update, loss):
        axis.set_xlabel("step")
    _finish(figure, [loss], path)


def _draw_warmup(results: InsightsResults, path: Path) -> None:
    figure, (final, early, harm) = panels(
        [
            "Final validation loss (dashed: no warmup)",
            f"No warmup: {RATIO} of the first updates",
            "What leaving out warmup costs",
        ],
        extra="language",
        height=4.2,
    )
    for name in results.families():
        family, colour = FAMILIES[name], COLOUR[name]
        rates = results.rates(name)
        for warmup, dash in ((True, "-"), (False, "--")):
            final.plot(
                rates,
                [results.validation(name, lr, warmup=warmup) for lr in rates],
                color=colour,
                linestyle=dash,
                marker="o" if warmup else "s",
                markerfacecolor=colour if warmup else "white",
                label=family.label if warmup else None,
            )
        _draw_first_updates(early, results, name)
        without = results.chosen([name], warmup=False)
        _scatter_runs(
            harm,
            without,
            name,
            x=lambda t: t.middle("update", "effective", 0, WARMUP_STEPS),
            y=lambda t: results.harms(t.run.family, t.run.lr).get(t.seed, math.nan),
        )
    final.set_xscale("log")
    final.set_xlabel("learning rate of the hidden matrices")
    final.set_ylabel("nats per byte")
    early.set_yscale("log")
    early.set_xlabel("step")
    harm.axhline(0.0, color="black", linewidth=0.8)
    harm.set_xscale("log")
    harm.set_xlabel(f"{RATIO}, first {WARMUP_STEPS} updates ({BY_RATE})")
    harm.set_ylabel("final loss without − with warmup")
    _finish(figure, [final], path)


def _draw_first_updates(axis: Any, results: InsightsResults, family: str) -> None:
    """The first updates of a family without warmup, a line a learning rate."""
    for index, lr in enumerate(results.rates(family)):
        steps, values = over_steps(
            results.chosen([family], lr=lr, warmup=False), _of("update", "effective")
        )
        kept = sum(step <= WARMUP_STEPS for step in steps)
        dash = ("-", "--", ":")[index % 3]
        axis.plot(steps[:kept], values[:kept], color=COLOUR[family], linestyle=dash)


def _draw_curvature(results: InsightsResults, path: Path) -> None:
    looked = list(layers_looked_at(results))
    figure, (spread, concentration, extremes) = panels(
        [
            "Largest over root mean square, each layer",
            "The same over its largest possible value",
            "Extreme eigenvalues of each layer's H",
        ],
        extra="language",
        height=4.2,
    )
    steps = sorted({step for _, step, _ in looked})
    for name in (START, *FAMILIES):
        for index, step in enumerate(steps):
            own = [m for f, s, m in looked if (f, s) == (name, step)]
            if not own:
                continue
            style = {
                "linestyle": "none",
                "marker": MARKERS[index % len(MARKERS)],
                "color": COLOUR.get(name, "black"),
                "markerfacecolor": "none",
                "label": f"{FAMILIES[name].label}, step {step}"
                if name in FAMILIES
                else "before training",
            }
            for axis, measure in ((spread, spreads), (concentration, concentrations)):
                hessian, gradient = zip(*(measure(m) for m in own), strict=True)
                axis.plot(gradient, hessian, **style)
            extremes.plot([m["largest"] for m in own], [-m["smallest"] for m in own], **style)
    spread.set_yscale("log")
    extremes.set_xscale("log")
    extremes.set_yscale("log")
    for axis in (concentration, extremes):
        if looked:
            ends = _common_range(axis)
            axis.plot(ends, ends, color="black", linewidth=0.8)
    spread.set_xlabel("gradient: σ₁ / rms σ")
    spread.set_ylabel("Hessian: max |λ| / rms λ")
    concentration.set_xlabel("gradient: σ₁ / ‖G‖_F")
    concentration.set_ylabel("Hessian: max |λ| / ‖H‖_F")
    extremes.set_xlabel("λ_max")
    extremes.set_ylabel("−λ_min")
    _finish(figure, [spread], path)


def _common_range(axis: Any) -> list[float]:
    """The part of the axes where x = y is visible."""
    (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
    return [max(left, bottom), max(left, bottom, min(right, top))]


def _finish(figure: Any, legends: Sequence[Any], path: Path) -> None:
    """Write the file, with what these panels have to say below all of them."""
    handles = {
        label: handle
        for axis in legends
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False
    )
    save_png(figure, path)
