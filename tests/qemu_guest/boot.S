# SPDX-License-Identifier: GPL-2.0-only
# A guest without an operating system, which does with its i6300esb what it is told to over COM1.
#
# It says B once it runs, then waits for orders, one letter each, and says each back in lower case
# when it is done:
#
#   A  arm, as Linux' i6300esb driver does: unlock and reload first, then the lock register; for
#      2 s, two stages of 1000 ticks of the 1 kHz counter
#   M  the same for 6 s
#   L  the same for two minutes: longer than anything a test waits for
#   X  the same as A, then H
#   F  feed: unlock and reload
#   R  reload as a driver does when it is loaded, before it arms: the same, to a device that is off
#   D  disarm
#   H  hang: nothing is read any more until a reset
#   T  reboot, by the keyboard controller
#
# i6300esb: Intel 6300ESB datasheet, chapter 16, and QEMU's hw/watchdog/wdt_i6300esb.c. The device
# is found by its vendor and device id; the BIOS has given it its registers.
        .code16
        .globl  _start
        .set    RELOAD, 0xc
        .set    COM1, 0x3f8
_start:
        cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7c00, %sp
        # The A20 gate, then unreal mode: %fs reaches the device's registers at 4 GiB.
        inb     $0x92, %al
        orb     $2, %al
        andb    $0xfe, %al
        outb    %al, $0x92
        lgdtl   gdt_pointer
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        movw    $8, %bx
        movw    %bx, %fs
        andb    $0xfe, %al
        movl    %eax, %cr0

        # Each of bus 0's 32 devices, until it is ours.
        movl    $0x80000000, %edi
find:   movl    %edi, %eax
        call    config
        inl     %dx, %eax
        cmpl    $0x25ab8086, %eax
        je      found
        addl    $0x800, %edi
        cmpl    $0x80010000, %edi
        jb      find
        movb    $'?', %al
        call    say
hang:   hlt
        jmp     hang

found:  # Memory space is switched on, and the registers are where BAR 0 says.
        leal    4(%edi), %eax
        call    config
        inw     %dx, %ax
        orb     $2, %al
        outw    %ax, %dx
        leal    0x10(%edi), %eax
        call    config
        inl     %dx, %eax
        andb    $0xf0, %al
        movl    %eax, %esi
        movb    $'B', %al
        call    say

orders: movw    $COM1 + 5, %dx
        inb     %dx, %al
        testb   $1, %al
        jz      orders
        movw    $COM1, %dx
        inb     %dx, %al
        movl    $1000, %ebp
        cmpb    $'A', %al
        je      arm
        cmpb    $'X', %al
        je      arm
        movl    $3000, %ebp
        cmpb    $'M', %al
        je      arm
        movl    $60000, %ebp
        cmpb    $'L', %al
        je      arm
        cmpb    $'F', %al
        je      feed
        cmpb    $'R', %al
        je      feed
        cmpb    $'D', %al
        je      disarm
        cmpb    $'H', %al
        je      hang
        cmpb    $'T', %al
        je      reboot
        jmp     orders

reboot: movb    $0xfe, %al
        outb    %al, $0x64
        jmp     hang

arm:    pushw   %ax
        call    unlock
        movl    %ebp, %fs:(%esi)
        call    unlock
        movl    %ebp, %fs:4(%esi)
        call    reload
        movb    $2, %bl
        call    lock_register
        popw    %ax
        jmp     done
disarm: pushw   %ax
        xorb    %bl, %bl
        call    lock_register
        popw    %ax
        jmp     done
feed:   call    reload
done:   orb     $0x20, %al
        call    say
        cmpb    $'x', %al
        je      hang
        jmp     orders

unlock: movw    $0x80, %fs:RELOAD(%esi)
        movw    $0x86, %fs:RELOAD(%esi)
        ret
reload: call    unlock
        movw    $0x100, %fs:RELOAD(%esi)
        ret

# Writes %bl to the lock register.
lock_register:
        leal    0x68(%edi), %eax
        call    config
        movb    %bl, %al
        outb    %al, %dx
        ret

# Selects the configuration register in %eax; %dx is then the port of its data.
config: movw    $0xcf8, %dx
        outl    %eax, %dx
        movw    $0xcfc, %dx
        ret

# Says %al.
say:    pushw   %ax
wait:   movw    $COM1 + 5, %dx
        inb     %dx, %al
        testb   $0x20, %al
        jz      wait
        popw    %ax
        movw    $COM1, %dx
        outb    %al, %dx
        ret

        .balign 8
gdt:    .quad   0
        # Flat data: base 0, limit 4 GiB, writable.
        .quad   0x00cf92000000ffff
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt

        .org    510
        .word   0xaa55
