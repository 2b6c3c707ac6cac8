/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Model-specific registers (SDM vol. 4). An index that is not listed raises #GP, as on hardware: Linux probes
 * for registers that way.
 */
#include "cpu.h"

enum {
    IA32_TSC = 0x10,
    IA32_PLATFORM_ID = 0x17,
    IA32_APIC_BASE = 0x1b,
    IA32_TSC_ADJUST = 0x3b,
    IA32_SPEC_CTRL = 0x48,
    IA32_PRED_CMD = 0x49,
    IA32_BIOS_SIGN_ID = 0x8b,
    IA32_MTRRCAP = 0xfe,
    IA32_ARCH_CAPABILITIES = 0x10a,
    IA32_MISC_ENABLE = 0x1a0,
    IA32_DEBUGCTL = 0x1d9,
    IA32_MTRR_PHYSBASE0 = 0x200, /* base and mask alternate */
    IA32_MTRR_PHYSMASK7 = 0x20f,
    IA32_MTRR_FIX64K_00000 = 0x250,
    IA32_MTRR_FIX16K_80000 = 0x258,
    IA32_MTRR_FIX16K_A0000 = 0x259,
    IA32_MTRR_FIX4K_C0000 = 0x268,
    IA32_MTRR_FIX4K_F8000 = 0x26f,
    IA32_PAT = 0x277,
    IA32_MTRR_DEF_TYPE = 0x2ff,
    IA32_TSC_DEADLINE = 0x6e0,
};

#define IA32_EFER 0xc0000080u
#define IA32_FS_BASE 0xc0000100u
#define IA32_GS_BASE 0xc0000101u
#define IA32_KERNEL_GS_BASE 0xc0000102u
#define IA32_LSTAR 0xc0000082u
#define IA32_CSTAR 0xc0000083u
#define IA32_SYSENTER_ESP 0x175u
#define IA32_SYSENTER_EIP 0x176u
#define IA32_TSC_AUX 0xc0000103u

#define PAT_DEFAULT 0x0007040600070406ull
#define APIC_BASE_DEFAULT 0xfee00900ull /* enabled, bootstrap processor */
#define MISC_ENABLE_FAST_STRINGS 1ull
#define MTRRCAP 0x508ull /* write combining, fixed ranges, eight variable ranges */

/*
 * Not affected by: Meltdown and L1TF (0), needs no L1D flush (3), SSB (4), MDS (5), machine check on page size
 * change (6), TAA (8), MMIO stale data (13-15), BHI (20), post-barrier RSB (24), GDS (26), RFDS (27), ITS (62).
 * Bit 1: IBRS stays on once set.
 */
#define ARCH_CAPABILITIES                                                                             \
    (1ull << 0 | 1ull << 1 | 1ull << 3 | 1ull << 4 | 1ull << 5 | 1ull << 6 | 1ull << 8 | 7ull << 13 | \
     1ull << 20 | 1ull << 24 | 1ull << 26 | 1ull << 27 | 1ull << 62)

static bool canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

static uint64_t tsc(const ft_cpu *cpu)
{
    return ft_cpu_now_ns(cpu) + cpu->msr.tsc_offset;
}

/* A memory type that PAT and MTRRs may name: UC, WC, WT, WP, WB, and UC- in PAT (SDM vol. 3, 12.11, 12.12). */
static bool memory_type_valid(uint8_t type, bool uc_minus)
{
    return type == 0 || type == 1 || (type >= 4 && type <= 6) || (uc_minus && type == 7);
}

static bool memory_types_valid(uint64_t types, bool uc_minus)
{
    for (int i = 0; i < 8; i++) {
        if (!memory_type_valid((uint8_t)(types >> (8 * i)), uc_minus)) {
            return false;
        }
    }
    return true;
}

/* The registers that are nothing but storage. */
static uint64_t *storage(ft_cpu *cpu, uint32_t index)
{
    ft_msrs *msr = &cpu->msr;

    if (index >= IA32_MTRR_PHYSBASE0 && index <= IA32_MTRR_PHYSMASK7) {
        uint32_t range = (index - IA32_MTRR_PHYSBASE0) / 2;
        return index % 2 == 0 ? &msr->mtrr_base[range] : &msr->mtrr_mask[range];
    }
    if (index >= IA32_MTRR_FIX4K_C0000 && index <= IA32_MTRR_FIX4K_F8000) {
        return &msr->mtrr_fixed[3 + index - IA32_MTRR_FIX4K_C0000];
    }
    switch (index) {
    case IA32_MTRR_FIX64K_00000:
        return &msr->mtrr_fixed[0];
    case IA32_MTRR_FIX16K_80000:
    case IA32_MTRR_FIX16K_A0000:
        return &msr->mtrr_fixed[1 + index - IA32_MTRR_FIX16K_80000];
    case IA32_MTRR_DEF_TYPE:
        return &msr->mtrr_def_type;
    case IA32_PAT:
        return &msr->pat;
    case IA32_SPEC_CTRL:
        return &msr->spec_ctrl;
    case IA32_MISC_ENABLE:
        return &msr->misc_enable;
    case IA32_DEBUGCTL:
        return &msr->debug_ctl;
    case IA32_TSC_AUX:
        return &msr->tsc_aux;
    default:
        return ft_engine_msr(cpu, index);
    }
}

/* The bits or values that a register of storage() refuses. */
static bool acceptable(uint32_t index, uint64_t value)
{
    const uint64_t physical = (1ull << FT_PHYSICAL_BITS) - 1;

    if (index >= IA32_MTRR_PHYSBASE0 && index <= IA32_MTRR_PHYSMASK7) {
        return index % 2 == 0 ? !(value & ~(physical & ~0xf00ull)) && memory_type_valid((uint8_t)value, false)
                              : !(value & ~(physical & ~0x7ffull));
    }
    if (index >= IA32_MTRR_FIX64K_00000 && index <= IA32_MTRR_FIX4K_F8000) {
        return memory_types_valid(value, false);
    }
    switch (index) {
    case IA32_MTRR_DEF_TYPE:
        return !(value & ~0xcffull) && memory_type_valid((uint8_t)value, false);
    case IA32_PAT:
        return memory_types_valid(value, true);
    case IA32_SPEC_CTRL:
        return !(value & ~1ull);
    case IA32_DEBUGCTL:
        return !(value & ~3ull);
    case IA32_TSC_AUX:
        return value <= UINT32_MAX;
    case IA32_FS_BASE:
    case IA32_GS_BASE:
    case IA32_KERNEL_GS_BASE:
    case IA32_LSTAR:
    case IA32_CSTAR:
    case IA32_SYSENTER_ESP:
    case IA32_SYSENTER_EIP:
        return canonical(value);
    default:
        return true;
    }
}

void ft_msr_reset_state(ft_arch *arch)
{
    arch->pat = PAT_DEFAULT;
    arch->apic_base = APIC_BASE_DEFAULT;
    arch->misc_enable = MISC_ENABLE_FAST_STRINGS;
}

int ft_msr_read(ft_cpu *cpu, uint32_t index, uint64_t *value)
{
    const uint64_t *place = storage(cpu, index);

    if (place) {
        *value = *place;
        return 0;
    }
    switch (index) {
    case IA32_TSC:
        *value = tsc(cpu);
        return 0;
    case IA32_TSC_ADJUST:
        *value = cpu->msr.tsc_adjust;
        return 0;
    case IA32_PLATFORM_ID:
    case IA32_BIOS_SIGN_ID:
        *value = 0;
        return 0;
    case IA32_MTRRCAP:
        *value = MTRRCAP;
        return 0;
    case IA32_ARCH_CAPABILITIES:
        *value = ARCH_CAPABILITIES;
        return 0;
    case IA32_EFER:
        *value = ft_engine_efer(cpu);
        return 0;
    case IA32_TSC_DEADLINE:
        if (ft_cpu_read_tsc_deadline(cpu, value)) {
            return 0;
        }
        return ft_on_msr_read(ft_cpu_owner(cpu), index, value);
    case IA32_APIC_BASE:
        return ft_on_msr_read(ft_cpu_owner(cpu), index, value);
    default:
        return -1;
    }
}

int ft_msr_write(ft_cpu *cpu, uint32_t index, uint64_t value)
{
    uint64_t *place = storage(cpu, index);

    if (place) {
        if (!acceptable(index, value)) {
            return -1;
        }
        *place = value;
        return 0;
    }
    switch (index) {
    case IA32_TSC: /* SDM vol. 3, 18.17.3: a write moves TSC_ADJUST by the same amount */
        cpu->msr.tsc_adjust += value - tsc(cpu);
        cpu->msr.tsc_offset += value - tsc(cpu);
        return 0;
    case IA32_TSC_ADJUST:
        cpu->msr.tsc_offset += value - cpu->msr.tsc_adjust;
        cpu->msr.tsc_adjust = value;
        return 0;
    case IA32_PRED_CMD:
    case IA32_BIOS_SIGN_ID:
        return 0;
    case IA32_EFER:
        return ft_engine_write_efer(cpu, value);
    case IA32_APIC_BASE:
        if (ft_on_msr_write(ft_cpu_owner(cpu), index, value) != 0) {
            return -1;
        }
        cpu->msr.apic_base = value;
        return 0;
    case IA32_TSC_DEADLINE:
        if (ft_cpu_write_tsc_deadline(cpu, value)) {
            return 0;
        }
        return ft_on_msr_write(ft_cpu_owner(cpu), index, value);
    default:
        return -1;
    }
}
