/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Numbers of the architecture, for C and for assembly (SDM vol. 3, 2.3, 2.5, 4.7, 6.3 and 17.2; vol. 4). */
#ifndef X86_H
#define X86_H

#define CR0_PE 0x1
#define CR0_MP 0x2
#define CR0_EM 0x4
#define CR0_TS 0x8
#define CR0_NE 0x20
#define CR0_WP 0x10000
#define CR0_PG 0x80000000

#define CR4_TSD 0x4
#define CR4_PAE 0x20
#define CR4_PGE 0x80
#define CR4_OSFXSR 0x200
#define CR4_OSXMMEXCPT 0x400
#define CR4_SMEP 0x100000
#define CR4_SMAP 0x200000

#define RFLAGS_CF 0x1
#define RFLAGS_FIXED 0x2 /* always reads as one */
#define RFLAGS_TF 0x100
#define RFLAGS_IF 0x200
#define RFLAGS_DF 0x400
#define RFLAGS_IOPL 0x3000

#define DR6_B0 0x1
#define DR6_B1 0x2
#define DR6_B3 0x8
#define DR6_BS 0x4000

#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_FMASK 0xc0000084
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102

#define EFER_SCE 0x1
#define EFER_LME 0x100
#define EFER_NXE 0x800

#define VECTOR_DE 0
#define VECTOR_DB 1
#define VECTOR_NMI 2
#define VECTOR_BP 3
#define VECTOR_OF 4
#define VECTOR_BR 5
#define VECTOR_UD 6
#define VECTOR_NM 7
#define VECTOR_DF 8
#define VECTOR_TS 10
#define VECTOR_NP 11
#define VECTOR_SS 12
#define VECTOR_GP 13
#define VECTOR_PF 14
#define VECTOR_MF 16
#define VECTOR_AC 17
#define VECTOR_CP 21

/* Error code of #PF. */
#define PF_PROTECTION 0x1
#define PF_WRITE 0x2
#define PF_USER 0x4
#define PF_RESERVED 0x8
#define PF_FETCH 0x10

#endif
