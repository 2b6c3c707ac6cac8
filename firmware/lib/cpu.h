/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Control registers, model-specific registers and the other things only the CPU itself can tell. */
#ifndef CPU_H
#define CPU_H

#include <stdbool.h>
#include <stdint.h>

#include "x86.h"

#define DEFINE_REGISTER(name)                                       \
    static inline uint64_t read_##name(void)                        \
    {                                                               \
        uint64_t value;                                             \
        asm volatile("mov %%" #name ", %0" : "=r"(value));          \
        return value;                                               \
    }                                                               \
    static inline void write_##name(uint64_t value)                 \
    {                                                               \
        asm volatile("mov %0, %%" #name : : "r"(value) : "memory"); \
    }

DEFINE_REGISTER(cr0)
DEFINE_REGISTER(cr2)
DEFINE_REGISTER(cr3)
DEFINE_REGISTER(cr4)
DEFINE_REGISTER(cr8)
DEFINE_REGISTER(dr0)
DEFINE_REGISTER(dr6)
DEFINE_REGISTER(dr7)

#undef DEFINE_REGISTER

static inline uint64_t read_msr(uint32_t index)
{
    uint32_t low, high;
    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return (uint64_t)high << 32 | low;
}

static inline void write_msr(uint32_t index, uint64_t value)
{
    asm volatile("wrmsr" : : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

static inline uint64_t read_tsc(void)
{
    uint32_t low, high;
    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

static inline uint64_t read_rflags(void)
{
    uint64_t value;
    asm volatile("pushfq; popq %0" : "=r"(value));
    return value;
}

struct cpuid {
    uint32_t eax, ebx, ecx, edx;
};

/* All zero for a leaf the CPU does not have: Intel's would answer with another leaf's contents. */
static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid r;
    asm volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf & 1u << 31), "c"(0));
    if (leaf > r.eax)
        return (struct cpuid){0};
    asm volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf));
    return r;
}

static inline void invlpg(const volatile void *address)
{
    asm volatile("invlpg %0" : : "m"(*(const volatile char *)address) : "memory");
}

static inline void interrupts_on(void)
{
    asm volatile("sti" : : : "memory");
}

static inline void interrupts_off(void)
{
    asm volatile("cli" : : : "memory");
}

/* Sleep until the next interrupt. Atomic: the shadow of STI keeps one from slipping in before HLT. */
static inline void wait_for_interrupt(void)
{
    asm volatile("sti; hlt; cli" : : : "memory");
}

static inline void pause(void)
{
    asm volatile("pause");
}

#endif
