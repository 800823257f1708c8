"""What the paper claims of language-model pre-training, judged by the runs at the best rates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from polargrad.experiments.claims import FAILS, HOLDS, HOLDS_IF, NOT_TESTED, Claim
from polargrad.experiments.pretraining.comparison import Candidate, paired
from polargrad.experiments.pretraining.spectra import EMBEDDING, HEAD, late_condition

TABLES_CLAIM = (
    "Language-model pre-training: with PolarSGDM on embedding and head Muon ends lower than with "
    "AdamW there, and lower than AdamW everywhere (6.4)"
)
MATRICES_CLAIM = (
    "Language-model pre-training: PolarMuon on the hidden matrices matches or beats Muon (GPT-2)"
)
CONDITION_CLAIM = (
    "Language-model pre-training: with PolarSGDM on embedding and head their gradients are better "
    "conditioned than with AdamW there (6.4, figure 5)"
)
# What is known of a claim that nothing was run for.
ELSEWHERE = {
    TABLES_CLAIM: "an independent replication found AdamW on embedding and head better: training "
    "loss about 4.1, with PolarSGDM 4.6, with AdamW everywhere 5.1",
    MATRICES_CLAIM: "",
    CONDITION_CLAIM: "that replication found κ₂ of the embedding's gradient near 100 with both",
}
COMMAND = "polargrad sweep --preset small"
# A mean difference within so many standard errors counts as a match.
ERRORS = 2.0


def judge_pretraining(
    found: Sequence[Candidate], *, command: str = COMMAND, scale: str = ""
) -> list[Claim]:
    """Return the paper's claims on language models, judged by what was run.

    Each optimizer stands at the best learning rates of its own search; differences are taken seed
    by seed. A claim to be lower holds if that is so on every seed. PolarMuon matches Muon if its
    mean difference is at most two standard errors; of one seed there is no error to speak of.

    Args:
        found: the optimizers that were run.
        command: that makes the runs again.
        scale: of what model and how much text the evidence is.
    """
    by_name = {candidate.entrant.name: candidate for candidate in found}
    judged = [
        _tables(by_name, command),
        _matrices(by_name, command),
        _condition(by_name, command),
    ]
    return [_with_scale(claim, scale) for claim in judged]


def _with_scale(claim: Claim, scale: str) -> Claim:
    if claim.verdict == NOT_TESTED or not scale:
        return claim
    evidence = f"{claim.evidence} ({scale})"
    return Claim(claim.claim, evidence, claim.verdict, claim.command, claim.condition)


def _untested(
    statement: str, command: str, by_name: Mapping[str, Candidate], *needed: str
) -> Claim:
    missing = [name for name in needed if name not in by_name]
    evidence = f"there is no run of {', '.join(missing)}" if by_name else ELSEWHERE[statement]
    return Claim(statement, evidence, NOT_TESTED, command)


def _tables(by_name: Mapping[str, Candidate], command: str) -> Claim:
    """Muon with PolarSGDM against Muon and against AdamW."""
    needed = ("muon-polarsgdm", "muon", "adamw")
    if any(name not in by_name for name in needed):
        return _untested(TABLES_CLAIM, command, by_name, *needed)
    ours, *others = (by_name[name] for name in needed)
    evidence = "final validation loss: " + "; ".join(
        _final(candidate) for candidate in (ours, *others)
    )
    lower = {c.entrant.title: paired(ours, c) for c in others}
    wins = {title: sum(d < 0 for d in differences.values()) for title, differences in lower.items()}
    beaten = [title for title, count in wins.items() if count == len(lower[title])]
    evidence += ". Lower " + ", ".join(
        f"than {title} on {count} of {len(lower[title])} seeds" for title, count in wins.items()
    )
    if len(beaten) == len(others):
        return Claim(TABLES_CLAIM, evidence, HOLDS, command)
    if beaten:
        condition = f"it is compared with {beaten[0]}"
        return Claim(TABLES_CLAIM, evidence, HOLDS_IF, command, condition)
    return Claim(TABLES_CLAIM, evidence, FAILS, command)


def _matrices(by_name: Mapping[str, Candidate], command: str) -> Claim:
    """PolarMuon against Muon: lower, or within what the seeds leave open."""
    needed = ("polarmuon", "muon")
    if any(name not in by_name for name in needed):
        return _untested(MATRICES_CLAIM, command, by_name, *needed)
    ours, theirs = (by_name[name] for name in needed)
    differences = list(paired(ours, theirs).values())
    if not differences or any(not math.isfinite(d) for d in differences):
        evidence = f"final validation loss: {_final(ours)}; {_final(theirs)}"
        verdict = FAILS if ours.mean == math.inf > theirs.mean else NOT_TESTED
        return Claim(MATRICES_CLAIM, evidence, verdict, command)
    mean = statistics.fmean(differences)
    several = len(differences) > 1
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if several else 0.0
    evidence = (
        f"final validation loss: {_final(ours)}; {_final(theirs)}. Mean difference {mean:+.4f}"
        + (f", standard error {error:.4f}" if several else " on one seed")
    )
    verdict = HOLDS if mean <= ERRORS * error else FAILS
    return Claim(MATRICES_CLAIM, evidence, verdict, command)


def _condition(by_name: Mapping[str, Candidate], command: str) -> Claim:
    """κ₂ of the gradients of embedding and head over the second half of the runs."""
    needed = ("muon-polarsgdm", "muon")
    if any(name not in by_name for name in needed):
        return _untested(CONDITION_CLAIM, command, by_name, *needed)
    names = (*needed, *(["adamw"] if "adamw" in by_name else []))
    medians = {
        name: {role: late_condition(by_name[name], role) for role in (EMBEDDING, HEAD)}
        for name in names
    }
    known = [v for of_role in medians.values() for v in of_role.values()]
    if any(math.isnan(value) for value in known):
        return Claim(CONDITION_CLAIM, "no spectra were recorded", NOT_TESTED, command)
    evidence = "median κ₂ of the gradients over the second half, embedding and head: " + "; ".join(
        f"{by_name[name].entrant.title} {of[EMBEDDING]:.3g} and {of[HEAD]:.3g}"
        for name, of in medians.items()
    )
    ours, theirs = (medians[name] for name in needed)
    better = [role for role in (EMBEDDING, HEAD) if ours[role] < theirs[role]]
    if len(better) == 2:
        return Claim(CONDITION_CLAIM, evidence, HOLDS, command)
    if better:
        condition = f"the {better[0]} is meant"
        return Claim(CONDITION_CLAIM, evidence, HOLDS_IF, command, condition)
    return Claim(CONDITION_CLAIM, evidence, FAILS, command)


def _final(candidate: Candidate) -> str:
    """The final losses of a candidate in words."""
    title, finals = candidate.entrant.title, list(candidate.finals.values())
    if candidate.diverged:
        return f"{title} diverged on {len(candidate.diverged)} of {len(finals)} seeds"
    spread = "" if len(finals) == 1 else f" [{min(finals):.4f} … {max(finals):.4f}]"
    return f"{title} {candidate.mean:.4f}{spread}"
