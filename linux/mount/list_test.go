package mount

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const sample = `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
36 22 0:31 /sub /mnt/a\040b\011c\134d ro,nodev - fuse.zos-fault zos-fault rw,user_id=0
40 36 0:44 / /mnt/a\040b\011c\134d/deep rw shared:3 master:1 - overlay zos:00:0:lazy rw,lowerdir+=/x\054y,datadir+=/o,upperdir=/u,verity=require
41 22 0:45 / /mnt/ab rw - tmpfs tmpfs rw
`

func TestMountTableIsReadWithItsEscapes(t *testing.T) {
	all, err := Parse(strings.NewReader(sample))
	if err != nil || len(all) != 4 {
		t.Fatalf("%d entries, %v", len(all), err)
	}
	e := all[2]
	if e.ID != 40 || e.Parent != 36 || e.Target != "/mnt/a b\tc\\d/deep" || e.Type != "overlay" || e.Source != "zos:00:0:lazy" {
		t.Fatalf("%+v", e)
	}
	if v, ok := e.SuperOption("lowerdir+"); !ok || v != "/x,y" {
		t.Fatalf("lowerdir+ is %q", v)
	}
	if v, ok := e.SuperOption("verity"); !ok || v != "require" {
		t.Fatalf("verity is %q", v)
	}
	if _, ok := e.SuperOption("metacopy"); ok {
		t.Fatal("an option that is not set was found")
	}
	if all[1].Root != "/sub" || !slices.Equal(all[1].Options, []string{"ro", "nodev"}) {
		t.Fatalf("%+v", all[1])
	}
}

func TestBrokenMountTablesAreRefused(t *testing.T) {
	for _, bad := range []string{
		"x", "22 1 254:0 / / rw -", "22 1 254:0 / / rw ext4 /dev/vda rw", "a 1 254:0 / / rw - ext4 /dev/vda rw",
		strings.Repeat("x", maxLine+1),
	} {
		if all, err := Parse(strings.NewReader(bad)); err == nil {
			t.Errorf("%.80q gave %+v", bad, all)
		}
	}
}

func TestUnderKnowsThisMachine(t *testing.T) {
	all, err := Under("/")
	if err != nil || len(all) == 0 {
		t.Fatalf("%d mounts, %v", len(all), err)
	}
	proc, err := Under("/proc")
	if err != nil || !slices.ContainsFunc(proc, func(e Entry) bool { return e.Target == "/proc" && e.Type == "proc" }) {
		t.Fatalf("/proc: %+v, %v", proc, err)
	}
	// Names that begin alike are not below one another.
	for _, e := range proc {
		if e.Target != "/proc" && !strings.HasPrefix(e.Target, "/proc/") {
			t.Fatalf("%s is not below /proc", e.Target)
		}
	}
}

// Paths of any length and content are mountable: the long ones go the old way.
func TestOverlayTakesAwkwardPaths(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test mounts file systems: run it as root (sudo make test)")
	}
	for name, dir := range map[string]string{
		"awkward": `a:b,c d\e`,
		"long":    strings.Repeat("long name ", 20) + "/" + strings.Repeat(`x:,\`, 20),
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir() + "/" + dir
			for _, d := range []string{"lower", "data", "upper", "work", "at"} {
				if err := os.MkdirAll(base+"/"+d, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(base+"/lower/f", []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			spec := OverlaySpec{
				Source: "zos:test", Lower: []string{base + "/lower"}, Data: []string{base + "/data"}, Upper: base + "/upper", Work: base + "/work",
				Params: [][2]string{{"metacopy", "on"}, {"redirect_dir", "on"}}, NoDev: true, NoSUID: true,
			}
			if err := Overlay(spec, base+"/at"); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := Unmount(base + "/at"); err != nil {
					t.Error(err)
				}
			}()
			if b, err := os.ReadFile(base + "/at/f"); err != nil || string(b) != "x" {
				t.Fatalf("%q, %v", b, err)
			}
			if err := os.WriteFile(base+"/at/g", nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(base + "/upper/g"); err != nil {
				t.Fatal(err)
			}
			there, err := Under(base + "/at")
			if err != nil || len(there) != 1 {
				t.Fatalf("%+v, %v", there, err)
			}
			if e := there[0]; e.Source != "zos:test" || !slices.Contains(e.Options, "nodev") || !slices.Contains(e.Options, "nosuid") {
				t.Fatalf("%+v", e)
			}
			if up, ok := there[0].SuperOption("upperdir"); !ok || !strings.HasSuffix(up, "/upper") {
				t.Fatalf("upperdir is shown as %q", up)
			}
		})
	}
}

func TestOverlayErrorsCarryTheKernelsWords(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test mounts file systems: run it as root (sudo make test)")
	}
	d := t.TempDir()
	err := Overlay(OverlaySpec{Lower: []string{d}, Data: []string{d + "/absent"}, Params: [][2]string{{"metacopy", "on"}}}, d)
	if err == nil || !strings.Contains(err.Error(), "absent") {
		t.Fatalf("%v", err)
	}
	if err := Overlay(OverlaySpec{Lower: []string{"relative"}}, d); err == nil {
		t.Fatal("a relative layer was taken")
	}
	if err := Unmount(d); !IsNotMounted(err) {
		t.Fatalf("unmounting nothing: %v", err)
	}
}

func TestBindMoveAndDetachAreSeenInTheTable(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test mounts file systems: run it as root (sudo make test)")
	}
	d := t.TempDir()
	for _, sub := range []string{"private", "private/a", "private/b", "source"} {
		if err := os.Mkdir(d+"/"+sub, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(d+"/source/f", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// A mount can't be moved out of one that is shared with other namespaces.
	if err := unix.Mount("tmpfs", d+"/private", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = Detach(d + "/private") }()
	if err := unix.Mount("", d+"/private", "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"/private/a", "/private/b"} {
		if err := os.Mkdir(d+sub, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := Bind(d+"/source", d+"/private/a", false); err != nil {
		t.Fatal(err)
	}
	if err := Move(d+"/private/a", d+"/private/b"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d + "/private/b/f"); err != nil {
		t.Fatal(err)
	}
	if there, err := Under(d + "/private"); err != nil || len(there) != 2 || there[1].Target != d+"/private/b" {
		t.Fatalf("%+v, %v", there, err)
	}
	if err := Detach(d + "/private"); err != nil {
		t.Fatal(err)
	}
	if there, err := Under(d); err != nil || len(there) != 0 {
		t.Fatalf("%+v, %v", there, err)
	}
	if err := EROFS(d+"/source/f", d+"/private"); err == nil {
		t.Fatal("an empty file was mounted")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("1 1 0:0 / / rw - a b c\n"))
	f.Add([]byte(`1 1 0:0 \ \0 rw\ - \01 b \,c,` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := Parse(strings.NewReader(string(b)))
		if err == nil && len(all) > len(b)/10 {
			t.Fatalf("%d entries from %d bytes", len(all), len(b))
		}
		for _, e := range all {
			e.SuperOption("verity")
		}
	})
}
