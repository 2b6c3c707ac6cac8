"""The state of a machine and what happened to it, for people: the tables of ``ftvm ctl`` and of the REPL."""

from datetime import datetime

from ftvm.control.status import DeviceStatus, ModuleStatus, PartStatus, Status
from ftvm.monitor.eventlog import Event


def describe(status: Status) -> list[str]:
    """The table of ``status``, as lines."""
    lines = [
        f"{status.name}: {status.state}, process {status.pid}, position {status.position:,},"
        f" {status.virtual_s:.1f} s of guest time in {status.wall_s:.1f} s,"
        f" longest pause {status.longest_pause_ms:.1f} ms",
        "",
        *_table(
            ["MODULE", *_PART, "PID", "POSITION", "DIRTY PAGES", "RESTARTS", "PAUSE AT RETURN"],
            [[str(module.index), *_part(module), *_module(module)] for module in status.modules],
        ),
    ]
    for title, devices in (("DISK", status.disks), ("NIC", status.nics)):
        if devices:
            rows = [row for device in devices for row in _device(device)]
            lines += ["", *_table([title, *_PART, "WHERE"], rows)]
    return lines


_PART = ["STATE", "FAULTS", "MTBF", "LAST FAULT"]


def _part(part: PartStatus) -> list[str]:
    faults = ", ".join(f"{count} {kind}" for kind, count in sorted(part.faults.items()))
    mtbf = "-" if part.mtbf_s is None else f"{part.mtbf_s:.1f} s"
    return [part.state, faults or "none", mtbf, "-" if part.last_fault is None else _time(part.last_fault)]


def _module(module: ModuleStatus) -> list[str]:
    pause = "-" if module.longest_pause_ms is None else f"{module.longest_pause_ms:.1f} ms"
    pid = "-" if module.pid is None else str(module.pid)
    return [pid, f"{module.position:,}", f"{module.dirty_pages:,}", str(module.restarts), pause]


def _device(device: DeviceStatus) -> list[list[str]]:
    rows = []
    for leg in device.legs:
        state, *rest = _part(leg)
        if leg.progress is not None:
            state = f"{state} {leg.progress:.0%}"
        elif leg.active:
            state = f"{state}, active"
        elif device.state == "unmirrored":
            state = f"{state}, unmirrored"
        rows.append([f"{device.name}.{leg.index}", state, *rest, _printable(leg.where)])
    return rows


def _table(titles: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in [titles, *rows]) for column in range(len(titles))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [titles, *rows]
    ]


def describe_event(event: Event) -> str:
    """One line."""
    detail = " ".join(f"{name}={_printable(str(value))}" for name, value in event.detail.items())
    when = f"{event.number:>5}  {_time(event.time)}  {event.position:>15,}"
    return f"{when}  {event.subject}: {event.kind}  {detail}".rstrip()


def _time(time: datetime) -> str:
    return time.astimezone().isoformat(sep=" ", timespec="milliseconds")


def _printable(text: str) -> str:
    """What a guest or a file name can put there must not write to a terminal's control characters."""
    return text if text.isprintable() else repr(text)
