/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The local APIC of the machine's one CPU, in xAPIC mode. Source: Intel SDM vol. 3A, chapter 11 (July 2023 numbering).
 *
 * It knows neither the CPU nor other chips: what an access means for them is returned, as FT_LAPIC_* bits. A fault may
 * have changed any bit of its state, so no value is used as an index, or to divide by, before it is cut to size.
 */
#include "ftvm.h"

#include <stdbool.h>
#include <string.h>

enum {
    ID = 0x020,
    VERSION = 0x030,
    TPR = 0x080,
    PPR = 0x0a0,
    EOI = FT_LAPIC_EOI_REGISTER,
    LDR = 0x0d0,
    DFR = 0x0e0,
    SVR = 0x0f0,
    ISR = 0x100, /* eight registers 10h apart, as TMR and IRR */
    TMR = 0x180,
    IRR = 0x200,
    ESR = 0x280,
    ICR_LOW = 0x300,
    ICR_HIGH = 0x310,
    LVT_TIMER = 0x320,
    LVT_ERROR = 0x370,
    INITIAL_COUNT = 0x380,
    CURRENT_COUNT = 0x390,
    DIVIDE = 0x3e0
};

enum { LVT_ENTRY_TIMER = 0, LVT_ENTRY_LINT0 = 3, LVT_ENTRY_ERROR = 5, LVT_ENTRIES = 6 };

enum {
    VERSION_VALUE = 0x00050014, /* six LVT entries, integrated APIC */
    SVR_ENABLE = 0x100,
    VECTOR = 0xff,
    DELIVERY = 0x700,
    MASKED = 0x10000,
    TIMER_MODE = 0x60000,
    TIMER_PERIODIC = 0x20000,
    TIMER_DEADLINE = 0x40000,
    ICR_LOGICAL = 0x800,
    ICR_WRITABLE = 0xccfff,
    FIRST_LEGAL_VECTOR = 16,
    BROADCAST = 0xff
};

enum { FIXED = 0, LOWEST_PRIORITY = 1, NMI = 4, EXTINT = 7 };                  /* delivery modes */
enum { TO_DESTINATION = 0, TO_SELF = 1, TO_ALL = 2 };                          /* shorthands */
enum { SEND_ILLEGAL = 0x20, RECEIVE_ILLEGAL = 0x40, ILLEGAL_REGISTER = 0x80 }; /* ESR */

static const uint64_t BASE_BOOTSTRAP_PROCESSOR = 0x100;
static const uint64_t BASE_ENABLE = 0x800;
/* 52 bits of an address; x2APIC mode, bit 10, is refused. */
static const uint64_t BASE_WRITABLE = 0x000ffffffffff000 | 0x800 | 0x100;
static const uint64_t PAGE_MASK = ~(uint64_t)0xfff;

static const uint32_t LVT_WRITABLE[LVT_ENTRIES] = {
    VECTOR | MASKED | TIMER_MODE,
    VECTOR | DELIVERY | MASKED,          /* thermal */
    VECTOR | DELIVERY | MASKED,          /* performance */
    VECTOR | DELIVERY | MASKED | 0xa000, /* LINT0, with polarity and trigger mode */
    VECTOR | DELIVERY | MASKED | 0xa000, /* LINT1 */
    VECTOR | MASKED                      /* error */
};

void ft_lapic_reset(ft_lapic *lapic)
{
    memset(lapic, 0, sizeof(*lapic));
    lapic->base = FT_LAPIC_ADDRESS | BASE_ENABLE | BASE_BOOTSTRAP_PROCESSOR;
    lapic->dfr = 0xffffffff;
    lapic->svr = 0xff;
    for (int i = 0; i < LVT_ENTRIES; i++) {
        lapic->lvt[i] = MASKED;
    }
    lapic->expires_ns = FT_NEVER;
}

/* ---- Vectors -------------------------------------------------------------------------------------------------- */

/* The highest vector whose bit is set; -1 when none is. */
static int highest(const uint64_t *words)
{
    for (int i = 7; i >= 0; i--) {
        uint32_t word = (uint32_t)words[i];
        if (word) {
            return 32 * i + 31 - __builtin_clz(word);
        }
    }
    return -1;
}

static uint64_t bit_of(int vector)
{
    return (uint64_t)1 << (vector & 31);
}

static uint64_t processor_priority(const ft_lapic *lapic)
{
    int in_service = highest(lapic->isr);
    uint64_t priority = in_service < 0 ? 0 : (uint64_t)in_service & 0xf0;

    return lapic->tpr >> 4 >= priority >> 4 ? lapic->tpr : priority;
}

/* The pending vector that the CPU would take now, or -1. */
static int deliverable(const ft_lapic *lapic)
{
    int vector = highest(lapic->irr);

    return vector >= 0 && (uint64_t)vector >> 4 > processor_priority(lapic) >> 4 ? vector : -1;
}

static bool enabled(const ft_lapic *lapic)
{
    return lapic->base & BASE_ENABLE;
}

/* INTR of the 8259s is INTR of the CPU: through LINT0 as ExtINT, or past an APIC that is disabled. */
static bool passes_external(const ft_lapic *lapic)
{
    if (!enabled(lapic) || !(lapic->svr & SVR_ENABLE)) {
        return true;
    }
    return (lapic->lvt[LVT_ENTRY_LINT0] & (MASKED | DELIVERY)) == EXTINT << 8;
}

static bool external_waits(const ft_lapic *lapic)
{
    return lapic->extint || (lapic->lint0 && passes_external(lapic));
}

/* What is pending may have changed, by something that had these effects. */
static uint32_t updated(ft_lapic *lapic, uint32_t effects)
{
    bool output = deliverable(lapic) >= 0 || external_waits(lapic);

    if (output != (lapic->output != 0)) {
        lapic->output = output;
        effects |= FT_LAPIC_INTR;
    }
    return effects;
}

static bool accept(ft_lapic *lapic, int vector, bool level);

static void error(ft_lapic *lapic, uint32_t bit)
{
    uint64_t lvt = lapic->lvt[LVT_ENTRY_ERROR];

    lapic->errors |= bit;
    /* An error interrupt with an illegal vector would be an error again. */
    if (!(lvt & MASKED) && (lvt & VECTOR) >= FIRST_LEGAL_VECTOR) {
        (void)accept(lapic, (int)(lvt & VECTOR), false);
    }
}

/* A fixed interrupt, from a message, a timer or a pin. */
static bool accept(ft_lapic *lapic, int vector, bool level)
{
    if (!enabled(lapic) || !(lapic->svr & SVR_ENABLE)) {
        return false;
    }
    if (vector < FIRST_LEGAL_VECTOR) {
        error(lapic, RECEIVE_ILLEGAL);
        return false;
    }
    lapic->irr[vector >> 5] |= bit_of(vector);
    if (level) {
        lapic->tmr[vector >> 5] |= bit_of(vector);
    } else {
        lapic->tmr[vector >> 5] &= ~bit_of(vector);
    }
    return true;
}

/* 11.6.2 */
static bool is_addressed(const ft_lapic *lapic, uint32_t destination, bool logical)
{
    uint64_t members = lapic->ldr & destination;

    if (destination == BROADCAST) {
        return true;
    }
    if (!logical) {
        return destination == lapic->id;
    }
    if (lapic->dfr >> 28 == 0xf) { /* flat model */
        return members != 0;
    }
    return lapic->ldr >> 4 == destination >> 4 && members & 0xf;
}

static uint32_t take_message(ft_lapic *lapic, uint32_t destination, bool logical, uint32_t delivery,
                             int vector, bool level)
{
    if (!enabled(lapic) || !is_addressed(lapic, destination, logical)) {
        return 0;
    }
    switch (delivery) {
    case FIXED:
    case LOWEST_PRIORITY:
        return accept(lapic, vector, level) ? FT_LAPIC_ACCEPTED : 0;
    case NMI:
        return FT_LAPIC_ACCEPTED | FT_LAPIC_NMI;
    case EXTINT:
        lapic->extint = 1;
        return FT_LAPIC_ACCEPTED;
    default:
        return FT_LAPIC_ACCEPTED;
    }
}

uint32_t ft_lapic_message(ft_lapic *lapic, uint32_t destination, int logical, uint32_t delivery,
                          uint32_t vector, int level)
{
    return updated(lapic, take_message(lapic, destination, logical, delivery, vector & VECTOR, level));
}

uint32_t ft_lapic_set_lint0(ft_lapic *lapic, int level)
{
    uint64_t lvt = lapic->lvt[LVT_ENTRY_LINT0];
    bool rises = level && !lapic->lint0;
    uint32_t effects = 0;

    lapic->lint0 = level != 0;
    if (rises && enabled(lapic) && !(lvt & MASKED)) {
        if ((lvt & DELIVERY) == FIXED << 8) {
            (void)accept(lapic, (int)(lvt & VECTOR), false);
        } else if ((lvt & DELIVERY) == NMI << 8) {
            effects = FT_LAPIC_NMI;
        }
    }
    return updated(lapic, effects);
}

int ft_lapic_nmi_possible(const ft_lapic *lapic)
{
    return enabled(lapic) && (lapic->lvt[LVT_ENTRY_LINT0] & (MASKED | DELIVERY)) == NMI << 8;
}

int ft_lapic_hears_lint0(const ft_lapic *lapic)
{
    return passes_external(lapic) || !(lapic->lvt[LVT_ENTRY_LINT0] & MASKED);
}

int ft_lapic_acknowledge(ft_lapic *lapic, uint32_t *effects)
{
    int vector = deliverable(lapic);

    if (vector >= 0) {
        lapic->irr[vector >> 5] &= ~bit_of(vector);
        lapic->isr[vector >> 5] |= bit_of(vector);
    }
    *effects = updated(lapic, 0);
    return vector;
}

int ft_lapic_take_external(ft_lapic *lapic)
{
    bool waits = external_waits(lapic);

    lapic->extint = 0;
    return waits;
}

uint32_t ft_lapic_update(ft_lapic *lapic)
{
    return updated(lapic, 0);
}

int ft_lapic_ends_level(const ft_lapic *lapic)
{
    int vector = highest(lapic->isr);

    return vector >= 0 && lapic->tmr[vector >> 5] & bit_of(vector);
}

/* ---- Timer (11.5.4) ------------------------------------------------------------------------------------------- */

static bool timer_is(const ft_lapic *lapic, uint32_t mode)
{
    return (lapic->lvt[LVT_ENTRY_TIMER] & TIMER_MODE) == mode;
}

/* Bits 3, 1 and 0 of the divide configuration: 2, 4, ... 128, and 1. */
static uint32_t divisor(const ft_lapic *lapic)
{
    return 1u << ((((lapic->divide >> 1 & 4) | (lapic->divide & 3)) + 1) & 7);
}

static uint64_t later(uint64_t ns, uint64_t by_ns)
{
    return by_ns < FT_NEVER - ns ? ns + by_ns : FT_NEVER;
}

static void advance(ft_lapic *lapic, uint64_t now_ns)
{
    uint64_t lvt = lapic->lvt[LVT_ENTRY_TIMER], period_ns = lapic->initial_count * divisor(lapic);

    if (lapic->expires_ns > now_ns) {
        return;
    }
    if (timer_is(lapic, TIMER_PERIODIC) && period_ns) {
        uint64_t late_ns = now_ns - lapic->expires_ns;
        lapic->expires_ns = later(lapic->expires_ns + (late_ns - late_ns % period_ns), period_ns);
    } else {
        lapic->expires_ns = FT_NEVER;
        lapic->tsc_deadline = 0;
    }
    if (!(lvt & MASKED)) {
        (void)accept(lapic, (int)(lvt & VECTOR), false);
    }
}

uint32_t ft_lapic_advance(ft_lapic *lapic, uint64_t now_ns)
{
    advance(lapic, now_ns);
    return updated(lapic, 0);
}

uint64_t ft_lapic_next_event_ns(const ft_lapic *lapic)
{
    /* A masked timer needs no attention; it is brought up to date when somebody looks. */
    return lapic->lvt[LVT_ENTRY_TIMER] & MASKED ? FT_NEVER : lapic->expires_ns;
}

/* After advance(). */
static uint64_t current_count(const ft_lapic *lapic, uint64_t now_ns)
{
    if (lapic->expires_ns == FT_NEVER || timer_is(lapic, TIMER_DEADLINE)) {
        return 0;
    }
    return (lapic->expires_ns - now_ns + divisor(lapic) - 1) / divisor(lapic);
}

static uint32_t write_initial_count(ft_lapic *lapic, uint32_t value, uint64_t now_ns)
{
    advance(lapic, now_ns);
    if (timer_is(lapic, TIMER_DEADLINE)) {
        return 0;
    }
    lapic->initial_count = value;
    lapic->expires_ns = value ? later(now_ns, (uint64_t)value * divisor(lapic)) : FT_NEVER;
    return FT_LAPIC_REARM;
}

static uint32_t write_divide(ft_lapic *lapic, uint32_t value, uint64_t now_ns)
{
    uint64_t count;

    advance(lapic, now_ns);
    count = current_count(lapic, now_ns);
    lapic->divide = value & 0xb;
    if (!count) {
        return 0;
    }
    lapic->expires_ns = later(now_ns, count * divisor(lapic));
    return FT_LAPIC_REARM;
}

uint64_t ft_lapic_read_deadline(ft_lapic *lapic, uint64_t now_ns, uint32_t *effects)
{
    advance(lapic, now_ns);
    *effects = updated(lapic, 0);
    return lapic->tsc_deadline;
}

uint32_t ft_lapic_write_deadline(ft_lapic *lapic, uint64_t value, uint64_t now_ns, uint64_t tsc)
{
    advance(lapic, now_ns);
    if (!timer_is(lapic, TIMER_DEADLINE)) {
        return updated(lapic, 0);
    }
    lapic->tsc_deadline = value;
    /* The time is fixed here: a guest that sets its TSC while a deadline is armed moves the deadline no more. */
    lapic->expires_ns = value ? later(now_ns, value > tsc ? value - tsc : 0) : FT_NEVER;
    return updated(lapic, FT_LAPIC_REARM);
}

/* ---- Registers ------------------------------------------------------------------------------------------------ */

static bool is_vector_register(uint32_t offset)
{
    return offset >= ISR && offset < ESR && !(offset & 0xf);
}

static bool is_lvt(uint32_t offset)
{
    return offset >= LVT_TIMER && offset <= LVT_ERROR && !(offset & 0xf);
}

static uint64_t vector_register(const ft_lapic *lapic, uint32_t offset)
{
    const uint64_t *words = offset < TMR ? lapic->isr : offset < IRR ? lapic->tmr : lapic->irr;

    return words[offset >> 4 & 7];
}

static uint64_t read_register(ft_lapic *lapic, uint32_t offset, uint64_t now_ns)
{
    switch (offset) {
    case ID:
        return lapic->id << 24;
    case VERSION:
        return VERSION_VALUE;
    case TPR:
        return lapic->tpr;
    case PPR:
        return processor_priority(lapic);
    case EOI:
        return 0;
    case LDR:
        return lapic->ldr << 24;
    case DFR:
        return lapic->dfr;
    case SVR:
        return lapic->svr;
    case ESR:
        return lapic->esr;
    case ICR_LOW:
        return lapic->icr & 0xffffffff;
    case ICR_HIGH:
        return lapic->icr >> 32;
    case INITIAL_COUNT:
        return lapic->initial_count;
    case CURRENT_COUNT:
        advance(lapic, now_ns);
        return current_count(lapic, now_ns);
    case DIVIDE:
        return lapic->divide;
    default:
        break;
    }
    if (is_lvt(offset)) {
        return lapic->lvt[(offset - LVT_TIMER) >> 4];
    }
    if (is_vector_register(offset)) {
        return vector_register(lapic, offset);
    }
    error(lapic, ILLEGAL_REGISTER);
    return 0;
}

uint32_t ft_lapic_read(ft_lapic *lapic, uint32_t offset, uint32_t bytes, uint64_t now_ns, uint32_t *effects)
{
    uint64_t value = offset & 0xc ? 0 : read_register(lapic, offset & ~3u, now_ns);

    *effects = updated(lapic, 0);
    return (uint32_t)(value >> 8 * (offset & 3) & (((uint64_t)1 << 8 * bytes) - 1));
}

static uint32_t write_eoi(ft_lapic *lapic)
{
    int vector = highest(lapic->isr);

    if (vector < 0) {
        return 0;
    }
    lapic->isr[vector >> 5] &= ~bit_of(vector);
    return lapic->tmr[vector >> 5] & bit_of(vector) ? FT_LAPIC_EOI | (uint32_t)vector << FT_LAPIC_VECTOR : 0;
}

static void write_svr(ft_lapic *lapic, uint32_t value)
{
    lapic->svr = value & (SVR_ENABLE | VECTOR);
    for (int i = 0; i < LVT_ENTRIES && !(value & SVR_ENABLE); i++) {
        lapic->lvt[i] |= MASKED;
    }
}

static uint32_t write_lvt(ft_lapic *lapic, uint32_t entry, uint32_t value, uint64_t now_ns)
{
    uint64_t old, new = value &LVT_WRITABLE[entry];

    advance(lapic, now_ns);
    if (!(lapic->svr & SVR_ENABLE)) {
        new |= MASKED;
    }
    old = lapic->lvt[entry];
    lapic->lvt[entry] = new;
    if (entry != LVT_ENTRY_TIMER) {
        return 0;
    }
    if ((old ^ new) & TIMER_DEADLINE) { /* 11.5.4.1: changing to or from TSC-deadline mode disarms */
        lapic->expires_ns = FT_NEVER;
        lapic->tsc_deadline = 0;
    }
    return FT_LAPIC_REARM;
}

static uint32_t write_icr_low(ft_lapic *lapic, uint32_t value)
{
    uint32_t shorthand = value >> 18 & 3, delivery = value >> 8 & 7;
    int vector = (int)(value & VECTOR);
    bool fixed = delivery == FIXED || delivery == LOWEST_PRIORITY;

    lapic->icr = (lapic->icr & ~(uint64_t)0xffffffff) | (value & ICR_WRITABLE);
    if (fixed && vector < FIRST_LEGAL_VECTOR) {
        error(lapic, SEND_ILLEGAL);
    } else if (shorthand == TO_DESTINATION && (fixed || delivery == NMI)) {
        uint32_t destination = (uint32_t)(lapic->icr >> 56);
        return take_message(lapic, destination, value & ICR_LOGICAL, delivery, vector, false) & FT_LAPIC_NMI;
    } else if ((shorthand == TO_SELF || shorthand == TO_ALL) && fixed) {
        (void)accept(lapic, vector, false);
    }
    return 0;
}

static uint32_t write_register(ft_lapic *lapic, uint32_t offset, uint32_t value, uint64_t now_ns)
{
    switch (offset) {
    case ID:
        lapic->id = value >> 24;
        return 0;
    case TPR:
        lapic->tpr = value & 0xff;
        return 0;
    case EOI:
        return write_eoi(lapic);
    case LDR:
        lapic->ldr = value >> 24;
        return 0;
    case DFR:
        lapic->dfr = value | 0x0fffffff;
        return 0;
    case SVR:
        write_svr(lapic, value);
        return 0;
    case ESR:
        lapic->esr = lapic->errors;
        lapic->errors = 0;
        return 0;
    case ICR_LOW:
        return write_icr_low(lapic, value);
    case ICR_HIGH:
        lapic->icr = (uint64_t)(value & 0xff000000) << 32 | (lapic->icr & 0xffffffff);
        return 0;
    case INITIAL_COUNT:
        return write_initial_count(lapic, value, now_ns);
    case DIVIDE:
        return write_divide(lapic, value, now_ns);
    case VERSION:
    case PPR:
    case CURRENT_COUNT:
        return 0;
    default:
        break;
    }
    if (is_lvt(offset)) {
        return write_lvt(lapic, (offset - LVT_TIMER) >> 4, value, now_ns);
    }
    if (!is_vector_register(offset)) {
        error(lapic, ILLEGAL_REGISTER);
    }
    return 0;
}

uint32_t ft_lapic_write(ft_lapic *lapic, uint32_t offset, uint32_t bytes, uint32_t value, uint64_t now_ns)
{
    /* Writes that are not 32 bits wide and aligned are undefined (11.4.1): ignored. */
    return bytes == 4 && !(offset & 3) ? updated(lapic, write_register(lapic, offset, value, now_ns)) : 0;
}

uint32_t ft_lapic_write_cr8(ft_lapic *lapic, uint64_t value)
{
    lapic->tpr = value << 4 & 0xff;
    return updated(lapic, 0);
}

int ft_lapic_write_base(ft_lapic *lapic, uint64_t value, uint32_t *effects)
{
    *effects = 0;
    if (value & ~BASE_WRITABLE) {
        return -1;
    }
    if (value != lapic->base) {
        if (!(value & BASE_ENABLE)) { /* 11.4.3: when it is enabled again, it comes up as after a reset */
            uint64_t lint0 = lapic->lint0, output = lapic->output;
            ft_lapic_reset(lapic);
            lapic->lint0 = lint0;
            lapic->output = output;
        }
        lapic->base = value;
        *effects = updated(lapic, FT_LAPIC_MOVED);
    }
    return 0;
}

int ft_lapic_answers(const ft_lapic *lapic, uint64_t gpa)
{
    return enabled(lapic) && (gpa & PAGE_MASK) == (lapic->base & PAGE_MASK);
}

/* ---- As msgpack ----------------------------------------------------------------------------------------------- */

static uint8_t *big_endian(uint8_t *to, uint8_t kind, uint64_t value, int bytes)
{
    *to++ = kind;
    while (bytes-- > 0) {
        *to++ = (uint8_t)(value >> 8 * bytes);
    }
    return to;
}

/* The shortest form. */
static uint8_t *put_number(uint8_t *to, uint64_t value)
{
    if (value < 0x80) {
        *to++ = (uint8_t)value;
        return to;
    }
    return value <= 0xff         ? big_endian(to, 0xcc, value, 1)
           : value <= 0xffff     ? big_endian(to, 0xcd, value, 2)
           : value <= 0xffffffff ? big_endian(to, 0xce, value, 4)
                                 : big_endian(to, 0xcf, value, 8);
}

static uint8_t *put_name(uint8_t *to, const char *name)
{
    size_t length = strlen(name); /* below 32 */

    *to++ = (uint8_t)(0xa0 | length);
    memcpy(to, name, length);
    return to + length;
}

static uint8_t *put_field(uint8_t *to, const char *name, uint64_t value)
{
    return put_number(put_name(to, name), value);
}

static uint8_t *put_list(uint8_t *to, const char *name, const uint64_t *values, int count)
{
    to = put_name(to, name);
    *to++ = (uint8_t)(0x90 | count); /* below 16 */
    for (int i = 0; i < count; i++) {
        to = put_number(to, values[i]);
    }
    return to;
}

static uint8_t *put_flag(uint8_t *to, const char *name, uint64_t flag)
{
    to = put_name(to, name);
    *to++ = flag ? 0xc3 : 0xc2;
    return to;
}

uint32_t ft_lapic_encode(const ft_lapic *lapic, uint8_t *bytes)
{
    enum { FIELDS = 20 };
    uint8_t *to = big_endian(bytes, 0xde, FIELDS, 2);

    to = put_field(to, "base", lapic->base);
    to = put_field(to, "id", lapic->id);
    to = put_field(to, "tpr", lapic->tpr);
    to = put_field(to, "ldr", lapic->ldr);
    to = put_field(to, "dfr", lapic->dfr);
    to = put_field(to, "svr", lapic->svr);
    to = put_list(to, "isr", lapic->isr, 8);
    to = put_list(to, "tmr", lapic->tmr, 8);
    to = put_list(to, "irr", lapic->irr, 8);
    to = put_field(to, "esr", lapic->esr);
    to = put_field(to, "errors", lapic->errors);
    to = put_field(to, "icr", lapic->icr);
    to = put_list(to, "lvt", lapic->lvt, LVT_ENTRIES);
    to = put_field(to, "divide", lapic->divide);
    to = put_field(to, "initial_count", lapic->initial_count);
    to = put_field(to, "tsc_deadline", lapic->tsc_deadline);
    if (lapic->expires_ns == FT_NEVER) {
        to = put_name(to, "expires_ns");
        *to++ = 0xc0;
    } else {
        to = put_field(to, "expires_ns", lapic->expires_ns);
    }
    to = put_flag(to, "lint0", lapic->lint0);
    to = put_flag(to, "extint", lapic->extint);
    to = put_flag(to, "output", lapic->output);
    return (uint32_t)(to - bytes);
}
