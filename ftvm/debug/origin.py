"""Where a divergence began: the first place at which the modules differ, to the instruction."""

from dataclasses import dataclass

from ftvm.debug.session import Episode, Session

MAX_INSTRUCTIONS = 4096
"""Of one block; real ones have some dozens at most."""


@dataclass(frozen=True)
class Origin:
    """The modules differ first at instruction ``instruction`` of the block at ``position``: before it is executed.

    ``after``: they agreed before the instruction at this place, and its execution made the difference. None: it was
    there at the entry of the block, so something else made it: bits that flipped between two blocks.
    """

    position: int
    instruction: int
    after: tuple[int, int] | None


def find(session: Session, episode: Episode) -> Origin | None:
    """Run the episode again, as it was, and look at the modules on the way; None when they agree all the way now, as
    they do when nobody knows what to repeat: a fault that was not injected does not come again.

    The session stands at that place afterwards, or where it stood when there is none.
    """
    here = session.position, session.instruction
    agreed, differ = episode.began.position, episode.found - 1
    if differ <= agreed or not _differ_at(session, differ):
        differ = episode.found  # in the last block, if anywhere
        agreed = max(agreed, differ - 1)
    while differ - agreed > 1:
        middle = (agreed + differ) // 2
        if _differ_at(session, middle):
            differ = middle
        else:
            agreed = middle
    inside = _in_block(session, agreed)
    if inside is not None:
        session.goto(agreed, inside)
        return Origin(agreed, inside, (agreed, inside - 1))
    if differ == episode.found:
        session.goto(*here)
        return None
    session.goto(differ)
    return Origin(differ, 0, None)


def _differ_at(session: Session, position: int) -> bool:
    session.goto(position)
    return bool(session.differences())


def _in_block(session: Session, position: int) -> int | None:
    """After how many instructions of the block at ``position`` they differ; None if after none, inside of it."""
    session.goto(position)
    for instruction in range(1, MAX_INSTRUCTIONS):
        session.step_instructions()
        if session.position != position:
            return None
        if session.differences():
            return instruction
    return None
