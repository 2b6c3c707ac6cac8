/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The one CPU model: a fixed set of features, the same on every host.
 *
 * Chosen so that nothing differs between replicas (no RDRAND, RDSEED, no performance counters), and so that a
 * kernel takes its short paths: an Intel family 15 CPU with the "not affected" bits of
 * IA32_ARCH_CAPABILITIES needs no page-table isolation and no retpolines, and gets its TSC and APIC timer
 * frequency from leaf 15H instead of measuring it. Family 15 also keeps Linux from using REP MOVS and
 * REP STOS for page copies, of which each iteration is a block here.
 */
#include <string.h>

#include "cpu.h"

#define BIT(n) (1u << (n))
#define TSC_HZ 1000000000u

/* Leaf 1, EDX. */
#define FPU BIT(0)
#define DE BIT(2)
#define PSE BIT(3)
#define TSC BIT(4)
#define MSR BIT(5)
#define PAE BIT(6)
#define CX8 BIT(8)
#define APIC BIT(9)
#define SEP BIT(11)
#define MTRR BIT(12)
#define PGE BIT(13)
#define CMOV BIT(15)
#define PAT BIT(16)
#define PSE36 BIT(17)
#define CLFSH BIT(19)
#define MMX BIT(23)
#define FXSR BIT(24)
#define SSE BIT(25)
#define SSE2 BIT(26)
/* Leaf 1, ECX. */
#define SSE3 BIT(0)
#define PCLMULQDQ BIT(1)
#define SSSE3 BIT(9)
#define CX16 BIT(13)
#define SSE41 BIT(19)
#define SSE42 BIT(20)
#define MOVBE BIT(22)
#define POPCNT BIT(23)
#define TSC_DEADLINE BIT(24)
#define AES BIT(25)
#define HYPERVISOR BIT(31)
/* Leaf 7, EBX and EDX. */
#define FSGSBASE BIT(0)
#define TSC_ADJUST BIT(1)
#define SMEP BIT(7)
#define SPEC_CTRL BIT(26)
#define ARCH_CAPABILITIES BIT(29)
/* Leaf 80000001H, EDX and ECX. */
#define SYSCALL BIT(11)
#define NX BIT(20)
#define PDPE1GB BIT(26)
#define RDTSCP BIT(27)
#define LM BIT(29)
#define LAHF_LM BIT(0)

/* Family 15, model 6, stepping 4 (SDM vol. 2A, CPUID, figure 3-6). */
#define SIGNATURE 0x00000f64u
#define BRAND "ftvm lockstep CPU @ 1.00GHz"

#define APIC_GLOBAL_ENABLE (1ull << 11)

static ft_cpuid_leaf vendor(uint32_t max_leaf)
{
    return (ft_cpuid_leaf){max_leaf, 0x756e6547, 0x6c65746e, 0x49656e69}; /* GenuineIntel */
}

/* Deterministic cache parameters (SDM vol. 2A, leaf 4): L1D and L1I of 32 KiB, L2 of 1 MiB. */
static ft_cpuid_leaf cache(uint32_t subleaf)
{
    enum { DATA = 1, INSTRUCTION = 2, UNIFIED = 3, LINE = 64, SELF_INITIALIZING = 1 << 8 };
    static const struct {
        uint32_t type, level, ways, sets;
    } caches[] = {{DATA, 1, 8, 64}, {INSTRUCTION, 1, 8, 64}, {UNIFIED, 2, 8, 2048}};

    if (subleaf >= sizeof(caches) / sizeof(caches[0])) {
        return (ft_cpuid_leaf){0};
    }
    return (ft_cpuid_leaf){
        .eax = caches[subleaf].type | caches[subleaf].level << 5 | SELF_INITIALIZING,
        .ebx = (LINE - 1) | (caches[subleaf].ways - 1) << 22,
        .ecx = caches[subleaf].sets - 1,
    };
}

static ft_cpuid_leaf brand(uint32_t part)
{
    static const char text[48] = BRAND;
    ft_cpuid_leaf leaf;

    memcpy(&leaf, text + 16 * part, sizeof(leaf));
    return leaf;
}

ft_cpuid_leaf ft_cpuid(const ft_cpu *cpu, uint32_t leaf, uint32_t subleaf)
{
    const uint32_t max_basic = 0x16, max_extended = 0x80000008;

    /* SDM: a leaf above the maximum answers as the highest basic leaf. */
    if ((leaf > max_basic && leaf < 0x40000000) || leaf > max_extended) {
        leaf = max_basic;
    }
    switch (leaf) {
    case 0:
        return vendor(max_basic);
    case 1:
        return (ft_cpuid_leaf){
            .eax = SIGNATURE,
            .ebx = 8u << 8 | 1u << 16, /* CLFLUSH line of 64 bytes, one logical processor, APIC ID 0 */
            .ecx = SSE3 | PCLMULQDQ | SSSE3 | CX16 | SSE41 | SSE42 | MOVBE | POPCNT | TSC_DEADLINE | AES |
                   HYPERVISOR,
            .edx = FPU | DE | PSE | TSC | MSR | PAE | CX8 |
                   (cpu->msr.apic_base & APIC_GLOBAL_ENABLE ? APIC : 0) | SEP | MTRR | PGE | CMOV | PAT |
                   PSE36 | CLFSH | MMX | FXSR | SSE | SSE2,
        };
    case 2:
        return (ft_cpuid_leaf){.eax = 0x00ff0001}; /* "see leaf 4" */
    case 4:
        return cache(subleaf);
    case 6:
        return (ft_cpuid_leaf){.eax = BIT(2)}; /* the APIC timer always runs */
    case 7:
        if (subleaf != 0) {
            return (ft_cpuid_leaf){0};
        }
        return (ft_cpuid_leaf){.ebx = FSGSBASE | TSC_ADJUST | SMEP, .edx = SPEC_CTRL | ARCH_CAPABILITIES};
    case 0x15:
        return (ft_cpuid_leaf){.eax = 1, .ebx = 1, .ecx = TSC_HZ}; /* TSC = crystal = APIC timer clock */
    case 0x16:
        return (ft_cpuid_leaf){.eax = TSC_HZ / 1000000, .ebx = TSC_HZ / 1000000, .ecx = 100};
    case 0x40000000:
        return (ft_cpuid_leaf){0x40000000, 0x6d767466, 0x6d767466, 0x6d767466}; /* ftvmftvmftvm */
    case 0x80000000:
        return (ft_cpuid_leaf){.eax = max_extended};
    case 0x80000001:
        return (ft_cpuid_leaf){.ecx = LAHF_LM, .edx = SYSCALL | NX | PDPE1GB | RDTSCP | LM};
    case 0x80000002:
    case 0x80000003:
    case 0x80000004:
        return brand(leaf - 0x80000002);
    case 0x80000006:
        return (ft_cpuid_leaf){.ecx = 1024u << 16 | 6u << 12 | 64}; /* L2: 1 MiB, 8 ways, 64-byte lines */
    case 0x80000007:
        return (ft_cpuid_leaf){.edx = BIT(8)}; /* invariant TSC */
    case 0x80000008:
        return (ft_cpuid_leaf){.eax = FT_PHYSICAL_BITS | 48u << 8};
    default:
        return (ft_cpuid_leaf){0};
    }
}
