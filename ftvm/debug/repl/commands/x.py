"""``x``: memory, in bytes, words and text."""

import click
from rich.text import Text

from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.output import DIFFERS
from ftvm.debug.repl.parameters import ADDRESS, module_option
from ftvm.errors import UsageError
from ftvm.monitor.module_view import ModuleView

ALIASES = ("mem",)
MAX_BYTES = 65536
LINE_BYTES = 16


@click.command("x")
@click.argument("address", type=ADDRESS)
@click.argument("count", default="64", type=ADDRESS)
@click.option("-w", "--width", type=click.Choice(["1", "2", "4", "8"]), default="1", help="Bytes in a word.")
@click.option("-s", "--string", is_flag=True, help="Text, up to a zero byte.")
@click.option("-p", "--physical", is_flag=True, help="ADDRESS is a guest physical one; else it is a linear one.")
@module_option
@click.pass_obj
def command(desk: Desk, address: str, count: str, width: str, string: bool, physical: bool, module: int | None) -> None:
    """Show COUNT bytes of memory from ADDRESS on. A line in which modules differ is shown once for each of them.

    \b
    Example:
      x rsp
      x table 256 -w 8
      x [rsp+8] --string
      x 0xb8000 160 --physical -m 1
    """
    views = desk.modules(module)
    start = desk.number(address, module)
    size = desk.number(count, module)
    if not 0 < size <= MAX_BYTES:
        raise UsageError(f"{size} bytes of memory", f"give 1 to {MAX_BYTES}")
    word = int(width)
    size = -(-size // word) * word
    contents = [_read(view, start, size, physical) for view in views]
    if not any(contents):
        raise UsageError(f"nothing is mapped at {start:#x}", "--physical takes the address of a byte of RAM")
    if string:
        for view, data in zip(views, contents, strict=True):
            label = f"module {view.index}: " if any(other != data for other in contents) else ""
            desk.out.line(f"{start:#x}: {label}{data.split(bytes(1))[0].decode('latin-1')!r}")
            if not label:
                break
        return
    for offset in range(0, max(len(data) for data in contents), LINE_BYTES):
        lines = [data[offset : offset + LINE_BYTES] for data in contents]
        alike = all(line == lines[0] for line in lines)
        for view, line in list(zip(views, lines, strict=True))[: 1 if alike else None]:
            others = [other for other in lines if other != line]
            text = _line(desk, start + offset, line, others, word)
            desk.out.line(text if alike else Text.assemble((f"{view.index} ", DIFFERS), text))


def _read(view: ModuleView, start: int, size: int, physical: bool) -> bytes:
    """As much as is there."""
    read = view.read_physical if physical else view.read_virtual
    data = b""
    while len(data) < size:
        at = start + len(data)
        part = min(size - len(data), 4096 - at % 4096)
        try:
            data += read(at, part)
        except UsageError:
            break
    return data


def _line(desk: Desk, address: int, data: bytes, others: list[bytes], word: int) -> Text:
    """``0x100000:  01 02 ...  |..|`` with the bytes that differ from the other modules' marked."""
    text = Text(f"{address:#018x}:")
    names = []
    for at in range(0, len(data), word):
        value = data[at : at + word]
        differs = any(other[at : at + word] != value for other in others)
        number = int.from_bytes(value, "little")
        text.append(" ")
        text.append(f"{number:0{2 * word}x}", style=DIFFERS if differs else "")
        if differs:
            text.append("*", style=DIFFERS)
        if word == 8 and (name := desk.symbols.describe(number)):
            names.append(name)
    if word == 1:
        text.append(" " * (3 * (LINE_BYTES - len(data))))
        text.append("  |" + "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data) + "|", style="dim")
    elif names:
        text.append("  " + ", ".join(names), style="dim")
    return text
