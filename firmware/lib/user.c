/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "user.h"

#include "cpu.h"
#include "gdt.h"
#include "paging.h"

extern const char user_start[], user_end[]; /* kernel.ld: page aligned */

void user_init(void)
{
    for (const char *page = user_start; page < user_end; page += PAGE_BYTES)
        page_map(user_address(page), (uint64_t)page, PAGE_USER);
    page_map(USER_STACK, (uint64_t)page_alloc(), PAGE_USER | PAGE_WRITE | PAGE_NX);
}

uint64_t user_address(const void *in_section)
{
    return USER_TEXT + (uint64_t)((const char *)in_section - user_start);
}

uint64_t user_origin(uint64_t address)
{
    return address - USER_TEXT + (uint64_t)user_start;
}

struct frame user_frame(const void *code)
{
    return (struct frame){
        .rip = user_address(code),
        .cs = USER_CODE,
        .rflags = RFLAGS_FIXED,
        .rsp = USER_STACK + PAGE_BYTES,
        .ss = USER_DATA,
    };
}
