package wireguard

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// putControl writes one control message into b, which has room for it.
func putControl(b []byte, level, kind int32, data []byte) {
	header := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	header.Level, header.Type = level, kind
	header.SetLen(unix.CmsgLen(len(data)))
	copy(b[unix.CmsgLen(0):], data)
}

// nativeUint16 is how the kernel reads a 16-bit number.
func nativeUint16(n int) []byte { return binary.NativeEndian.AppendUint16(nil, uint16(n)) }

// fromNativeUint16 reads one of the kernel's; b has at least 2 bytes.
func fromNativeUint16(b []byte) uint16 { return binary.NativeEndian.Uint16(b) }
