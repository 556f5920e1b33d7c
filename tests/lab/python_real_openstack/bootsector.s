# A guest in one sector: says on the first serial port that it runs, writes one sector of its own disk through the BIOS, says
# whether it could, and halts. In QEMU it needs no more than a disk to boot from.
#   as --32 bootsector.s -o b.o && ld -m elf_i386 --oformat binary -Ttext 0x7c00 -e start b.o -o b.bin
        .code16
        .globl  start
        .equ    port, 0x3f8
start:  cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7c00, %sp
        sti
        movb    %dl, drive              # the BIOS says what it booted from
        movw    $(port + 3), %dx        # 115200 8N1, no interrupts
        movb    $0x80, %al
        outb    %al, %dx
        movw    $port, %dx
        movb    $1, %al
        outb    %al, %dx
        incw    %dx
        xorb    %al, %al
        outb    %al, %dx
        movw    $(port + 3), %dx
        movb    $3, %al
        outb    %al, %dx
        movw    $booted, %si
        call    say
        movb    $0x43, %ah              # extended write
        xorb    %al, %al
        movb    drive, %dl
        movw    $packet, %si
        int     $0x13
        movw    $wrote, %si
        jnc     1f
        movw    $failed, %si
1:      call    say
2:      hlt
        jmp     2b

say:    lodsb
        testb   %al, %al
        jz      4f
        movb    %al, %ah
        movw    $(port + 5), %dx
3:      inb     %dx, %al                # until the port takes a character
        testb   $0x20, %al
        jz      3b
        movw    $port, %dx
        movb    %ah, %al
        outb    %al, %dx
        jmp     say
4:      ret

drive:  .byte   0
packet: .byte   16, 0                   # one sector from `mark` to sector 2
        .word   1, mark, 0
        .quad   2
booted: .asciz  "vmferry guest: booted\r\n"
wrote:  .asciz  "vmferry guest: wrote sector 2\r\n"
failed: .asciz  "vmferry guest: could not write\r\n"
mark:   .ascii  "written by the guest"
        .org    510
        .word   0xaa55
