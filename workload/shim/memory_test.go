package shim

import (
	"bytes"
	"os"
	"os/exec"
	"reflect"
	"testing"
)

const smapsOfOne = `00400000-005ea000 r-xp 00000000 fe:00 9987149                            /bin/zos-shim
Size:               1960 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
005ea000-00816000 r--p 001ea000 fe:00 9987149                            /bin/zos-shim
Anonymous:             4 kB
00816000-00820000 r--p 001ea000 fe:00 9987149                            /bin/zos-shim
Anonymous:             0 kB
00820000-00839000 rw-p 00416000 fe:00 9987149                            /bin/zos-shim
Anonymous:             0 kB
00839000-00840000 r--s 00416000 fe:00 9987149                            /bin/zos-shim
Anonymous:             0 kB
10191ec00000-10191f000000 r--p 00000000 00:00 0
Anonymous:             0 kB
10191f000000-10191f001000 r--p 00000000 fe:00 1                          /bin/other
Anonymous:             0 kB
10191f001000-10191f000000 r--p 00000000 fe:00 1                          /bin/zos-shim
Anonymous:             0 kB
zz-10191f000000 r--p 00000000 fe:00 1                          /bin/zos-shim
Anonymous:             0 kB
Anonymous:
`

func TestOnlyWhatTheFileHoldsIsLetGo(t *testing.T) {
	want := []mapping{{0x400000, 0x5ea000}, {0x816000, 0x820000}}
	if got := untouched([]byte(smapsOfOne), "/bin/zos-shim"); !reflect.DeepEqual(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
	if got := untouched(nil, "/bin/zos-shim"); got != nil {
		t.Errorf("of nothing: %x", got)
	}
}

// A program that has let go of its own code runs on, and its constants are what they were.
func TestAProgramThatLetGoRunsOn(t *testing.T) {
	if os.Getenv("ZOS_TEST_LET_GO") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestAProgramThatLetGoRunsOn$", "-test.v")
		cmd.Env = append(os.Environ(), "ZOS_TEST_LET_GO=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("let go of ")) {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	own := untouched(b, self)
	if len(own) < 2 { // code and constants
		t.Fatalf("%x of %s", own, b)
	}
	for range 20 {
		letGo()
	}
	if smapsOfOne[:8] != "00400000" {
		t.Error("a constant has changed")
	}
	t.Logf("let go of %d mappings", len(own))
}
