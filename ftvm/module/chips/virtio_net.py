"""A virtio NIC: its features and its configuration. Source: Virtual I/O Device (VIRTIO) 1.2, 5.1.

Frames go to and come from ftvm/monitor/net.py, which does in software whatever a driver leaves to its NIC and a leg
cannot do: what is offered here does not depend on the legs.
"""

import struct

import msgspec

from ftvm.module.chips.virtio_pci import VirtioPci, VirtioState, Wires

DEVICE_TYPE = 1
CLASS_CODE = 0x020000  # network, Ethernet
QUEUE_SIZE = 256
RECEIVE, TRANSMIT = 0, 1
"""The queues."""

# Feature bits (5.1.3)
CSUM = 1 << 0
GUEST_CSUM = 1 << 1
MTU = 1 << 3
MAC = 1 << 5
GUEST_TSO4 = 1 << 7
GUEST_TSO6 = 1 << 8
GUEST_ECN = 1 << 9
HOST_TSO4 = 1 << 11
HOST_TSO6 = 1 << 12
HOST_ECN = 1 << 13
MERGEABLE_BUFFERS = 1 << 15
STATUS = 1 << 16
_FEATURES = (
    CSUM
    | GUEST_CSUM
    | MTU
    | MAC
    | GUEST_TSO4
    | GUEST_TSO6
    | GUEST_ECN
    | HOST_TSO4
    | HOST_TSO6
    | HOST_ECN
    | MERGEABLE_BUFFERS
    | STATUS
)

_NEEDS = (
    (GUEST_TSO4 | GUEST_TSO6, GUEST_CSUM),
    (GUEST_ECN, GUEST_TSO4 | GUEST_TSO6),
    (HOST_TSO4 | HOST_TSO6, CSUM),
    (HOST_ECN, HOST_TSO4 | HOST_TSO6),
)
"""Who accepts one of the first must accept one of the second (5.1.3.1)."""

LINK_UP = 1
_CONFIG = struct.Struct("<6sHHH")  # MAC, status, pairs of queues (no MQ), MTU


class VirtioNetState(VirtioState):
    link_up: bool = True


class VirtioNet(VirtioPci):
    """A NIC with the address ``mac``, which the guest may use for packets of up to ``mtu`` bytes."""

    state: VirtioNetState

    def __init__(self, mac: bytes, mtu: int, wires: Wires) -> None:
        super().__init__(DEVICE_TYPE, CLASS_CODE, _FEATURES, (QUEUE_SIZE, QUEUE_SIZE), wires)
        self.state = VirtioNetState(**msgspec.structs.asdict(self.state))
        self._mac = mac
        self._mtu = mtu

    def set_link(self, up: bool) -> None:
        """The cable was pulled, or put back."""
        if up != self.state.link_up:
            self.state.link_up = up
            self.config_changed()

    def goes_together(self, features: int) -> bool:
        return all(features & needed or not features & some for some, needed in _NEEDS)

    def read_config(self, offset: int, size: int) -> int:
        config = _CONFIG.pack(self._mac, LINK_UP if self.state.link_up else 0, 1, self._mtu)
        return int.from_bytes(config[offset : offset + size], "little")
