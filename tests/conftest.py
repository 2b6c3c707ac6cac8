"""What all tests share."""

from collections.abc import Callable

import hypothesis
import pytest

from ftvm.guests import catalogue, fetch

# The same examples in every run, and no verdict by the clock.
hypothesis.settings.register_profile("ftvm", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ftvm")


@pytest.fixture(scope="session")
def fetched() -> Callable[[str], catalogue.Guest]:
    """Guests by name, fetched into the user's cache when they are not there: ``fetched("debian-cloud").path``."""

    def get(name: str) -> catalogue.Guest:
        guest = catalogue.find(name)
        if guest is None:
            fetch.fetch(name)
            guest = catalogue.find(name)
        assert guest is not None
        return guest

    return get
