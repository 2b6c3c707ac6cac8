"""Where the platform's registers and interrupts are. The chips implement them, the ACPI tables describe them.

The machine is a PC of the i440FX/PIIX kind: ISA devices at their traditional ports, an I/O APIC, ACPI power management.
"""

# --- ACPI fixed hardware (ACPI 6.4, 4.8), in system I/O space ---
PM1A_EVENT = 0x600
PM1A_EVENT_BYTES = 4  # status, then enable
PM1A_CONTROL = 0x604
PM1A_CONTROL_BYTES = 2
PM_TIMER = 0x608
PM_TIMER_BYTES = 4
PM_TIMER_BITS = 24  # FADT flag TMR_VAL_EXT is clear
PM_TIMER_HZ = 3_579_545
GPE0 = 0x60C
GPE0_BYTES = 4  # two bytes of status, then two of enable

SMI_COMMAND = 0xB2
ACPI_ENABLE = 0xF1
ACPI_DISABLE = 0xF0

S5_SLEEP_TYPE = 5
"""SLP_TYPa of soft-off, first element of the DSDT's ``\\_S5_`` package. No other sleep state exists."""

RESET_CONTROL = 0xCF9
RESET_VALUE = 0x06
"""The FADT's RESET_REG and RESET_VALUE: PIIX3 reset control, hard reset."""

# --- Interrupts. ISA IRQ n is I/O APIC pin n and GSI n, with one exception. ---
SCI_IRQ = 9  # level-triggered, active high
TIMER_IRQ = 0
TIMER_GSI = 2  # the exception: 8254 counter 0; needs an interrupt source override in the MADT
KEYBOARD_IRQ = 1
COM1_IRQ = 4
RTC_IRQ = 8
MOUSE_IRQ = 12

IO_APIC_ID = 1
IO_APIC_PINS = 24
LOCAL_APIC_ID = 0

PIRQ_GSI = (16, 17, 18, 19)
"""I/O APIC pins of PIRQA..PIRQD (level, active low). Pin INTA + x of slot s is PIRQ (s + x) % 4."""

PIRQ_ISA_IRQ = (10, 10, 11, 11)
"""ISA IRQs that PIRQA..PIRQD are routed to at start, for guests that use the 8259s (PIIX3 registers 60h-63h)."""

# --- Ports ---
COM1 = 0x3F8
DEBUG_EXIT = 0xF4
DEBUG_CONSOLE = 0xE9
RTC_CENTURY = 0x32  # CMOS index, for the FADT
