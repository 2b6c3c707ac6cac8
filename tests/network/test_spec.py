"""What users write for a NIC, and what they are told when it cannot be."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.errors import HostError, UsageError
from ftvm.network.opening import Wires, open_team
from ftvm.network.spec import LegSpec, NicSpec, default_mac, parse_nic
from ftvm.network.team import TeamMode


def test_legs_and_settings_come_in_any_order() -> None:
    assert parse_nic("mac=02:00:00:00:00:07,tap:blue/t0,mode=broadcast,stream:/run/a b=c,mtu=9000") == NicSpec(
        (LegSpec("tap", "blue/t0"), LegSpec("stream", "/run/a b=c")),
        bytes.fromhex("020000000007"),
        TeamMode.BROADCAST,
        9000,
    )
    assert parse_nic("loopback") == NicSpec((LegSpec("loopback"),))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "tap",
        "tap:",
        "loopback:",
        "stream",
        "vde:x",
        "mac=02:00:00:00:00:07",
        "loopback,mac=x",
        "loopback,mac=03:00:00:00:00:07",
        "loopback,mac=00:00:00:00:00:00",
        "loopback,mode=lacp",
        "loopback,mtu=67",
        "loopback,mtu=65536",
        "loopback,mtu=\u0661500",
        "loopback,mtu=1500,mtu=1500",
        "loopback,loopback,loopback,loopback,loopback",
        "stream:a\0b",
    ],
)
def test_what_cannot_be_is_refused_with_the_syntax(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_nic(text)
    assert error.value.hint


@given(st.text(max_size=40))
def test_any_text_is_a_nic_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_nic(text).legs


def test_only_loopbacks_can_be_repeated() -> None:
    assert parse_nic("loopback,loopback:w").repeatable
    assert not parse_nic("loopback,tap:t").repeatable


def test_a_wire_has_two_ends() -> None:
    Wires([parse_nic("loopback:a"), parse_nic("loopback:a,loopback")])
    with pytest.raises(UsageError, match="1 ends"):
        Wires([parse_nic("loopback:a"), parse_nic("loopback:b"), parse_nic("loopback:b")])


def test_a_nic_whose_only_peers_do_not_listen_is_the_hosts_fault(tmp_path: Path) -> None:
    spec = parse_nic(f"stream:{tmp_path}/a,stream:{tmp_path}/b")
    with pytest.raises(HostError, match="nobody listens"):
        open_team(spec, default_mac(0), Wires([spec]), lambda event: None)


def test_an_interface_name_that_cannot_be_is_refused() -> None:
    for name in ("a-name-of-16-byte", "x/y/z", "../x/t"):
        spec = parse_nic(f"tap:{name}")
        with pytest.raises((UsageError, HostError)):
            open_team(spec, default_mac(0), Wires([spec]), lambda event: None)
