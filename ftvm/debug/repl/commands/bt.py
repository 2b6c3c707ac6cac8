"""``bt``: how the guest came where it is."""

from collections.abc import Iterator

import click

from ftvm.debug.code import Reader, code_address, instructions, stack_address, word_bytes
from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import module_option
from ftvm.errors import UsageError

MAX_FRAMES = 64
SCANNED_WORDS = 512
LONGEST_CALL = 7


@click.command("bt")
@click.option("-n", "--count", default=16, show_default=True, type=click.IntRange(1, MAX_FRAMES), help="Frames.")
@module_option
@click.pass_obj
def command(desk: Desk, count: int, module: int | None) -> None:
    """Show the calls that led here.

    First come those that the frame pointers link; then, marked with '?', what on the stack looks like an address to
    return to, since a call stands before it.

    \b
    Example:
      bt
      bt -n 5 -m 1
    """
    view = desk.module(module)
    frames = [(code_address(view.registers), "")]
    end = view.registers["rsp"]
    for address, frame in _linked(view):
        frames.append((address, ""))
        end = frame
    frames += [(address, "?") for address in _scanned(view, end)]
    for number, (address, doubt) in enumerate(frames[:count]):
        desk.out.line(f"#{number:<3} {desk.called(address)}{' ' + doubt if doubt else ''}")


def _word(module: Reader, offset: int) -> int | None:
    registers = module.registers
    size = word_bytes(registers)
    try:
        return int.from_bytes(module.read_virtual(stack_address(registers, offset), size), "little")
    except UsageError:
        return None


def _linked(module: Reader) -> Iterator[tuple[int, int]]:
    """(return address, end of the frame) along the chain of frame pointers, as far as it goes up the stack."""
    registers = module.registers
    size = word_bytes(registers)
    frame, lowest = registers["rbp"], registers["rsp"]
    for _ in range(MAX_FRAMES):
        if frame < lowest or frame % size:
            return
        outer, address = _word(module, frame), _word(module, frame + size)
        if outer is None or address is None or not _after_call(module, address):
            return
        yield address, frame + 2 * size
        frame, lowest = outer, frame + 2 * size


def _scanned(module: Reader, start: int) -> Iterator[int]:
    """What on the stack looks like an address to return to."""
    size = word_bytes(module.registers)
    for index in range(SCANNED_WORDS):
        value = _word(module, start + index * size)
        if value is None:
            return
        if value and _after_call(module, value):
            yield value


def _after_call(module: Reader, address: int) -> bool:
    """The bytes before ``address`` are a call instruction."""
    for length in range(2, LONGEST_CALL + 1):
        found = next(instructions(module, address - length, 1), None)
        if found is not None and len(found.code) == length and found.mnemonic == "call":
            return True
    return False
