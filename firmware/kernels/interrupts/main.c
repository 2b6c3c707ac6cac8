/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Hardware interrupts: their sources (8254, local APIC timer, 16550A, RTC), their ways to the CPU (8259s, I/O
 * APIC, local APIC), their order, and the exact instruction at which the CPU takes them.
 *
 * Times are only compared with each other where the order is certain. QEMU's TCG has no TSC deadline and so
 * prints `absent` for it. Not checked: the spurious interrupt of an 8259, whose race no program can force.
 */
#include "apic.h"
#include "check.h"
#include "cpu.h"
#include "idt.h"
#include "io.h"
#include "pic.h"
#include "pit.h"
#include "serial.h"
#include "shadow.h"

enum { VECTOR_TIMER = 0x40, VECTOR_LOW = 0x50, VECTOR_HIGH = 0x60, VECTOR_PIN = 0x70 };

/* What the handlers below saw, since the last forget(). */
static unsigned count[256];
static uint8_t order[16];
static unsigned taken;
static uint64_t last_rip;

static void forget(void)
{
    for (unsigned vector = 0; vector < 256; vector++)
        count[vector] = 0;
    taken = 0;
}

static void note(struct frame *frame)
{
    count[frame->vector]++;
    if (taken < sizeof order)
        order[taken] = (uint8_t)frame->vector;
    taken++;
    last_rip = frame->rip;
}

static void on_pic(struct frame *frame)
{
    note(frame);
    pic_end_of_interrupt((unsigned)frame->vector - PIC_VECTORS);
}

static void on_apic(struct frame *frame)
{
    note(frame);
    apic_end_of_interrupt();
}

/* Let everything be taken that is pending, or still on its way from a chip. */
static void open_window(void)
{
    interrupts_on();
    for (unsigned i = 0; i < 50; i++)
        pause();
    interrupts_off();
}

static void wait_for(unsigned vector, unsigned times)
{
    while (count[vector] < times)
        wait_for_interrupt();
}

/* ---- 8259 and 8254 ------------------------------------------------------------------------------ */

static void stay_in_service(struct frame *frame)
{
    note(frame);
}

static void test_pit_through_pic(void)
{
    forget();
    pit_start(0, PIT_RATE, 1193); /* 1 kHz */
    pic_unmask(IRQ_PIT);
    wait_for(PIC_VECTORS + IRQ_PIT, 10);
    CHECK("pit: periodic", taken == count[PIC_VECTORS + IRQ_PIT]);

    pit_start(0, PIT_SQUARE_WAVE, 1193);
    forget();
    wait_for(PIC_VECTORS + IRQ_PIT, 3);
    CHECK("pit: square wave", taken == 3);

    forget();
    pit_start(0, PIT_ONE_SHOT, 500);
    wait_for(PIC_VECTORS + IRQ_PIT, 1);
    pic_mask(IRQ_PIT);
    CHECK("pit: one shot", taken == 1);

    pit_start(0, PIT_RATE, 65536);
    uint16_t first = pit_read(0), later = first;
    while (later == first)
        later = pit_read(0);
    CHECK("pit: counts down", (uint16_t)(first - later) < 0x8000);

    pit_set_gate2(true);
    pit_start(2, PIT_ONE_SHOT, 1000);
    bool before = pit_output2();
    while (!pit_output2())
        pause();
    CHECK("pit: output of channel 2", !before);
    pit_set_gate2(false);
}

static void test_pic(void)
{
    pic_mask(IRQ_PIT);
    pit_start(0, PIT_ONE_SHOT, 100);
    while (!(pic_requests() & 1 << IRQ_PIT))
        pause();
    forget();
    open_window();
    CHECK("pic: a masked line only asks", taken == 0);

    idt_set_handler(PIC_VECTORS + IRQ_PIT, stay_in_service);
    pic_unmask(IRQ_PIT);
    open_window();
    CHECK("pic: taken once unmasked", taken == 1 && !(pic_requests() & 1 << IRQ_PIT));
    CHECK("pic: in service", pic_in_service() == 1 << IRQ_PIT);

    /* COM1 asks (transmitter empty), but has the lower priority. */
    pic_unmask(IRQ_COM1);
    out8(COM1 + UART_IER, IER_TRANSMITTER_EMPTY);
    open_window();
    CHECK("pic: a lower priority waits", taken == 1 && pic_requests() & 1 << IRQ_COM1);
    pic_end_of_interrupt(IRQ_PIT);
    open_window();
    CHECK("pic: taken after the end of interrupt", taken == 2 && order[1] == PIC_VECTORS + IRQ_COM1);
    CHECK("pic: nothing in service", pic_in_service() == 0);
    out8(COM1 + UART_IER, 0);
    pic_mask(IRQ_COM1);
    pic_mask(IRQ_PIT);
    idt_set_handler(PIC_VECTORS + IRQ_PIT, on_pic);

    /* Both at once: the lower number first. */
    forget();
    pit_start(0, PIT_ONE_SHOT, 100);
    while (!(pic_requests() & 1 << IRQ_PIT))
        pause();
    out8(COM1 + UART_IER, IER_TRANSMITTER_EMPTY);
    pic_unmask(IRQ_COM1);
    pic_unmask(IRQ_PIT);
    open_window();
    CHECK("pic: priority",
          taken == 2 && order[0] == PIC_VECTORS + IRQ_PIT && order[1] == PIC_VECTORS + IRQ_COM1);
    out8(COM1 + UART_IER, 0);
    pic_mask(IRQ_COM1);
    pic_mask(IRQ_PIT);
}

enum { RTC_INDEX = 0x70, RTC_DATA = 0x71, RTC_A = 0x0a, RTC_B = 0x0b, RTC_C = 0x0c };
enum { RTC_32KHZ_1024HZ = 0x26, RTC_24H = 0x02, RTC_PERIODIC = 0x40 };

static uint8_t rtc_read(uint8_t index)
{
    out8(RTC_INDEX, index);
    return in8(RTC_DATA);
}

static void rtc_write(uint8_t index, uint8_t value)
{
    out8(RTC_INDEX, index);
    out8(RTC_DATA, value);
}

static void on_rtc(struct frame *frame)
{
    rtc_read(RTC_C); /* else the line stays up */
    on_pic(frame);
}

static void test_slave_pic(void)
{
    forget();
    idt_set_handler(PIC_VECTORS + IRQ_RTC, on_rtc);
    rtc_write(RTC_A, RTC_32KHZ_1024HZ);
    rtc_write(RTC_B, RTC_24H | RTC_PERIODIC);
    rtc_read(RTC_C);
    pic_unmask(IRQ_RTC);
    wait_for(PIC_VECTORS + IRQ_RTC, 3);
    rtc_write(RTC_B, RTC_24H);
    pic_mask(IRQ_RTC);
    CHECK("pic: through the slave", taken == count[PIC_VECTORS + IRQ_RTC]);
}

/* ---- Local APIC --------------------------------------------------------------------------------- */

static void test_apic_timer(void)
{
    apic_write(APIC_TIMER_DIVIDE, TIMER_DIVIDE_BY_1);

    forget();
    apic_write(APIC_LVT_TIMER, VECTOR_TIMER);
    apic_write(APIC_TIMER_INITIAL, 100000);
    uint32_t current = apic_read(APIC_TIMER_CURRENT);
    wait_for(VECTOR_TIMER, 1);
    CHECK("apic timer: one shot", taken == 1);
    CHECK("apic timer: counts down", current <= 100000);
    CHECK("apic timer: stays at 0", apic_read(APIC_TIMER_CURRENT) == 0);

    forget();
    apic_write(APIC_LVT_TIMER, VECTOR_TIMER | LVT_TIMER_PERIODIC);
    apic_write(APIC_TIMER_DIVIDE, TIMER_DIVIDE_BY_16);
    apic_write(APIC_TIMER_INITIAL, 20000);
    wait_for(VECTOR_TIMER, 5);
    CHECK("apic timer: periodic", taken == 5);
    apic_write(APIC_TIMER_INITIAL, 0);
    apic_write(APIC_TIMER_DIVIDE, TIMER_DIVIDE_BY_1);
    open_window();

    forget();
    apic_write(APIC_LVT_TIMER, VECTOR_TIMER | LVT_MASKED);
    apic_write(APIC_TIMER_INITIAL, 1000);
    while (apic_read(APIC_TIMER_CURRENT))
        pause();
    open_window();
    CHECK("apic timer: masked", taken == 0);

    enum { CPUID_TSC_DEADLINE = 1 << 24 };
    if (!(cpuid(1, 0).ecx & CPUID_TSC_DEADLINE)) {
        check_absent("apic timer: tsc deadline");
        return;
    }
    forget();
    apic_write(APIC_LVT_TIMER, VECTOR_TIMER | LVT_TIMER_TSC_DEADLINE);
    uint64_t deadline = read_tsc() + 1000000;
    write_msr(MSR_TSC_DEADLINE, deadline);
    wait_for(VECTOR_TIMER, 1);
    CHECK("apic timer: tsc deadline", read_tsc() >= deadline && read_msr(MSR_TSC_DEADLINE) == 0);
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
}

static uint32_t irr_inside, isr_inside;

static void look_at_registers(struct frame *frame)
{
    irr_inside = apic_vector_bit(APIC_IRR, VECTOR_LOW);
    isr_inside = apic_vector_bit(APIC_ISR, VECTOR_LOW);
    on_apic(frame);
}

/* Interruptible itself, as a handler of low priority is. */
static void open_inside(struct frame *frame)
{
    note(frame);
    apic_send_self(VECTOR_HIGH);
    open_window();
    apic_end_of_interrupt();
}

static void test_apic(void)
{
    forget();
    idt_set_handler(VECTOR_LOW, look_at_registers);
    apic_send_self(VECTOR_LOW);
    CHECK("apic: requested", apic_vector_bit(APIC_IRR, VECTOR_LOW) && taken == 0);
    open_window();
    CHECK("apic: interrupt to itself", taken == 1 && order[0] == VECTOR_LOW);
    CHECK("apic: in service inside", !irr_inside && isr_inside);
    CHECK("apic: not in service outside", !apic_vector_bit(APIC_ISR, VECTOR_LOW));
    idt_set_handler(VECTOR_LOW, on_apic);

    forget();
    apic_send_self(VECTOR_LOW);
    apic_send_self(VECTOR_LOW);
    open_window();
    CHECK("apic: requests of one vector merge", taken == 1);

    forget();
    apic_send_self(VECTOR_LOW);
    apic_send_self(VECTOR_HIGH);
    open_window();
    CHECK("apic: priority", taken == 2 && order[0] == VECTOR_HIGH && order[1] == VECTOR_LOW);

    forget();
    idt_set_handler(VECTOR_LOW, open_inside);
    apic_send_self(VECTOR_LOW);
    open_window();
    CHECK("apic: a higher priority interrupts", taken == 2 && order[1] == VECTOR_HIGH);
    idt_set_handler(VECTOR_LOW, on_apic);

    forget();
    idt_set_handler(VECTOR_HIGH, stay_in_service);
    apic_send_self(VECTOR_HIGH);
    open_window();
    apic_send_self(VECTOR_LOW);
    open_window();
    bool waited = taken == 1;
    apic_end_of_interrupt();
    open_window();
    CHECK("apic: a lower priority waits", waited && taken == 2 && order[1] == VECTOR_LOW);
    idt_set_handler(VECTOR_HIGH, on_apic);

    forget();
    write_cr8(VECTOR_LOW >> 4);
    apic_send_self(VECTOR_LOW);
    apic_send_self(VECTOR_HIGH);
    open_window();
    CHECK("apic: task priority", taken == 1 && order[0] == VECTOR_HIGH);
    CHECK("apic: task priority register", apic_read(APIC_TPR) == (VECTOR_LOW & 0xf0));
    write_cr8(0);
    open_window();
    CHECK("apic: task priority lowered", taken == 2 && order[1] == VECTOR_LOW);
}

/* ---- I/O APIC ----------------------------------------------------------------------------------- */

static void on_pin(struct frame *frame)
{
    out8(COM1 + UART_IER, 0); /* takes the request back, and with it the level */
    on_apic(frame);
}

static void on_third_level(struct frame *frame)
{
    if (count[VECTOR_PIN] == 2)
        out8(COM1 + UART_IER, 0);
    on_apic(frame);
}

static void test_ioapic(void)
{
    enum { PIN_COM1 = 4, PIN_PIT = 2 }; /* ISA lines keep their number, but for the timer's */

    apic_write(APIC_LVT_LINT0, LVT_MASKED); /* from here on the 8259s are silent */

    forget();
    idt_set_handler(VECTOR_PIN, on_pin);
    ioapic_route(PIN_COM1, VECTOR_PIN, 0);
    out8(COM1 + UART_IER, IER_TRANSMITTER_EMPTY);
    open_window();
    CHECK("ioapic: serial port", taken == 1 && order[0] == VECTOR_PIN);
    CHECK("ioapic: entry", ioapic_entry(PIN_COM1) == VECTOR_PIN);

    forget();
    ioapic_route(PIN_COM1, VECTOR_PIN, IOAPIC_MASKED);
    out8(COM1 + UART_IER, IER_TRANSMITTER_EMPTY);
    open_window();
    CHECK("ioapic: masked", taken == 0);
    out8(COM1 + UART_IER, 0);

    /* A level that is not taken back comes again at each end of interrupt. */
    forget();
    idt_set_handler(VECTOR_PIN, on_third_level);
    ioapic_route(PIN_COM1, VECTOR_PIN, IOAPIC_LEVEL);
    out8(COM1 + UART_IER, IER_TRANSMITTER_EMPTY);
    open_window();
    CHECK("ioapic: level", taken == 3);
    idt_set_handler(VECTOR_PIN, on_apic);
    ioapic_route(PIN_COM1, VECTOR_PIN, IOAPIC_MASKED);

    forget();
    ioapic_route(PIN_PIT, VECTOR_PIN, 0);
    pit_start(0, PIT_RATE, 1193);
    wait_for(VECTOR_PIN, 5);
    CHECK("ioapic: timer", taken == count[VECTOR_PIN]);
    ioapic_route(PIN_PIT, VECTOR_PIN, IOAPIC_MASKED);
    pit_start(0, PIT_ONE_SHOT, 100);
    open_window();
}

/* ---- The CPU ------------------------------------------------------------------------------------ */

static unsigned in_shadow;

static void look_for_shadow(struct frame *frame)
{
    in_shadow +=
        frame->rip == (uint64_t)sti_under_fire_shadow || frame->rip == (uint64_t)mov_ss_under_fire_shadow;
    on_apic(frame);
}

/* Interrupts at every phase of a loop: a period that is prime to the loop's. */
static void under_fire(const char *name, void (*loop)(uint64_t turns))
{
    forget();
    in_shadow = 0;
    apic_write(APIC_LVT_TIMER, VECTOR_TIMER | LVT_TIMER_PERIODIC);
    apic_write(APIC_TIMER_INITIAL, 10007);
    while (count[VECTOR_TIMER] < 200)
        loop(1000);
    apic_write(APIC_TIMER_INITIAL, 0);
    open_window();
    check_equal(name, in_shadow, 0);
}

static void test_boundaries(void)
{
    forget();
    apic_send_self(VECTOR_LOW);
    no_take_sti_cli();
    CHECK("sti; cli leaves no gap", taken == 0);
    take_after_sti();
    check_equal("taken one instruction after sti", last_rip, (uint64_t)take_after_sti_rip);
    apic_send_self(VECTOR_LOW);
    take_after_popf();
    check_equal("taken right after popf", last_rip, (uint64_t)take_after_popf_rip);
    apic_send_self(VECTOR_LOW);
    take_after_iret();
    check_equal("taken right after iret", last_rip, (uint64_t)take_after_iret_rip);
    apic_send_self(VECTOR_LOW);
    take_at_halt();
    check_equal("sti; hlt: wakes from a pending interrupt", last_rip, (uint64_t)take_at_halt_rip);
    apic_write(APIC_LVT_TIMER, VECTOR_TIMER);
    apic_write(APIC_TIMER_INITIAL, 100000);
    take_at_halt();
    check_equal("sti; hlt: wakes from a later one", last_rip, (uint64_t)take_at_halt_rip);
    CHECK("each was taken once", taken == 5);

    idt_set_handler(VECTOR_TIMER, look_for_shadow);
    under_fire("none in the shadow of sti", sti_under_fire);
    under_fire("none in the shadow of mov ss", mov_ss_under_fire);
    idt_set_handler(VECTOR_TIMER, on_apic);
}

static void send_nmi(void)
{
    apic_write(APIC_ICR_HIGH, apic_read(APIC_ID));
    apic_write(APIC_ICR, ICR_NMI | ICR_ASSERT);
}

static unsigned nmi_depth, nmi_depth_most;

static void on_nmi(struct frame *frame)
{
    note(frame);
    if (++nmi_depth > nmi_depth_most)
        nmi_depth_most = nmi_depth;
    if (taken == 1) {
        send_nmi();
        for (unsigned i = 0; i < 100; i++)
            pause();
    }
    nmi_depth--;
}

static void test_nmi(void)
{
    forget();
    idt_set_handler(VECTOR_NMI, on_nmi);
    send_nmi();
    while (taken < 2)
        pause();
    CHECK("nmi: taken with interrupts off", count[VECTOR_NMI] == 2);
    CHECK("nmi: blocked until iret", nmi_depth_most == 1);
}

int main(void)
{
    for (unsigned irq = 0; irq < 16; irq++)
        idt_set_handler(PIC_VECTORS + irq, on_pic);
    idt_set_handler(VECTOR_TIMER, on_apic);
    idt_set_handler(VECTOR_LOW, on_apic);
    idt_set_handler(VECTOR_HIGH, on_apic);

    /* The rest of the first test's periodic timer would be counted by the others: each test silences its own.
     */
    apic_init();
    test_pit_through_pic();
    test_pic();
    test_slave_pic();
    test_apic_timer();
    test_apic();
    test_ioapic();
    test_boundaries();
    test_nmi();
    return check_result();
}
