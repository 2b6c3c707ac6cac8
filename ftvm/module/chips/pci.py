"""The PCI bus: configuration mechanism #1, functions with BARs and capabilities, and the routing of INTA..INTD.

Sources: PCI Local Bus Specification 3.0, chapters 2.2.6, 3.2.2.3 and 6; Intel 82441FX (host bridge), 82371SB (PIIX3).
There is one bus. Later devices derive from PciFunction and are plugged in with ``PciBus.plug``.
"""

from collections.abc import Callable, Iterator

import msgspec

from ftvm.module.chips.chip import IrqLine
from ftvm.platform_ports import PIRQ_ISA_IRQ

# Offsets from port CF8
ADDRESS = 0
DATA = 4
PORTS = 8

ADDRESS_ENABLE = 0x8000_0000
_ADDRESS_WRITABLE = 0x80FF_FFFC

# Configuration space, header type 0
VENDOR = 0x00
DEVICE = 0x02
COMMAND = 0x04
STATUS = 0x06
REVISION = 0x08
CLASS = 0x09
CACHE_LINE = 0x0C
LATENCY = 0x0D
HEADER_TYPE = 0x0E
BAR0 = 0x10
SUBSYSTEM_VENDOR = 0x2C
SUBSYSTEM = 0x2E
CAPABILITIES = 0x34
INTERRUPT_LINE = 0x3C
INTERRUPT_PIN = 0x3D
CONFIG_BYTES = 256
_FIRST_CAPABILITY = 0x40

COMMAND_IO = 0x001
COMMAND_MEMORY = 0x002
COMMAND_BUS_MASTER = 0x004
COMMAND_INTX_DISABLE = 0x400
STATUS_INTERRUPT = 0x08
STATUS_CAPABILITIES = 0x10

BAR_IO = 0x1
MULTI_FUNCTION = 0x80
PIRQS = 4


class Bar(msgspec.Struct, frozen=True):
    """A region that a function answers at: ``size`` bytes, a power of two; memory regions at least a page.

    An access at offsets in ``signals``, whole pages, changes the state of no chip.
    """

    index: int
    size: int
    io: bool
    signals: range = range(0)


class PciFunctionState(msgspec.Struct):
    config: bytearray = msgspec.field(default_factory=lambda: bytearray(CONFIG_BYTES))
    interrupt: bool = False
    """What the function wants on its INTx pin; COMMAND_INTX_DISABLE may keep it from getting there."""


class PciFunction:
    """A chip whose registers are its configuration space. Devices override ``read_bar`` and ``write_bar``."""

    def __init__(
        self,
        vendor: int,
        device: int,
        class_code: int,
        revision: int = 0,
        subsystem: tuple[int, int] = (0, 0),
        header_type: int = 0,
        bars: tuple[Bar, ...] = (),
        interrupt_pin: int = 0,
    ) -> None:
        """``class_code``: class, subclass, interface in 24 bits. ``interrupt_pin``: 1 = INTA, 0 = none."""
        self.state = PciFunctionState()
        self.bars = bars
        self._writable = bytearray(CONFIG_BYTES)
        self._end_of_capabilities = _FIRST_CAPABILITY
        self._interrupt_changed: Callable[[], None] = _nobody_listens
        self._moved: Callable[[], None] = _nobody_listens
        self._set(VENDOR, 2, vendor)
        self._set(DEVICE, 2, device)
        self._set(REVISION, 1, revision)
        self._set(CLASS, 3, class_code)
        self._set(HEADER_TYPE, 1, header_type)
        self._set(SUBSYSTEM_VENDOR, 2, subsystem[0])
        self._set(SUBSYSTEM, 2, subsystem[1])
        self._set(INTERRUPT_PIN, 1, interrupt_pin)
        command = COMMAND_BUS_MASTER | COMMAND_INTX_DISABLE
        for bar in bars:
            self._set(BAR0 + 4 * bar.index, 4, BAR_IO if bar.io else 0)
            self.allow(BAR0 + 4 * bar.index, 4, -bar.size & 0xFFFF_FFFF)
            command |= COMMAND_IO if bar.io else COMMAND_MEMORY
        self.allow(COMMAND, 2, command)
        self.allow(CACHE_LINE, 1, 0xFF)
        self.allow(LATENCY, 1, 0xFF)
        self.allow(INTERRUPT_LINE, 1, 0xFF)

    def allow(self, offset: int, size: int, mask: int) -> None:
        """Let the guest write the bits of ``mask``."""
        self._writable[offset : offset + size] = mask.to_bytes(size, "little")

    def add_capability(self, identity: int, body: bytes, writable: bytes = b"") -> int:
        """Append a capability to the list and return its offset. ``body`` follows the id and the next pointer."""
        config = self.state.config
        link, offset = CAPABILITIES, self._end_of_capabilities
        while config[link]:
            link = config[link] + 1
        self._end_of_capabilities = (offset + 2 + len(body) + 3) & ~3
        config[STATUS] |= STATUS_CAPABILITIES
        config[link] = offset
        config[offset : offset + 2 + len(body)] = bytes((identity, 0)) + body
        self._writable[offset + 2 : offset + 2 + len(writable)] = writable
        return offset

    def listen(self, interrupt_changed: Callable[[], None], moved: Callable[[], None]) -> None:
        """For the bus: whom to tell that the INTx pin, or what the BARs decode, may have changed."""
        self._interrupt_changed = interrupt_changed
        self._moved = moved

    def set_interrupt(self, level: bool) -> None:
        """The device wants service, or no longer."""
        state = self.state
        if level == state.interrupt:
            return
        state.interrupt = level
        status = state.config[STATUS] & ~STATUS_INTERRUPT
        state.config[STATUS] = status | (STATUS_INTERRUPT if level else 0)
        self._interrupt_changed()

    @property
    def intx(self) -> bool:
        """Level of the INTx pin."""
        return self.state.interrupt and not self.get(COMMAND, 2) & COMMAND_INTX_DISABLE

    def mappings(self) -> Iterator[tuple[Bar, int]]:
        """The BARs that are decoded now, each with its address in I/O or memory space."""
        command = self.get(COMMAND, 2)
        for bar in self.bars:
            if command & (COMMAND_IO if bar.io else COMMAND_MEMORY):
                yield bar, self.get(BAR0 + 4 * bar.index, 4) & -bar.size

    def get(self, offset: int, size: int) -> int:
        return int.from_bytes(self.state.config[offset : offset + size], "little")

    def read(self, offset: int, size: int) -> int:
        return self.get(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        mask = int.from_bytes(self._writable[offset : offset + size], "little")
        self._set(offset, size, self.get(offset, size) & ~mask | value & mask)
        if offset < COMMAND + 2 and offset + size > COMMAND:
            self._interrupt_changed()
            self._moved()
        elif BAR0 <= offset < BAR0 + 4 * 6:
            self._moved()

    def read_bar(self, index: int, offset: int, size: int) -> int:
        return (1 << 8 * size) - 1

    def write_bar(self, index: int, offset: int, size: int, value: int) -> None:
        """Nothing is there."""

    def _set(self, offset: int, size: int, value: int) -> None:
        self.state.config[offset : offset + size] = value.to_bytes(size, "little")


def _nobody_listens() -> None:
    """Before a function is plugged in."""


class HostBridge(PciFunction):
    """82441FX. The registers that place ROM and SMM memory (59h-5Fh, 72h) and the rest from 50h are storage."""

    def __init__(self) -> None:
        super().__init__(0x8086, 0x1237, 0x060000, revision=2, subsystem=(0x1AF4, 0x1100))
        for offset in range(0x50, CONFIG_BYTES):
            self.allow(offset, 1, 0xFF)


PIRQ_ROUTE = 0x60  # PIRQRC[A:D]
ROUTE_DISABLED = 0x80
_ROUTABLE = (3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15)


class IsaBridgeState(PciFunctionState):
    pirqs: int = 0
    """Levels of PIRQA..PIRQD, as bits."""
    isa_irqs: int = 0
    """ISA IRQs that are driven because of them."""


class IsaBridge(PciFunction):
    """82371SB, function 0: routes PIRQA..PIRQD to ISA IRQs. ``isa_irq`` drives one of those."""

    state: IsaBridgeState

    def __init__(self, isa_irq: Callable[[int, bool], None]) -> None:
        super().__init__(0x8086, 0x7000, 0x060100, header_type=MULTI_FUNCTION)
        self.state = IsaBridgeState(config=self.state.config)
        self._isa_irq = isa_irq
        for pirq, irq in enumerate(PIRQ_ISA_IRQ):
            self._set(PIRQ_ROUTE + pirq, 1, irq)
            self.allow(PIRQ_ROUTE + pirq, 1, ROUTE_DISABLED | 0x0F)
        for offset in (0x4C, 0x4E, 0x4F, 0x69, 0x6A, 0x6B, 0x70, 0x76, 0x77):
            self.allow(offset, 1, 0xFF)  # timing, decoding and DMA controls: storage

    def write(self, offset: int, size: int, value: int) -> None:
        super().write(offset, size, value)
        if offset < PIRQ_ROUTE + PIRQS and offset + size > PIRQ_ROUTE:
            self._route()

    def set_pirq(self, pirq: int, level: bool) -> None:
        bit = 1 << pirq
        self.state.pirqs = self.state.pirqs & ~bit | (bit if level else 0)
        self._route()

    def _route(self) -> None:
        state = self.state
        driven = 0
        for pirq in range(PIRQS):
            route = state.config[PIRQ_ROUTE + pirq]
            if state.pirqs >> pirq & 1 and route in _ROUTABLE:
                driven |= 1 << route
        changed = driven ^ state.isa_irqs
        state.isa_irqs = driven
        for irq in _ROUTABLE:
            if changed >> irq & 1:
                self._isa_irq(irq, bool(driven >> irq & 1))


class PciBusState(msgspec.Struct):
    address: int = 0
    pirqs: int = 0
    """Levels of PIRQA..PIRQD, as bits."""


class PciBus:
    """``pirqs`` are the lines PIRQA..PIRQD. ``moved`` is called when what the BARs decode may have changed."""

    def __init__(self, pirqs: tuple[IrqLine, ...], moved: Callable[[], None]) -> None:
        self.state = PciBusState()
        self.functions: dict[tuple[int, int], PciFunction] = {}
        self._pirqs = pirqs
        self._moved = moved

    def plug(self, slot: int, function: int, device: PciFunction) -> None:
        """Put a function at 00:``slot``.``function``."""
        self.functions[slot, function] = device
        device.listen(self._update_interrupts, self._moved)

    def read(self, offset: int, size: int) -> int:
        """CONFADD takes 32-bit accesses only; CONFDATA any that stay inside its four bytes."""
        if offset == ADDRESS and size == 4:
            return self.state.address
        target = self._target(offset, size)
        if target is None:
            return (1 << 8 * size) - 1
        device, register = target
        return device.read(register, size)

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == ADDRESS and size == 4:
            self.state.address = value & _ADDRESS_WRITABLE
            return
        target = self._target(offset, size)
        if target is not None:
            device, register = target
            device.write(register, size, value)

    def _target(self, offset: int, size: int) -> tuple[PciFunction, int] | None:
        """The function and register that an access to CONFDATA means; None: nobody answers."""
        address = self.state.address
        bus = address >> 16 & 0xFF
        if offset < DATA or offset + size > PORTS or not address & ADDRESS_ENABLE or bus != 0:
            return None
        device = self.functions.get((address >> 11 & 0x1F, address >> 8 & 7))
        return None if device is None else (device, (address & 0xFC) + offset - DATA)

    def _update_interrupts(self) -> None:
        """INTx pins that share a PIRQ are wired together; slot s swaps them round by s."""
        levels = 0
        for (slot, _), device in self.functions.items():
            if device.intx:
                levels |= 1 << (slot + device.get(INTERRUPT_PIN, 1) - 1) % PIRQS
        changed = levels ^ self.state.pirqs
        self.state.pirqs = levels
        for pirq, line in enumerate(self._pirqs):
            if changed >> pirq & 1:
                line(bool(levels >> pirq & 1))
