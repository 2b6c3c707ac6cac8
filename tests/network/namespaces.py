"""Network namespaces of the test's own, with what it takes to see that they are gone afterwards."""

import contextlib
import os
import subprocess
import uuid
from collections.abc import Iterator


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def inside(namespace: str, *command: str) -> list[str]:
    """The command line that runs ``command`` there."""
    return ["ip", "netns", "exec", namespace, *command]


@contextlib.contextmanager
def namespace() -> Iterator[str]:
    """A name; its loopback interface is up. Needs root, as the tests of TAP do."""
    assert os.geteuid() == 0 and os.path.exists("/dev/net/tun"), "these tests need root and /dev/net/tun"
    name = f"ftvm-{uuid.uuid4().hex[:8]}"
    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        ip("netns", "delete", name)
