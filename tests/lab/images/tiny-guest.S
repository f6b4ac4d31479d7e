/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A PV guest of some hundred bytes, for scenarios with many guests, and for what Linux does not let its programs do. Its command
 * line has four numbers, whatever stands between them: the moment at which to arm its watchdog (Xen's system time, ns; 0 is at
 * once), the watchdog's timeout (s), the time between two feeds (ns; 0: it never feeds), and, for a guest that arms and disarms both
 * its slots for ever, the time before each (ns; 0: it does not).
 *
 * Sources: Xen's public headers elfnote.h (notes), xen.h (start_info, hypercall numbers), sched.h (SCHEDOP_poll,
 * SCHEDOP_watchdog), arch-x86/xen-x86_64.h (hypercall page, calling convention).
 */

#define ELFNOTE_ENTRY           1
#define ELFNOTE_HYPERCALL_PAGE  2
#define ELFNOTE_VIRT_BASE       3
#define ELFNOTE_PADDR_OFFSET    4
#define ELFNOTE_XEN_VERSION     5
#define ELFNOTE_GUEST_OS        6
#define ELFNOTE_LOADER          8

#define START_INFO_CMD_LINE     128
#define SCHED_OP                (hypercalls + 29 * 32)
#define SCHEDOP_POLL            3
#define SCHEDOP_WATCHDOG        6

        .macro  note type, value:vararg
        .section .note.Xen, "a", @note
        .balign 4
        .long   4, 2f - 1f, \type
        .asciz  "Xen"
1:      \value
2:      .balign 4
        .text
        .endm

        note    ELFNOTE_GUEST_OS, .asciz "tiny"
        note    ELFNOTE_XEN_VERSION, .asciz "xen-3.0"
        note    ELFNOTE_LOADER, .asciz "generic"
        note    ELFNOTE_VIRT_BASE, .quad 0
        note    ELFNOTE_PADDR_OFFSET, .quad 0
        note    ELFNOTE_ENTRY, .quad start
        note    ELFNOTE_HYPERCALL_PAGE, .quad hypercalls

        .text
        .balign 4096
hypercalls:
        .skip   4096

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

        /* The next number at %rbx, in %rax; 0 at the end. */
number:
        xor     %eax, %eax
1:      movzbl  (%rbx), %ecx
        test    %ecx, %ecx
        jz      3f
        sub     $'0', %ecx
        cmp     $9, %ecx
        jbe     2f
        inc     %rbx
        jmp     1b
2:      imul    $10, %rax
        add     %rcx, %rax
        inc     %rbx
        movzbl  (%rbx), %ecx
        sub     $'0', %ecx
        cmp     $9, %ecx
        jbe     2b
3:      ret

        /* Until the moment in %r12. */
wait:
        mov     %r12, poll + 16
        mov     $SCHEDOP_POLL, %edi
        mov     $poll, %esi
        call    SCHED_OP
        ret

set:
        mov     $SCHEDOP_WATCHDOG, %edi
        mov     $watchdog, %esi
        call    SCHED_OP
        ret

        .balign 8
poll:                                   /* struct sched_poll: no ports, and a timeout */
        .quad   0
        .long   0, 0
        .quad   0
watchdog:                               /* struct sched_watchdog: id, timeout */
        .long   0, 0
