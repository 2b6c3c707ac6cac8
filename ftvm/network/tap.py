"""A leg on a TAP interface of Linux, in this network namespace or in a named one.

Sources: Documentation/networking/tuntap.rst, include/uapi/linux/if_tun.h; rtnetlink(7) for the state of the link.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from ftvm.errors import HostError, UsageError
from ftvm.network.frame import MAX_FRAME_BYTES, OFFLOAD, PLAIN_BYTES, Frame, Offload
from ftvm.network.leg import LegFailed, Reason

DEVICE = "/dev/net/tun"
NAMESPACES = Path("/run/netns")
"""Where ip-netns(8) keeps its namespaces."""
NAME_BYTES = 15
"""IFNAMSIZ, without the NUL."""

_TUNSETIFF, _TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6 = 1, 2, 4
_IFREQ = struct.Struct("16sH22x")

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000

_RTMGRP_LINK = 1
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK, _NLM_F_REQUEST = 16, 17, 18, 1
_NLMSG = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_NETLINK_BYTES = 65536

_CLONE_NEWNET = 0x40000000

T = TypeVar("T")


class TapLeg:
    """The interface ``name``, made if it is not there; then it is also set up, and goes away with the leg.

    ``offload``: let it pass frames on whose checksums and segments are still to be done. Raises HostError, UsageError.
    """

    reflects = False

    def __init__(self, name: str, *, namespace: str | None, offload: bool) -> None:
        if not 0 < len(name.encode()) <= NAME_BYTES or "/" in name:
            raise UsageError(f"{name!r} is not the name of an interface", f"it has 1 to {NAME_BYTES} bytes")
        self.link_up = False
        self.dropped = 0
        self.where = name if namespace is None else f"{namespace}/{name}"
        self._buffer = bytearray(OFFLOAD.size + MAX_FRAME_BYTES)
        self._view = memoryview(self._buffer)
        opened = in_namespace(namespace, lambda: _open(name, offload))
        self._tap, self._netlink, self._index = opened
        self._epoll = select.epoll()
        self._epoll.register(self._tap, select.EPOLLIN)
        self._epoll.register(self._netlink, select.EPOLLIN)
        self._ask_for_link()
        self._follow_link()

    def fileno(self) -> int:
        return self._epoll.fileno()

    def deadline_s(self) -> float | None:
        return None

    def receive(self, limit: int) -> list[Frame]:
        if any(descriptor == self._netlink.fileno() for descriptor, _ in self._epoll.poll(0)):
            self._follow_link()
        frames: list[Frame] = []
        while len(frames) < limit:
            try:
                size = os.readv(self._tap, [self._buffer])
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EIO and frames:
                    break
                raise self._failed(error) from None
            if size > OFFLOAD.size:
                header = self._view[: OFFLOAD.size]
                offload = None if header == PLAIN_BYTES else Offload.of(bytes(header))
                frames.append(Frame(bytes(self._view[OFFLOAD.size : size]), offload))
        return frames

    def send(self, frames: Sequence[Frame]) -> None:
        for data, offload in frames:
            try:
                os.writev(self._tap, (PLAIN_BYTES if offload is None else offload.to_bytes(), data))
            except OSError as error:
                # EINVAL: what a guest says about a frame need not make sense. EIO: the interface is down.
                if error.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL, errno.EIO):
                    raise self._failed(error) from None
                self.dropped += 1

    def close(self) -> None:
        self._epoll.close()
        self._netlink.close()
        with contextlib.suppress(OSError):
            os.close(self._tap)

    def _failed(self, error: OSError) -> LegFailed:
        """The interface is gone; the descriptor is of no use any more, and would be ready for ever."""
        self.link_up = False
        for descriptor in (self._tap, self._netlink.fileno()):
            with contextlib.suppress(FileNotFoundError):
                self._epoll.unregister(descriptor)
        return LegFailed(Reason.GONE, f"{self.where}: {error.strerror}")

    def _ask_for_link(self) -> None:
        size = _NLMSG.size + _IFINFO.size
        request = _NLMSG.pack(size, _RTM_GETLINK, _NLM_F_REQUEST, 0, 0) + _IFINFO.pack(0, 0, self._index, 0, 0)
        self._netlink.sendto(request, (0, 0))  # the kernel answers before this returns

    def _follow_link(self) -> None:
        while True:
            try:
                data = self._netlink.recv(_NETLINK_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise self._failed(error) from None
                self._ask_for_link()  # news was lost
                continue
            while len(data) >= _NLMSG.size + _IFINFO.size:
                length, kind = _NLMSG.unpack_from(data)[:2]
                _, _, index, flags, _ = _IFINFO.unpack_from(data, _NLMSG.size)
                if index == self._index and kind == _RTM_NEWLINK:
                    self.link_up = bool(flags & _IFF_UP and flags & _IFF_LOWER_UP)
                elif index == self._index and kind == _RTM_DELLINK:
                    self.link_up = False
                data = data[max(_NLMSG.size, length + 3 & ~3) :]


def _open(name: str, offload: bool) -> tuple[int, socket.socket, int]:
    """(descriptor of the interface, netlink socket of its namespace, its index)."""
    with contextlib.ExitStack() as undo:
        try:
            tap = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            missing = error.errno in (errno.ENOENT, errno.ENODEV)
            hint = "as root: modprobe tun" if missing else "without root: a stream leg and passt(1)"
            raise HostError(f"{DEVICE}, which TAP needs, cannot be opened: {error.strerror}", hint) from None
        undo.callback(os.close, tap)
        there = name in (interface for _, interface in socket.if_nameindex())
        try:
            fcntl.ioctl(tap, _TUNSETIFF, _IFREQ.pack(name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
            fcntl.ioctl(tap, _TUNSETVNETHDRSZ, struct.pack("i", OFFLOAD.size))
            fcntl.ioctl(tap, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6 if offload else 0)
        except OSError as error:
            raise HostError(f"the TAP interface {name} cannot be used: {error.strerror}", _hint(name, error)) from None
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        undo.callback(netlink.close)
        try:
            netlink.bind((0, _RTMGRP_LINK))
            if not there:
                request = fcntl.ioctl(netlink, _SIOCGIFFLAGS, _IFREQ.pack(name.encode(), 0))
                flags = _IFREQ.unpack(request)[1] | _IFF_UP
                fcntl.ioctl(netlink, _SIOCSIFFLAGS, _IFREQ.pack(name.encode(), flags))
            index = socket.if_nametoindex(name)
        except OSError as error:
            raise HostError(f"the TAP interface {name} cannot be set up: {error.strerror}") from None
        undo.pop_all()
        return tap, netlink, index


def _hint(name: str, error: OSError) -> str:
    match error.errno:
        case errno.EBUSY:
            return "another program uses it"
        case errno.EINVAL:
            return "it is not a TAP interface, or one with several queues"
    return f"as root, once: ip tuntap add {name} mode tap user {os.getuid()}"


def in_namespace(namespace: str | None, action: Callable[[], T]) -> T:
    """Do ``action`` in a named network namespace. What it opens stays there; this process does not go there."""
    if namespace is None:
        return action()
    outcome: list[T | Exception] = []

    def visit() -> None:
        try:
            _enter(namespace)
            outcome.append(action())
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits for the thread
            outcome.append(error)

    thread = threading.Thread(target=visit, name="ftvm-netns")  # a namespace belongs to a thread
    thread.start()
    thread.join()
    (result,) = outcome
    if isinstance(result, Exception):
        raise result
    return result


def _enter(namespace: str) -> None:
    if namespace in ("", ".", "..") or "/" in namespace:
        raise UsageError(f"{namespace!r} is not the name of a network namespace", "see: ip netns list")
    try:
        with (NAMESPACES / namespace).open("rb") as place:
            if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), _CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
    except OSError as error:
        raise HostError(
            f"the network namespace {namespace} cannot be entered: {error.strerror}", "see: ip netns list"
        ) from None
