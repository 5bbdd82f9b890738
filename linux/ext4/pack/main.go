// Command pack reads an image of a file system from its input and writes what is not
// zero in it: for each such block of 4 KiB its number, as eight bytes of little endian,
// and its content. It is run by go generate.
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

const blockSize = 4096

func main() {
	if err := pack(bufio.NewReader(os.Stdin), bufio.NewWriter(os.Stdout)); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func pack(in io.Reader, out *bufio.Writer) error {
	block, zeros := make([]byte, blockSize), make([]byte, blockSize)
	for n := uint64(0); ; n++ {
		_, err := io.ReadFull(in, block)
		if errors.Is(err, io.EOF) {
			return out.Flush()
		}
		if err != nil {
			return err
		}
		if bytes.Equal(block, zeros) {
			continue
		}
		if _, err := out.Write(binary.LittleEndian.AppendUint64(nil, n)); err != nil {
			return err
		}
		if _, err := out.Write(block); err != nil {
			return err
		}
	}
}
