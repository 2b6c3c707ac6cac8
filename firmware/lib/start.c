/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From boot.S to main(). */
#include "boot_info.h"
#include "debug_exit.h"
#include "gdt.h"
#include "idt.h"
#include "pic.h"
#include "serial.h"

int main(void);

/* `magic` and `info` are EAX and EBX as the loader left them. */
_Noreturn void start(uint32_t magic, uint32_t info)
{
    serial_init();
    gdt_init();
    idt_init();
    pic_init();
    boot_info_init(magic, info);
    debug_exit(main());
}
