"""``polargrad bench``: measure what the package claims to be fast and accurate at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polargrad.experiments.bench import polar as bench_polar
from polargrad.experiments.bench import step as bench_step
from polargrad.experiments.bench.figure import FIGURE as POLAR_FIGURE
from polargrad.experiments.bench.results import table as polar_table
from polargrad.experiments.bench.run import CSV, with_changes
from polargrad.experiments.bench.step_results import FIGURE as STEP_FIGURE
from polargrad.experiments.bench.step_results import table as step_table

POLAR, POLAR_QUICK = bench_polar.FULL, bench_polar.QUICK
STEP, STEP_QUICK = bench_step.FULL, bench_step.QUICK
POLAR_OUT = Path("runs/bench-polar")
STEP_OUT = Path("runs/bench-step")
FLAG = tyro.conf.arg(help_behavior_hint="")
THREADS = tyro.conf.arg(metavar="INT", help_behavior_hint="(default: torch's own number)")
DEVICE = tyro.conf.arg(metavar="{cpu,cuda}")


def _hint(metavar: str, full: object, quick: object) -> object:
    """An option whose default --quick changes, if it does."""
    text = f"(default: {_words(full)}"
    changed = f"; with --quick {_words(quick)}" if quick != full else ""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"{text}{changed})")


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


SHAPES = _hint("SHAPE [SHAPE ...]", POLAR.shapes, POLAR_QUICK.shapes)
SPECTRA_OPTION = _hint("SPECTRUM [SPECTRUM ...]", POLAR.spectra, POLAR_QUICK.spectra)
TOLERANCES = _hint("FLOAT [FLOAT ...]", POLAR.tolerances, POLAR_QUICK.tolerances)
DTYPES_OPTION = _hint("DTYPE [DTYPE ...]", POLAR.dtypes, POLAR_QUICK.dtypes)
METHODS = tyro.conf.arg(metavar="METHOD [METHOD ...]", help_behavior_hint="(default: all)")
POLAR_REPETITIONS = _hint("INT", POLAR.repetitions, POLAR_QUICK.repetitions)
POLAR_BUDGET = _hint("SECONDS", POLAR.budget, POLAR_QUICK.budget)

MODELS = _hint("MODEL [MODEL ...]", STEP.models, STEP_QUICK.models)
SCOPES = _hint("SCOPE [SCOPE ...]", STEP.scopes, STEP_QUICK.scopes)
LAYERS = _hint("INT", "all", STEP_QUICK.layers)
CANDIDATES = tyro.conf.arg(metavar="NAME [NAME ...]", help_behavior_hint="(default: all)")
STEP_REPETITIONS = _hint("INT", STEP.repetitions, STEP_QUICK.repetitions)
STEP_BUDGET = _hint("SECONDS", STEP.budget, STEP_QUICK.budget)


@dataclass(frozen=True)
class BenchPolar:
    """Measure our polar factors against torch's SVD, scipy, jax, Muon's quintic, published QDWH.

    scipy and jax, where they are installed, are timed afterwards in processes of their own, and
    marked so. Errors are against an SVD in double precision. The folder receives settings.json,
    provenance.json, results.jsonl, results.csv and accuracy_time.png.
    """

    shapes: Annotated[tuple[str, ...] | None, SHAPES] = None
    """ROWSxCOLUMNS, or BATCHxROWSxCOLUMNS for a stack."""
    spectra: Annotated[tuple[str, ...] | None, SPECTRA_OPTION] = None
    """gaussian, flat, spiked, power-law, geometric, half-large-half-small; geometric:1e6 sets κ."""
    tolerances: Annotated[tuple[float, ...] | None, TOLERANCES] = None
    """Tolerances that the planner is asked for, besides converged."""
    dtypes: Annotated[tuple[str, ...] | None, DTYPES_OPTION] = None
    """float32, float64, complex64 or complex128."""
    methods: Annotated[tuple[str, ...] | None, METHODS] = None
    """Ours: auto (the planner), names, or descriptions as JSON: '{"name": "qdwh", "steps": 3}'."""
    threads: Annotated[int | None, THREADS] = None
    """Threads of every candidate."""
    repetitions: Annotated[int | None, POLAR_REPETITIONS] = None
    """Rounds of each case."""
    budget: Annotated[float | None, POLAR_BUDGET] = None
    """Time for the rounds of a case: a candidate that needs more than its share is in fewer."""
    bfloat16: Annotated[bool, FLAG] = False
    """Measure Muon's quintic in bfloat16 too, which is slow where the processor emulates it."""
    device: Annotated[str, DEVICE] = "cpu"
    """Of everything but scipy and jax, which use the processor."""
    seed: int = 0
    """Seed of the matrices."""
    quick: Annotated[bool, FLAG] = False
    """Fewer shapes, spectra and rounds, where they are not given."""
    calibrate: Annotated[bool, FLAG] = False
    """Also write calibration.json: for each dtype, shape and tolerance our fastest method."""
    out: Annotated[Path, tyro.conf.arg(metavar="PATH")] = POLAR_OUT
    """Folder of the results, new or empty."""
    overwrite: Annotated[bool, FLAG] = False
    """Delete the run in the folder and start again."""

    def run(self) -> int:
        """Run the benchmark, print its table, and return the exit code."""
        settings = with_changes(
            POLAR_QUICK if self.quick else POLAR,
            shapes=self.shapes,
            spectra=self.spectra,
            tolerances=self.tolerances,
            dtypes=self.dtypes,
            methods=self.methods,
            threads=self.threads,
            repetitions=self.repetitions,
            budget=self.budget,
            bfloat16=self.bfloat16,
            device=self.device,
            seed=self.seed,
        )
        rows = bench_polar.bench_polar(
            self.out, settings, calibrate=self.calibrate, overwrite=self.overwrite
        )
        print(polar_table(rows))
        print(f"\nresults: {self.out / CSV}, figure: {self.out / POLAR_FIGURE}")
        return 0


@dataclass(frozen=True)
class BenchStep:
    """Measure a step of our optimizers against torch's, a loop by hand, and published packages.

    The parameters have the shapes of a model; no model is built. muon-optimizer, dion,
    pytorch_optimizer and Emerging-Optimizers take part where they are installed. On a CPU, peers
    that compute in bfloat16 step one matrix of each shape, counted as often as the model has it,
    and are marked so. The folder receives settings.json, provenance.json, results.jsonl,
    results.csv and step_time.png, with the time of each stage and the peak memory of a step.

    Candidates: polargrad, polargrad-found, muon, muon-quintic, adamw, adamw-rule, torch-muon,
    torch-adamw, muon-optimizer, dion, pytorch-optimizer, emerging-optimizers; and hand-loop and
    torch-adamw-foreach, which the others are divided by.

    All blocks of qwen2-0.5b take some 25 GB of memory; a few blocks, as --layers has them, stand
    for all where matrices are large, less so in lora-rank-16.
    """

    models: Annotated[tuple[str, ...] | None, MODELS] = None
    """gpt2-small, qwen2-0.5b, resnet-50 or lora-rank-16."""
    scopes: Annotated[tuple[str, ...] | None, SCOPES] = None
    """What is stepped: matrices, vectors (with embeddings and heads, by AdamW), or all of both."""
    layers: Annotated[int | None, LAYERS] = None
    """Step at most so many of a model's equal blocks, and multiply their time."""
    candidates: Annotated[tuple[str, ...] | None, CANDIDATES] = None
    """Some of those above; what the others are divided by is measured in any case."""
    threads: Annotated[int | None, THREADS] = None
    """Threads of every candidate."""
    repetitions: Annotated[int | None, STEP_REPETITIONS] = None
    """Rounds of each case."""
    budget: Annotated[float | None, STEP_BUDGET] = None
    """Time for the rounds of a case: a candidate that needs more than its share is in fewer."""
    device: Annotated[str, DEVICE] = "cpu"
    """Where the parameters are."""
    seed: int = 0
    """Seed of the gradients."""
    quick: Annotated[bool, FLAG] = False
    """Fewer models, scopes, layers and rounds, where they are not given."""
    out: Annotated[Path, tyro.conf.arg(metavar="PATH")] = STEP_OUT
    """Folder of the results, new or empty."""
    overwrite: Annotated[bool, FLAG] = False
    """Delete the run in the folder and start again."""

    def run(self) -> int:
        """Run the benchmark, print its table, and return the exit code."""
        settings = with_changes(
            STEP_QUICK if self.quick else STEP,
            models=self.models,
            scopes=self.scopes,
            layers=self.layers,
            candidates=self.candidates,
            threads=self.threads,
            repetitions=self.repetitions,
            budget=self.budget,
            device=self.device,
            seed=self.seed,
        )
        rows = bench_step.bench_step(self.out, settings, overwrite=self.overwrite)
        print(step_table(rows, settings.layers))
        print(f"\nresults: {self.out / CSV}, figure: {self.out / STEP_FIGURE}")
        return 0


SUBJECTS = (
    Annotated[BenchPolar, tyro.conf.subcommand("polar")]
    | Annotated[BenchStep, tyro.conf.subcommand("step")]
)


@dataclass(frozen=True)
class Bench:
    """Measure speed and accuracy against the peers, all in one run on this machine.

    All candidates of a case take turns, round after round; ratios are formed round by round.
    """

    subject: tyro.conf.OmitSubcommandPrefixes[tyro.conf.OmitArgPrefixes[SUBJECTS]]
    """What is measured; polargrad bench polar --help shows the options of polar."""

    def run(self) -> int:
        """Run the benchmark that was asked for."""
        return self.subject.run()
