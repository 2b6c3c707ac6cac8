"""kill -9 of modules under Linux, hundreds of times in one session: see kills.md.

python benchmarks/kills.py [--kills 200] [--double-kills 20] [--seed 1]      (needs: ftvm guests fetch debian-cloud)
"""

import argparse
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import session
from measure import report, spread, to_stderr

from ftvm.control.client import Client
from ftvm.errors import FtvmError, UnusableFile
from ftvm.guests import catalogue
from ftvm.guests.catalogue import Guest
from ftvm.machine import Machine
from ftvm.monitor.policing import Policy, Threshold

PATIENCE_S = 60.0
"""For a machine to be whole again."""

LONGEST_WAIT_S = 0.5
"""Between two kills, when the machine is whole: any time up to this, so that kills fall anywhere in an epoch."""


class Killer(threading.Thread):
    """Kills modules of a running machine: ``victims`` says how many at once, each time. Then it lets the guest end.

    ``whole_again_s`` has, for each time, how long it took until all modules were back in service.
    """

    def __init__(self, machine: Machine, name: str, victims: Sequence[int], seed: int) -> None:
        super().__init__()
        self._machine = machine
        self._name = name
        self._victims = victims
        self._dice = random.Random(seed)
        self.whole_again_s: list[float] = []

    def run(self) -> None:
        try:
            self._forgive()
            for count in self._victims:
                time.sleep(self._dice.random() * LONGEST_WAIT_S)
                modules = self._machine.modules
                restarts = sum(module.restarts for module in modules) + count
                began_s = time.monotonic()
                for module in self._dice.sample(modules, count):
                    os.kill(module.pid, signal.SIGKILL)
                self._until_whole(restarts)
                self.whole_again_s.append(round(time.monotonic() - began_s, 4))
                if len(self.whole_again_s) % 10 == 0:
                    to_stderr(f"{len(self.whole_again_s)}/{len(self._victims)}")
        finally:
            self._machine.send_console(session.STOP)

    def _forgive(self) -> None:
        """A module that dies so often would be left outside."""
        with Client(self._name) as client:
            for module in self._machine.modules:
                arguments = {"target": module.index, "policy": Policy.ALWAYS_RESTART}
                client.call("threshold", arguments, Threshold)

    def _until_whole(self, restarts: int) -> None:
        """All modules serve, after so many restarts of all of them together. Raises TimeoutError."""
        until_s = time.monotonic() + PATIENCE_S
        while True:
            modules = self._machine.modules
            if sum(module.restarts for module in modules) == restarts and all(m.state == "duplexed" for m in modules):
                return
            if time.monotonic() > until_s:
                raise TimeoutError(f"after {PATIENCE_S:.0f} s: {modules}")
            time.sleep(0.005)


def kill_in_session(guest: Guest, victims: Sequence[int], seed: int) -> dict[str, Any]:
    """One Linux session with a Killer in it: what went wrong in it, and how long things took."""
    name = f"kills-{os.getpid()}"
    shown = bytearray()

    def show(channel: str, data: bytes) -> None:
        shown.extend(data)
        if b"sum " in data and killer.ident is None:
            killer.start()

    machine = session.machine(guest, session.endless_work(), show, name=name)
    killer = Killer(machine, name, victims, seed)
    result = machine.run()
    killer.join()
    transcript = session.transcript(bytes(shown))
    return {
        "outcome": result.outcome,
        "kills": sum(victims[: len(killer.whole_again_s)]),
        "times": len(killer.whole_again_s),
        "restarts": sum(module.restarts for module in result.modules),
        "verdicts": dict(Counter(incident.verdict for incident in result.divergences)),
        "kinds": dict(Counter(incident.kind for incident in result.divergences)),
        "checksums": len(transcript.checksums),
        "wrong_checksums": transcript.wrong(),
        "log": transcript.log,
        "whole_again_s": spread(killer.whole_again_s),
        "longest_pause_ms": round(result.longest_pause_ms, 1),
        "wall_s": round(result.wall_s, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill modules under a Linux that computes checksums.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--double-kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    guest = catalogue.find(session.GUEST)
    if guest is None:
        raise UnusableFile(
            f"the guest {session.GUEST} is not here yet", f"get it with: ftvm guests fetch {session.GUEST}"
        )

    def measure() -> dict[str, Any]:
        _, console = session.undisturbed(guest, f"{session.work('[ $i -lt 10 ]')}; {session.last_words()}")
        expected_log = session.transcript(console).log
        results = {}
        for title, victims in (
            ("one_at_a_time", [1] * arguments.kills),
            ("both_at_once", [2] * arguments.double_kills),
        ):
            results[title] = kill_in_session(guest, victims, arguments.seed)
            log = results[title].pop("log")
            results[title]["new_in_log"] = [line for line in log if line not in expected_log]
        return results

    report("kills", vars(arguments), measure)


if __name__ == "__main__":
    try:
        main()
    except FtvmError as error:
        raise SystemExit(f"error: {error.message}\nhint: {error.hint}") from None
