/*
 * Entry point of the guest
 *
 * QEMU's -kernel takes an ELF file that has this note, and enters it in
 * 32-bit protected mode with flat segments and without paging (PVH boot).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define XEN_ELFNOTE_PHYS32_ENTRY    18

    .section .note.pvh, "a", @note
    .long   4                           /* size of the name */
    .long   4                           /* size of the value */
    .long   XEN_ELFNOTE_PHYS32_ENTRY
    .asciz  "Xen"
    .long   start

    .text
    .globl  start
start:
    cli
    cld
    /* The segments are good, but not where their descriptors came from. */
    lgdt    gdt_pointer
    ljmp    $8, $1f
1:  mov     $16, %eax
    mov     %eax, %ds
    mov     %eax, %es
    mov     %eax, %ss
    mov     $stack_top, %esp
    call    main
2:  hlt
    jmp     2b

    .section .rodata
    .balign 8
gdt:
    .quad   0
    .quad   0x00cf9b000000ffff          /* 8: code, 4 GiB */
    .quad   0x00cf93000000ffff          /* 16: data, 4 GiB */
gdt_pointer:
    .word   . - gdt - 1
    .long   gdt

    .bss
    .balign 16
    .skip   16384
stack_top:

    .section .note.GNU-stack, "", @progbits
