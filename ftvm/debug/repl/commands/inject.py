"""``inject``: a fault."""

import click
from click.shell_completion import CompletionItem

from ftvm.debug.repl.desk import Desk
from ftvm.debug.repl.parameters import MODULE, Type
from ftvm.errors import UsageError
from ftvm.faults.notation import FIELDS, FieldError, Guest, Value, fault_of, format_fault
from ftvm.module.fault import Fault
from ftvm.module.registers import REGISTERS

_FAMILIES = ("phys:", "mem:", "pte:", "tlb:", "chip:")


class _Field(Type):
    name = "fault"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        desk: Desk = ctx.obj
        words = [*_FAMILIES, *(f"{name}:" for name in REGISTERS), *(f"{name}=" for name in FIELDS)]
        if incomplete.startswith("mem:"):
            words = [f"mem:{name}:" for name in desk.symbols.names()]
        return [CompletionItem(word) for word in words if incomplete and word.startswith(incomplete)]


@click.command("inject")
@click.argument("target", type=_Field())
@click.argument("fields", metavar="[FIELD=VALUE]...", nargs=-1, type=_Field())
@click.option("-m", "--module", type=MODULE, help="Whose fault it is; by default that of the last module.")
@click.option("--all", "everywhere", is_flag=True, help="The same in all modules, which no comparison can see.")
@click.pass_obj
def command(desk: Desk, target: str, fields: tuple[str, ...], module: int | None, everywhere: bool) -> None:
    """Let a fault happen to TARGET: by default, flip one bit here and now, in the last module.

    TARGET is REGISTER:BIT, mem:ADDRESS:BIT, phys:ADDRESS:BIT, chip:CHIP.FIELD:BIT and others; FIELDs say more: kind
    (flip, stuck-at-0, ...), at (a position, +N for one after this, text:TEXT, ...), for, every. docs/fault-plans.md has
    all of them.

    \b
    Example:
      inject rax:5
      inject rdx:40 at=+20 -m 0
      inject mem:main:3 kind=stuck-at-1
      inject "chip:pit.counters[0].mode:1" at=+1000
    """
    if everywhere and module is not None:
        raise UsageError("the module and all of them", "give --module or --all")
    whose = str(len(desk.machine.modules) - 1 if module is None else module)
    given: dict[str, Value] = {"target": target, "module": "all" if everywhere else whose, "at": "+0"}
    for field in fields:
        name, equals, value = field.partition("=")
        if not equals:
            raise UsageError(f"{field!r} is no field of a fault", "write it as at=+1000, kind=set, for=500")
        given[name] = value
    _fault(desk, given)  # before anything is forgotten
    desk.leave_past()
    fault = _fault(desk, given)
    desk.machine.inject(fault)
    desk.out.line(format_fault(fault))


def _fault(desk: Desk, given: dict[str, Value]) -> Fault:
    """Raises UsageError."""
    at = str(given["at"])
    if at.startswith("+"):
        given = given | {"at": str(desk.session.position + desk.number(at))}
    try:
        return fault_of(given, Guest(desk.machine.memory_bytes, desk.symbols.address))
    except FieldError as error:
        raise UsageError(f"{error.field}: {error.message}" if error.field else error.message, error.hint) from None
