package main

import (
	"strings"
	"testing"
	"time"

	"github.com/zero-os/zos/workload/control"
)

func TestProgramIsConfinedAndFindsItsWorld(t *testing.T) {
	m := start(t, options{erofs: true, network: true})
	s := m.connect()
	b := m.program("look")
	b.User = control.User{UID: 1000, GID: 1001}
	b.Hosts, b.ResolvConf = []byte("127.0.0.1 localhost web\n"), []byte("nameserver 10.0.2.3\n")
	b.Files = []control.File{{Path: "/run/secrets/word", Mode: 0o400, UID: 1000, GID: 1001, Content: []byte("sesame")}}
	b.Interfaces = []control.Iface{{
		Name: "eth0", MAC: testMAC, MTU: 1400, Addresses: []string{"10.0.2.15/24", "fd00::15/64"},
		Routes: []control.Route{{To: "0.0.0.0/0", Via: "10.0.2.2"}, {To: "10.9.0.0/16", Via: "10.1.1.1", OnLink: true}, {To: "fd01::/64", Via: "fd00::1"}, {To: "10.8.0.0/16"}},
	}}
	b.Time = time.Unix(1_900_000_000, 0).UnixNano()
	c := m.run(s, b)
	h := listen(t, c, "")
	if h.code != 0 || h.fault != nil {
		t.Fatalf("%+v", h)
	}
	zero := "0000000000000000"
	wantLines(t, h.out,
		"\npid 1 uid 1000 gid 1001\n", "groups []", "host web", "cwd /work", "env A=1", "env HOME=/home/ada\n",
		"CapInh: "+zero, "CapPrm: "+zero, "CapEff: "+zero, "CapBnd: "+zero, "CapAmb: "+zero, "NoNewPrivs: 1", "Seccomp: 2\n",
		"core 0 0", " 524288 files", "cgroup 0::/\n", "processes 1\n",
		"fd 0 /dev/null", "fd 1 pipe:", "fd 2 pipe:",
		"devices /dev/fd /dev/full /dev/mqueue /dev/null /dev/ptmx /dev/pts /dev/random /dev/shm /dev/stderr /dev/stdin /dev/stdout /dev/tty /dev/urandom /dev/zero\n",
		"file /etc/hosts -rw-r--r-- 0 0 127.0.0.1 localhost web", "file /etc/resolv.conf -rw-r--r-- 0 0 nameserver 10.0.2.3",
		"file /run/secrets/word -r-------- 1000 1001 sesame", "file /etc/image -rwxr-xr-x 0 0 of the flist",
		"write /dev/shm/x <nil>", "write /tmp/x <nil>", "write /etc/new permission denied",
		"kcore 0", "mknod operation not permitted", "mount operation not permitted", "reboot operation not permitted", "sethostname operation not permitted",
		"interface eth0 1400 true [10.0.2.15/24 fd00::15/64", "interface lo 65536 true [127.0.0.1/8 ::1/128]", "routes 4\n",
		"time 19000000")
	// Nothing of the agent's own root.
	if _, rest, _ := strings.Cut(h.out, "\nroot "); strings.Contains(strings.SplitN(rest, "\n", 2)[0], "lower") {
		t.Error(rest)
	}
	for line := range strings.Lines(h.out) {
		if strings.HasPrefix(line, "fd ") && !strings.Contains(line, "/proc/") && !strings.HasPrefix(line, "fd 0 ") && !strings.HasPrefix(line, "fd 1 ") && !strings.HasPrefix(line, "fd 2 ") &&
			!strings.Contains(line, "anon_inode:[event") && !strings.Contains(line, " /sys/fs/cgroup/") { // Go's own
			t.Errorf("it holds %s", line)
		}
	}
	m.ends(c)
}

// A privileged program has the guest to itself: containers in it mount, make cgroups and
// namespaces.
func TestPrivilegedProgramHasTheGuest(t *testing.T) {
	m := start(t, options{erofs: true})
	s := m.connect()
	b := m.program("mount")
	b.Privileged, b.NoNewPrivs = true, false
	c := m.run(s, b)
	if h := listen(t, c, ""); h.code != 0 || h.out != "mounted\n" {
		t.Fatalf("%+v", h)
	}
	m.ends(c)
}
