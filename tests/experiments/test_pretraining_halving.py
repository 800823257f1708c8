"""The scheduler of a sweep, on losses that are formulas: what it runs, stops and finds."""

import itertools
import math
import random

import pytest
from loss_surfaces import Valley, run_all

from polargrad.experiments.pretraining.halving import next_session, seed_sessions, standing
from polargrad.experiments.pretraining.plan import steps_of, to_come
from polargrad.experiments.pretraining.protocol import Run, Session, SweepProtocol

FOUR = ("adamw", "muon", "polarmuon", "muon-polarsgdm")


def protocol(**changes):
    given = {"optimizers": FOUR, "steps": 400, "eval_every": 20, "seeds": (1, 2)}
    return SweepProtocol(**{**given, **changes})


def at_centres(p):
    """A surface whose best point is the centre of every grid."""
    surfaces = {e.name: Valley(dict(e.centres)) for e in p.entrants}
    return lambda session: surfaces[session.run.entrant](session)


def search_steps(p, losses):
    return steps_of(session for session in losses if session.run.seed == p.sweep_seed)


@pytest.mark.parametrize("points", [3, 5, 7])
@pytest.mark.parametrize("rates", ["lr", "both"])
def test_every_optimizer_has_the_same_budget(points, rates):
    p = protocol(points=points, rates=rates)
    losses = run_all(p, at_centres(p))
    assert len(set(steps_of(losses).values())) == 1
    sessions = {name: sum(s.run.entrant == name for s in losses) for name in FOUR}
    assert len(set(sessions.values())) == 1


def test_the_budget_does_not_depend_on_what_is_found():
    """Wherever the best point lies within the grids, the search takes the same steps."""
    for offsets in itertools.product((-1, 0, 1), repeat=2):
        p = protocol(optimizers=("muon",))
        best = {"lr": 0.01 * 2.0 ** offsets[0], "vector_lr": 0.03 * 2.0 ** offsets[1]}
        assert search_steps(p, run_all(p, Valley(best))) == {"muon": 2000}


def test_a_line_of_five_points_costs_three_runs():
    """5/4 to the first rung, 3/4 to the second, 2/2 to the end; then 4/4, 2/4, 1/2."""
    p = protocol(optimizers=("muon",))
    sessions = [s for s in run_all(p, at_centres(p)) if s.run.seed == 0]
    first, second = sessions[:10], sessions[10:]
    assert [s.step for s in first] == [100] * 5 + [200] * 3 + [400] * 2
    assert [s.step for s in second] == [100] * 4 + [200] * 2 + [400]
    assert steps_of(first) == {"muon": 3 * 400}
    assert steps_of(second, first) == {"muon": 2 * 400}


def random_surface(seed):
    """A loss without any order in it, the same for the same session."""

    def loss(session):
        generator = random.Random(f"{seed} {session.run.folder} {session.step}")
        return math.inf if generator.random() < 0.1 else generator.uniform(1, 5)

    return loss


@pytest.mark.parametrize("seed", range(20))
def test_pruning_is_monotone_and_never_stops_the_best_of_a_rung(seed):
    """On any losses: what is stopped stays stopped, and of those at a rung the best goes on."""
    p = protocol(optimizers=("muon", "polarmuon"), points=7)
    order = list(losses := run_all(p, random_surface(seed)))
    for entrant in p.entrants:
        for line in standing(entrant, p, losses).lines:
            cohorts = [
                [k for k in line.runs if k not in (*line.added, line.through)],
                *([k] for k in line.added),
            ]
            for cohort in cohorts:
                for rung, after in itertools.pairwise(p.rung_steps):
                    here = {k: line.losses[k][rung] for k in cohort if rung in line.losses[k]}
                    on = {k for k in here if after in line.losses[k]}
                    finite = {k: loss for k, loss in here.items() if loss < math.inf}
                    assert len(on) == min(len(finite), math.ceil(len(here) / 2))
                    for k in set(here) - on:
                        assert max(line.losses[k]) == rung
                    for k, other in itertools.product(on, set(finite) - on):
                        assert here[k] <= here[other]
    for session in order:  # and a rung is never taken before the one below it
        steps = [s.step for s in order if s.run == session.run]
        assert steps == sorted(set(steps))


@pytest.mark.parametrize("seed", range(5))
def test_a_sweep_that_is_stopped_anywhere_goes_on_to_the_same_end(seed):
    """The same losses lead to the same question, in whatever order they are remembered."""
    p = protocol(optimizers=("adamw", "muon-polarsgdm"))
    whole = run_all(p, random_surface(seed))
    sessions = list(whole)
    for cut in range(0, len(sessions), 7):
        kept = dict(sorted(((s, whole[s]) for s in sessions[:cut]), key=lambda item: str(item[0])))
        assert next_session(p, kept) == sessions[cut]
        assert list(run_all(p, random_surface(seed), kept))[cut:] == sessions[cut:]


def test_the_best_point_of_a_valley_is_found_and_run_on_the_seeds():
    p = protocol(optimizers=("muon",), seeds=(4, 5, 6))
    losses = run_all(p, Valley({"lr": 0.02, "vector_lr": 0.015}))
    found = standing(p.entrants[0], p, losses)
    assert found.finished
    assert dict(found.rates) == {"lr": 0.02, "vector_lr": 0.015}
    assert [line.at_edge for line in found.lines] == [False, False]
    assert [(s.run.seed, s.step) for s in list(losses)[-3:]] == [(4, 400), (5, 400), (6, 400)]
    assert seed_sessions(p, [found]) == list(losses)[-3:]


def test_seeds_are_run_in_turn_for_all_optimizers():
    """So that what the machine does meanwhile meets all alike."""
    p = protocol()
    last = list(run_all(p, at_centres(p)))[-8:]
    assert [(s.run.seed, s.run.entrant) for s in last] == list(itertools.product((1, 2), FOUR))


@pytest.mark.parametrize(("times", "added"), [(8, [3, 4]), (1 / 8, [-3, -4]), (16, [3, 4, 5])])
def test_a_grid_whose_best_point_is_at_its_edge_is_extended_there(times, added):
    p = protocol(optimizers=("muon",), rates="lr")
    losses = run_all(p, Valley({"lr": 0.01 * times}))
    (line,) = standing(p.entrants[0], p, losses).lines
    assert line.added == added
    assert line.best == round(math.log2(times))
    assert not line.at_edge
    # Each new point is a whole run, beside the three of the line.
    assert search_steps(p, losses) == {"muon": 400 * (3 + len(added))}


def test_extensions_have_an_end_and_the_edge_is_reported():
    p = protocol(optimizers=("muon",), rates="lr", extensions=2)
    (line,) = standing(p.entrants[0], p, run_all(p, Valley({"lr": 100.0}))).lines
    assert line.added == [3, 4]
    assert line.at_edge


def test_a_run_that_diverges_is_not_continued():
    p = protocol(optimizers=("muon",), rates="lr")
    losses = run_all(p, Valley({"lr": 0.01}, diverges_above=0.01))
    reached = {}
    for session in losses:
        rate = dict(session.run.rates)["lr"]
        reached[rate] = max(reached.get(rate, 0), session.step)
    assert reached == {0.0025: 200, 0.005: 400, 0.01: 400, 0.02: 100, 0.04: 100}
    assert dict(standing(p.entrants[0], p, losses).rates)["lr"] == 0.01


def test_where_all_diverges_smaller_rates_are_tried():
    p = protocol(optimizers=("muon",), rates="lr", seeds=(1,))
    losses = run_all(p, Valley({"lr": 0.001}, diverges_above=0.001))
    found = standing(p.entrants[0], p, losses)
    assert found.lines[0].added == [-3, -4, -5]
    assert dict(found.rates)["lr"] == 0.000625
    hopeless = run_all(p, Valley({"lr": 1e-9}, diverges_above=1e-9))
    assert standing(p.entrants[0], p, hopeless).rates is None
    assert {s.run.seed for s in hopeless} == {0}  # and there is nothing to run on the seeds


def test_the_second_line_goes_through_the_best_point_of_the_first():
    """Which is not run again."""
    p = protocol(optimizers=("muon-polarsgdm",))
    losses = run_all(p, Valley({"lr": 0.02}))
    second = standing(p.entrants[0], p, losses).lines[1]
    assert second.axis == "embedding_lr"
    assert {dict(run.rates)["lr"] for run in second.runs.values()} == {0.02}
    assert len(losses) == len(set(losses))
    ends = [s for s in losses if s.run == second.runs[0]]
    assert [s.step for s in ends] == [100, 200, 400]


def test_a_second_pass_finds_what_one_line_after_the_other_misses():
    """In a valley along the diagonal, where the best first rate depends on the second one."""

    def diagonal(session):
        pairs = zip(session.run.rates, (0.01, 0.03), strict=True)
        x, y = (math.log2(rate / c) for (_, rate), c in pairs)
        return 1 + (x - y) ** 2 + 0.5 * (x + y - 8) ** 2 + 1 / session.step

    best = {}
    for passes in (1, 2):
        p = protocol(optimizers=("muon",), passes=passes)
        losses = run_all(p, diagonal)
        rates = standing(p.entrants[0], p, losses).rates
        best[passes] = diagonal(Session(Run("muon", rates, 0), 400))
    assert best[2] < best[1]
    assert best[2] == pytest.approx(1 + 1 / 400)


def test_found_step_sizes_are_not_searched():
    p = protocol(optimizers=("polargrad",))
    assert p.entrants[0].axes == ("vector_lr",)
    losses = run_all(p, at_centres(p))
    assert all("lr" not in dict(session.run.rates) for session in losses)
    assert protocol(optimizers=("polargrad",), centres={"polargrad.lr": 0.06}).entrants[0].axes == (
        "lr",
        "vector_lr",
    )


def test_the_plan_is_what_is_then_run():
    """Sessions and steps, from the beginning and from the middle."""
    p = protocol()
    planned = to_come(p, {})
    losses = run_all(p, at_centres(p))
    assert planned == list(losses)
    half = dict(itertools.islice(losses.items(), len(losses) // 2))
    assert steps_of(to_come(p, half), half) == steps_of([s for s in losses if s not in half], half)


def test_runs_that_are_not_continued_are_known():
    """Of these alone checkpoints may be deleted."""
    p = protocol(optimizers=("muon",), seeds=(1,))
    losses, surface = {}, at_centres(p)
    while (session := next_session(p, losses)) is not None:
        assert session.run not in standing(p.entrants[0], p, losses).done_with(p.steps)
        losses[session] = surface(session)
    searched = {s.run for s in losses if s.run.seed == 0}
    assert standing(p.entrants[0], p, losses).done_with(p.steps) == searched
