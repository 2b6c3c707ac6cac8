"""``watch``: stop when something is changed or touched."""

import click

from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import ADDRESS
from ftvm.debug.repl.points import Range
from ftvm.errors import UsageError
from ftvm.memory_map import ram_offset
from ftvm.module.cpu import ACCESS_READ, ACCESS_WRITE
from ftvm.module.registers import REGISTERS
from ftvm.units import PAGE_BYTES

_UNWATCHABLE = ("rip", "position")
MAX_BYTES = 64


@click.command("watch")
@click.argument("what", type=ADDRESS)
@click.argument("size", default="8", type=ADDRESS)
@click.option("--read", is_flag=True, help="When it is read.")
@click.option("--write", is_flag=True, help="When it is written, changed or not.")
@click.option("--port", is_flag=True, help="WHAT is the number of an I/O port; by default any access counts.")
@click.pass_obj
def command(desk: Desk, what: str, size: str, read: bool, write: bool, port: bool) -> None:
    """Stop after a block that changed a register, or changed or touched memory or a port.

    WHAT is a register, or the address of SIZE bytes, or with --port the first of SIZE ports (1, if it is not given). A
    register with --read or --write holds an address.

    \b
    Example:
      watch rbx
      watch table 4
      watch [rsp] --write
      watch 0x3f8 --port
    """
    kind, entry, text = _what(desk, what, size, (ACCESS_READ if read else 0) | (ACCESS_WRITE if write else 0), port)
    point = desk.points.add(kind, entry, text)
    desk.out.line(f"{point.number}: {point.text}")


def _what(desk: Desk, what: str, size: str, access: int, port: bool) -> tuple[str, str | tuple[int, int] | Range, str]:
    how = {0: "changed", ACCESS_READ: "read", ACCESS_WRITE: "written"}.get(access, "read or written")
    name = what.removeprefix("$").lower()
    if (what.startswith("$") or (not access and what not in desk.symbols and name in REGISTERS)) and not port:
        if name not in REGISTERS or name in _UNWATCHABLE:
            raise UsageError(
                f"{what!r} is no register that can be watched", "give a whole one, such as $rbx or $cs.base"
            )
        if access:
            raise UsageError("only what becomes of a register can be watched", "leave --read and --write out")
        return "registers", name, f"{name} {how}"
    first, count = desk.number(what), desk.number(size)
    if port:
        count = 1 if size == "8" else count
        if first + count > 0x10000:
            raise UsageError(f"{count} ports from {first:#x}", "ports are 0 to 0xffff")
        any_access = access or ACCESS_READ | ACCESS_WRITE
        return "ports", (first, count, any_access), f"port {first:#x} {how if access else 'read or written'}"
    if not 1 <= count <= MAX_BYTES:
        raise UsageError(f"{count} bytes to watch", f"1 to {MAX_BYTES} can be watched at once")
    text = f"{count} bytes at {desk.called(first)} {how}"
    if access:
        return "linear", (first, count, access), text
    if first % PAGE_BYTES + count > PAGE_BYTES:
        raise UsageError(f"{count} bytes at {first:#x} lie in two pages", "watch each part by itself")
    offset = ram_offset(desk.module().physical(first), desk.machine.memory_bytes)
    if offset is None:
        raise UsageError(f"{first:#x} is no RAM", "give --read or --write to watch a device")
    return "memory", (offset, count), text
