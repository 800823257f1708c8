"""Candidates beside each other: the way to AdamW's loss, costs, and the claims they decide."""

import math

import pytest

from polargrad.experiments.claims import FAILS, HOLDS, HOLDS_IF, NOT_TESTED
from polargrad.experiments.pretraining.comparison import (
    Candidate,
    in_words,
    paired,
    way_to_mean,
    way_to_pair,
)
from polargrad.experiments.pretraining.curves import Curves, Point, reach, smoothed
from polargrad.experiments.pretraining.protocol import SweepProtocol
from polargrad.experiments.pretraining.spectra import (
    EMBEDDING,
    GRADIENT,
    HEAD,
    HIDDEN,
    KAPPA,
    late_condition,
    medians,
)
from polargrad.experiments.pretraining.tables import cost_table, results_table, way_table
from polargrad.experiments.pretraining.verdicts import (
    CONDITION_CLAIM,
    MATRICES_CLAIM,
    TABLES_CLAIM,
    judge_pretraining,
)

FOUR = ("adamw", "muon", "polarmuon", "muon-polarsgdm")
ENTRANTS = {e.name: e for e in SweepProtocol(optimizers=FOUR, steps=100, eval_every=10).entrants}


def curves(losses, *, seconds=1.0, spectra=()):
    """A run of 100 steps of 10 tokens with these validation losses, evenly spread over it."""
    last = len(losses) - 1
    points = tuple(
        Point(1000 * i // last, seconds * 100 * i / last, loss) for i, loss in enumerate(losses)
    )
    return Curves(
        settings={"steps": 100},
        session={},
        training=points[1:],
        validation=points,
        optimizer_share=0.25,
        seconds_per_step=seconds,
        tokens_per_second=10 / seconds,
        peak_memory=2**20,
        spectra=tuple(spectra),
    )


def candidate(name, finals, diverged=(), **options):
    """One whose losses fall evenly from 8 to the final one, by seed."""
    found = {seed: curves((8.0, final), **options) for seed, final in finals.items()}
    return Candidate(ENTRANTS[name], (("lr", 0.1), ("vector_lr", 0.2)), found, diverged)


def test_a_loss_is_reached_where_the_line_between_two_measurements_crosses_it():
    points = (Point(0, 0.0, 8.0), Point(100, 10.0, 4.0), Point(200, 30.0, 3.0))
    assert reach(points, 4.0) == Point(100, 10.0, 4.0)
    assert reach(points, 3.5) == Point(150, 20.0, 3.5)
    assert reach(points, 3.0) == Point(200, 30.0, 3.0)
    assert reach(points, 2.9) is None
    assert reach(points, 9.0) == points[0]


def test_what_is_reached_once_counts_though_the_loss_rises_again():
    points = (Point(0, 0.0, 8.0), Point(100, 10.0, 2.0), Point(200, 20.0, 3.0))
    assert reach(points, 2.5).tokens == 92


def test_the_reference_reaches_its_own_loss_at_its_end():
    own = curves((8.0, 5.0, 3.0))
    assert own.reach(own.final).tokens == own.tokens == 1000


def test_the_way_to_the_loss_of_the_same_seed_and_to_the_mean():
    """From 8 to 2 crosses 4 after two thirds of the tokens, and 5 after a half."""
    adamw = candidate("adamw", {1: 4.0, 2: 5.0})
    muon = candidate("muon", {1: 2.0, 2: 2.0}, seconds=2.0)
    pair = way_to_pair(muon, adamw)
    assert pair.token_shares == pytest.approx([2 / 3, 1 / 2], abs=1e-3)
    assert pair.time_shares == pytest.approx([4 / 3, 1.0])
    mean = way_to_mean(muon, adamw)  # to 4.5
    assert mean.token_shares == pytest.approx([3.5 / 6] * 2, abs=1e-3)
    assert mean.time_shares == pytest.approx([7 / 6] * 2)


def test_what_is_not_reached_is_infinite_and_said():
    adamw = candidate("adamw", {1: 4.0, 2: 4.0, 3: 4.0})
    muon = candidate("muon", {1: 2.0, 2: 4.5}, diverged=(3,))
    shares = way_to_pair(muon, adamw).token_shares
    assert shares[1:] == [math.inf, math.inf]
    assert in_words(shares, "of its tokens") == (
        "0.67 of its tokens on 1 of 3 seeds, not reached on 2"
    )
    assert in_words([math.inf], "of its tokens") == "not reached"
    assert muon.mean == math.inf
    assert math.isnan(muon.deviation)


def test_tables_have_a_row_for_every_optimizer_and_adamw_is_no_way_to_itself():
    found = [candidate("adamw", {1: 4.0, 2: 5.0}), candidate("muon", {1: 2.0, 2: 3.0})]
    table = results_table(found)
    assert [row[0] for row in table.rows] == ["Muon", "AdamW"]  # the lowest mean first
    assert table.rows[0][1:] == ["0.1", "0.2", "2.0000", "3.0000", "2.5000", "0.7071"]
    assert [row[0] for row in way_table(found).rows] == ["Muon"]
    assert way_table(found[1:]) is None
    assert cost_table(found).rows[0] == ["AdamW", "1000", "10", "25.0%", "25.0% … 25.0%", "1"]


def test_differences_are_of_the_seeds_that_both_were_run_on():
    ours, theirs = candidate("muon", {1: 2.0, 2: 3.0}), candidate("adamw", {2: 4.0, 3: 5.0})
    assert paired(ours, theirs) == {2: -1.0}


def test_the_means_of_parts_stand_at_their_ends():
    points = tuple(Point(i, float(i), float(i)) for i in range(1, 6))
    assert [p.tokens for p in smoothed(points, 2)] == [2, 4, 5]
    assert [p.loss for p in smoothed(points, 2)] == [1.5, 3.5, 5.0]


def claim(found, statement):
    return next(c for c in judge_pretraining(found) if c.claim == statement)


@pytest.mark.parametrize(
    ("ours", "muon", "adamw", "verdict", "words"),
    [
        ((2.0, 2.1), (2.2, 2.3), (3.0, 3.0), HOLDS, "than Muon on 2 of 2 seeds"),
        ((2.5, 2.6), (2.2, 2.3), (3.0, 3.0), HOLDS_IF, "it is compared with AdamW"),
        ((2.0, 2.6), (2.2, 2.3), (1.0, 1.0), FAILS, "than Muon on 1 of 2 seeds"),
        ((3.5, 3.6), (2.2, 2.3), (3.0, 3.0), FAILS, "than AdamW on 0 of 2 seeds"),
    ],
)
def test_polarsgdm_beats_only_what_it_is_below_on_every_seed(ours, muon, adamw, verdict, words):
    rows = {"muon-polarsgdm": ours, "muon": muon, "adamw": adamw}
    found = [candidate(name, {1: a, 2: b}) for name, (a, b) in rows.items()]
    judged = claim(found, TABLES_CLAIM)
    assert judged.verdict == verdict
    assert words in judged.evidence + judged.condition


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ((1.9, 1.9, 1.9), HOLDS),  # lower
        ((2.01, 1.99, 2.01), HOLDS),  # within two standard errors
        ((2.1, 2.1, 2.11), FAILS),
    ],
)
def test_polarmuon_matches_muon_within_two_standard_errors(ours, verdict):
    found = [
        candidate("polarmuon", dict(enumerate(ours))),
        candidate("muon", dict.fromkeys(range(3), 2.0)),
    ]
    assert claim(found, MATRICES_CLAIM).verdict == verdict


def test_of_one_seed_the_sign_decides():
    for ours, verdict in ((1.99, HOLDS), (2.01, FAILS)):
        found = [candidate("polarmuon", {1: ours}), candidate("muon", {1: 2.0})]
        judged = claim(found, MATRICES_CLAIM)
        assert judged.verdict == verdict
        assert "on one seed" in judged.evidence


def test_an_optimizer_that_diverges_does_not_win():
    found = [candidate("polarmuon", {}, diverged=(1, 2)), candidate("muon", {1: 2.0, 2: 2.0})]
    judged = claim(found, MATRICES_CLAIM)
    assert judged.verdict == FAILS
    assert "PolarMuon diverged on 2 of 2 seeds" in judged.evidence


def test_claims_without_runs_are_not_tested_and_name_what_is_missing():
    assert {c.verdict for c in judge_pretraining([])} == {NOT_TESTED}
    replicated = claim([], TABLES_CLAIM).evidence
    assert replicated.startswith("an independent replication found AdamW on embedding and head")
    judged = claim([candidate("muon", {1: 2.0})], TABLES_CLAIM)
    assert judged.evidence == "there is no run of muon-polarsgdm, adamw"


def looks(kappas, **more):
    """Looks at steps 50, 60 and 100 at an embedding and a head of these condition numbers."""
    roles = {"embedding": kappas[0], "head": kappas[1], **more}
    matrices = [
        {"role": role, "gradient": {"condition_number": kappa, "nuclear_norm": 1.0}}
        for role, kappa in roles.items()
    ]
    first = [{**m, "gradient": {"condition_number": 1e9, "nuclear_norm": 1.0}} for m in matrices]
    return [
        {"step": 50, "matrices": first},
        {"step": 60, "matrices": matrices},
        {"step": 100, "matrices": matrices},
    ]


@pytest.mark.parametrize(
    ("ours", "verdict", "condition"),
    [
        ((10.0, 20.0), HOLDS, ""),
        ((10.0, 999.0), HOLDS_IF, "the embedding is meant"),
        ((999.0, 999.0), FAILS, ""),
    ],
)
def test_conditioning_is_judged_by_the_second_half_of_the_runs(ours, verdict, condition):
    found = [
        candidate("muon-polarsgdm", {1: 2.0}, spectra=looks(ours)),
        candidate("muon", {1: 2.0}, spectra=looks((100.0, 100.0))),
    ]
    judged = claim(found, CONDITION_CLAIM)
    assert (judged.verdict, judged.condition) == (verdict, condition)
    assert "Muon 100 and 100" in judged.evidence


def test_conditioning_is_not_tested_without_looks():
    found = [candidate("muon-polarsgdm", {1: 2.0}), candidate("muon", {1: 2.0})]
    judged = claim(found, CONDITION_CLAIM)
    assert (judged.verdict, judged.evidence) == (NOT_TESTED, "no spectra were recorded")


def test_medians_are_over_matrices_and_seeds_and_leave_out_the_singular():
    one = looks((1.0, 2.0), hidden=3.0)
    other = looks((5.0, math.inf), hidden=7.0)
    found = candidate("muon", {1: 2.0}, spectra=one).curves[1], curves((8.0, 2.0), spectra=other)
    assert medians(found, EMBEDDING, GRADIENT, KAPPA)[1:] == [(60, 3.0), (100, 3.0)]
    assert medians(found, HEAD, GRADIENT, KAPPA)[1:] == [(60, 2.0), (100, 2.0)]
    assert medians(found, HIDDEN, GRADIENT, KAPPA)[1:] == [(60, 5.0), (100, 5.0)]
    assert medians(found, HIDDEN, "momentum", KAPPA) == []


def test_a_tied_embedding_is_embedding_and_head():
    tied = [{"step": 60, "matrices": [{"role": "tied embedding", "gradient": {KAPPA: 4.0}}]}]
    found = candidate("muon", {1: 2.0}, spectra=tied)
    assert late_condition(found, EMBEDDING) == late_condition(found, HEAD) == 4.0
    assert math.isnan(late_condition(found, HIDDEN))
