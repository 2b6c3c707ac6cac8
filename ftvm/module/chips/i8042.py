"""The 8042 keyboard controller with an MF-II keyboard; nothing is plugged into the mouse port.

Sources: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller" and
"Keyboards (101- and 102-Key)".
"""

from collections.abc import Callable

import msgspec

from ftvm.module.chips.chip import IrqLine

DATA = 0  # port 60
COMMAND = 4  # port 64: status when read

STATUS_OUTPUT_FULL = 0x01
STATUS_SYSTEM = 0x04
STATUS_COMMAND = 0x08  # the last byte written went to port 64
STATUS_UNLOCKED = 0x10
STATUS_MOUSE_DATA = 0x20
STATUS_TIMEOUT = 0x40

MODE_KEYBOARD_INTERRUPT = 0x01
MODE_MOUSE_INTERRUPT = 0x02
MODE_SYSTEM = 0x04
MODE_KEYBOARD_OFF = 0x10
MODE_MOUSE_OFF = 0x20
MODE_TRANSLATE = 0x40

READ_RAM = 0x20  # ..3F
WRITE_RAM = 0x60  # ..7F
PASSWORD_TEST = 0xA4
MOUSE_DISABLE = 0xA7
MOUSE_ENABLE = 0xA8
MOUSE_PORT_TEST = 0xA9
SELF_TEST = 0xAA
KEYBOARD_PORT_TEST = 0xAB
KEYBOARD_DISABLE = 0xAD
KEYBOARD_ENABLE = 0xAE
READ_INPUT_PORT = 0xC0
READ_OUTPUT_PORT = 0xD0
WRITE_OUTPUT_PORT = 0xD1
WRITE_KEYBOARD_OUTPUT = 0xD2
WRITE_MOUSE_OUTPUT = 0xD3
WRITE_MOUSE = 0xD4
A20_OFF = 0xDD
A20_ON = 0xDF
READ_TEST_INPUTS = 0xE0
PULSE = 0xF0  # ..FF: a zero in bits 0..3 pulses that bit of the output port

OUTPUT_NOT_RESET = 0x01
OUTPUT_A20 = 0x02
OUTPUT_KEYBOARD_FULL = 0x10
OUTPUT_MOUSE_FULL = 0x20

KEYBOARD_LEDS = 0xED
KEYBOARD_ECHO = 0xEE
KEYBOARD_SCAN_SET = 0xF0
KEYBOARD_IDENTIFY = 0xF2
KEYBOARD_TYPEMATIC = 0xF3
KEYBOARD_SCAN_ON = 0xF4
KEYBOARD_SCAN_OFF = 0xF5
KEYBOARD_DEFAULTS = 0xF6
KEYBOARD_RESEND = 0xFE
KEYBOARD_RESET = 0xFF

MAX_KEYS = 16384
"""Codes that wait for the guest: a page of text that was pasted. The real keyboard keeps 16 bytes."""
MAX_REPLIES = 16
"""That a guest has not read; a real controller keeps fewer."""

ACK = 0xFA
RESEND = 0xFE
SELF_TEST_PASSED = 0xAA
IDENTITY = (0xAB, 0x83)

_WITH_ARGUMENT = (WRITE_OUTPUT_PORT, WRITE_KEYBOARD_OUTPUT, WRITE_MOUSE_OUTPUT, WRITE_MOUSE)
_BREAK = 0xF0  # prefix of a released key in scan code set 2
_PREFIXES = (0xE0, 0xE1)

# fmt: off
_SET_2_TO_1 = bytes((
    0xFF, 0x43, 0x41, 0x3F, 0x3D, 0x3B, 0x3C, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3E, 0x0F, 0x29, 0x59,
    0x65, 0x38, 0x2A, 0x70, 0x1D, 0x10, 0x02, 0x5A, 0x66, 0x71, 0x2C, 0x1F, 0x1E, 0x11, 0x03, 0x5B,
    0x67, 0x2E, 0x2D, 0x20, 0x12, 0x05, 0x04, 0x5C, 0x68, 0x39, 0x2F, 0x21, 0x14, 0x13, 0x06, 0x5D,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5E, 0x6A, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5F,
    0x6B, 0x33, 0x25, 0x17, 0x18, 0x0B, 0x0A, 0x60, 0x6C, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0C, 0x61,
    0x6D, 0x73, 0x28, 0x74, 0x1A, 0x0D, 0x62, 0x6E, 0x3A, 0x36, 0x1C, 0x1B, 0x75, 0x2B, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7A, 0x0E, 0x7B, 0x7C, 0x4F, 0x7D, 0x4B, 0x47, 0x7E, 0x7F, 0x6F,
    0x52, 0x53, 0x50, 0x4C, 0x4D, 0x48, 0x01, 0x45, 0x57, 0x4E, 0x51, 0x4A, 0x37, 0x49, 0x46, 0x54,
    0x80, 0x81, 0x82, 0x41, 0x54, *range(0x85, 0x100),
))
# fmt: on
"""What the controller's translation makes of a byte of the keyboard, which speaks set 2."""

_SET_1_TO_2 = {code: key for key, code in enumerate(_SET_2_TO_1[:0x85]) if code < 0x80}
"""Two codes of set 1 have two keys each; the later, 83 (F7) and 84 (system request), are the ones that exist."""


class I8042State(msgspec.Struct):
    ram: bytearray = msgspec.field(
        default_factory=lambda: bytearray((MODE_TRANSLATE | MODE_MOUSE_OFF | MODE_SYSTEM, *31 * [0]))
    )
    """The controller's memory; byte 0 is the command byte (MODE_)."""
    command: int = 0
    """The controller command that waits for its argument on port 60, or 0."""
    command_written: bool = False
    a20: bool = True
    output: int = 0
    output_status: int = 0
    """STATUS_ bits of what is in the output buffer; 0 when it is empty."""
    replies: list[tuple[int, int]] = msgspec.field(default_factory=list)
    """What the controller itself has to say, with STATUS_ bits."""
    keyboard_command: int = 0
    """The keyboard command that waits for its argument, or 0."""
    keyboard_replies: list[int] = msgspec.field(default_factory=list)
    keys: list[int] = msgspec.field(default_factory=list)
    """Codes of keys as the keyboard sends them."""
    last_sent: int = 0
    scanning: bool = True
    scan_set: int = 2
    break_seen: bool = False
    """The translation has swallowed a break prefix."""
    keyboard_interrupt: bool = False
    mouse_interrupt: bool = False


class I8042:
    """``reset`` is the CPU's reset line, pulsed."""

    def __init__(self, keyboard_irq: IrqLine, mouse_irq: IrqLine, reset: Callable[[], None]) -> None:
        self.state = I8042State()
        self._keyboard_irq = keyboard_irq
        self._mouse_irq = mouse_irq
        self._reset = reset

    def press(self, scancodes: bytes) -> None:
        """Keys go down and up, in codes of set 1 as a PC's software sees them; all of them, or none when the keyboard
        is full."""
        state = self.state
        if not state.scanning or len(state.keys) + 2 * len(scancodes) > MAX_KEYS:
            return
        for code in scancodes:
            if state.scan_set == 1 or code in _PREFIXES:
                state.keys.append(code)
            elif (key := _SET_1_TO_2.get(code & 0x7F)) is not None:
                state.keys += [_BREAK, key] if code & 0x80 else [key]
        self._fill_output()

    def read(self, offset: int, size: int) -> int:
        state = self.state
        if offset == COMMAND:
            return (
                state.output_status
                | STATUS_UNLOCKED
                | (STATUS_SYSTEM if self._mode & MODE_SYSTEM else 0)
                | (STATUS_COMMAND if state.command_written else 0)
            )
        if state.output_status:
            state.output_status = 0
            self._update()
            value = state.output
            self._fill_output()
            return value
        return state.output

    def write(self, offset: int, size: int, value: int) -> None:
        state = self.state
        state.command_written = offset == COMMAND
        if offset == COMMAND:
            state.command = 0
            self._execute(value)
        elif state.command:
            command, state.command = state.command, 0
            self._finish(command, value)
        else:
            self._mode &= ~MODE_KEYBOARD_OFF
            self._write_keyboard(value)
        self._fill_output()

    # ---- controller ----

    @property
    def _mode(self) -> int:
        return self.state.ram[0]

    @_mode.setter
    def _mode(self, value: int) -> None:
        self.state.ram[0] = value

    def _execute(self, command: int) -> None:
        """A command without argument, or the first half of one that has an argument."""
        state = self.state
        if READ_RAM <= command < READ_RAM + len(state.ram):
            self._reply(state.ram[command - READ_RAM])
        elif WRITE_RAM <= command < WRITE_RAM + len(state.ram) or command in _WITH_ARGUMENT:
            state.command = command
        elif command == PASSWORD_TEST:
            self._reply(0xF1)  # none installed
        elif command == MOUSE_DISABLE:
            self._mode |= MODE_MOUSE_OFF
        elif command == MOUSE_ENABLE:
            self._mode &= ~MODE_MOUSE_OFF
        elif command in (MOUSE_PORT_TEST, KEYBOARD_PORT_TEST):
            self._reply(0x00)
        elif command == SELF_TEST:
            self._mode |= MODE_SYSTEM
            self._reply(0x55)
        elif command == KEYBOARD_DISABLE:
            self._mode |= MODE_KEYBOARD_OFF
        elif command == KEYBOARD_ENABLE:
            self._mode &= ~MODE_KEYBOARD_OFF
        elif command == READ_INPUT_PORT:
            self._reply(0x80)  # the keyboard lock is open
        elif command == READ_OUTPUT_PORT:
            self._reply(self._output_port())
        elif command in (A20_OFF, A20_ON):
            state.a20 = command == A20_ON
        elif command == READ_TEST_INPUTS:
            self._reply(0x00)
        elif command >= PULSE and not command & OUTPUT_NOT_RESET:
            self._reset()

    def _finish(self, command: int, value: int) -> None:
        if command == WRITE_OUTPUT_PORT:
            self.state.a20 = bool(value & OUTPUT_A20)
            if not value & OUTPUT_NOT_RESET:
                self._reset()
        elif command == WRITE_KEYBOARD_OUTPUT:
            self._reply(value)
        elif command == WRITE_MOUSE_OUTPUT:
            self._reply(value, STATUS_MOUSE_DATA)
        elif command == WRITE_MOUSE:
            self._reply(RESEND, STATUS_MOUSE_DATA | STATUS_TIMEOUT)  # nobody answers
        else:
            self.state.ram[command - WRITE_RAM] = value

    def _output_port(self) -> int:
        state = self.state
        value = 0xC0 | OUTPUT_NOT_RESET  # the keyboard's clock and data lines are high
        if state.a20:
            value |= OUTPUT_A20
        if state.output_status:
            value |= OUTPUT_MOUSE_FULL if state.output_status & STATUS_MOUSE_DATA else OUTPUT_KEYBOARD_FULL
        return value

    def _reply(self, value: int, status: int = 0) -> None:
        self.state.replies.append((value, status | STATUS_OUTPUT_FULL))
        del self.state.replies[MAX_REPLIES:]

    def _fill_output(self) -> None:
        """Put the next byte into the output buffer, if that is empty, and raise the interrupt that is due."""
        state = self.state
        del state.keyboard_replies[MAX_REPLIES:]
        if not state.output_status:
            if state.replies:
                state.output, state.output_status = state.replies.pop(0)
            elif not self._mode & MODE_KEYBOARD_OFF:
                while not state.output_status and (state.keyboard_replies or state.keys):
                    self._take_from_keyboard((state.keyboard_replies or state.keys).pop(0))
        self._update()

    def _take_from_keyboard(self, byte: int) -> None:
        state = self.state
        state.last_sent = byte
        if self._mode & MODE_TRANSLATE:
            if byte == _BREAK:
                state.break_seen = True
                return
            byte = _SET_2_TO_1[byte] | (0x80 if state.break_seen else 0)
        state.break_seen = False
        state.output, state.output_status = byte, STATUS_OUTPUT_FULL

    def _update(self) -> None:
        state = self.state
        mouse = bool(state.output_status & STATUS_MOUSE_DATA)
        keyboard_interrupt = bool(state.output_status and not mouse and self._mode & MODE_KEYBOARD_INTERRUPT)
        mouse_interrupt = bool(mouse and self._mode & MODE_MOUSE_INTERRUPT)
        if keyboard_interrupt != state.keyboard_interrupt:
            state.keyboard_interrupt = keyboard_interrupt
            self._keyboard_irq(keyboard_interrupt)
        if mouse_interrupt != state.mouse_interrupt:
            state.mouse_interrupt = mouse_interrupt
            self._mouse_irq(mouse_interrupt)

    # ---- keyboard ----

    def _write_keyboard(self, value: int) -> None:
        state = self.state
        command, state.keyboard_command = state.keyboard_command, 0
        if command and value < KEYBOARD_LEDS:
            self._keyboard_argument(command, value)
        elif value in (KEYBOARD_LEDS, KEYBOARD_TYPEMATIC, KEYBOARD_SCAN_SET):
            state.keyboard_command = value
            state.keyboard_replies.append(ACK)
        elif value == KEYBOARD_ECHO:
            state.keyboard_replies.append(KEYBOARD_ECHO)
        elif value == KEYBOARD_IDENTIFY:
            state.keyboard_replies += (ACK, *IDENTITY)
        elif value == KEYBOARD_RESEND:
            state.keyboard_replies.append(state.last_sent)
        elif value in (KEYBOARD_SCAN_ON, KEYBOARD_SCAN_OFF, KEYBOARD_DEFAULTS, KEYBOARD_RESET):
            state.keys.clear()
            if value != KEYBOARD_SCAN_ON:
                state.scan_set = 2
            if value != KEYBOARD_DEFAULTS:
                state.scanning = value != KEYBOARD_SCAN_OFF
            state.keyboard_replies += (ACK, SELF_TEST_PASSED) if value == KEYBOARD_RESET else (ACK,)
        else:
            state.keyboard_replies.append(RESEND)

    def _keyboard_argument(self, command: int, value: int) -> None:
        state = self.state
        if command != KEYBOARD_SCAN_SET:
            state.keyboard_replies.append(ACK)
        elif value == 0:
            state.keyboard_replies += (ACK, state.scan_set)
        elif value in (1, 2):
            state.scan_set = value
            state.keyboard_replies.append(ACK)
        else:
            state.keyboard_replies.append(RESEND)  # there is no set 3
