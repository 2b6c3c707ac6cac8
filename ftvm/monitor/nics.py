"""The NICs of a machine: from what users write to teams of open legs, and to what the guest sees of them."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from ftvm.errors import UsageError
from ftvm.module.board import MAX_NICS, NicConfig
from ftvm.monitor.eventlog import EventLog
from ftvm.monitor.image import VerifiedImage
from ftvm.monitor.legs import Legs
from ftvm.monitor.net import Net
from ftvm.monitor.poller import Poller
from ftvm.network.opening import Wires, open_team
from ftvm.network.pcap import PcapFile
from ftvm.network.spec import NicSpec, default_mac
from ftvm.network.team import Team


class Nics:
    """The NICs in their slots, with open legs; ``capture``: where to write what the guest sends and receives."""

    def __init__(self, specs: Sequence[NicSpec], capture: Path | None, log: EventLog) -> None:
        """Raises UsageError, HostError."""
        if len(specs) > MAX_NICS:
            raise UsageError(f"{len(specs)} NICs", f"there are {MAX_NICS} slots")
        if capture is not None and not specs:
            raise UsageError("a capture without a NIC", "give a --nic too")
        self._log = log
        self._open: list[tuple[str, NicConfig, NicSpec, Team, Legs]] = []
        self._capture: PcapFile | None = None
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            if capture is not None:
                self._capture = PcapFile(capture)
            wires = Wires(specs)
            for slot, spec in enumerate(specs):
                name, mac = f"nic{slot}", spec.mac or default_mac(slot)
                legs = Legs(name, log)
                team = open_team(spec, mac, wires, legs.on_event)
                self._open.append((name, NicConfig(mac, spec.mtu), spec, team, legs))
            undo.pop_all()
        for _, _, _, team, legs in self._open:
            legs.begin(team)

    @property
    def configs(self) -> tuple[NicConfig, ...]:
        """What the guest sees."""
        return tuple(config for _, config, _, _, _ in self._open)

    def plug_in(self, image: VerifiedImage, poller: Poller) -> list[Net]:
        """The I/O halves, one for each NIC."""
        return [
            Net(name, config, team, legs, image, poller, self._log, repeatable=spec.repeatable, capture=self._capture)
            for name, config, spec, team, legs in self._open
        ]

    def close(self) -> None:
        for _, _, _, team, _ in self._open:
            team.close()
        self._open = []
        if self._capture is not None:
            self._capture.close()
