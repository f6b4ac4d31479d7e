/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A PV guest of some hundred bytes, for scenarios with many guests, and for what Linux does not let its programs do. Its command
 * line has four numbers, whatever stands between them: the moment at which to arm its watchdog (Xen's system time, ns; 0 is at
 * once), the watchdog's timeout (s), the time between two feeds (ns; 0: it never feeds), and, for a guest that arms and disarms both
 * its slots for ever, the time before each (ns; 0: it does not).
 */

#include "pv-guest.h"

        /* %rsi: struct start_info. Xen has set up a stack. */
        .globl  start
start:
        lea     START_INFO_CMD_LINE(%rsi), %rbx
        call    number
        mov     %rax, %r12              /* the next moment to act */
        call    number
        mov     %eax, %r15d             /* the timeout */
        mov     %eax, watchdog + 4
        call    number
        mov     %rax, %r13              /* the period of feeding */
        call    number
        mov     %rax, %r14              /* the period of arming and disarming */

        test    %r12, %r12
        jz      1f
        call    wait
1:      test    %r14, %r14
        jnz     toggle
        call    set                     /* id 0: a free slot is armed, and its id returned */
        mov     %eax, watchdog

        test    %r13, %r13
        jz      idle
feed:
        /* From one moment to the next without a clock: poll takes an absolute time only, so the first comes from the command line. */
        add     %r13, %r12
        call    wait
        call    set
        jmp     feed

toggle:
        movl    $0, watchdog
        mov     %r15d, watchdog + 4
        call    set
        mov     %eax, %ebp
        movl    $0, watchdog
        call    set
        mov     %eax, %ebx
        add     %r14, %r12
        call    wait
        movl    $0, watchdog + 4        /* a timeout of 0 disarms */
        mov     %ebp, watchdog
        call    set
        mov     %ebx, watchdog
        call    set
        add     %r14, %r12
        call    wait
        jmp     toggle

idle:
        mov     $-1, %r12
        shr     $1, %r12
1:      call    wait
        jmp     1b

        routines
