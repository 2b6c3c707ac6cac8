"""``goto``: to any place that the guest has been at, or will come to."""

import click
from click.shell_completion import CompletionItem

from ftvm.debug import origin
from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import Type
from ftvm.errors import UsageError


class _Place(Type):
    name = "place"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        desk: Desk = ctx.obj
        return [CompletionItem(name) for name in ("fault", "present", *desk.places) if name.startswith(incomplete)]


@click.command("goto", context_settings={"ignore_unknown_options": True})  # -500 is a place
@click.argument("place", metavar="POSITION | NAME | present | fault", type=_Place())
@click.argument("number", metavar="[NUMBER]", required=False)
@click.pass_obj
def command(desk: Desk, place: str, number: str | None) -> None:
    """Go to a position, with NUMBER: on by so many instructions of its block; or to a place by its name.

    Names are those that 'checkpoint' gave; 'present', the newest place; and 'fault', where the modules first differed
    in divergence NUMBER of 'verdict' (the last one, if none is given): before the instruction that is the first to see
    it, or after the one that made it.

    \b
    Example:
      goto 1M
      goto 1000010 3
      goto fault
      goto present
    """
    session = desk.session
    if place == "present":
        with desk.interruptible():
            session.goto_present()
    elif place == "fault":
        _to_fault(desk, number)
    else:
        position, instruction = _place(desk, place, number)
        with desk.interruptible():
            ending = session.goto(position, instruction)
        desk.tell_arrival(ending)
        return
    desk.tell_arrival(None)


def _place(desk: Desk, place: str, number: str | None) -> tuple[int, int]:
    if place in desk.places:
        if number is not None:
            raise UsageError(f"{place!r} is a place to the instruction already")
        return desk.places[place]
    relative = desk.session.position if place[:1] in ("+", "-") else 0
    position = (desk.number(place) + relative) % (1 << 64)
    return position, 0 if number is None else desk.number(number)


def _to_fault(desk: Desk, number: str | None) -> None:
    episodes = desk.session.episodes
    index = len(episodes) if number is None else desk.number(number)
    if not 1 <= index <= len(episodes):
        raise UsageError(f"there is no divergence {index}", f"there were {len(episodes)} so far; 'verdict' lists them")
    episode = episodes[index - 1]
    with desk.interruptible():
        found = origin.find(desk.session, episode)
    if found is None:
        raise UsageError(
            f"divergence {index} does not come again: now the modules agree all the way",
            "only injected faults come again, and none that left with its module; see 'verdict N'",
        )
    if found.after is None:
        desk.out.line("here the modules differ first; the instruction is the first that could see it")
    else:
        at = f"{found.after[0]:,}" + (f" +{found.after[1]}" if found.after[1] else "")
        desk.out.line(f"here the modules differ first, after the instruction at {at} ('back' shows it)")
