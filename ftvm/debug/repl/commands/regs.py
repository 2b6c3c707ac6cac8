"""``regs``: registers of all modules side by side."""

import click
from rich.text import Text

from ftvm.debug.repl.desk import Desk, differing
from ftvm.debug.repl.output import Cell, marked
from ftvm.debug.repl.parameters import REGISTER, module_option
from ftvm.errors import UsageError
from ftvm.module.registers import REGISTERS
from ftvm.monitor.module_view import PARTS

_GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)), "rip", "rflags")
_SYSTEM = ("cs", "ss", "ds", "es", "fs", "gs", "fs.base", "gs.base", "cr0", "cr2", "cr3", "cr4", "efer")
_FLAGS = ("cf", "pf", "af", "zf", "sf", "tf", "if", "df", "of")


@click.command("regs")
@click.argument("names", metavar="[REGISTER]...", nargs=-1, type=REGISTER)
@click.option("--all", "everything", is_flag=True, help="All that is compared: x87, SSE, descriptors, MSRs too.")
@click.option("--differ", is_flag=True, help="Only registers in which the modules differ.")
@module_option
@click.pass_obj
def command(desk: Desk, names: tuple[str, ...], everything: bool, differ: bool, module: int | None) -> None:
    """Show registers, those of all modules side by side; where they differ there is a '*'.

    \b
    Example:
      regs
      regs rip rsp eflags cs.base xmm0
      regs --all --differ
    """
    views = desk.modules(module)
    registers = [view.registers for view in views]
    wanted = list(names) or ([*REGISTERS] if everything or differ else [*_GENERAL, *_SYSTEM])
    unknown = [name for name in wanted if name.lower() not in registers[0]]
    if unknown:
        raise UsageError(f"no register is called {unknown[0]!r}", "'regs --all' shows all of them")
    rows: list[list[Cell]] = []
    for name in wanted:
        values = [each[name.lower()] for each in registers]
        if differ and not differing(values):
            continue
        texts = [_value(name.lower(), value) for value in values]
        rows.append([name, *(marked(text, differing(values)) for text in texts), _meaning(desk, name, values[0])])
    desk.out.table(["REGISTER", *(f"MODULE {view.index}" for view in views), ""], rows)
    if differ and not rows:
        desk.out.line("all registers are alike" if len(views) > 1 else "one module differs from nobody")


def _value(name: str, value: int) -> str:
    whole, _, bits = PARTS.get(name, (name, 0, 0))
    digits = max(1, (bits or 8 * REGISTERS[whole].size) // 4)
    return f"{value:0{min(digits, 64)}x}" if digits > 1 else str(value)


def _meaning(desk: Desk, name: str, value: int) -> Text:
    """What a value is called, where it is an address; the flags that are set."""
    if name in ("rflags", "eflags"):
        bits = {flag: PARTS[flag][1] for flag in _FLAGS}
        return Text(" ".join(flag for flag, bit in bits.items() if value >> bit & 1), style="dim")
    if name in _GENERAL or name in ("cr2", "fs.base", "gs.base"):
        return Text(desk.symbols.describe(value), style="dim")
    return Text()
