package cloudinit

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/zero-os/zos/workload/control"
)

func sample() Seed {
	return Seed{
		Instance: "i-1", Hostname: "box", Keys: []string{"ssh-ed25519 AAAA ada"},
		Interfaces: []control.Iface{{
			Name: "eth0", MAC: "02:7a:0a:00:00:02", MTU: 1420, Addresses: []string{"10.0.0.2/32", "fd00::2/128"},
			Routes: []control.Route{{To: "10.0.0.1/32"}, {To: "10.0.0.0/16", Via: "10.0.0.1", OnLink: true}, {To: "::/0", Via: "fd00::1", OnLink: true}},
		}},
		Nameservers: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Search: []string{"net.internal"},
		Files: []control.File{{Path: "/run/secret", Mode: 0o400, Content: []byte("a: b\n---\n")}},
	}
}

// read takes an image apart again, by the structures of the standard.
func read(t testing.TB, img []byte) map[string][]byte {
	t.Helper()
	d := img[16*sector:]
	if string(d[1:6]) != "CD001" || strings.TrimRight(string(d[40:72]), " ") != "cidata" {
		t.Fatalf("volume descriptor %q", d[:80])
	}
	root := d[156:190]
	dir := img[int(binary.LittleEndian.Uint32(root[2:]))*sector:][:binary.LittleEndian.Uint32(root[10:])]
	files := map[string][]byte{}
	for dir[0] != 0 {
		r := dir[:dir[0]]
		dir = dir[dir[0]:]
		id := int(r[32])
		if id == 1 {
			continue
		}
		use := r[33+id+(33+id)%2:]
		name := ""
		for len(use) >= 4 {
			if string(use[:2]) == "NM" {
				name = string(use[5:use[2]])
			}
			use = use[use[2]:]
		}
		files[name] = img[int(binary.LittleEndian.Uint32(r[2:]))*sector:][:binary.LittleEndian.Uint32(r[10:])]
	}
	return files
}

func image(t testing.TB, s Seed) map[string][]byte {
	t.Helper()
	img, err := s.Image()
	if err != nil {
		t.Fatal(err)
	}
	return read(t, img)
}

func parse(t testing.TB, b []byte) map[string]any {
	t.Helper()
	var m map[string]any
	if err := yaml.Unmarshal(b, &m); err != nil {
		t.Fatalf("%v in %q", err, b)
	}
	return m
}

func TestSeedSaysWhatTheMachineIsTold(t *testing.T) {
	files := image(t, sample())
	meta := parse(t, files["meta-data"])
	if diff := cmp.Diff(map[string]any{"instance-id": "i-1", "local-hostname": "box", "public-keys": []any{"ssh-ed25519 AAAA ada"}}, meta); diff != "" {
		t.Error(diff)
	}
	eth := parse(t, files["network-config"])["ethernets"].(map[string]any)["eth0"].(map[string]any)
	want := map[string]any{
		"match": map[string]any{"macaddress": "02:7a:0a:00:00:02"}, "set-name": "eth0", "mtu": uint64(1420),
		"dhcp4": false, "dhcp6": false, "accept-ra": false, "addresses": []any{"10.0.0.2/32", "fd00::2/128"},
		"nameservers": map[string]any{"addresses": []any{"10.0.0.1"}, "search": []any{"net.internal"}},
	}
	if diff := cmp.Diff(want, eth); diff != "" {
		t.Error(diff)
	}
	if !bytes.HasPrefix(files["user-data"], []byte("#cloud-config\n")) {
		t.Errorf("user data begins %.20q", files["user-data"])
	}
	user := parse(t, files["user-data"])
	routes := []any{
		[]any{"ip", "route", "replace", "10.0.0.1/32", "dev", "eth0"},
		[]any{"ip", "route", "replace", "10.0.0.0/16", "via", "10.0.0.1", "dev", "eth0"},
		[]any{"ip", "route", "replace", "::/0", "via", "fd00::1", "dev", "eth0"},
	}
	if diff := cmp.Diff(routes, user["bootcmd"]); diff != "" {
		t.Error(diff)
	}
	file := user["write_files"].([]any)[0].(map[string]any)
	if got, _ := base64.StdEncoding.DecodeString(file["content"].(string)); string(got) != "a: b\n---\n" || file["permissions"] != "0400" {
		t.Errorf("file %v", file)
	}
}

func TestTheGroupsUserDataIsAPartOfItsOwn(t *testing.T) {
	for _, own := range []string{"#cloud-config\npackages: [nginx]\n", "#!/bin/sh\necho --==zero-os==--\n", "--==zero-os==--\n\n#cloud-config", strings.Repeat("x", maxUserData), "\x1f\x8b\x08compressed"} {
		s := sample()
		s.UserData = []byte(own)
		m, err := mail.ReadMessage(bytes.NewReader(image(t, s)["user-data"]))
		if err != nil {
			t.Fatal(err)
		}
		_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		r := multipart.NewReader(m.Body, params["boundary"])
		var parts, kinds []string
		for {
			p, err := r.NextRawPart()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, p))
			if err != nil {
				t.Fatal(err)
			}
			parts, kinds = append(parts, string(b)), append(kinds, p.Header.Get("Content-Type"))
		}
		// The only types of which cloud-init looks at the content.
		if want := map[bool]string{true: "application/gzip", false: "text/plain"}[own[0] == 0x1f]; kinds[1] != want {
			t.Errorf("%.40q is called %s, want %s", own, kinds[1], want)
		}
		if len(parts) != 2 || parts[1] != own || parts[0] != string(s.cloudConfig()) {
			t.Errorf("%.40q: %d parts", own, len(parts))
		}
	}
}

func TestSeedIsReproducible(t *testing.T) {
	a, err := sample().Image()
	b, err2 := sample().Image()
	if err != nil || err2 != nil || !bytes.Equal(a, b) {
		t.Fatal("two images of one seed differ", err, err2)
	}
}

func TestWhatIsNotOfItsFormIsRefused(t *testing.T) {
	for name, f := range map[string]func(*Seed){
		"host name":      func(s *Seed) { s.Hostname = "a\nruncmd: [x]" },
		"no host name":   func(s *Seed) { s.Hostname = "" },
		"instance":       func(s *Seed) { s.Instance = "a b" },
		"key":            func(s *Seed) { s.Keys = []string{"ssh-rsa A\nssh-rsa B"} },
		"relative file":  func(s *Seed) { s.Files[0].Path = "etc/x" },
		"climbing file":  func(s *Seed) { s.Files[0].Path = "/a/../b" },
		"mode":           func(s *Seed) { s.Files[0].Mode = 0o100644 },
		"files too big":  func(s *Seed) { s.Files[0].Content = make([]byte, MaxImage) },
		"interface name": func(s *Seed) { s.Interfaces[0].Name = "eth0: {" },
		"same interface": func(s *Seed) { s.Interfaces = append(s.Interfaces, s.Interfaces[0]) },
		"MAC":            func(s *Seed) { s.Interfaces[0].MAC = "02" },
		"MTU":            func(s *Seed) { s.Interfaces[0].MTU = 0 },
		"address":        func(s *Seed) { s.Interfaces[0].Addresses = []string{"10.0.0.1"} },
		"route":          func(s *Seed) { s.Interfaces[0].Routes[0].To = "default" },
		"route's family": func(s *Seed) { s.Interfaces[0].Routes[1].Via = "fd00::1" },
		"search":         func(s *Seed) { s.Search = []string{"a b"} },
		"name server":    func(s *Seed) { s.Nameservers = []netip.Addr{{}} },
		"user data":      func(s *Seed) { s.UserData = make([]byte, maxUserData+1) },
	} {
		s := sample()
		f(&s)
		if _, err := s.Image(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// FuzzNothingIsInjected: whatever the strings hold, reading the files back gives the
// very strings, in their places, and no other key.
func FuzzNothingIsInjected(f *testing.F) {
	for _, s := range []string{"plain", "a: b", "\"]}\n#cloud-config\nruncmd: [x]", "\u2028\u0085\x7f\ufeff\ufffe", "\U0001f600", "'\"\\{}[]&*!|>%@`", "<<: *x", "\x00\x01\t", "---\n...", "null", "0x10"} {
		f.Add(s, "ssh-ed25519 "+s, []byte(s))
	}
	f.Fuzz(func(t *testing.T, name, key string, content []byte) {
		s := sample()
		s.Hostname, s.Keys, s.Files[0].Path, s.Files[0].Content = name, []string{key}, "/f/"+name, content
		img, err := s.Image()
		if err != nil {
			// Also with one that is refused elsewhere, strings stay strings.
			if !utf8.ValidString(name) || !utf8.ValidString(key) {
				return
			}
			got := parse(t, encode(map[string][]string{"a": {name, key}}))
			if diff := cmp.Diff(map[string]any{"a": []any{name, key}}, got); diff != "" {
				t.Fatal(diff)
			}
			return
		}
		files := read(t, img)
		meta := parse(t, files["meta-data"])
		if len(meta) != 3 || meta["local-hostname"] != name || cmp.Diff([]any{key}, meta["public-keys"]) != "" {
			t.Fatalf("meta-data %v", meta)
		}
		user := parse(t, files["user-data"])
		got := user["write_files"].([]any)[0].(map[string]any)
		b, err := base64.StdEncoding.DecodeString(got["content"].(string))
		if err != nil || !bytes.Equal(b, content) || got["path"] != "/f/"+name || len(user) != 5 || user["hostname"] != name {
			t.Fatalf("user-data %v", user)
		}
	})
}
