/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the laboratory's own PV guests share: the notes by which the domain builder loads them, the hypercall page, how a number is
 * read from the command line, and the two operations that all of them use.
 *
 * Sources: Xen's public headers elfnote.h (notes), xen.h (start_info, hypercall numbers), sched.h (SCHEDOP_*),
 * arch-x86/xen-x86_64.h (hypercall page, calling convention: %rcx and %r11 are lost).
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

        .macro  routines
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
        .endm
