"""One CPU of a module: the native core's ``ft_cpu`` over a piece of memory, and the devices it talks to."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from ftvm._native import ffi, lib
from ftvm.errors import EngineError
from ftvm.module.events import DebugHit, DebugWatch
from ftvm.module.registers import register
from ftvm.units import NS_PER_BLOCK

STOP_POSITION: int = lib.FT_STOP_POSITION
STOP_REQUEST: int = lib.FT_STOP_REQUEST
STOP_HALT: int = lib.FT_STOP_HALT
STOP_CRASH: int = lib.FT_STOP_CRASH
STOP_ENGINE: int = lib.FT_STOP_ENGINE
STOP_DEBUG: int = lib.FT_STOP_DEBUG
STOP_AWAITED: int = lib.FT_STOP_AWAITED

ACCESS_READ: int = lib.FT_ACCESS_READ
ACCESS_WRITE: int = lib.FT_ACCESS_WRITE
MAX_STEPS = (1 << 32) - 1
NOWHERE = (1 << 64) - 1

ARCH_BYTES: int = ffi.sizeof("ft_arch")


class Devices(Protocol):
    """What a running CPU calls. Sizes are in bytes, values unsigned, addresses guest physical."""

    def port_read(self, port: int, size: int) -> int: ...
    def port_write(self, port: int, size: int, value: int) -> None: ...
    def mmio_read(self, gpa: int, size: int) -> int: ...
    def mmio_write(self, gpa: int, size: int, value: int) -> None: ...

    def msr_read(self, index: int) -> int | None:
        """None raises #GP."""
        ...

    def msr_write(self, index: int, value: int) -> bool:
        """False raises #GP."""
        ...

    def cr8_read(self) -> int: ...
    def cr8_write(self, value: int) -> None: ...

    def interrupt_ack(self) -> int:
        """The vector of the interrupt that the line announced; negative if it went away."""
        ...


class Trace:
    """What instructions or blocks do, as ft_effect of native/ftvm.h has it."""

    def __init__(
        self, cpu: Any, capacity: int, except_arch: dict[int, int], except_ram: dict[int, int], by_block: bool
    ) -> None:
        self._cpu = cpu
        self._effects = ffi.new("ft_effect[]", capacity + 1)
        self._trace = ffi.gc(lib.ft_trace_open(self._effects, capacity + 1, by_block), lib.ft_trace_close)
        for in_ram, excepted in ((False, except_arch), (True, except_ram)):
            for offset, mask in excepted.items():
                if lib.ft_trace_except(self._trace, in_ram, offset, mask) != 0:
                    raise ValueError(f"byte {offset:#x} cannot be left out of a trace")
        lib.ft_cpu_trace(cpu, self._trace)

    def end(self) -> bytes:
        """An array of ft_effect: the state at the beginning, and one for each instruction or block."""
        lib.ft_cpu_trace(self._cpu, ffi.NULL)
        count = lib.ft_trace_count(self._trace)
        return bytes(ffi.buffer(self._effects, count * ffi.sizeof("ft_effect")))


def map_ram(memory_file: int, size_bytes: int) -> Any:
    """A view of shared memory, for the life of the process, where the host can have huge pages. Raises OSError."""
    ram = lib.ft_ram_map(memory_file, size_bytes)
    if ram == ffi.NULL:
        raise OSError(ffi.errno, f"no address space for {size_bytes} bytes of RAM")
    return ffi.buffer(ram, size_bytes)


class Cpu:
    """A CPU in its reset state, over ``ram`` (a writable buffer of whole pages, which must outlive it).

    Raises EngineError when the engine is not the one this build was made for. Runs on one thread. An exception in a
    device does not unwind through the engine: it ends the run at the next block entry and is raised from there.
    """

    def __init__(self, ram: Any) -> None:
        self._ram = ffi.from_buffer(ram, require_writable=True)
        self._devices: Devices | None = None
        self._raised: BaseException | None = None
        self._breakpoints: list[int] = []  # indices in the DebugWatch, in the order of addresses
        self._watched: list[tuple[str, int]] = []  # (name, index) in the DebugWatch, by index in the core
        self._self = ffi.new_handle(self)
        self._done = ffi.new("uint32_t *")
        error = ffi.new("char[256]")
        self.native: Any = lib.ft_cpu_open(self._ram, len(self._ram), NS_PER_BLOCK, self._self, error, len(error))
        """The ``ft_cpu *``."""
        if self.native == ffi.NULL:
            raise EngineError(ffi.string(error).decode())
        # Bound once: what is asked at nearly every access to a device, and around each run.
        cpu = self.native
        self.position: Callable[[], int] = partial(lib.ft_cpu_position, cpu)
        self.now_ns: Callable[[], int] = partial(lib.ft_cpu_now_ns, cpu)
        self.tsc: Callable[[], int] = partial(lib.ft_cpu_tsc, cpu)
        self.instruction: Callable[[], int] = partial(lib.ft_cpu_instruction, cpu)
        """Instructions done in the block that was entered last; 0 at a block entry."""
        self.request_stop: Callable[[], None] = partial(lib.ft_cpu_request_stop, cpu)
        """Stop at the next block entry."""
        self.set_interrupt_line: Callable[[bool], None] = partial(lib.ft_cpu_set_interrupt_line, cpu)

    def connect(self, devices: Devices, lapic: Any = ffi.NULL) -> None:
        """Must be called before the first ``run``. The CPU does by itself what it can do with ``lapic``, an
        ``ft_lapic *``; what it cannot, and everything without one, it asks of ``devices``."""
        self._devices, self._lapic = devices, lapic
        lib.ft_cpu_attach_lapic(self.native, lapic)

    def close(self) -> None:
        if self.native != ffi.NULL:
            lib.ft_cpu_close(self.native)
            self.native = ffi.NULL

    def run(self, position: int) -> int:
        """Run until ``position`` at the latest; returns one of STOP_*."""
        return self.checked(lib.ft_cpu_run(self.native, position))

    def checked(self, stop: int) -> int:
        """The same, unless a device raised something in the run: then raise that."""
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised
        return stop

    def step(self, count: int, position: int) -> tuple[int, int]:
        """Run up to ``count`` instructions, at most to a block entry at ``position``; one of STOP_*, and how many there
        were.

        An exception that is taken instead of one counts. It stops inside blocks; ``instruction`` says where. ``run``
        goes from there to the block's end first.
        """
        stop = self.checked(lib.ft_cpu_step(self.native, min(count, MAX_STEPS), position, self._done))
        return stop, self._done[0]

    def trace(self, capacity: int, except_arch: dict[int, int], except_ram: dict[int, int], by_block: bool) -> Trace:
        """Trace what steps do, or ``by_block`` what blocks that are run do, until ``Trace.end``; the dicts hold the
        bits of bytes, by offset, that do not count.

        Raises ValueError for bytes that are not there, or too many.
        """
        return Trace(self.native, capacity, except_arch, except_ram, by_block)

    def skip(self, size: int) -> int:
        """As ``step``, but the instruction, of ``size`` bytes, is passed over."""
        return self.checked(lib.ft_cpu_skip(self.native, size))

    def begin_block(self) -> None:
        """The next instruction begins a block of its own, wherever it is."""
        lib.ft_cpu_begin_block(self.native)

    def stop_before(self, addresses: Mapping[int, int]) -> None:
        """End runs with STOP_AWAITED before each block with an instruction at one of these linear addresses; as often
        as their values say, a block that begins with it is passed over first."""
        places, passes = ffi.new("uint64_t[]", list(addresses)), ffi.new("uint64_t[]", list(addresses.values()))
        if lib.ft_cpu_await(self.native, places, passes, len(addresses)) != 0:
            raise MemoryError

    def passed(self, index: int) -> int:
        """How often the one of these addresses with this index was passed over, since it was asked last."""
        return int(lib.ft_cpu_passed(self.native, index))

    def instructions_left(self) -> int:
        """Instructions of that block still to come; 0 at a block entry."""
        return int(lib.ft_cpu_instructions_left(self.native))

    def look_for(self, watch: DebugWatch | None) -> None:
        """From now on, end runs for this with STOP_DEBUG, and for nothing that was looked for before.

        Raises ValueError for what cannot be watched.
        """
        lib.ft_debug_clear(self.native)
        self._watched = []
        if watch is None:
            return
        position, address = watch.passed or (NOWHERE, NOWHERE)
        self._breakpoints = sorted(range(len(watch.breakpoints)), key=watch.breakpoints.__getitem__)
        addresses = ffi.new("uint64_t[]", [watch.breakpoints[index] for index in self._breakpoints])
        if lib.ft_debug_break(self.native, addresses, len(watch.breakpoints), position, address) != 0:
            raise MemoryError
        for (name, kind), watches in _watches(watch).items():
            for index, (first, size, access) in enumerate(watches):
                if lib.ft_debug_watch(self.native, kind, first, size, access) != 0:
                    raise ValueError(f"{size} bytes at {first:#x} of {name} cannot be watched")
                self._watched.append((name, index))

    def hit(self) -> DebugHit:
        """Why the last run ended with STOP_DEBUG."""
        hit = ffi.new("ft_hit *")
        lib.ft_debug_hit(self.native, hit)
        if hit.kind == lib.FT_HIT_BREAKPOINT:
            return DebugHit("breakpoints", self._breakpoints[hit.index], hit.where)
        name, index = self._watched[hit.index]
        return DebugHit(name, index, hit.where)

    def error(self) -> str:
        """What the engine said when the last run ended with STOP_ENGINE or STOP_CRASH; may be empty."""
        text: bytes = ffi.string(lib.ft_cpu_error(self.native))
        return text.decode(errors="replace")

    def interrupts_enabled(self) -> bool:
        return bool(lib.ft_cpu_interrupts_enabled(self.native))

    def limit(self, position: int) -> None:
        """Let the current run end at ``position`` if it would end later."""
        lib.ft_cpu_limit(self.native, position)

    def raise_nmi(self) -> None:
        lib.ft_cpu_raise_nmi(self.native)

    def skip_to_ns(self, now_ns: int) -> None:
        """Let virtual time jump forward; only between runs."""
        lib.ft_cpu_skip_to_ns(self.native, now_ns)

    def save(self, into: Any) -> None:
        """Write the architectural state into ``into``, a buffer of ARCH_BYTES or a ``ft_arch *``."""
        lib.ft_cpu_save(self.native, _arch(into))

    def load(self, state: Any) -> None:
        """Take over an architectural state. The TLB is cold afterwards; translated code stays."""
        lib.ft_cpu_load(self.native, _arch(state))

    def set_dirty_log(self, pages: Any, count: Any) -> None:
        """Log written pages to ``pages`` (``uint32_t *``, one entry per RAM page) and ``count`` (``uint32_t *``)."""
        lib.ft_cpu_set_dirty_log(self.native, pages, count)

    def rearm_dirty_log(self) -> None:
        lib.ft_cpu_rearm_dirty_log(self.native)

    def write_ram(self, offset: int, data: bytes) -> None:
        """Write as a device does: logged, and code translated from these pages is dropped."""
        if lib.ft_cpu_write_ram(self.native, offset, data, len(data)) != 0:
            raise IndexError(f"RAM offset {offset:#x} + {len(data)} is outside RAM")

    def invalidate_code(self, offset: int, size: int) -> None:
        """RAM was changed behind the engine's back: drop code translated from these bytes."""
        lib.ft_cpu_invalidate_code(self.native, offset, size)

    def invalidate_places(self, places: bytes) -> None:
        """The same for all of these: (offset, bytes) of each, as two ``uint64_t`` in native order."""
        extents = ffi.from_buffer("ft_extent[]", places)
        if lib.ft_cpu_invalidate_places(self.native, extents, len(extents)) != 0:
            raise IndexError("what was changed is outside RAM")

    def invalidate_pages(self, pages: bytes) -> None:
        """The same for all of these pages: their numbers as ``uint32_t`` in native order."""
        lib.ft_cpu_invalidate_pages(self.native, ffi.from_buffer("uint32_t[]", pages), len(pages) // 4)

    def flush_tlb(self) -> None:
        lib.ft_cpu_flush_tlb(self.native)

    def write_state(self, offset: int, data: bytes) -> None:
        """Put ``data`` into the architectural state, from byte ``offset`` of ft_arch on; between runs."""
        if lib.ft_cpu_write_state(self.native, offset, data, len(data)) != 0:
            raise IndexError(f"bytes {offset:#x} + {len(data)} are not in the architectural state")

    def flip_tlb(self, linear: int, mask: int) -> bool:
        """Flip bits of what the TLB holds for a linear address, see ft_cpu_flip_tlb(); False if that is nothing."""
        return bool(lib.ft_cpu_flip_tlb(self.native, linear, mask))

    def force_register(self, offset: int, keep: int, put: int) -> None:
        """From now on the byte at ``offset`` of the architectural state is ``value & keep | put`` at every block
        entry."""
        self._force(lib.ft_cpu_force_register, offset, keep, put)

    def force_ram(self, offset: int, keep: int, put: int) -> None:
        """The same for a byte of RAM."""
        self._force(lib.ft_cpu_force_ram, offset, keep, put)

    def clear_forces(self) -> None:
        """No byte is forced any more."""
        lib.ft_cpu_clear_forces(self.native)

    def _force(self, force: Any, offset: int, keep: int, put: int) -> None:
        if force(self.native, offset, keep, put) != 0:
            raise IndexError(f"byte {offset:#x} cannot be forced")

    def _fail(self, error: BaseException) -> None:
        if self._raised is None:
            self._raised = error
        self.request_stop()


def _watches(watch: DebugWatch) -> dict[tuple[str, int], list[tuple[int, int, int]]]:
    """By name and kind: first, size, access."""
    wanted = [register(name) for name in watch.registers]
    return {
        ("memory", lib.FT_HIT_RAM): [(offset, size, 0) for offset, size in watch.memory],
        ("registers", lib.FT_HIT_REGISTER): [(where.offset, where.size, 0) for where in wanted],
        ("ports", lib.FT_HIT_PORT): watch.ports,
        ("devices", lib.FT_HIT_MMIO): watch.devices,
        ("linear", lib.FT_HIT_LINEAR): watch.linear,
        ("accesses", lib.FT_HIT_ACCESS): watch.accesses,
    }


def _arch(buffer: Any) -> Any:
    if isinstance(buffer, ffi.CData):
        return buffer
    if len(buffer) != ARCH_BYTES:
        raise ValueError(f"an architectural state has {ARCH_BYTES} bytes, not {len(buffer)}")
    return ffi.cast("ft_arch *", ffi.from_buffer(buffer))


def _onerror(exception: Any, value: BaseException, traceback: Any) -> None:
    """An exception in a device: keep it for ``run``. The device's handle is the frame's first argument."""
    handle = traceback.tb_frame.f_locals["handle"]
    ffi.from_handle(handle)._fail(value)


def _callback(name: str, error: int | None = None) -> Callable[[Callable[..., Any]], Any]:
    arguments: dict[str, Any] = {"name": name, "onerror": _onerror}
    if error is not None:
        arguments["error"] = error
    return ffi.def_extern(**arguments)  # type: ignore[no-any-return]


@_callback("ft_on_port_read", 0xFFFFFFFF)
def _port_read(handle: Any, port: int, size: int) -> int:
    return ffi.from_handle(handle)._devices.port_read(port, size)  # type: ignore[no-any-return]


@_callback("ft_on_port_write")
def _port_write(handle: Any, port: int, size: int, value: int) -> None:
    ffi.from_handle(handle)._devices.port_write(port, size, value)


@_callback("ft_on_mmio_read", 0xFFFFFFFFFFFFFFFF)
def _mmio_read(handle: Any, gpa: int, size: int) -> int:
    return ffi.from_handle(handle)._devices.mmio_read(gpa, size)  # type: ignore[no-any-return]


@_callback("ft_on_mmio_write")
def _mmio_write(handle: Any, gpa: int, size: int, value: int) -> None:
    ffi.from_handle(handle)._devices.mmio_write(gpa, size, value)


@_callback("ft_on_msr_read", -1)
def _msr_read(handle: Any, index: int, value: Any) -> int:
    result = ffi.from_handle(handle)._devices.msr_read(index)
    if result is None:
        return -1
    value[0] = result
    return 0


@_callback("ft_on_msr_write", -1)
def _msr_write(handle: Any, index: int, value: int) -> int:
    return 0 if ffi.from_handle(handle)._devices.msr_write(index, value) else -1


@_callback("ft_on_cr8_read", 0)
def _cr8_read(handle: Any) -> int:
    return ffi.from_handle(handle)._devices.cr8_read()  # type: ignore[no-any-return]


@_callback("ft_on_cr8_write")
def _cr8_write(handle: Any, value: int) -> None:
    ffi.from_handle(handle)._devices.cr8_write(value)


@_callback("ft_on_interrupt_ack", -1)
def _interrupt_ack(handle: Any) -> int:
    return ffi.from_handle(handle)._devices.interrupt_ack()  # type: ignore[no-any-return]
