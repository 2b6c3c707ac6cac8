"""Sample sizes and intervals agree with published figures, and with what they claim."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.campaign.statistics import sample_size, wilson
from ftvm.errors import UsageError


@pytest.mark.parametrize(
    ("population", "margin", "confidence", "expected"),
    [
        # Leveugle et al. 2009, section III: a large population needs 9,604 at 1 % and 95 %, 16,587 or so at 99 %.
        (10**12, 0.01, 0.95, 9604),
        (10**12, 0.05, 0.95, 385),
        (10**12, 0.01, 0.99, 16588),
        (1000, 0.05, 0.95, 278),
        (1, 0.01, 0.95, 1),
    ],
)
def test_sample_sizes_are_those_of_the_paper(population: int, margin: float, confidence: float, expected: int) -> None:
    assert sample_size(population, margin, confidence) == expected


@given(st.integers(1, 10**15), st.floats(0.001, 0.5), st.floats(0.5, 0.999))
def test_a_sample_is_never_larger_than_the_population(population: int, margin: float, confidence: float) -> None:
    assert 1 <= sample_size(population, margin, confidence) <= population


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1, float("nan")])
def test_a_margin_that_cannot_be_is_refused(margin: float) -> None:
    with pytest.raises(UsageError, match="margin"):
        sample_size(100, margin, 0.95)


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    # E. B. Wilson's score interval, computed by hand from its formula with z = 1.959964.
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_intervals_are_right(hits: int, trials: int, low: float, high: float) -> None:
    interval = wilson(hits, trials, 0.95)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_an_interval_holds_its_share(hits: int, trials: int) -> None:
    hits = min(hits, trials)
    interval = wilson(hits, trials)
    assert 0.0 <= interval.low <= interval.share <= interval.high <= 1.0


def test_without_trials_nothing_is_known() -> None:
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    dice = random.Random(3)
    held = 0
    for _ in range(1000):
        hits = sum(dice.random() < 0.03 for _ in range(200))
        interval = wilson(hits, 200, 0.95)
        held += interval.low <= 0.03 <= interval.high
    assert 920 <= held <= 985
