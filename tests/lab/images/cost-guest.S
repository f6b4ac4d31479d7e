/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A PV guest that measures what the hypervisor does for it. Its command line has two numbers, whatever stands between them: the
 * moment at which to begin (Xen's system time, ns), and what to do: 0 feeds its watchdog, 1 yields its pCPU.
 *
 * It does that over and over, in batches, and tells on its console how much its time stamp counter advanced in each: a line of
 * eight hexadecimal digits a batch, and a line "end". Then, so as not to leave the other guest of a pair alone, it yields for ever.
 *
 * Sources, besides those of pv-guest.h: io/console.h (struct xencons_interface), event_channel.h (EVTCHNOP_send), and Xen's
 * tools/libs/guest/xg_dom_x86.c, alloc_magic_pages_pv(): xenstore's page and the console's follow the start info's.
 */

#include "pv-guest.h"

#define BATCHES                 200     /* what is told fits into the console's ring, of 2048 bytes */
#define IN_A_BATCH              100

#define START_INFO_CONSOLE_PORT 80
#define CONSOLE_PAGE            (2 * 4096)
#define CONSOLE_OUT             1024
#define CONSOLE_OUT_PROD        3084
#define EVENT_CHANNEL_OP        (hypercalls + 32 * 32)
#define EVTCHNOP_SEND           4
#define SCHEDOP_YIELD           0
#define TIMEOUT_S               10000

        /* %rsi: struct start_info. Xen has set up a stack. */
        .globl  start
start:
        mov     %rsi, %rbp
        lea     START_INFO_CMD_LINE(%rsi), %rbx
        call    number
        mov     %rax, %r12              /* the moment to begin */
        call    number
        mov     %rax, %r13              /* what to do */

        test    %r13, %r13
        jnz     1f
        movl    $TIMEOUT_S, watchdog + 4
        call    set                     /* id 0: a free slot is armed, and its id returned */
        mov     %eax, watchdog
1:      call    wait

        xor     %r14d, %r14d            /* the batch */
batch:
        call    stamp
        mov     %rax, %r15
        mov     $IN_A_BATCH, %ebx
        test    %r13, %r13
        jnz     2f
1:      call    set
        dec     %ebx
        jnz     1b
        jmp     3f
2:      call    yield
        dec     %ebx
        jnz     2b
3:      call    stamp
        sub     %r15, %rax
        mov     %eax, advances(, %r14, 4)
        inc     %r14d
        cmp     $BATCHES, %r14d
        jb      batch

        lea     CONSOLE_PAGE + CONSOLE_OUT(%rbp), %rdi
        xor     %r14d, %r14d
1:      mov     advances(, %r14, 4), %eax
        mov     $8, %ecx
2:      rol     $4, %eax
        mov     %eax, %edx
        and     $15, %edx
        mov     digits(%rdx), %dl
        mov     %dl, (%rdi)
        inc     %rdi
        dec     %ecx
        jnz     2b
        movb    $'\n', (%rdi)
        inc     %rdi
        inc     %r14d
        cmp     $BATCHES, %r14d
        jb      1b
        movl    $('e' | 'n' << 8 | 'd' << 16 | '\n' << 24), (%rdi)
        movl    $(BATCHES * 9 + 4), CONSOLE_PAGE + CONSOLE_OUT_PROD(%rbp)
        mov     START_INFO_CONSOLE_PORT(%rbp), %eax
        mov     %eax, port
        mov     $EVTCHNOP_SEND, %edi
        mov     $port, %esi
        call    EVENT_CHANNEL_OP

1:      call    yield
        jmp     1b

        /* The time stamp counter, in %rax. */
stamp:
        rdtsc
        shl     $32, %rdx
        or      %rdx, %rax
        ret

yield:
        mov     $SCHEDOP_YIELD, %edi
        xor     %esi, %esi
        call    SCHED_OP
        ret

        routines

digits: .ascii  "0123456789abcdef"
        .balign 4
port:   .long   0
advances:
        .skip   BATCHES * 4
