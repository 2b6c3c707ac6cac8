"""Whatever single bit flips, in whichever module and whenever: nobody outside can tell."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks import flips

MACHINES = 2
"""At a time: more would only wait for each other."""


@pytest.fixture(scope="module")
def undisturbed() -> flips.Golden:
    golden = flips.golden()
    assert (golden.result.outcome, golden.result.exit_code, golden.result.divergences) == ("exit", 0, [])
    return golden


def assert_nobody_can_tell(seeds: range, undisturbed: flips.Golden) -> None:
    def conduct(seed: int) -> flips.Outcome:
        return flips.conduct(flips.sample(seed, undisturbed.result.blocks), undisturbed)

    with ThreadPoolExecutor(MACHINES) as pool:
        outcomes = list(pool.map(conduct, seeds))
    assert [(outcome.experiment, outcome.wrong) for outcome in outcomes if outcome.wrong is not None] == []
    # Faults were really there, and the module that had one is the one that was charged.
    caught = [outcome for outcome in outcomes if outcome.verdict != flips.MASKED]
    assert len(caught) > len(outcomes) / 4
    blamed = [(o.experiment, {module for module in o.charged if module is not None}) for o in caught]
    assert [(experiment, modules) for experiment, modules in blamed if modules != {experiment.module}] == []


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_a_bit_that_flips_anywhere_is_survived(first: int, undisturbed: flips.Golden) -> None:
    assert_nobody_can_tell(range(first, first + 10), undisturbed)


@pytest.mark.campaign
def test_a_thousand_bits_that_flip_anywhere_are_survived(undisturbed: flips.Golden) -> None:
    assert_nobody_can_tell(range(1000), undisturbed)
