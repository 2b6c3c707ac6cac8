/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Control registers, model-specific registers and the other things only the CPU itself can tell. */
#ifndef CPU_H
#define CPU_H

#include <stdbool.h>
#include <stdint.h>

enum {
    CR0_PE = 1u << 0,
    CR0_MP = 1u << 1,
    CR0_EM = 1u << 2,
    CR0_TS = 1u << 3,
    CR0_NE = 1u << 5,
    CR0_WP = 1u << 16,
    CR4_TSD = 1u << 2,
    CR4_PGE = 1u << 7,
    CR4_OSFXSR = 1u << 9,
    CR4_OSXMMEXCPT = 1u << 10,
    CR4_UMIP = 1u << 11,
    CR4_SMEP = 1u << 20,
    CR4_SMAP = 1u << 21,
};

enum {
    RFLAGS_FIXED = 1u << 1, /* always reads as one */
    RFLAGS_CF = 1u << 0,
    RFLAGS_TF = 1u << 8,
    RFLAGS_IF = 1u << 9,
    RFLAGS_DF = 1u << 10,
    RFLAGS_IOPL = 3u << 12,
    RFLAGS_RF = 1u << 16,
    RFLAGS_AC = 1u << 18,
};

enum {
    MSR_APIC_BASE = 0x1b,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_TSC_DEADLINE = 0x6e0,
    MSR_EFER = 0xc0000080,
    MSR_STAR = 0xc0000081,
    MSR_LSTAR = 0xc0000082,
    MSR_FMASK = 0xc0000084,
    MSR_FS_BASE = 0xc0000100,
    MSR_GS_BASE = 0xc0000101,
    MSR_KERNEL_GS_BASE = 0xc0000102,
};

enum { EFER_SCE = 1u << 0, EFER_NXE = 1u << 11 };

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
