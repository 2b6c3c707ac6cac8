"""What the user asked to happen when a text comes on the serial console: input to be typed, or the end of the run.

It is part of the module, so that both happen at the same position whatever the length of the epochs.
"""

from collections.abc import Callable

import msgspec


def _failures(text: bytes) -> list[int]:
    """For each number of matched bytes: how many still match when the next one does not (Knuth, Morris, Pratt)."""
    failures = [0, 0]
    for byte in text[1:]:
        matched = failures[-1]
        while matched and text[matched] != byte:
            matched = failures[matched]
        failures.append(matched + (text[matched] == byte))
    return failures


class Text:
    """A text to wait for in a stream of bytes. It is not empty."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._failures = _failures(text)

    def advance(self, matched: int, byte: int) -> int:
        """How much of the text matches after ``byte``, if ``matched`` bytes did before it."""
        while matched and self._text[matched] != byte:
            matched = self._failures[matched]
        return matched + (self._text[matched] == byte)

    def __len__(self) -> int:
        return len(self._text)


class ConsoleScriptState(msgspec.Struct):
    input_matched: int = 0
    input_offered: bool = False
    input_given: int = 0
    """Bytes of it that were taken."""
    stop_matched: int = 0
    stopped: bool = False


class ConsoleScript:
    """``offer`` is called when there is input to ``take``, once; ``stop`` when ``stop_on`` came, once.

    There is ``input`` when ``input_after`` came; without that, at once: the UART takes it when the guest is ready.
    None or an empty text: there is nothing to wait for.
    """

    def __init__(
        self,
        input: bytes,
        input_after: bytes | None,
        stop_on: bytes | None,
        offer: Callable[[], None],
        stop: Callable[[], None],
    ) -> None:
        self.state = ConsoleScriptState()
        self._input = input
        self._input_after = Text(input_after) if input and input_after else None
        self._stop_on = Text(stop_on) if stop_on else None
        self._offer = offer
        self._stop = stop
        if input and not input_after:
            self.state.input_offered = True

    def watch(self, byte: int) -> None:
        """The guest wrote ``byte`` to the serial console."""
        state = self.state
        if self._input_after is not None and not state.input_offered:
            state.input_matched = self._input_after.advance(state.input_matched, byte)
            if state.input_matched == len(self._input_after):
                self._offer_input()
        if self._stop_on is not None and not state.stopped:
            state.stop_matched = self._stop_on.advance(state.stop_matched, byte)
            if state.stop_matched == len(self._stop_on):
                state.stopped = True
                self._stop()

    def _offer_input(self) -> None:
        self.state.input_offered = True
        self._offer()

    def waits(self) -> bool:
        """Whether input was offered and not all of it taken."""
        return self.state.input_offered and 0 <= self.state.input_given < len(self._input)

    def take(self) -> int:
        """The next byte of the input. What was not taken is no part of the state, however much it is."""
        byte = self._input[self.state.input_given]
        self.state.input_given += 1
        return byte
