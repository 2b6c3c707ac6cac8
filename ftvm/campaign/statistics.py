"""How many experiments a statement needs, and how far its figures can be trusted.

Sources: R. Leveugle et al., Statistical fault injection: quantified error and confidence, DATE 2009, equation 1; E. B.
Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

from ftvm.errors import UsageError


@dataclass(frozen=True)
class Interval:
    """A share of experiments, 0 to 1, and the bounds it lies within with some confidence."""

    share: float
    low: float
    high: float


def quantile(confidence: float) -> float:
    """How many standard deviations either side a normal distribution takes for ``confidence`` (0.95: 1.96)."""
    if not 0 < confidence < 1:
        raise UsageError(f"a confidence of {confidence:g}", "give more than 0 and less than 1, such as 0.99 or 99%")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def sample_size(population: int, margin: float, confidence: float, share: float = 0.5) -> int:
    """Experiments for an error of at most ``margin`` in any share, out of ``population`` faults that could be injected.

    ``share`` is what is expected to be found; 0.5, the default, is the worst case. Raises UsageError.
    """
    if not 0 < margin < 1:
        raise UsageError(f"a margin of {margin:g}", "give more than 0 and less than 1, such as 0.01 or 1%")
    if population < 1:
        raise UsageError("there is no fault that could be injected", "give the plan at least one group of targets")
    t = quantile(confidence)
    return math.ceil(population / (1 + margin**2 * (population - 1) / (t**2 * share * (1 - share))))


def wilson(hits: int, trials: int, confidence: float = 0.95) -> Interval:
    """The share ``hits / trials`` with its Wilson score interval: sound for shares of 0 and 1, too."""
    if trials == 0:
        return Interval(0.0, 0.0, 1.0)
    z = quantile(confidence)
    share = hits / trials
    spread = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    middle = share + z**2 / (2 * trials)
    # At the ends the bound is exact; floating point would leave a speck.
    low = 0.0 if hits == 0 else (middle - spread) / scale
    high = 1.0 if hits == trials else (middle + spread) / scale
    return Interval(share, low, high)
