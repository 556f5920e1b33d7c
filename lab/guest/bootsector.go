// What the plain guest's first disk says when a BIOS boots from it: a line on the
// first serial port, and no more. Nothing is written, so that the disk can be
// compared afterwards. It lies in the part of the protective MBR that the UEFI
// specification leaves to such code; the partition table is not touched.
package guest

import (
	"encoding/binary"
	"fmt"
	"io"
)

// bootAddress is where a BIOS puts the sector.
const bootAddress = 0x7c00

// printer prints the text behind it by the BIOS, which knows the port.
//
//	       xor  dx, dx         ; the first serial port
//	       mov  ds, dx
//	       cld
//	       mov  ax, 0x00e3     ; 9600 8N1
//	       int  0x14
//	       mov  si, TEXT       ; see textAddress
//	next:  lodsb
//	       test al, al
//	       jz   end
//	       mov  ah, 1          ; send al
//	       int  0x14
//	       jmp  next
//	end:   hlt                 ; again after every interrupt
//	       jmp  end
const (
	printer     = "\x31\xd2\x8e\xda\xfc\xb8\xe3\x00\xcd\x14\xbe\x00\x00\xac\x84\xc0\x74\x06\xb4\x01\xcd\x14\xeb\xf5\xf4\xeb\xfd"
	textAddress = 11 // in the printer
)

// BootLine is what the first disk of the plain guest of that name prints.
func BootLine(name string) string {
	return fmt.Sprintf("vmferry guest: %.100s booted from its first disk", name)
}

// writePrinter puts the code and its text into the first sector.
func writePrinter(to io.WriterAt, name string) error {
	code := []byte(printer + BootLine(name) + "\r\n\x00")
	binary.LittleEndian.PutUint16(code[textAddress:], bootAddress+uint16(len(printer)))
	if len(code) > bootCodeEnd {
		return fmt.Errorf("the boot code has %d bytes, which is more than there is room for", len(code))
	}
	_, err := to.WriteAt(code, 0)
	return err
}
