"""Schedules: their values at the ends and between, that nothing jumps, what is refused."""

import itertools
import math

import pytest

from polargrad.language import schedules
from polargrad.language.schedules import DECAY_SHARES, SCHEDULES, schedule_of

LENGTHS = [1, 5, 20, 21, 100, 400]
DECAYING = [name for name in SCHEDULES if name != "constant"]


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_it_rises_stays_and_falls(name, steps):
    factor = schedule_of(name, steps)
    values = [factor(step) for step in range(steps + 1)]
    assert all(0 < value <= 1 for value in values[:-1])
    changes = [b - a for a, b in itertools.pairwise(values)]
    signs = [(change > 1e-12) - (change < -1e-12) for change in changes]
    assert signs == sorted(signs, reverse=True)  # up, level, down


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_warmup_grows_in_equal_parts_to_the_whole_rate(name, warmup):
    factor = schedule_of(name, 100, warmup=warmup)
    for step in range(warmup):
        assert factor(step) == pytest.approx((step + 1) / warmup)
    assert factor(warmup) == pytest.approx(1.0)


@pytest.mark.parametrize("warmup", [0, 20])
@pytest.mark.parametrize("name", DECAYING)
def test_a_decay_ends_at_zero_and_no_update_is_lost_to_it(name, warmup):
    factor = schedule_of(name, 50, warmup=warmup)
    assert factor(50) == pytest.approx(0.0, abs=1e-15)
    assert factor(49) > 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_nothing_jumps(name):
    """Ten times the steps, a tenth of the largest change; a root's near its end, √10 of it."""
    largest = []
    for steps in (1000, 10_000, 100_000):
        factor = schedule_of(name, steps, warmup=steps // 10)
        values = [factor(step) for step in range(steps + 1)]
        largest.append(max(abs(b - a) for a, b in itertools.pairwise(values)))
    rate = math.sqrt(10) if name == "wsd" else 10
    for longer, shorter in itertools.pairwise(largest[::-1]):
        assert longer == pytest.approx(shorter / rate, rel=0.02)


def test_linear_falls_on_a_line_over_its_share():
    factor = schedule_of("linear", 200, warmup=10, share=0.25)
    assert factor(149) == factor(150) == 1
    assert [factor(150 + k) for k in (10, 25, 40)] == pytest.approx([0.8, 0.5, 0.2])


def test_wsd_falls_as_one_minus_a_root_over_its_share():
    factor = schedule_of("wsd", 1000, warmup=10)
    assert factor(900) == pytest.approx(1)
    falling = [factor(900 + k) for k in (1, 25, 36, 64, 81)]
    assert falling == pytest.approx([0.9, 0.5, 0.4, 0.2, 0.1])


def test_cosine_is_half_at_half_its_way_and_symmetric():
    factor = schedule_of("cosine", 120, warmup=20)
    assert factor(70) == pytest.approx(0.5)
    for k in range(51):
        assert factor(20 + k) + factor(120 - k) == pytest.approx(1.0)


def test_the_default_shares_are_those_of_the_functions():
    for name, share in DECAY_SHARES.items():
        given, default = schedule_of(name, 300, share=share), SCHEDULES[name]
        assert [given(k) for k in range(300)] == [default(k, 300) for k in range(300)]
    assert schedules.linear(70, 100) == pytest.approx(0.75)  # 40 %


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "step"}, "unknown schedule 'step': choose from linear, cosine, wsd, constant"),
        ({"name": "linear", "warmup": -1}, "warmup must be at least 0, got -1"),
        ({"name": "wsd", "share": 0.0}, "decay_share must be above 0 and at most 1, got 0.0"),
        ({"name": "linear", "share": 1.5}, "decay_share must be above 0 and at most 1, got 1.5"),
        ({"name": "cosine", "share": 0.1}, "linear and wsd; cosine has none, got 0.1"),
        ({"name": "constant", "share": 0.1}, "linear and wsd; constant has none, got 0.1"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        schedule_of(steps=10, **arguments)
