"""An unmodified Linux with a disk and somebody at its console is repeated without either; back and forth in it."""

import random
from collections.abc import Callable
from pathlib import Path

from ftvm.debug.replay import replay
from ftvm.debug.session import Session
from ftvm.guests.catalogue import Guest
from ftvm.machine import Machine, MachineConfig
from ftvm.monitor.bays import DiskFiles
from ftvm.monitor.recording import load
from ftvm.units import MIB

TYPED = (
    "md5sum /dev/vda\n",
    "yes disk | head -c 300000 > /dev/vda; sync; echo written-$?\n",
    "md5sum /dev/vda; cat /proc/uptime\n",
)
ANSWERS = ("/dev/vda", "written-0", "/dev/vda")


def test_a_linux_that_was_recorded_with_a_disk_and_keys_is_the_same_again(
    fetched: Callable[[str], Guest], tmp_path: Path
) -> None:
    guest = fetched("debian-cloud")
    (tmp_path / "disk").write_bytes(random.Random(1).randbytes(2 * MIB))
    shown = bytearray()
    config = MachineConfig(
        image=guest.path,
        initrd=guest.initrd,
        append=guest.append,
        memory_bytes=128 * MIB,
        disks=(DiskFiles((tmp_path / "disk",)),),
        interactive=True,
        real_time=True,
        record=tmp_path / "run",
        timeout_s=600,
    )
    with Machine(config, lambda channel, data: shown.extend(data)) as machine:
        assert guest.ready is not None and machine.run_until(text=guest.ready) is None
        for line, answer in zip(TYPED, ANSWERS, strict=True):
            machine.send_console(line.encode())
            assert machine.run_until(text=answer) is None
            assert machine.run_until(text=guest.ready) is None
        end, digest, console = machine.position, machine.digest, bytes(shown)
    (tmp_path / "disk").unlink()

    recording = load(tmp_path / "run")
    assert sum(b"device" in entry.inputs for entry in recording.inputs) > 10, "what the disk gave is in the recording"
    again = bytearray()
    with Machine(
        MachineConfig.replay(recording, modules=1, epoch_blocks=777_777), lambda channel, data: again.extend(data)
    ) as machine:
        result = replay(machine, recording)
    assert (result.blocks, result.state_digest, bytes(again)) == (end, digest, console)
    assert result.compared > 1

    with Machine(MachineConfig.replay(recording)) as machine:
        session = Session(machine)
        assert session.run(text="written-0") is None
        place, middle = session.position, machine.digest
        session.back_blocks(100_000)
        session.step_instructions(30)
        session.back_instructions(7)
        session.goto(place)
        assert machine.digest == middle
        session.goto_present()
        assert (machine.position, machine.console[-100:]) == (end, console[-100:])
