"""Plans, experiments and results that the tests of campaigns share."""

from ftvm.campaign.experiment import Experiment, Trial
from ftvm.campaign.plan import CampaignPlan, Column, parse_plan

SMALL = """
version = 1
name = "small"
seed = 7
experiments = 40
epoch = "5k"

[[guest]]
image = "hello"
memory = "2M"

[[fault]]
targets = ["general", "rip", "rflags"]
"""


def small(**changes: str) -> CampaignPlan:
    """The plan above, with lines replaced: ``small(seed="8")``."""
    lines = [line for line in SMALL.splitlines() if line.split(" = ")[0] not in changes]
    return parse_plan("\n".join([*(f"{key} = {value}" for key, value in changes.items()), *lines]), "small")


def experiment(number: int, guest: int = 0, position: int | None = None) -> Experiment:
    return Experiment(
        number, guest, 0, number if position is None else position, number % 2, "rax", number % 64, "flip", "fault"
    )


def trial(number: int, column: Column = "duplex", outcome: str = "masked") -> Trial:
    return Trial(
        experiment=number,
        column=column,
        outcome=outcome,
        ending="exit 0",
        latent=False,
        detected_after=None if outcome == "masked" else 1000 + number,
        detected_ms=None,
        recovered_ms=None,
        verdict=None,
        first=None,
        charged=None,
        symbol="main",
        blocks=5,
        converged=True,
        wall_ms=1.5,
    )
