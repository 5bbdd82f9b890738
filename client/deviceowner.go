package client

import (
	"fmt"
	"os"
	"syscall"
)

type owner struct{ uid, gid int }

func ownerOf(path string) (owner, error) {
	info, err := os.Stat(path)
	if err != nil {
		return owner{}, fmt.Errorf("find who owns the configuration directory: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return owner{int(st.Uid), int(st.Gid)}, nil
	}
	return owner{os.Geteuid(), os.Getegid()}, nil
}
