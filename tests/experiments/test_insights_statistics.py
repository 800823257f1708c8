"""Rank correlations against scipy's, and the partial one against the residuals it stands for."""

import math

import numpy as np
import pytest
from scipy import stats

from polargrad.experiments.insights.statistics import (
    median,
    partial_rank_correlation,
    rank_correlation,
    ranks,
    share,
)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [3, 1000])
def test_rank_correlation_is_spearmans(seed, levels):
    random = np.random.default_rng(seed)
    x, y = random.integers(levels, size=(2, 30)).astype(float)
    y = y + 0.5 * x
    assert ranks(list(x)) == list(stats.rankdata(x))
    assert rank_correlation(list(x), list(y)) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_rank_correlation_depends_on_order_alone():
    x = [0.3, 2.0, 0.1, 5.0, 4.0, 1.0, 9.0]
    y = [1.0, 3.0, 2.0, 9.0, 4.0, 5.0, 7.0]
    known = rank_correlation(x, y)
    assert rank_correlation([math.exp(v) for v in x], y) == pytest.approx(known)
    assert rank_correlation(x, [-v for v in y]) == pytest.approx(-known)
    # Infinity is an order too: a diverged run is the worst.
    assert rank_correlation(x, [v if v < 9 else math.inf for v in y]) == pytest.approx(known)


@pytest.mark.parametrize("seed", range(3))
def test_partial_rank_correlation_is_that_of_the_residuals(seed):
    random = np.random.default_rng(seed)
    z = random.normal(size=40)
    x, y = z + random.normal(size=40), z + random.normal(size=40)
    rx, ry, rz = (stats.rankdata(v) for v in (x, y, z))
    design = np.stack([np.ones(40), rz], axis=1)
    left = [r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in (rx, ry)]
    expected = np.corrcoef(*left)[0, 1]
    assert partial_rank_correlation(list(x), list(y), list(z)) == pytest.approx(expected)


def test_what_is_not_defined():
    ten = list(map(float, range(10)))
    assert math.isnan(rank_correlation(ten[:5], ten[:5]))
    assert math.isnan(rank_correlation(ten, [1.0] * 10))
    assert math.isnan(partial_rank_correlation(ten, ten, ten))
    holes = [math.nan, *ten[1:]]
    assert rank_correlation(holes, ten) == pytest.approx(1.0)
    assert math.isnan(median([math.nan]))
    assert median([math.nan, 1.0, 5.0]) == 3.0
    assert math.isnan(share([]))
    with pytest.raises(ValueError, match="one length, got 10 and 9"):
        rank_correlation(ten, ten[:9])
