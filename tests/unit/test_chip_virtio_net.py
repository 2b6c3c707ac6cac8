"""The registers of a virtio NIC beyond those of any virtio device."""

import msgspec
import pytest

from ftvm.module.chips import virtio_pci as v
from ftvm.module.chips.virtio_net import (
    CSUM,
    GUEST_CSUM,
    GUEST_ECN,
    GUEST_TSO4,
    GUEST_TSO6,
    HOST_ECN,
    HOST_TSO4,
    HOST_TSO6,
    LINK_UP,
    MAC,
    MTU,
    STATUS,
    VirtioNet,
    VirtioNetState,
)
from ftvm.module.chips.virtio_pci import Wires

ADDRESS = bytes.fromhex("026674766d07")


def nic() -> VirtioNet:
    return VirtioNet(ADDRESS, 9000, Wires(lambda queue: None, lambda reason: None, lambda *message: None))


def test_its_configuration_is_address_link_queues_and_mtu() -> None:
    chip = nic()
    assert bytes(chip.read_bar(0, v.DEVICE + at, 1) for at in range(6)) == ADDRESS
    assert chip.read_bar(0, v.DEVICE + 6, 2) == LINK_UP
    assert chip.read_bar(0, v.DEVICE + 10, 2) == 9000
    assert chip.read_bar(0, v.DEVICE + 12, 4) == 0
    assert chip.features & (MAC | STATUS | MTU) == MAC | STATUS | MTU
    assert chip.features & v.VERSION_1


def test_a_change_of_the_link_is_a_change_of_the_configuration() -> None:
    chip = nic()
    chip.state.status = v.DRIVER_OK
    chip.set_link(False)
    assert chip.read_bar(0, v.DEVICE + 6, 2) == 0
    assert (chip.state.config_generation, chip.state.isr) == (1, v.ISR_CONFIG)
    chip.set_link(False)
    assert chip.state.config_generation == 1


def test_a_driver_that_is_not_ready_is_not_interrupted() -> None:
    chip = nic()
    chip.set_link(False)
    assert chip.state.isr == 0 and not chip.intx


def test_its_state_is_a_value_and_a_reset_leaves_the_link_as_it_is() -> None:
    chip = nic()
    chip.set_link(False)
    chip.write_bar(0, v.COMMON + v.DEVICE_STATUS, 1, 0)
    saved = msgspec.msgpack.encode(chip.state)
    assert msgspec.msgpack.decode(saved, type=VirtioNetState) == chip.state
    assert not chip.state.link_up


@pytest.mark.parametrize(
    ("features", "accepted"),
    [
        (CSUM | GUEST_CSUM, True),
        (GUEST_CSUM | GUEST_TSO6 | GUEST_ECN, True),
        (CSUM | HOST_TSO4 | HOST_ECN, True),
        (GUEST_TSO4, False),
        (GUEST_CSUM | GUEST_ECN, False),
        (HOST_TSO6, False),
        (CSUM | HOST_ECN, False),
    ],
)
def test_a_feature_goes_with_those_that_it_needs_only(features: int, accepted: bool) -> None:
    chip = nic()
    chip.state.driver_features = v.VERSION_1 | features
    chip.write_bar(0, v.COMMON + v.DEVICE_STATUS, 1, v.ACKNOWLEDGE | v.DRIVER | v.FEATURES_OK)
    assert bool(chip.state.status & v.FEATURES_OK) == accepted
