"""The values of a campaign: one experiment, and what came of it."""

import msgspec

from ftvm.campaign.plan import Column


class Experiment(msgspec.Struct, frozen=True):
    """One fault, in one guest: ``guest`` and ``group`` are indices in the plan.

    ``seed`` with the plan decides everything else; the rest is what it decided. ``fault`` is in the notation of
    ``ftvm run --fault``; ``target`` and ``bit`` say for tables what it hits, ``kind`` how.
    """

    id: int
    guest: int
    group: int
    position: int
    module: int
    target: str
    bit: int | None
    kind: str
    fault: str


class Trial(msgspec.Struct, frozen=True):
    """What came of an experiment in one column.

    ``outcome`` is an outcome class (ftvm/faults/outcome.py). ``ending`` is the run's end in words;
    ``latent``: the final state is not the golden run's.
    ``detected_after`` are blocks from the fault to the sync point that showed it, ``detected_ms`` the wall time of that
    stretch; ``recovered_ms`` is what settling it took; None when nothing was detected. ``first`` names the first thing
    that differed, ``verdict`` what was done. ``symbol`` is the function that ran, or the data that was hit.
    ``blocks`` is how far the run went after the fault; ``converged``: it ended early, in the golden run's very state.
    """

    experiment: int
    column: Column
    outcome: str
    ending: str
    latent: bool
    detected_after: int | None
    detected_ms: float | None
    recovered_ms: float | None
    verdict: str | None
    first: str | None
    charged: int | None
    symbol: str | None
    blocks: int
    converged: bool
    wall_ms: float
    error: str | None = None
