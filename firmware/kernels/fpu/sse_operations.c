/* SPDX-License-Identifier: GPL-2.0-or-later */
#pragma GCC target("sse2")

#include "sse_operations.h"

#define DEFINE(name, instruction)                                                              \
    static void run_##name(union vector *result, const union vector *a, const union vector *b) \
    {                                                                                          \
        asm volatile("movdqu %1, %%xmm0\n\t"                                                   \
                     "movdqu %2, %%xmm1\n\t" instruction "\n\t"                                \
                     "movdqu %%xmm0, %0"                                                       \
                     : "=m"(*result)                                                           \
                     : "m"(*a), "m"(*b)                                                        \
                     : "xmm0", "xmm1", "rax", "rcx", "rdx", "cc");                             \
    }
#define ENTRY(name, instruction) {#name, run_##name},
#define LIST(group, OPERATIONS) \
    OPERATIONS(DEFINE)          \
    const struct sse_operation group[] = {OPERATIONS(ENTRY){0, 0}};

#define PLAIN(X, name) X(name, #name " %%xmm1, %%xmm0")
#define IMMEDIATE(X, name, value) X(name, #name " $" #value ", %%xmm1, %%xmm0")
/* The integer that `name` makes of %xmm1. */
#define TO_INTEGER(X, name) X(name, #name " %%xmm1, %%rax; movq %%rax, %%xmm0")
/* OF, SF, ZF, AF, PF and CF, behind an instruction that sets them. */
#define FLAGS "pushfq; popq %%rax; and $0x8d5, %%eax; movq %%rax, %%xmm0"
#define TO_FLAGS(X, name) X(name, #name " %%xmm1, %%xmm0; " FLAGS)

/* clang-format off */
#define SINGLE_ARITHMETIC(X) \
    PLAIN(X, addps) PLAIN(X, addss) PLAIN(X, subps) PLAIN(X, subss) PLAIN(X, mulps) PLAIN(X, mulss) \
    PLAIN(X, divps) PLAIN(X, divss) PLAIN(X, sqrtps) PLAIN(X, sqrtss) \
    PLAIN(X, cvtps2dq) PLAIN(X, cvttps2dq) PLAIN(X, cvtdq2ps) PLAIN(X, cvtps2pd) PLAIN(X, cvtss2sd) \
    TO_INTEGER(X, cvtss2si) TO_INTEGER(X, cvttss2si)

#define SINGLE_LOGIC(X) \
    PLAIN(X, minps) PLAIN(X, maxps) PLAIN(X, minss) PLAIN(X, maxss) PLAIN(X, cmpeqps) PLAIN(X, cmpltps) \
    PLAIN(X, cmpleps) PLAIN(X, cmpunordps) PLAIN(X, cmpneqps) PLAIN(X, cmpnltps) PLAIN(X, cmpnleps) \
    PLAIN(X, cmpordps) PLAIN(X, cmpltss) TO_FLAGS(X, comiss) TO_FLAGS(X, ucomiss) \
    PLAIN(X, andps) PLAIN(X, xorps) PLAIN(X, unpcklps) IMMEDIATE(X, shufps, 0x9c) PLAIN(X, movhlps)

#define DOUBLE_ARITHMETIC(X) \
    PLAIN(X, addpd) PLAIN(X, addsd) PLAIN(X, subpd) PLAIN(X, subsd) PLAIN(X, mulpd) PLAIN(X, mulsd) \
    PLAIN(X, divpd) PLAIN(X, divsd) PLAIN(X, sqrtpd) PLAIN(X, sqrtsd) \
    PLAIN(X, cvtpd2dq) PLAIN(X, cvttpd2dq) PLAIN(X, cvtdq2pd) PLAIN(X, cvtpd2ps) PLAIN(X, cvtsd2ss) \
    TO_INTEGER(X, cvtsd2si) TO_INTEGER(X, cvttsd2si) \
    X(cvtsi2sd, "movq %%xmm1, %%rax; cvtsi2sdq %%rax, %%xmm0") \
    X(cvtsi2ss, "movq %%xmm1, %%rax; cvtsi2ssq %%rax, %%xmm0")

#define DOUBLE_LOGIC(X) \
    PLAIN(X, minpd) PLAIN(X, maxpd) PLAIN(X, minsd) PLAIN(X, maxsd) PLAIN(X, cmpeqpd) PLAIN(X, cmplepd) \
    PLAIN(X, cmpunordpd) PLAIN(X, cmpnltpd) PLAIN(X, cmpordsd) TO_FLAGS(X, comisd) TO_FLAGS(X, ucomisd) \
    PLAIN(X, andnpd) PLAIN(X, orpd) PLAIN(X, unpckhpd) IMMEDIATE(X, shufpd, 1)

#define INTEGER(X) \
    PLAIN(X, paddb) PLAIN(X, paddw) PLAIN(X, paddd) PLAIN(X, paddq) PLAIN(X, psubb) PLAIN(X, psubw) \
    PLAIN(X, psubd) PLAIN(X, psubq) PLAIN(X, paddsb) PLAIN(X, paddsw) PLAIN(X, paddusb) PLAIN(X, paddusw) \
    PLAIN(X, psubsb) PLAIN(X, psubsw) PLAIN(X, psubusb) PLAIN(X, psubusw) PLAIN(X, pmullw) PLAIN(X, pmulhw) \
    PLAIN(X, pmulhuw) PLAIN(X, pmuludq) PLAIN(X, pmaddwd) PLAIN(X, psadbw) PLAIN(X, pavgb) PLAIN(X, pavgw) \
    PLAIN(X, pminub) PLAIN(X, pmaxub) PLAIN(X, pminsw) PLAIN(X, pmaxsw) PLAIN(X, pcmpeqb) PLAIN(X, pcmpeqw) \
    PLAIN(X, pcmpeqd) PLAIN(X, pcmpgtb) PLAIN(X, pcmpgtw) PLAIN(X, pcmpgtd) PLAIN(X, pand) PLAIN(X, pandn) \
    PLAIN(X, por) PLAIN(X, pxor) PLAIN(X, packsswb) PLAIN(X, packssdw) PLAIN(X, packuswb) \
    PLAIN(X, punpcklbw) PLAIN(X, punpckhwd) PLAIN(X, punpckldq) PLAIN(X, punpckhqdq) \
    IMMEDIATE(X, pshufd, 0x1b) IMMEDIATE(X, pshuflw, 0x39) IMMEDIATE(X, pshufhw, 0x4e) \
    X(psllw, "psllw $5, %%xmm0") X(psrad, "psrad $7, %%xmm0") X(psrlq, "psrlq $33, %%xmm0") \
    X(pslldq, "pslldq $3, %%xmm0") X(psrldq, "psrldq $11, %%xmm0") \
    X(psraw, "psrlq $60, %%xmm1; psraw %%xmm1, %%xmm0") \
    X(pslld, "psrlq $59, %%xmm1; pslld %%xmm1, %%xmm0") \
    X(pmovmskb, "pmovmskb %%xmm1, %%eax; movq %%rax, %%xmm0") \
    X(movmskps, "movmskps %%xmm1, %%eax; movq %%rax, %%xmm0") \
    X(pinsrw, "movq %%xmm1, %%rax; pinsrw $6, %%eax, %%xmm0")

#define SSSE3(X) \
    PLAIN(X, pshufb) PLAIN(X, phaddw) PLAIN(X, phaddd) PLAIN(X, phaddsw) PLAIN(X, phsubw) PLAIN(X, phsubsw) \
    PLAIN(X, pmaddubsw) PLAIN(X, pmulhrsw) PLAIN(X, psignb) PLAIN(X, psignw) PLAIN(X, psignd) \
    PLAIN(X, pabsb) PLAIN(X, pabsw) PLAIN(X, pabsd) IMMEDIATE(X, palignr, 5) \
    PLAIN(X, haddps) PLAIN(X, hsubpd) PLAIN(X, addsubps) PLAIN(X, movshdup) PLAIN(X, movddup)

#define SSE41(X) \
    PLAIN(X, pmulld) PLAIN(X, pmuldq) PLAIN(X, pminsb) PLAIN(X, pmaxsd) PLAIN(X, pminud) PLAIN(X, pmaxuw) \
    PLAIN(X, pcmpeqq) PLAIN(X, packusdw) PLAIN(X, phminposuw) PLAIN(X, pmovsxbw) PLAIN(X, pmovzxwq) \
    PLAIN(X, pmovsxdq) IMMEDIATE(X, mpsadbw, 5) IMMEDIATE(X, pblendw, 0xa6) IMMEDIATE(X, blendps, 6) \
    IMMEDIATE(X, insertps, 0x92) IMMEDIATE(X, roundps, 1) IMMEDIATE(X, roundpd, 2) IMMEDIATE(X, roundss, 3) \
    IMMEDIATE(X, roundsd, 4) TO_FLAGS(X, ptest) \
    X(pextrq, "pextrq $1, %%xmm1, %%rax; movq %%rax, %%xmm0") \
    X(pinsrb, "movq %%xmm1, %%rax; pinsrb $9, %%eax, %%xmm0")

#define SSE42(X) \
    PLAIN(X, pcmpgtq) \
    X(pcmpistri, "pcmpistri $0x0c, %%xmm1, %%xmm0; movq %%rcx, %%xmm0") \
    X(pcmpistri_flags, "pcmpistri $0x1a, %%xmm1, %%xmm0; " FLAGS) \
    X(pcmpistrm, "pcmpistrm $0x44, %%xmm1, %%xmm0") \
    X(pcmpestri, "mov $11, %%eax; mov $7, %%edx; pcmpestri $0x18, %%xmm1, %%xmm0; movq %%rcx, %%xmm0") \
    X(crc32, "movq %%xmm0, %%rax; movq %%xmm1, %%rcx; crc32q %%rcx, %%rax; crc32b %%cl, %%eax; " \
             "movq %%rax, %%xmm0")

#define AES(X) \
    PLAIN(X, aesenc) PLAIN(X, aesenclast) PLAIN(X, aesdec) PLAIN(X, aesdeclast) PLAIN(X, aesimc) \
    IMMEDIATE(X, aeskeygenassist, 0x36)

#define PCLMULQDQ(X) IMMEDIATE(X, pclmulqdq, 0x10)
/* clang-format on */

LIST(single_arithmetic, SINGLE_ARITHMETIC)
LIST(single_logic, SINGLE_LOGIC)
LIST(double_arithmetic, DOUBLE_ARITHMETIC)
LIST(double_logic, DOUBLE_LOGIC)
LIST(integer_operations, INTEGER)
LIST(ssse3_operations, SSSE3)
LIST(sse41_operations, SSE41)
LIST(sse42_operations, SSE42)
LIST(aes_operations, AES)
LIST(pclmulqdq_operations, PCLMULQDQ)
