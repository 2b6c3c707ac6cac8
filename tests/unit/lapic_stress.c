/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The local APIC in states that a fault may have left, under anything that a guest may do. */
#include "ftvm.h"

#include <stdio.h>
#include <string.h>

static uint64_t seed = 1;

static uint64_t random64(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

/* Small, large, and with a single wrong bit. */
static uint64_t any(void)
{
    switch (random64() % 4) {
    case 0:
        return random64() % 32;
    case 1:
        return (uint32_t)random64();
    case 2:
        return (uint64_t)1 << random64() % 64;
    default:
        return random64();
    }
}

static int act(ft_lapic *lapic, uint64_t now_ns)
{
    uint32_t effects = 0, register_offset = (uint32_t)(random64() % 0x400);
    int vector;

    if (random64() % 2) {
        register_offset &= ~0xfu;
    }
    switch (random64() % 12) {
    case 0:
        return ft_lapic_read(lapic, register_offset & ~1u, 2, now_ns, &effects) <= 0xffff ? 0 : -1;
    case 1:
    case 2:
    case 3:
        effects = ft_lapic_write(lapic, register_offset, 4, (uint32_t)any(), now_ns);
        break;
    case 4:
        (void)ft_lapic_write_base(lapic, any(), &effects);
        break;
    case 5:
        (void)ft_lapic_read_deadline(lapic, now_ns, &effects);
        break;
    case 6:
        effects = ft_lapic_write_deadline(lapic, any(), now_ns, any());
        break;
    case 7:
        effects = ft_lapic_write_cr8(lapic, any());
        break;
    case 8:
        effects = ft_lapic_message(lapic, (uint32_t)any(), random64() & 1, random64() % 8, (uint32_t)any(),
                                   random64() & 1);
        break;
    case 9:
        effects = ft_lapic_set_lint0(lapic, random64() & 1);
        break;
    case 10:
        vector = ft_lapic_acknowledge(lapic, &effects);
        if (vector < 0 && ft_lapic_take_external(lapic)) {
            effects |= ft_lapic_update(lapic);
        }
        return vector >= -1 && vector <= 255 ? 0 : -1;
    default:
        effects = ft_lapic_advance(lapic, now_ns);
        if (lapic->expires_ns <= now_ns) {
            return -1; /* it would be due for ever */
        }
        break;
    }
    (void)ft_lapic_ends_level(lapic);
    return effects >> FT_LAPIC_VECTOR <= 255 && (!(effects & FT_LAPIC_INTR) || lapic->output <= 1) ? 0 : -1;
}

int main(void)
{
    ft_lapic lapic;
    uint8_t bytes[FT_LAPIC_BYTES];

    for (int round = 0; round < 100000; round++) {
        uint64_t now_ns = any();
        ft_lapic_reset(&lapic);
        for (int i = (int)(random64() % 8); i > 0; i--) {
            uint64_t value = any();
            memcpy((uint8_t *)&lapic + random64() % (sizeof(lapic) / 8) * 8, &value, 8);
        }
        for (int i = 0; i < 20; i++) {
            if (act(&lapic, now_ns) != 0 || ft_lapic_encode(&lapic, bytes) > FT_LAPIC_BYTES) {
                printf("round %d\n", round);
                return 1;
            }
            now_ns = random64() % 2 ? now_ns : now_ns + random64() % (UINT64_MAX - now_ns);
        }
    }
    printf("SUCCESS\n");
    return 0;
}
