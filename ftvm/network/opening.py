"""From what users write to NICs that work. All legs of a machine are opened here: a wire has two ends."""

from collections.abc import Callable, Sequence
from functools import partial

from ftvm.errors import HostError, UsageError
from ftvm.network.events import Event
from ftvm.network.leg import Leg
from ftvm.network.loopback import Loopback, Wire
from ftvm.network.spec import LegSpec, NicSpec
from ftvm.network.stream import StreamLeg
from ftvm.network.tap import TapLeg
from ftvm.network.team import Team, TeamMode


class Wires:
    """The wires of one machine, by name. Raises UsageError unless each has two ends."""

    def __init__(self, specs: Sequence[NicSpec]) -> None:
        ends = [leg.where for spec in specs for leg in spec.legs if leg.kind == "loopback" and leg.where]
        for name in ends:
            if ends.count(name) != 2:
                raise UsageError(
                    f"the wire loopback:{name} has {ends.count(name)} ends", "give its name to two legs of the machine"
                )
        self._wires = {name: Wire() for name in ends}

    def plug(self, name: str) -> Loopback:
        return self._wires[name].plug() if name else Loopback()


def open_team(spec: NicSpec, mac: bytes, wires: Wires, on_event: Callable[[Event], None]) -> Team:
    """Open the legs of one NIC. Raises HostError for a leg that cannot be had, and for a NIC that has stream legs only
    when no peer listens: somebody forgot to start it."""
    # Copies of a frame are recognised only if every leg cuts segments alike.
    offload = spec.mode is TeamMode.ACTIVE_BACKUP or len(spec.legs) == 1
    places = [(str(leg), partial(_open_leg, leg, offload, wires)) for leg in spec.legs]
    team = Team(mac, places, spec.mode, on_event)
    if all(leg.kind == "stream" for leg in spec.legs) and not team.link_up:
        team.close()
        paths = " and ".join(leg.where for leg in spec.legs)
        raise HostError(f"nobody listens at {paths}", f"start the peer first, as in: passt -s {spec.legs[0].where}")
    return team


def _open_leg(spec: LegSpec, offload: bool, wires: Wires) -> Leg:
    match spec.kind:
        case "tap":
            namespace, slash, name = spec.where.rpartition("/")
            return TapLeg(name, namespace=namespace if slash else None, offload=offload)
        case "stream":
            return StreamLeg(spec.where)
        case _:
            return wires.plug(spec.where)
