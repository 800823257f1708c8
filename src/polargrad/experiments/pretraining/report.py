"""The report of a sweep: claims, results, the way to AdamW's loss, figures, the search."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from polargrad.errors import RunFolderError
from polargrad.experiments.claims import Claim
from polargrad.experiments.pretraining.comparison import Candidate, candidates, reference_of
from polargrad.experiments.pretraining.halving import Standing, next_session, standing
from polargrad.experiments.pretraining.loss_figures import (
    HIDDEN_FIGURE,
    TABLES_FIGURE,
    TIME_FIGURE,
    TOKENS_FIGURE,
    draw_pretraining,
)
from polargrad.experiments.pretraining.protocol import SweepProtocol
from polargrad.experiments.pretraining.rate_figures import FIRST_FIGURE, SECOND_FIGURE, draw_rates
from polargrad.experiments.pretraining.results import SweepResults
from polargrad.experiments.pretraining.tables import (
    budget_table,
    cost_table,
    results_table,
    search_table,
    sessions_csv,
    way_table,
)
from polargrad.experiments.pretraining.verdicts import COMMAND, judge_pretraining
from polargrad.experiments.report import (
    claims_section,
    commands_section,
    settings_section,
    write_report,
)
from polargrad.language.journal import PROVENANCE
from polargrad.language.presets import meta_model
from polargrad.records import read_json, write_json
from polargrad.records.document import Block, Heading, Paragraph, Picture
from polargrad.records.files import write_atomically

SUMMARY, SESSIONS, REPORT = "sweep.json", "sessions.csv", "report"
TITLE = "Language-model pre-training: optimizers at the learning rates of a sweep"
CLAIMS_NOTE = (
    "Each optimizer at its own best learning rates: means over the seeds, and ranges in brackets. "
    "To be lower is to be so on every seed; to match is to be within two standard errors of the "
    "mean difference."
)
CAPTIONS = {
    TOKENS_FIGURE: "Losses against tokens: means over the seeds, and their range.",
    TIME_FIGURE: "The same against the time of the steps, measurements of the loss left out.",
    TABLES_FIGURE: "Gradients of embedding and head: condition numbers and nuclear norms.",
    HIDDEN_FIGURE: "Hidden matrices: medians over the matrices, of gradients and momenta.",
    FIRST_FIGURE: "The search along the rate of the hidden matrices; crosses with bars are of the "
    "seeds. Far above the best of each, lines are cut off.",
    SECOND_FIGURE: "The search along the rate of embedding and head.",
}


@dataclass(frozen=True)
class Sweep:
    """All that is known of a sweep.

    Args:
        folder: of the sweep.
        protocol: of the sweep.
        results: of its sessions.
        found: where each search stands.
        candidates: the optimizers that were run on a seed at least.
        command: that makes it again, but for its folder.
    """

    folder: Path
    protocol: SweepProtocol
    results: SweepResults
    found: Sequence[Standing]
    candidates: Sequence[Candidate]
    command: str

    @classmethod
    def of(cls, folder: Path, protocol: SweepProtocol, command: str = COMMAND) -> Sweep:
        """Read what the folder holds of this sweep.

        Raises:
            RunFolderError: if a file is damaged, or the folder of a finished run is missing.
        """
        results = SweepResults(folder)
        found = [standing(entrant, protocol, results.losses) for entrant in protocol.entrants]
        return cls(folder, protocol, results, found, candidates(protocol, results, found), command)

    @classmethod
    def read(cls, folder: Path) -> Sweep:
        """Read the sweep whose report is in the folder.

        Raises:
            RunFolderError: if there is none, or it is damaged.
        """
        data = read_json(folder / SUMMARY)
        try:
            return cls.of(folder, SweepProtocol.from_data(data["protocol"]), data["command"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(f"{str(folder / SUMMARY)!r} is not of a sweep ({error})") from None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to run."""
        return next_session(self.protocol, self.results.losses) is None

    @property
    def unit(self) -> str:
        """What a loss is measured per, "byte" or "token"."""
        for session in self.results.losses:
            path = self.results.folder_of(session.run) / PROVENANCE
            if path.exists():
                return str(json.loads(path.read_text(encoding="utf-8"))[-1]["unit"])
        return "token"

    @functools.cached_property
    def scale(self) -> str:
        """Of what model and how much text the results are."""
        settings = self.protocol.settings(self._any_run())
        preset = settings.model_preset
        parameters = sum(p.numel() for p in meta_model(preset).parameters())
        curves = next(c for candidate in self.candidates for c in candidate.curves.values())
        seeds = max(len(candidate.finals) for candidate in self.candidates)
        return (
            f"preset {preset.name}, {parameters / 1e6:.1f} M parameters, "
            f"{curves.tokens:,} {self.unit}s a run, {seeds} seed" + ("s" if seeds != 1 else "")
        )

    def _any_run(self) -> Any:
        return next(iter(self.results.losses)).run

    @property
    def claims(self) -> list[Claim]:
        """The paper's claims, judged by what there is."""
        scale = self.scale if any(c.curves for c in self.candidates) else ""
        return judge_pretraining(self.candidates, command=self.command, scale=scale)


def write_sweep_report(sweep: Sweep) -> Path:
    """Write what is known of a sweep into its folder; return the path of the page.

    ``report.html`` and ``report.md``, ``sweep.json`` (protocol, searches, losses, claims),
    ``sessions.csv`` (a line a session), and the figures. Of a sweep that is not finished the report
    says so.

    Raises:
        RunFolderError: if nothing is finished yet.
    """
    if not sweep.results.losses:
        raise RunFolderError(f"{str(sweep.folder)!r} holds no finished session yet")
    write_json(sweep.folder / SUMMARY, _summary(sweep))
    text = sessions_csv(sweep.protocol, sweep.results.losses)
    write_atomically(sweep.folder / SESSIONS, lambda file: file.write(text.encode()))
    draw_rates(sweep.protocol, sweep.found, sweep.candidates, sweep.folder, unit=sweep.unit)
    draw_pretraining(sweep.candidates, sweep.folder, unit=sweep.unit)
    blocks = [
        *_beginning(sweep),
        *claims_section(sweep.claims, CLAIMS_NOTE),
        *results_section(sweep),
        *_search_section(sweep),
        *commands_section(
            {"all of it; in the folder of this report, what is left of it": sweep.command}
        ),
        *settings_section({"Protocol": sweep.protocol.as_data()}, _where(sweep)),
    ]
    return write_report(sweep.folder, REPORT, TITLE, blocks)


def _beginning(sweep: Sweep) -> list[Block]:
    """What was compared, and whether all of it is there."""
    if not any(candidate.curves for candidate in sweep.candidates):
        return [Paragraph("The search is not finished: there is no run at a best point yet.")]
    unit = sweep.unit
    text = (
        f"{sweep.scale[0].upper()}{sweep.scale[1:]}. Each optimizer was run at the best learning "
        f"rates of its own search, whose seed ({sweep.protocol.sweep_seed}) is not one of these. "
        f"Losses are in nats per {unit}."
    )
    if sweep.protocol.sweep_seed in sweep.protocol.seeds:
        text = text.replace("is not one of these", "is one of these")
    blocks: list[Block] = [Paragraph(text)]
    if not sweep.finished:
        blocks.append(Paragraph("The sweep is not finished: this is what there is of it."))
    return blocks


def results_section(sweep: Sweep, *, heading: bool = True) -> list[Block]:
    """Return what came of the runs at the best points: tables and figures."""
    if not any(candidate.curves for candidate in sweep.candidates):
        return []
    blocks: list[Block] = [
        *([Heading("At the best learning rates")] if heading else []),
        Paragraph("Final validation losses, the lowest mean first."),
        results_table(sweep.candidates),
        *_way(sweep),
        Heading("What a step costs", 3),
        Paragraph(
            "Medians of the steps, without measurements of the loss. The share is that of the "
            "optimizer's step; memory is the most that the process held while it trained."
        ),
        cost_table(sweep.candidates),
    ]
    return [*blocks, *_pictures(sweep, TOKENS_FIGURE, TIME_FIGURE, TABLES_FIGURE, HIDDEN_FIGURE)]


def _way(sweep: Sweep) -> list[Block]:
    """The way to AdamW's final loss."""
    table = way_table(sweep.candidates)
    reference = reference_of(sweep.candidates)
    if table is None or reference is None or not table.rows:
        return []
    return [
        Heading(f"The way to {reference.entrant.title}'s final loss", 3),
        Paragraph(
            f"Tokens and time of steps to where the validation loss first comes to the final one "
            f"of {reference.entrant.title}, as shares of those of its whole run: below 1 is "
            "sooner. Medians over the seeds with their range. On the same seed each is compared "
            "with that seed's run; to the mean, with the mean of the final losses. Between two "
            "measurements the loss is taken to change evenly."
        ),
        table,
    ]


def _search_section(sweep: Sweep) -> list[Block]:
    """How the rates were found, and what that took."""
    protocol = sweep.protocol
    rungs = ", ".join(map(str, protocol.rung_steps))
    return [
        Heading("The search"),
        Paragraph(
            f"Seed {protocol.sweep_seed}. Every line has {protocol.points} rates, a factor of "
            f"{protocol.factor:g} apart, around a default; at steps {rungs} the better half goes "
            "on. Where the best point is at the edge of its grid, one more point is run to the "
            f"end, at most {protocol.extensions} times. The star is the best point of a line. "
            "Losses at different steps are not to be compared."
        ),
        search_table(protocol, sweep.found),
        *_pictures(sweep, FIRST_FIGURE, SECOND_FIGURE),
        budget_table(protocol, sweep.found, sweep.results.losses),
    ]


def _pictures(sweep: Sweep, *names: str) -> list[Block]:
    paths = [sweep.folder / name for name in names]
    return [Picture(path, CAPTIONS[path.name]) for path in paths if path.exists()]


def _where(sweep: Sweep) -> dict[str, Any]:
    """Where the last session of the sweep ran."""
    sessions = read_json(sweep.folder / PROVENANCE)["sessions"]
    return dict(sessions[-1])


def _summary(sweep: Sweep) -> dict[str, Any]:
    """The sweep as plain data."""
    by_name = {candidate.entrant.name: candidate for candidate in sweep.candidates}
    entrants = []
    for search in sweep.found:
        own = by_name.get(search.entrant.name)
        entrants.append(
            {
                "name": search.entrant.name,
                "finished": search.finished,
                "rates": dict(search.rates or ()),
                "lines": [
                    {
                        "rate": line.axis,
                        "points": [
                            {"rates": dict(run.rates), "losses": line.losses.get(k, {})}
                            for k, run in sorted(line.runs.items())
                        ],
                        "best": None if line.best is None else dict(line.runs[line.best].rates),
                        "extended_by": len(line.added),
                        "at_edge": line.best is not None and line.at_edge,
                    }
                    for line in search.lines
                ],
                "final_losses": {} if own is None else own.finals,
            }
        )
    return {
        "command": sweep.command,
        "finished": sweep.finished,
        "protocol": sweep.protocol.as_data(),
        "entrants": entrants,
        "claims": [asdict(claim) for claim in sweep.claims],
    }
