"""The mainboard: the chips of one PC, the wires between them, and the loop that runs a CPU among them.

Nothing that happens in the machine depends on where an epoch ends. Timed chips act at positions that follow from
virtual time alone, whoever stops the CPU there; an epoch's end only looks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import IntEnum
from functools import partial
from typing import Annotated, Any, Protocol, cast

import msgspec

from ftvm.errors import UsageError
from ftvm.memory_map import IO_APIC, PCI_WINDOW
from ftvm.module import agenda, fault_check
from ftvm.module.address_map import AddressMap
from ftvm.module.agenda import Agenda
from ftvm.module.board_state import StateMap
from ftvm.module.chips import lapic, pic
from ftvm.module.chips.acpi_pm import SMI_COMMAND as SMI_COMMAND_OFFSET
from ftvm.module.chips.acpi_pm import SMI_PORTS, AcpiPm
from ftvm.module.chips.chip import Chip, IrqLine, TimedChip
from ftvm.module.chips.debugcon import Debugcon
from ftvm.module.chips.debugexit import PORTS as DEBUG_EXIT_PORTS
from ftvm.module.chips.debugexit import DebugExit
from ftvm.module.chips.dma_pages import DmaPages
from ftvm.module.chips.i8042 import I8042
from ftvm.module.chips.ioapic import Ioapic
from ftvm.module.chips.lapic import Lapic
from ftvm.module.chips.pci import (
    BAR0,
    COMMAND,
    COMMAND_MEMORY,
    INTERRUPT_LINE,
    INTERRUPT_PIN,
    PIRQS,
    HostBridge,
    IsaBridge,
    PciBus,
)
from ftvm.module.chips.pic import Pic
from ftvm.module.chips.pit import Pit
from ftvm.module.chips.port61 import Port61
from ftvm.module.chips.port92 import Port92
from ftvm.module.chips.portcf9 import PortCf9
from ftvm.module.chips.rtc import Rtc
from ftvm.module.chips.uart import Uart
from ftvm.module.chips.vga import Vga
from ftvm.module.chips.virtio_blk import SECTOR_BYTES, VirtioBlk
from ftvm.module.chips.virtio_net import VirtioNet
from ftvm.module.chips.virtio_pci import Message, VirtioPci, Wires
from ftvm.module.console_script import ConsoleScript, Text
from ftvm.module.cpu import (
    NOWHERE,
    STOP_AWAITED,
    STOP_CRASH,
    STOP_DEBUG,
    STOP_ENGINE,
    STOP_HALT,
    STOP_POSITION,
    Devices,
)
from ftvm.module.events import (
    ColdTlb,
    ConsoleIn,
    ConsoleOut,
    DebugHit,
    DebugWatch,
    DeviceBroken,
    DeviceIn,
    DriverFault,
    ExpectFaults,
    GuestExit,
    Input,
    KeyboardIn,
    LinkState,
    Output,
    Placed,
    Poke,
    PowerOff,
    QueueKick,
    ResetRequest,
    StopText,
    TextWatch,
    TimePassed,
    TimeWatch,
)
from ftvm.module.fault import Fault
from ftvm.module.registers import REGISTERS, register
from ftvm.platform_ports import (
    COM1,
    COM1_IRQ,
    DEBUG_CONSOLE,
    DEBUG_EXIT,
    GPE0,
    GPE0_BYTES,
    KEYBOARD_IRQ,
    MOUSE_IRQ,
    PIRQ_GSI,
    PIRQ_ISA_IRQ,
    PM1A_EVENT,
    RESET_CONTROL,
    RTC_IRQ,
    SCI_IRQ,
    SMI_COMMAND,
    TIMER_GSI,
    TIMER_IRQ,
)
from ftvm.units import KIB, MIB, NS_PER_BLOCK

OUTPUT_LIMIT_BYTES = 4096
"""Console output that ends an epoch, so that a person sees long output while it is made."""

JUMPS_PER_RUN = 64
"""Jumps of virtual time at HLT after which the monitor gets a look: an idle guest makes no blocks, so no epoch ends."""

MAX_BLOCK_INSTRUCTIONS = 512
"""What Unicorn translates at most as one block."""

ISA_IRQS = 16
# Who asserts an ISA interrupt line
SOURCE_CHIP = 1
SOURCE_PCI = 2

FIRST_DISK_SLOT = 4
"""PCI slot of bay 0. Every bay has its slot, so that a disk keeps its name whatever else there is."""
DISK_BAYS = 3
FIRST_NIC_SLOT = 8
MAX_NICS = 4

_BAR_SPACING = 64 * KIB  # between the addresses that BARs get at reset
_BARS_PER_SLOT = 8

_encode = msgspec.msgpack.Encoder().encode
_NEXT_AVAIL, _NEXT_USED = _encode("next_avail"), _encode("next_used")
_NO_FAULTS = msgspec.msgpack.encode(agenda.AgendaState())

_BOARD = "board"  # its own name among the parts that have a state
_CASCADE = 2  # the master's input that the slave drives


class Processor(Protocol):
    """The CPU, as the board needs it (ftvm/module/cpu.py)."""

    @property
    def position(self) -> Callable[[], int]: ...
    @property
    def now_ns(self) -> Callable[[], int]: ...
    @property
    def tsc(self) -> Callable[[], int]: ...
    @property
    def instruction(self) -> Callable[[], int]: ...
    @property
    def request_stop(self) -> Callable[[], None]: ...
    @property
    def set_interrupt_line(self) -> Callable[[bool], None]: ...
    def connect(self, devices: Devices, lapic: Any) -> None: ...
    def run(self, position: int) -> int: ...
    def step(self, count: int, position: int) -> tuple[int, int]: ...
    def begin_block(self) -> None: ...
    def write_state(self, offset: int, data: bytes) -> None: ...
    def skip(self, size: int) -> int: ...
    def stop_before(self, addresses: Mapping[int, int]) -> None: ...
    def passed(self, index: int) -> int: ...
    def look_for(self, watch: DebugWatch | None) -> None: ...
    def hit(self) -> DebugHit: ...
    def error(self) -> str: ...
    def interrupts_enabled(self) -> bool: ...
    def limit(self, position: int) -> None: ...
    def raise_nmi(self) -> None: ...
    def skip_to_ns(self, now_ns: int) -> None: ...
    def write_ram(self, offset: int, data: bytes) -> None: ...

    def invalidate_places(self, places: bytes) -> None: ...
    def flush_tlb(self) -> None: ...


class StopKind(IntEnum):
    """Why an epoch ended, and what the caller does next."""

    POSITION = 0  # it went as far as it was told to: go on
    OUTPUT = 1  # there is much output, a text somebody waits for, or a device to be served: take it, go on
    IDLE = 2  # the guest waits; something will happen at ``wake_ns``, or only input can wake it
    HALTED = 3  # the guest waits, and nothing will ever wake it
    EXIT = 4  # the guest, or the text to stop at, ended the run; the outputs say how
    CRASH = 5  # triple fault
    ENGINE = 6  # the CPU engine failed; ``detail`` says how
    DEBUG = 7  # what a DebugWatch looks for; ``detail`` is a DebugHit
    FAULT = 8  # a fault is due; inside a module only (ftvm/module/injector.py), as the next one
    AWAITED = 9  # one may come due in the block that comes next


class Stop(msgspec.Struct, frozen=True):
    """How an epoch ended. ``wake_ns``: the virtual time of the next event, for IDLE."""

    kind: StopKind
    wake_ns: int | None = None
    detail: str = ""


class DiskConfig(msgspec.Struct, frozen=True):
    """What the guest sees of the disk in one bay."""

    size_bytes: Annotated[int, msgspec.Meta(ge=SECTOR_BYTES)]
    read_only: bool = False


class NicConfig(msgspec.Struct, frozen=True):
    """What the guest sees of one NIC: its address, and the longest packet it may send."""

    mac: Annotated[bytes, msgspec.Meta(min_length=6, max_length=6)]
    mtu: Annotated[int, msgspec.Meta(ge=68, le=65535)] = 1500


class BoardConfig(msgspec.Struct, frozen=True):
    """What to build. All of it decides what the guest sees, so it is equal in all modules.

    ``rtc_base_s``: the date at reset, in seconds since 1970; the default is 2026-01-01. ``input``, ``input_after`` and
    ``stop_on``: see ConsoleScript. ``real_time``: at HLT, virtual time does not jump but waits for TimePassed.
    ``interactive``: input may come at any time, so a guest that waits for it is idle, not halted. ``disks``: by bay;
    ``nics``: by slot.
    """

    ram_bytes: int = 256 * MIB
    rtc_base_s: int = 1_767_225_600
    input: bytes = b""
    input_after: bytes | None = None
    stop_on: bytes | None = None
    real_time: bool = False
    interactive: bool = False
    disks: Annotated[tuple[DiskConfig, ...], msgspec.Meta(max_length=DISK_BAYS)] = ()
    nics: Annotated[tuple[NicConfig, ...], msgspec.Meta(max_length=MAX_NICS)] = ()


class Round(msgspec.Struct, frozen=True):
    """What does not change while a device and its driver do nothing but wait for each other.

    ``notify``: the guest physical address of four bytes where the driver writes. ``message``: the device's interrupt.
    ``slow_ns``: the next event of the chips but the local APIC. ``board``: what is saved, up to the state of the local
    APIC, from there to the device's next_avail, to its next_used, and the rest.
    """

    notify: int
    message: Message
    slow_ns: int | None
    board: tuple[bytes, bytes, bytes, bytes]


class BoardState(msgspec.Struct):
    irq_sources: list[int] = msgspec.field(default_factory=lambda: ISA_IRQS * [0])
    """For each ISA IRQ, who asserts it, as bits."""
    time_passed_ns: int = 0
    """With ``real_time``: how far virtual time may go while the guest waits."""


class Board:
    """Everything of a module but CPU and RAM; the CPU's ``Devices``."""

    def __init__(self, config: BoardConfig, cpu: Processor) -> None:
        self.state = BoardState()
        self._cpu = cpu
        self._config = config
        self._outputs: list[Output] = []
        self._text = bytearray()  # console output on _channel that is not in _outputs yet
        self._channel = ""
        self._text_bytes = 0  # since outputs were taken
        self._watched: Text | None = None  # until outputs are taken
        self._matched = 0
        self._watched_ns: int | None = None
        self._looked_for: DebugWatch | None = None  # until outputs are taken
        self._looks_for: DebugWatch | None = None  # what the CPU was told
        self._exiting = False
        self._kicked = False
        self._running = False
        self._awaited: dict[int, int] = {}  # what the CPU knows that it is to stop before
        self._jumps = 0  # of virtual time, in the running epoch
        self.stepped = 0
        """Instructions of the last ``step``."""
        self._limit = 0  # of the running cpu.run() or cpu.step()
        self._signal: Callable[[], None] | None = None  # in rounds only
        addresses = self._addresses = AddressMap()
        # The CPU calls these at each access to a device.
        self.port_read, self.port_write = addresses.port_read, addresses.port_write
        self.mmio_read, self.mmio_write = addresses.mmio_read, addresses.mmio_write
        self.agenda = Agenda(cpu.position, cpu.request_stop)
        self._build()
        self._lengths = {name: _lengths(part.state) for name, part in self._parts()}
        self._states = StateMap()
        self._saved_at = -1  # what _addresses.changes was then; as for the next one
        self._changed: set[str] = set()  # devices, or the board, that have changed without being counted there
        self._slow_timers_at = -1
        self._slow_timers_ns: int | None = None
        self._set_up()
        cpu.connect(self, self.native_lapic)

    # ---- building ----

    def _build(self) -> None:
        cpu, config, clock = self._cpu, self._config, self._cpu.now_ns
        self._master = Pic(self._set_intr, 0xF8, cascade=lambda: self._slave.acknowledge())
        self._slave = Pic(partial(self._master.set_irq, _CASCADE), 0xDE)
        self._ioapic = Ioapic(lambda *message: self._lapic.message(*message))
        self._lapic = Lapic(
            clock,
            cpu.tsc,
            interrupt=cpu.set_interrupt_line,
            nmi=cpu.raise_nmi,
            external=self._acknowledge_external,
            broadcast_eoi=self._end_of_interrupt,
            moved=self._remap,
            rearm=self._rearm,
        )
        pit = Pit(clock, self._isa_line(TIMER_IRQ), self._rearm)
        rtc = Rtc(clock, self._isa_line(RTC_IRQ), self._rearm, config.rtc_base_s, config.ram_bytes)
        self._script = ConsoleScript(
            config.input,
            config.input_after,
            config.stop_on,
            offer=lambda: self._uart.listen(),
            stop=lambda: self._leave(StopText()),
        )
        self._uart = Uart(clock, self._isa_line(COM1_IRQ), self._serial_out, self._rearm, self._script)
        acpi_pm = AcpiPm(clock, self._isa_line(SCI_IRQ), lambda: self._leave(PowerOff()), self._rearm)
        self._i8042 = I8042(
            self._isa_line(KEYBOARD_IRQ), self._isa_line(MOUSE_IRQ), lambda: self._leave(ResetRequest("i8042"))
        )
        isa_bridge = IsaBridge(lambda irq, level: self._drive_isa(irq, SOURCE_PCI, level))
        self.pci = PciBus(tuple(self._pirq_line(isa_bridge, pirq) for pirq in range(4)), self._remap)
        host_bridge = HostBridge()
        port61 = Port61(clock, pit.set_gate2, pit.output2)
        port92 = Port92(lambda: self._leave(ResetRequest("port-92")))
        portcf9 = PortCf9(lambda: self._leave(ResetRequest("port-cf9")))
        vga = Vga(clock)
        debugcon = Debugcon(lambda byte: self._console_out("debug", byte))
        debug_exit = DebugExit(lambda code: self._leave(GuestExit(code)))
        dma_pages = DmaPages()

        self.chips: dict[str, Chip] = {
            "pic0": self._master,
            "pic1": self._slave,
            "ioapic": self._ioapic,
            "lapic": self._lapic,
            "pit": pit,
            "rtc": rtc,
            "uart": self._uart,
            "acpi-pm": acpi_pm,
            "i8042": self._i8042,
            "pci": self.pci,
            "host-bridge": host_bridge,
            "isa-bridge": isa_bridge,
            "port61": port61,
            "port92": port92,
            "portcf9": portcf9,
            "vga": vga,
            "debugcon": debugcon,
            "debug-exit": debug_exit,
            "dma-pages": dma_pages,
        }
        self.devices: dict[str, VirtioPci] = {}
        """The chips whose other half, which does the I/O, is in the monitor."""
        for bay, disk in enumerate(config.disks):
            name = f"disk{bay}"
            self._plug_device(
                FIRST_DISK_SLOT + bay,
                name,
                VirtioBlk(disk.size_bytes, disk.read_only, self._wires(name)),
            )
        for slot, nic in enumerate(config.nics):
            name = f"nic{slot}"
            self._plug_device(FIRST_NIC_SLOT + slot, name, VirtioNet(nic.mac, nic.mtu, self._wires(name)))
        # In the order in which they act when several are due, before the local APIC; each with the IRQ by which it can
        # wake the CPU.
        self._slow_timers: tuple[tuple[TimedChip, int], ...] = (
            (pit, TIMER_IRQ),
            (rtc, RTC_IRQ),
            (self._uart, COM1_IRQ),
            (acpi_pm, SCI_IRQ),
        )

        self.chips |= self.devices
        self.pci.plug(0, 0, host_bridge)
        self.pci.plug(1, 0, isa_bridge)
        place, place_wide = self._addresses.place, self._addresses.place_wide
        place(0x20, 2, self._master)
        place(0x40, 4, pit)
        place(0x60, 1, self._i8042)
        place(0x61, 1, port61)
        place(0x64, 1, self._i8042, offset=4)
        place(0x70, 2, rtc)
        place(0x80, 16, dma_pages)
        place(0x92, 1, port92)
        place(0xA0, 2, self._slave)
        place(SMI_COMMAND, SMI_PORTS, acpi_pm, offset=SMI_COMMAND_OFFSET)
        place(DEBUG_CONSOLE, 1, debugcon)
        place(DEBUG_EXIT, DEBUG_EXIT_PORTS, debug_exit, wide=True)
        place(0x3B0, 0x30, vga)
        place(COM1, 8, self._uart)
        place(0x4D0, 1, self._master, offset=pic.ELCR)
        place(0x4D1, 1, self._slave, offset=pic.ELCR)
        place(PM1A_EVENT, GPE0 + GPE0_BYTES - PM1A_EVENT, acpi_pm, wide=True)
        place(0xCFC, 4, self.pci, offset=4, wide=True)
        place_wide(0xCF8, self.pci)  # 32 bits only: CF9 is another chip's
        place(RESET_CONTROL, 1, portcf9)
        self._remap()

    def _set_up(self) -> None:
        """What a PC's firmware does to chips that a boot sector or a kernel finds already at work.

        The BIOS of ftvm does the rest, in guest code (firmware/stubs/bios.S).
        """
        for irq in PIRQ_ISA_IRQ:  # PCI interrupts are level-triggered
            self._slave.state.elcr |= 1 << (irq & 7)
        # Virtual wire mode: the 8259s reach the CPU through LINT0.
        self._lapic.write(lapic.SVR, 4, lapic.SVR_ENABLE | 0xFF)
        self._lapic.write(lapic.LVT_LINT0, 4, lapic.EXTINT << 8)
        self._lapic.write(lapic.LVT_LINT1, 4, lapic.NMI << 8)

        for (slot, _), function in self.pci.functions.items():
            pin = function.get(INTERRUPT_PIN, 1)
            if pin:
                function.write(INTERRUPT_LINE, 1, PIRQ_ISA_IRQ[(slot + pin - 1) % PIRQS])
            for bar in function.bars:
                address = PCI_WINDOW + (slot * _BARS_PER_SLOT + bar.index) * _BAR_SPACING
                function.write(BAR0 + 4 * bar.index, 4, address)
                function.write(COMMAND, 2, function.get(COMMAND, 2) | COMMAND_MEMORY)

    def _plug_device(self, slot: int, name: str, device: VirtioPci) -> None:
        self.devices[name] = device
        self.pci.plug(slot, 0, device)

    def _wires(self, name: str) -> Wires:
        """What a device has to do with the rest of the machine."""
        kicks: dict[int, QueueKick] = {}

        def kick(queue: int) -> None:
            self._kick(kicks.get(queue) or kicks.setdefault(queue, QueueKick(name, queue)))

        return Wires(
            kick=kick,
            broken=lambda reason: self._kick(DriverFault(name, reason)),
            message=self._lapic.message,
        )

    def _remap(self) -> None:
        """The guest moved the local APIC, or what a PCI function decodes."""
        pages: list[tuple[int, Chip]] = [(IO_APIC, self._ioapic)]
        if self._lapic.enabled:
            pages.append((self._lapic.address, self._lapic))
        self._addresses.remap(self.pci.functions.values(), pages, quiet=self._lapic)

    # ---- wires ----

    def _acknowledge_external(self) -> int:
        """The CPU takes an interrupt of the 8259s."""
        self._addresses.changes += 1
        return self._master.acknowledge()

    def _end_of_interrupt(self, vector: int) -> None:
        """The local APIC is done with one that was level-triggered."""
        self._addresses.changes += 1
        self._ioapic.end_of_interrupt(vector)

    def _set_intr(self, level: bool) -> None:
        """INTR of the 8259s: to the local APIC's LINT0, and to pin 0 of the I/O APIC."""
        self._lapic.set_lint0(level)
        self._ioapic.set_irq(0, level)

    def _isa_line(self, irq: int) -> IrqLine:
        return partial(self._drive_isa, irq, SOURCE_CHIP)

    def _drive_isa(self, irq: int, source: int, level: bool) -> None:
        """Drive an ISA interrupt line: to a 8259 and to the I/O APIC."""
        sources = self.state.irq_sources
        before = sources[irq]
        sources[irq] = before | source if level else before & ~source
        asserted = bool(sources[irq])
        if asserted != bool(before):
            (self._master if irq < 8 else self._slave).set_irq(irq & 7, asserted)
            self._ioapic.set_irq(TIMER_GSI if irq == TIMER_IRQ else irq, asserted)

    def _pirq_line(self, isa_bridge: IsaBridge, pirq: int) -> IrqLine:
        def line(level: bool) -> None:
            isa_bridge.set_pirq(pirq, level)
            self._ioapic.set_irq(PIRQ_GSI[pirq], level)

        return line

    def _can_wake(self, irq: int) -> bool:
        """An interrupt line is open all the way to the CPU."""
        if not self._ioapic.is_masked(TIMER_GSI if irq == TIMER_IRQ else irq):
            return True
        if not self._lapic.hears_lint0() and not self._ioapic.passes_external():
            return False
        if irq < 8:
            return not self._master.is_masked(irq)
        return not self._slave.is_masked(irq & 7) and not self._master.is_masked(_CASCADE)

    # ---- what the CPU calls ----

    @property
    def native_lapic(self) -> Any:
        """The part of the local APIC that a CPU can do alone."""
        return self._lapic.native

    def msr_read(self, index: int) -> int | None:
        """IA32_APIC_BASE and IA32_TSC_DEADLINE; None for others: #GP."""
        return self._lapic.read_msr(index) if index in lapic.MSRS else None

    def msr_write(self, index: int, value: int) -> bool:
        """False: #GP."""
        return index in lapic.MSRS and self._lapic.write_msr(index, value)

    def cr8_read(self) -> int:
        return self._lapic.read_cr8()

    def cr8_write(self, value: int) -> None:
        self._lapic.write_cr8(value)

    def interrupt_ack(self) -> int:
        """The vector of the interrupt that the line announced; -1 if it went away."""
        vector = self._lapic.acknowledge()
        return -1 if vector is None else vector

    # ---- running ----

    def run(self, until: int) -> Stop:
        """Run one epoch: to position ``until``, or until something happens that the monitor must see.

        From inside a block to its end at least.
        """
        cpu = self._cpu
        self._begin()
        if self._output_due():  # a fault came first
            return Stop(StopKind.OUTPUT)
        if cpu.position() < until or cpu.instruction():
            return self._go_on(self._run_cpu(until), until)
        return Stop(StopKind.POSITION)

    def go_on(self, stop: int, until: int) -> Stop:
        """As ``run``, in an epoch that has begun without the board, and in which the CPU has stopped."""
        self._begin()
        return self._go_on(stop, until)

    def _go_on(self, stop: int, until: int) -> Stop:
        cpu = self._cpu
        while (ends := self._look(stop, cpu.position() < until)) is None:
            if cpu.position() >= until and not cpu.instruction():
                return Stop(StopKind.POSITION)
            stop = self._run_cpu(until)
        return ends

    def step(self, count: int) -> Stop:
        """Run ``count`` instructions, one at a time, or until something happens as in ``run``.

        An exception or interrupt that is taken instead of an instruction counts as one. Chips act between blocks, as
        they do in ``run``.
        """
        cpu = self._cpu
        self.stepped = 0
        self._begin()
        while count:
            event = None if cpu.instruction() else self._event_position()
            if event is not None and event <= cpu.position():
                stop = STOP_POSITION
            else:
                stop, done = self._step_cpu(count)
                count -= done
                self.stepped += done
            if cpu.instruction() and stop != STOP_DEBUG:
                continue
            if (ends := self._look(stop, count > 0)) is not None:
                return ends
        return Stop(StopKind.POSITION)

    def skip(self, size: int) -> Stop:
        """As ``step``, of one instruction, of ``size`` bytes, that is passed over."""
        self._begin()
        stop = self._cpu.skip(size)
        ends = None if self._cpu.instruction() else self._look(stop, more=False)
        return ends or Stop(StopKind.POSITION)

    def _begin(self) -> None:
        self._jumps = 0
        addresses = self.agenda.awaited()
        if addresses != self._awaited:
            self._awaited = addresses
            self._cpu.stop_before(addresses)
        if self._looked_for != self._looks_for:
            self._looks_for = self._looked_for
            self._cpu.look_for(self._looks_for)

    def _look(self, stop: int, more: bool) -> Stop | None:
        """The CPU stopped: let chips act, if that was at a block entry, and say whether the epoch ends for it.

        ``more``: the CPU is to go on, so that virtual time may jump where it waits.
        """
        cpu = self._cpu
        acted = False
        for index, address in enumerate(self._awaited):
            if passed := cpu.passed(index):
                self._awaited[address] -= passed
                self.agenda.see_executions(address, passed)
        if not cpu.instruction():
            acted = self._advance_chips()
            if self._exiting:
                self._exiting = False
                return Stop(StopKind.EXIT)
        if stop == STOP_CRASH:
            return Stop(StopKind.CRASH, detail=cpu.error())
        if stop == STOP_ENGINE:
            return Stop(StopKind.ENGINE, detail=cpu.error())
        if stop == STOP_DEBUG:
            return Stop(StopKind.DEBUG, detail=cpu.hit().encode())
        if stop == STOP_AWAITED:
            return Stop(StopKind.AWAITED)
        if self.agenda.due:
            return Stop(StopKind.FAULT)
        if self._output_due():
            return Stop(StopKind.OUTPUT)
        if stop == STOP_HALT and not acted and more:
            waits = self._wait()
            self._jumps += 1
            return waits
        return None

    def put(self, inputs: list[Input]) -> None:
        """Take inputs, in their order; between two runs."""
        for event in inputs:
            if isinstance(event, DeviceIn):  # most often
                self._device_in(event)
                continue
            if isinstance(event, Placed):
                self._cpu.invalidate_places(event.places)
                continue
            if isinstance(event, TimePassed):
                if self._config.real_time:
                    self.state.time_passed_ns = event.until_ns
                    self._changed.add(_BOARD)
                continue
            self._addresses.changes += 1
            if isinstance(event, ConsoleIn):
                self._uart.receive(event.data)
            elif isinstance(event, KeyboardIn):
                self._i8042.press(event.scancodes)
            elif isinstance(event, DeviceBroken):
                self.devices[event.device].fail()
            elif isinstance(event, ColdTlb):
                self._cpu.flush_tlb()
            elif isinstance(event, LinkState):
                self._nic(event.device).set_link(event.up)
            elif isinstance(event, TextWatch):
                self._watched, self._matched = Text(event.text), event.matched
            elif isinstance(event, TimeWatch):
                self._watched_ns = event.virtual_ns
            elif isinstance(event, DebugWatch):
                self._looked_for = event
            elif isinstance(event, ExpectFaults):
                self.agenda.expect(event.faults)
            elif isinstance(event, Poke):
                self._poke(event)

    def _poke(self, event: Poke) -> None:
        cpu = self._cpu
        if event.instructions:
            cpu.step(event.instructions, NOWHERE)
            cpu.begin_block()
        for offset, data in event.memory:
            cpu.write_ram(offset, data)
        for name, value in event.registers.items():
            cpu.write_state(register(name).offset, value)

    def _device_in(self, event: DeviceIn) -> None:
        for offset, data in event.pieces() if event.bulk else event.writes:
            self._cpu.write_ram(offset, data)
        device = self.devices[event.device]
        self._changed.add(event.device)
        if not device.sends_messages:
            self._addresses.changes += 1  # its interrupt goes through other chips
        for queue in event.queues:
            device.complete(queue.index, queue.next_avail, queue.next_used, queue.interrupt)

    def _nic(self, name: str) -> VirtioNet:
        device = self.devices[name]
        if not isinstance(device, VirtioNet):
            raise LookupError(f"{name} is not a NIC")
        return device

    def check(self, inputs: Sequence[Input]) -> None:
        """Raises LookupError or ValueError for inputs that this board cannot take, whoever made them."""
        for event in inputs:
            if isinstance(event, DeviceIn):
                queues = len(self.devices[event.device].state.queues)
                if any(queue.index >= queues for queue in event.queues):
                    raise ValueError(f"{event.device} has {queues} queues")
                segments = [segment for bulk in event.bulk for segment in bulk.segments]
                segments += [(offset, len(data)) for offset, data in event.writes]
                if any(offset + size > self._config.ram_bytes for offset, size in segments):
                    raise ValueError("a write outside RAM")
                if any(sum([size for _, size in bulk.segments]) != len(bulk.data) for bulk in event.bulk):
                    raise ValueError("data that do not fill their segments")
            elif isinstance(event, DeviceBroken):
                self.devices[event.device]  # LookupError
            elif isinstance(event, LinkState):
                self._nic(event.device)
            elif isinstance(event, TextWatch | TimeWatch | DebugWatch | Placed):
                raise ValueError("nothing that enters the guest")
            elif isinstance(event, ExpectFaults):
                self._check_faults(event.faults)
            elif isinstance(event, Poke):
                self._check_poke(event)

    def _check_poke(self, event: Poke) -> None:
        if not 0 <= event.instructions <= MAX_BLOCK_INSTRUCTIONS:
            raise ValueError(f"a block of {event.instructions} instructions")
        if any(offset < 0 or offset + len(data) > self._config.ram_bytes for offset, data in event.memory):
            raise ValueError("a write outside RAM")
        for name, value in event.registers.items():
            if name not in REGISTERS or len(value) != REGISTERS[name].size:
                raise ValueError(f"no register {name} of {len(value)} bytes")

    def _check_faults(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            try:
                fault_check.check(fault, self._config.ram_bytes, self.chips)
            except UsageError as error:
                raise ValueError(error.message) from error

    def take_outputs(self) -> list[Output]:
        """Everything since the last call, in order."""
        self._end_text()
        outputs, self._outputs = self._outputs, []
        self._text_bytes = 0
        self._kicked = False
        self._watched = self._watched_ns = self._looked_for = None
        return outputs

    def save(self) -> bytes:
        """The state of all chips and of the board, as one msgpack map: equal states are equal bytes.

        Outputs are not part of it; they must have been taken.
        """
        changes = self._addresses.changes
        if self._saved_at == changes:
            self._states.put([("lapic", self._lapic.packed())])
            self._states.put((name, (self if name == _BOARD else self.devices[name]).state) for name in self._changed)
        else:
            self._states.put((name, part.state) for name, part in self._parts())
        self._saved_at = changes
        self._changed.clear()
        if self.agenda.state.expected:
            return self._states.encode_with(agenda.PART, self.agenda.state)
        return self._states.encode()

    def load(self, saved: bytes) -> None:
        """Become what ``save`` returned, on a board of the same configuration; outputs are forgotten."""
        states = msgspec.msgpack.decode(saved, type=dict[str, msgspec.Raw])
        for name, part in self._parts():
            state = msgspec.msgpack.decode(states[name], type=type(part.state))
            for key, length in self._lengths.get(name, {}).items():
                if len(getattr(state, key)) != length:
                    raise ValueError(f"{name} has {length} {key}")
            part.state = state
        self.agenda.state = msgspec.msgpack.decode(states.get(agenda.PART, _NO_FAULTS), type=agenda.AgendaState)
        self._check_faults([expected.fault for expected in self.agenda.state.expected])
        self.agenda.loaded()
        self.take_outputs()
        self._exiting = False
        self.state_changed()

    def state_changed(self) -> None:
        """The state of a chip was changed behind its back: what hangs on it follows."""
        self._addresses.changes += 1
        self._remap()
        self._cpu.set_interrupt_line(self._lapic.output)

    def await_stop_text(self) -> None:
        """The text to stop on has not begun to come."""
        self._addresses.changes += 1
        self._script.state.stop_matched, self._script.state.stopped = 0, False

    def _parts(self) -> Iterator[tuple[str, Any]]:
        """Everything that has a state, by name."""
        yield from self.chips.items()
        yield "script", self._script
        yield _BOARD, self

    def _run_cpu(self, until: int) -> int:
        """Run the CPU to the next event of a chip, or to ``until``."""
        event = self._event_position()
        self._limit = until if event is None else min(until, event)
        self._running = True
        try:
            return self._cpu.run(self._limit)
        finally:
            self._running = False

    def _step_cpu(self, count: int) -> tuple[int, int]:
        """The same for ``count`` instructions: STOP_*, and how many there were."""
        event = self._event_position()
        self._limit = NOWHERE if event is None else event
        self._running = True
        try:
            return self._cpu.step(count, self._limit)
        finally:
            self._running = False

    def _rearm(self) -> None:
        """A chip's next event may have come nearer. It may be at work still: what it says now is kept nowhere."""
        if self._running:
            known = self._slow_timers_at == self._addresses.changes
            slow = self._slow_timers_ns if known else self._next_slow_ns()
            event = self._position_of(self._earliest(slow))
            if event is not None and event < self._limit:
                self._limit = event
                self._cpu.limit(event)

    def _next_slow_ns(self) -> int | None:
        """The next event of the chips but the local APIC, whose timer is programmed so much more often."""
        events = [event for chip, _ in self._slow_timers if (event := chip.next_event_ns()) is not None]
        return min(events, default=None)

    def _earliest(self, slow_ns: int | None) -> int | None:
        """Of the slow chips' next event, the local APIC's, and the next fault's."""
        events = (slow_ns, self._lapic.next_event_ns(), self.agenda.next_ns())
        return min((event for event in events if event is not None), default=None)

    def _next_event_ns(self) -> int | None:
        """Of all chips; between two accesses to any of them."""
        self._know_slow_timers()
        return self._earliest(self._slow_timers_ns)

    def _know_slow_timers(self) -> None:
        if self._slow_timers_at != self._addresses.changes:
            self._slow_timers_ns = self._next_slow_ns()
            self._slow_timers_at = self._addresses.changes

    def _event_position(self) -> int | None:
        """The position at which the next event of a chip is due: the first block entry that is not before it."""
        return self._position_of(self._next_event_ns())

    def _position_of(self, event_ns: int | None) -> int | None:
        if event_ns is None:
            return None
        return self._cpu.position() + max(0, -((self._cpu.now_ns() - event_ns) // NS_PER_BLOCK))

    def _advance_chips(self) -> bool:
        """Let every chip act that is due; False if none was."""
        now_ns = self._cpu.now_ns()
        acted = False
        if (next_ns := self._next_event_ns()) is not None and next_ns <= now_ns:
            for chip, _ in self._slow_timers:
                event_ns = chip.next_event_ns()
                if event_ns is not None and event_ns <= now_ns:
                    self._addresses.changes += 1
                    chip.advance(now_ns)
                    acted = True
            event_ns = self._lapic.next_event_ns()
            if event_ns is not None and event_ns <= now_ns:
                self._lapic.advance(now_ns)
                acted = True
            self.agenda.pass_time(now_ns)
        return acted

    def _wait(self) -> Stop | None:
        """At HLT: let virtual time jump to the next event, or say why it cannot."""
        if not self._cpu.interrupts_enabled():
            nmi_possible = self._lapic.nmi_possible() or self._ioapic.nmi_possible()
            if not nmi_possible:
                return Stop(StopKind.HALTED)
        event_ns = self._next_event_ns()
        wake_ns = self._lapic.next_event_ns()
        if self._slow_timers_ns is not None:  # seldom
            wakers = [chip.next_event_ns() for chip, irq in self._slow_timers if self._can_wake(irq)]
            wake_ns = min((ns for ns in (*wakers, wake_ns) if ns is not None), default=None)
        if wake_ns is None:
            served_later = self._config.real_time and self.devices
            return Stop(StopKind.IDLE if self._config.interactive or served_later else StopKind.HALTED)
        if self._outputs or self._text or self._jumps >= JUMPS_PER_RUN:
            return Stop(StopKind.IDLE, wake_ns)
        if self._watched_ns is not None and self._cpu.now_ns() >= self._watched_ns:
            return Stop(StopKind.IDLE, wake_ns)
        to_ns = wake_ns if event_ns is None else min(wake_ns, event_ns)
        if self._config.real_time:
            to_ns = min(to_ns, self.state.time_passed_ns)
        if to_ns <= self._cpu.now_ns():
            return Stop(StopKind.IDLE, wake_ns)
        self._cpu.skip_to_ns(to_ns)
        self._advance_chips()
        return None

    # ---- rounds of a device, in which native code does without the board (ftvm/module/rounds.py) ----

    def round_of(self, name: str) -> Round | None:
        """What must be known for them, at a sync point, after ``save``. None: it cannot be done."""
        device = self.devices[name]
        queues = device.state.queues
        address = device.notify_address()
        message = device.message_of(0) if len(queues) == 1 else None
        if address is None or message is None or not self._addresses.answers(device, address):
            return None
        if not device.state.live or not queues[0].enabled or self._looks_for is not None or self._awaited:
            return None
        before, between, state, after = self._states.cut("lapic", name)
        avail, used = _NEXT_AVAIL + _encode(queues[0].next_avail), _NEXT_USED + _encode(queues[0].next_used)
        if state.count(avail + used) != 1:  # a guest can write the same elsewhere
            return None
        head, _, tail = state.partition(avail + used)
        self._know_slow_timers()
        pieces = before, between + head + _NEXT_AVAIL, _NEXT_USED, tail + after
        return Round(address, message, self._slow_timers_ns, pieces)

    def begin_rounds(self, name: str, take_signal: Callable[[], int]) -> None:
        """``take_signal``: the driver has notified the device, and the board was not told."""
        self._running, self._limit = True, NOWHERE
        self._signal = lambda: self._note_kick(QueueKick(name, 0)) if take_signal() else None

    def end_rounds(self, name: str, next_avail: int, next_used: int) -> None:
        """The device is there now."""
        self._running = False
        queue = self.devices[name].state.queues[0]
        queue.next_avail, queue.next_used = next_avail, next_used
        self._changed.add(name)
        self._hear()
        self._signal = None

    # ---- outputs ----

    def _hear(self) -> None:
        """A notification comes before what comes now."""
        if (signal := self._signal) is not None:
            self._signal = None  # it says itself what there is to say
            signal()
            self._signal = signal

    def _serial_out(self, byte: int) -> None:
        self._console_out("serial", byte)
        self._script.watch(byte)
        self.agenda.see_text(byte)
        if self._watched is not None and not self._watched_text_came():
            self._matched = self._watched.advance(self._matched, byte)
            if self._watched_text_came():
                self._cpu.request_stop()

    def _output_due(self) -> bool:
        return self._kicked or self._text_bytes > OUTPUT_LIMIT_BYTES or self._watched_text_came()

    def _watched_text_came(self) -> bool:
        return self._watched is not None and self._matched == len(self._watched)

    def _console_out(self, channel: str, byte: int) -> None:
        if self._signal is not None:
            self._hear()
        if channel != self._channel:
            self._end_text()
            self._channel = channel
        self._text.append(byte)
        self._text_bytes += 1
        if self._text_bytes > OUTPUT_LIMIT_BYTES:
            self._cpu.request_stop()

    def _end_text(self) -> None:
        if self._text:
            self._outputs.append(ConsoleOut(self._channel, bytes(self._text)))
            self._text.clear()

    def _kick(self, kick: QueueKick | DriverFault) -> None:
        """A device is to be served, or its driver to be reported: the epoch ends at the next block entry, so that no
        guest can say so without end."""
        self._note_kick(kick)
        self._cpu.request_stop()

    def _note_kick(self, kick: QueueKick | DriverFault) -> None:
        if kick not in self._outputs:
            self.tell(kick)
        self._kicked = True

    def tell(self, output: Output) -> None:
        """Something that is to be compared with the other modules' and to leave the machine."""
        self._hear()
        self._end_text()
        self._outputs.append(output)

    def _leave(self, output: Output) -> None:
        """The run ends at the next block entry."""
        self.tell(output)
        self._exiting = True
        self._cpu.request_stop()


def _lengths(state: msgspec.Struct) -> dict[str, int]:
    """Of the register files in a chip's state at reset, by field. What grows and shrinks is empty then."""
    fields = msgspec.structs.asdict(state).items()
    return {name: len(value) for name, value in fields if isinstance(value, list | bytearray) and value}


class _NoCpu:
    """Answers 0 to whatever a board asks of its CPU while it is built, loaded and saved."""

    def __getattr__(self, name: str) -> Callable[..., int]:
        return lambda *arguments: 0


def unplugged(config: BoardConfig) -> Board:
    """A board that never runs: what ``load`` refuses here, no module can take."""
    return Board(config, cast(Processor, _NoCpu()))
