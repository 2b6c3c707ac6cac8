"""The ACPI and MP tables hold together: addresses, lengths, checksums, and an AML whose every term fits its package."""

import struct
from collections.abc import Iterator

import pytest

from ftvm import platform_ports as ports
from ftvm.boot import acpi, aml, mptable

BASE = 0xF8000
HEADER_BYTES = 36


class Tables:
    """The block as the guest finds it: from the RSDP on, by addresses."""

    def __init__(self) -> None:
        self._block = acpi.build(BASE)
        self.rsdp = self._block[:36]
        (xsdt,) = struct.unpack_from("<Q", self.rsdp, 24)
        entries = self.at(xsdt)[HEADER_BYTES:]
        self.by_signature = {
            table[:4]: table for (address,) in struct.iter_unpack("<Q", entries) for table in [self.at(address)]
        }

    def at(self, address: int) -> bytes:
        """The table at a physical address, as long as it says it is."""
        offset = address - BASE
        assert 0 <= offset < len(self._block)
        (length,) = struct.unpack_from("<I", self._block, offset + 4)
        assert offset + length <= len(self._block)
        return self._block[offset : offset + length]

    @property
    def fadt(self) -> bytes:
        return self.by_signature[b"FACP"]

    @property
    def dsdt(self) -> bytes:
        return self.at(*struct.unpack_from("<I", self.fadt, 40))


@pytest.fixture(scope="module")
def tables() -> Tables:
    return Tables()


def test_the_root_pointer_is_where_kernels_look_and_both_its_checksums_are_right(tables: Tables) -> None:
    assert BASE % 16 == 0 and 0xE0000 <= BASE < 0x100000
    signature, _, revision, _, length = struct.unpack_from("<8sB6xBII", tables.rsdp)
    assert (signature, revision, length) == (b"RSD PTR ", 2, 36)
    assert sum(tables.rsdp[:20]) % 256 == 0
    assert sum(tables.rsdp) % 256 == 0


def test_every_table_has_its_checksum_and_both_lists_name_the_same_tables(tables: Tables) -> None:
    rsdt_address, xsdt_address = struct.unpack_from("<I4xQ", tables.rsdp, 16)
    rsdt, xsdt = tables.at(rsdt_address), tables.at(xsdt_address)
    assert (rsdt[:4], xsdt[:4]) == (b"RSDT", b"XSDT")
    assert list(struct.iter_unpack("<I", rsdt[HEADER_BYTES:])) == list(struct.iter_unpack("<Q", xsdt[HEADER_BYTES:]))
    assert set(tables.by_signature) == {b"FACP", b"APIC"}
    for table in (rsdt, xsdt, tables.dsdt, *tables.by_signature.values()):
        assert sum(table) % 256 == 0


def test_the_fadt_names_the_registers_of_the_chips(tables: Tables) -> None:
    fadt = tables.fadt
    assert (len(fadt), fadt[8]) == (268, 5)
    assert struct.unpack_from("<HI", fadt, 46) == (ports.SCI_IRQ, ports.SMI_COMMAND)
    assert tuple(fadt[52:54]) == (ports.ACPI_ENABLE, ports.ACPI_DISABLE)
    for short, extended, length_at, port, length in (
        (56, 148, 88, ports.PM1A_EVENT, ports.PM1A_EVENT_BYTES),
        (64, 172, 89, ports.PM1A_CONTROL, ports.PM1A_CONTROL_BYTES),
        (76, 208, 91, ports.PM_TIMER, ports.PM_TIMER_BYTES),
        (80, 220, 92, ports.GPE0, ports.GPE0_BYTES),
    ):
        assert struct.unpack_from("<I", fadt, short) == (port,)
        assert fadt[length_at] == length
        space, width, offset, address = struct.unpack_from("<BBBxQ", fadt, extended)
        assert (space, width, offset, address) == (1, length * 8, 0, port)
    space, _, _, address, value = struct.unpack_from("<BBBxQB", fadt, 116)
    assert (space, address, value) == (1, ports.RESET_CONTROL, ports.RESET_VALUE)


def test_the_fadt_says_what_kind_of_pc_this_is(tables: Tables) -> None:
    (boot_architecture,) = struct.unpack_from("<H", tables.fadt, 109)
    assert boot_architecture == 0b11  # legacy devices, 8042; VGA and CMOS clock are not absent
    (flags,) = struct.unpack_from("<I", tables.fadt, 112)
    assert flags & 1 << 0 and flags & 1 << 2 and flags & 1 << 10  # WBINVD, C1, reset register
    assert bool(flags & 1 << 8) == (ports.PM_TIMER_BITS == 32)
    assert not flags & 1 << 20  # hardware-reduced
    facs = tables.at(*struct.unpack_from("<I", tables.fadt, 36))
    assert (facs[:4], len(facs)) == (b"FACS", 64)
    assert struct.unpack_from("<I", tables.fadt, 36)[0] % 64 == 0


def test_the_madt_lists_one_cpu_one_io_apic_and_the_exceptions(tables: Tables) -> None:
    madt = tables.by_signature[b"APIC"]
    assert struct.unpack_from("<II", madt, 36) == (0xFEE00000, 1)
    entries, position = [], 44
    while position < len(madt):
        kind, length = madt[position : position + 2]
        entries.append((kind, madt[position + 2 : position + length]))
        position += length
    assert position == len(madt)
    assert entries == [
        (0, struct.pack("<BBI", 0, ports.LOCAL_APIC_ID, 1)),
        (1, struct.pack("<BxII", ports.IO_APIC_ID, 0xFEC00000, 0)),
        (2, struct.pack("<BBIH", 0, ports.TIMER_IRQ, ports.TIMER_GSI, 0)),
        (2, struct.pack("<BBIH", 0, ports.SCI_IRQ, ports.SCI_IRQ, 0b1101)),
        (4, struct.pack("<BHB", 0xFF, 0, 1)),
    ]


# ---- AML: read back with a parser that knows the terms we use and nothing else ----


def package_length(code: bytes, position: int) -> tuple[int, int]:
    """(position behind PkgLength, end of the package)."""
    extra = code[position] >> 6
    length = code[position] & (0x3F if extra == 0 else 0x0F)
    for index in range(extra):
        length |= code[position + 1 + index] << 4 + 8 * index
    return position + 1 + extra, position + length


def name_string(code: bytes, position: int) -> tuple[str, int]:
    prefix = ""
    if code[position] == ord("\\"):
        prefix, position = "\\", position + 1
    count = 1
    if code[position] == 0x2E:
        count, position = 2, position + 1
    elif code[position] == 0x2F:
        count, position = code[position + 1], position + 2
    names = [code[position + 4 * index : position + 4 * index + 4].decode("ascii") for index in range(count)]
    assert all(name.isascii() and name.replace("_", "A").isalnum() for name in names)
    return prefix + ".".join(names), position + 4 * count


def value(code: bytes, position: int) -> tuple[object, int]:
    opcode = code[position]
    if opcode in (0, 1):
        return opcode, position + 1
    if opcode in (0x0A, 0x0B, 0x0C):
        size = 1 << opcode - 0x0A
        return int.from_bytes(code[position + 1 : position + 1 + size], "little"), position + 1 + size
    if opcode == 0x0D:
        end = code.index(0, position)
        return code[position + 1 : end].decode("ascii"), end + 1
    if opcode == 0x11:
        start, end = package_length(code, position + 1)
        length, start = value(code, start)
        assert length == end - start
        return code[start:end], end
    if opcode == 0x12:
        start, end = package_length(code, position + 1)
        count, position = code[start], start + 1
        elements = []
        for _ in range(count):
            element, position = value(code, position)
            elements.append(element)
        assert position == end
        return elements, end
    if opcode == 0x68:
        return "Arg0", position + 1
    return name_string(code, position)


def terms(code: bytes, position: int, end: int) -> Iterator[tuple[str, object]]:
    """The terms of a block, by name; blocks hold dictionaries of theirs."""
    while position < end:
        opcode = code[position]
        if opcode == 0x08:
            name, position = name_string(code, position + 1)
            content, position = value(code, position)
            yield name, content
        elif opcode in (0x10, 0x14) or code[position : position + 2] == b"\x5b\x82":
            start, block_end = package_length(code, position + (2 if opcode == 0x5B else 1))
            name, start = name_string(code, start)
            if opcode == 0x14:
                start += 1  # the number of arguments
            yield name, dict(terms(code, start, block_end))
            position = block_end
        elif opcode == 0x70:
            source, position = value(code, position + 1)
            target, position = name_string(code, position)
            yield f"store {target}", source
        elif opcode == 0xA0:
            start, block_end = package_length(code, position + 1)
            condition, start = value(code, start)
            yield f"if {condition}", dict(terms(code, start, block_end))
            position = block_end
        elif opcode == 0xA4:
            content, position = value(code, position + 1)
            yield "return", content
        else:
            raise AssertionError(f"unknown opcode {opcode:#x}")
    assert position == end


def eisa(identifier: object) -> str:
    assert isinstance(identifier, int)
    raw = int.from_bytes(identifier.to_bytes(4, "little"), "big")
    letters = "".join(chr(0x40 + (raw >> shift & 0x1F)) for shift in (26, 21, 16))
    return f"{letters}{raw & 0xFFFF:04X}"


@pytest.fixture(scope="module")
def namespace(tables: Tables) -> dict[str, object]:
    return dict(terms(tables.dsdt, HEADER_BYTES, len(tables.dsdt)))


def devices(namespace: dict[str, object]) -> dict[str, dict[str, object]]:
    scope = namespace["\\_SB_"]
    assert isinstance(scope, dict)
    return scope


def test_soft_off_is_the_sleep_type_that_the_chip_knows(namespace: dict[str, object]) -> None:
    sleep_type = ports.S5_SLEEP_TYPE
    assert namespace["\\_S5_"] == [sleep_type, sleep_type, 0, 0]


def test_devices_that_cannot_be_probed_are_listed(namespace: dict[str, object]) -> None:
    found = devices(namespace)
    assert found["CPU0"]["_HID"] == "ACPI0007"
    identifiers = {eisa(content["_HID"]) for name, content in found.items() if name != "CPU0"}
    assert identifiers == {"PNP0A03", "PNP0B00", "PNP0303", "PNP0501", "PNP0C02"}
    com1 = bytes([0x47, 1, 0xF8, 3, 0xF8, 3, 1, 8, 0x22, 1 << ports.COM1_IRQ, 0, 0x79, 0])
    assert found["COM1"]["_CRS"] == com1


def test_pci_pins_are_routed_as_the_board_wires_them(namespace: dict[str, object]) -> None:
    bridge = devices(namespace)["PCI0"]
    for name, interrupts in (("PICR", ports.PIRQ_ISA_IRQ), ("APCR", ports.PIRQ_GSI)):
        assert bridge[name] == [
            [slot << 16 | 0xFFFF, pin, 0, interrupts[(slot + pin) % 4]] for slot in range(32) for pin in range(4)
        ]
    # _PIC tells which controllers the kernel uses, and _PRT answers for those.
    assert namespace["\\_PIC"] == {"store \\PICF": "Arg0"}
    assert bridge["_PRT"] == {"if \\PICF": {"return": "APCR"}, "return": "PICR"}


def test_the_host_bridge_passes_on_the_pci_window(namespace: dict[str, object]) -> None:
    resources = devices(namespace)["PCI0"]["_CRS"]
    assert isinstance(resources, bytes)
    assert resources.endswith(b"\x79\x00")
    windows, position = [], 0
    while resources[position] != 0x79:
        large = resources[position] & 0x80
        length = (
            3 + int.from_bytes(resources[position + 1 : position + 3], "little")
            if large
            else 1 + (resources[position] & 7)
        )
        descriptor = resources[position : position + length]
        if large:
            layout = "<HHHHH" if descriptor[0] == 0x88 else "<IIIII"
            granularity, first, last, translation, count = struct.unpack_from(layout, descriptor, 6)
            assert (granularity, translation, count) == (0, 0, last - first + 1)
            windows.append((descriptor[3], first, last))
        position += length
    assert windows == [
        (2, 0, 0),
        (1, 0, 0xCF7),
        (1, 0xD00, 0xFFFF),
        (0, 0xA0000, 0xBFFFF),
        (0, 0xE0000000, 0xFEBFFFFF),
    ]


@pytest.mark.parametrize("size", [0, 1, 60, 61, 62, 63, 64, 4091, 4092, 4093, 4094, 70000, 1 << 20])
def test_package_lengths_count_themselves(size: int) -> None:
    code = aml.scope("\\", b"\x00" * size)
    start, end = package_length(code, 1)
    assert end == len(code)
    assert end - start == size + 2  # the name is a root prefix and a null


@pytest.mark.parametrize("number", [0, 1, 2, 255, 256, 65535, 65536, 0xFFFFFFFF])
def test_integers_read_back(number: int) -> None:
    code = aml.integer(number)
    assert value(code, 0) == (number, len(code))


@pytest.mark.parametrize("text", ["_CRS", "\\_SB_.PCI0", "\\_SB_.PCI0._PRT", "A"])
def test_names_read_back(text: str) -> None:
    code = aml.path(text)
    assert name_string(code, 0) == (text.ljust(4, "_"), len(code))


# ---- MP tables ----


def test_the_mp_table_agrees_with_acpi() -> None:
    block = mptable.build(BASE)
    assert block[:4] == b"_MP_"
    (address,) = struct.unpack_from("<I", block, 4)
    assert address == BASE + 16
    assert sum(block[:16]) % 256 == 0
    table = block[16:]
    length, count, lapic = struct.unpack_from("<4xH28xHI", table)
    assert table[:4] == b"PCMP"
    assert length == len(table)
    assert sum(table) % 256 == 0
    assert lapic == 0xFEE00000

    entries, position = [], 44
    while position < length:
        size = 20 if table[position] == 0 else 8
        entries.append(table[position : position + size])
        position += size
    assert len(entries) == count
    assert [entry[0] for entry in entries] == sorted(entry[0] for entry in entries)
    assert [entry[1] for entry in entries if entry[0] == 0] == [ports.LOCAL_APIC_ID]
    assert [(entry[1], entry[4:]) for entry in entries if entry[0] == 2] == [
        (ports.IO_APIC_ID, struct.pack("<I", 0xFEC00000))
    ]
    wires = {(entry[4], entry[5]): (entry[6], entry[7]) for entry in entries if entry[0] == 3}
    assert wires[1, ports.TIMER_IRQ] == (ports.IO_APIC_ID, ports.TIMER_GSI)
    assert wires[1, ports.COM1_IRQ] == (ports.IO_APIC_ID, ports.COM1_IRQ)
    for slot in range(32):
        for pin in range(4):
            assert wires[0, slot << 2 | pin] == (ports.IO_APIC_ID, ports.PIRQ_GSI[(slot + pin) % 4])
