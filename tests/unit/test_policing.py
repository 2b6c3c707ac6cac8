"""A part that has faults too often leaves service; one that has them rarely never does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import UsageError
from ftvm.monitor.policing import MAX_SAMPLES, Policing, Policy, Threshold, Verdict

GAPS = st.lists(st.integers(0, 1000), min_size=1, max_size=100)
SAMPLES = st.integers(2, MAX_SAMPLES)


def after(gaps: list[int], threshold: Threshold) -> tuple[Policing, list[Verdict]]:
    """A record with a fault at the end of each gap, and the verdicts on the way."""
    policing, now_s, verdicts = Policing(threshold), 0, []
    for gap in gaps:
        now_s += gap
        verdicts.append(policing.record_fault("memory", now_s))
    return policing, verdicts


@given(GAPS, SAMPLES, st.integers(1, 1000))
def test_a_verdict_is_the_mean_of_the_newest_gaps_against_the_threshold(
    gaps: list[int], samples: int, seconds: int
) -> None:
    _, verdicts = after(gaps, Threshold(seconds, samples))
    for faults, verdict in enumerate(verdicts, start=1):
        newest = gaps[max(1, faults - samples + 1) : faults]
        too_fast = faults >= samples and sum(newest) < seconds * (samples - 1)
        assert (verdict is Verdict.REMOVE) == too_fast


@given(st.lists(st.integers(300, 10_000), min_size=1, max_size=100), SAMPLES)
def test_faults_that_are_never_closer_than_the_threshold_never_remove(gaps: list[int], samples: int) -> None:
    assert Verdict.REMOVE not in after(gaps, Threshold(300, samples))[1]


@given(GAPS, SAMPLES)
def test_fewer_faults_than_samples_never_remove(gaps: list[int], samples: int) -> None:
    policing, verdicts = after(gaps[: samples - 1], Threshold(1e9, samples))
    assert Verdict.REMOVE not in verdicts
    assert policing.mtbf_s is None


@given(GAPS, SAMPLES)
def test_only_the_policy_decides_where_it_says_never_or_always(gaps: list[int], samples: int) -> None:
    _, never = after(gaps, Threshold(0, samples, Policy.NEVER_RESTART))
    _, always = after(gaps, Threshold(1e9, samples, Policy.ALWAYS_RESTART))
    assert set(never) == {Verdict.REMOVE}
    assert set(always) == {Verdict.KEEP}


@given(GAPS, SAMPLES, st.sampled_from(Policy))
def test_a_cleared_record_is_as_good_as_a_new_one(gaps: list[int], samples: int, policy: Policy) -> None:
    policing, _ = after(gaps, Threshold(1e9, samples, policy))
    policing.clear()
    assert policing.may_restart()
    assert (policing.counts, policing.mtbf_s, policing.last_fault_s) == ({}, None, None)


@given(GAPS, SAMPLES)
def test_what_was_removed_stays_out_until_its_threshold_changes(gaps: list[int], samples: int) -> None:
    policing, verdicts = after(gaps, Threshold(1e9, samples))
    assert policing.may_restart() == (verdicts[-1] is Verdict.KEEP)
    policing.threshold = Threshold(0, samples)
    assert policing.may_restart()


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_a_clock_that_goes_back_makes_no_negative_mtbf(times_s: list[float]) -> None:
    policing = Policing(Threshold(300, 2))
    for now_s in times_s:
        policing.record_fault("death", now_s)
        assert policing.mtbf_s is None or policing.mtbf_s >= 0
    assert policing.last_fault_s == max(times_s)


def test_faults_are_counted_by_kind_however_many() -> None:
    policing = Policing()
    for number in range(3 * MAX_SAMPLES):
        policing.record_fault("death" if number % 3 == 0 else "register", number)
    assert policing.counts == {"death": MAX_SAMPLES, "register": 2 * MAX_SAMPLES}


@pytest.mark.parametrize(
    ("seconds", "samples"), [(-1, 6), (float("nan"), 6), (float("inf"), 6), (300, 1), (300, 0), (300, MAX_SAMPLES + 1)]
)
def test_a_threshold_that_cannot_be_is_refused(seconds: float, samples: int) -> None:
    with pytest.raises(UsageError):
        Threshold(seconds, samples)
