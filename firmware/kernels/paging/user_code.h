/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What user.S offers, as addresses for frames. */
#ifndef USER_CODE_H
#define USER_CODE_H

#define VECTOR_DONE 0x80    /* a gate that is open to ring 3: the code has come through */
#define VECTOR_ENTERED 0xfd /* SYSCALL or SYSENTER has arrived */

#ifndef __ASSEMBLER__

#include "fault_case.h"

extern const struct fault_case privileged_cases[];

/* Ring 3. Each ends with VECTOR_DONE if nothing else happens. */
extern const char user_done[];
extern const char user_in8[], user_in16[]; /* port 0x80 */
extern const char user_in_far[];           /* port DX */
extern const char user_cli[], user_rdtsc[], user_sysexit[];
extern const char user_load[], user_store[]; /* rax, at the address in rdi */
extern const char user_popf[];               /* rax = RFLAGS after setting IF and IOPL 3 */
extern const char user_sum[];                /* rax = sum of the first words of rcx pages at rdi */
extern const char user_spin[];               /* for ever */
extern const char user_syscall[], user_syscall_end[], user_sysenter[];

/* Ring 0. Where SYSCALL and SYSENTER arrive: raises VECTOR_ENTERED at once. */
extern const char enter_here[], enter_here_end[];
extern const char leave_by_sysret[], leave_by_sysret32[], leave_by_sysexit[], leave_by_sysexit32[];
extern const char kernel_load[], kernel_store[], kernel_stac_load[];
extern const char kernel_swapgs[]; /* rax, rdx = word at %gs:0 after one SWAPGS, and after two */

#endif
#endif
