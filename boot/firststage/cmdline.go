package firststage

import "strings"

// expected are the kernel parameters that our own boot files and scripts set,
// and harmless ones that boot loaders add. The first stage itself obeys none of
// them: addresses and trust are in the archive.
var expected = []string{
	"BOOT_IMAGE", "initrd", "console", "earlyprintk", "quiet", "loglevel", "panic", "oops", "ro", "rw",
	"lockdown", "module.sig_enforce", "init_on_alloc", "init_on_free", "slab_nomerge", "vsyscall", "debugfs",
	"page_alloc.shuffle", "randomize_kstack_offset", "mitigations", "tsc", "clocksource", "no_timer_check", "BOOTIF", "ip",
}

// maxCmdline is the kernel's own limit on x86 (COMMAND_LINE_SIZE).
const maxCmdline = 2048

// IgnoredParameters returns the kernel parameters of cmdline that nobody
// expects, in order and quoted for a console, at most 16 of them. The boot
// source chooses the command line, so they are shown, never obeyed by us.
func IgnoredParameters(cmdline string) []string {
	if len(cmdline) > maxCmdline {
		cmdline = cmdline[:maxCmdline]
	}
	var ignored []string
	for _, word := range words(cmdline) {
		key, _, _ := strings.Cut(word, "=")
		known := false
		for _, e := range expected {
			known = known || key == e
		}
		if !known && len(ignored) < 16 {
			ignored = append(ignored, printable(word, 80))
		}
	}
	return ignored
}

// words splits as the kernel does: at blanks outside double quotes.
func words(s string) []string {
	var out []string
	var cur strings.Builder
	quoted := false
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case (c == ' ' || c == '\t' || c == '\n' || c == 0) && !quoted:
			if cur.Len() > 0 {
				out = append(out, cur.String())
				cur.Reset()
			}
		default:
			cur.WriteByte(c)
		}
	}
	if cur.Len() > 0 {
		out = append(out, cur.String())
	}
	return out
}

// printable makes a text from outside safe for a console: one line, at most max
// bytes, no control characters.
func printable(s string, max int) string {
	var b strings.Builder
	for _, r := range strings.ReplaceAll(s, "\t", " ") {
		if r < 0x20 || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == 0xfffd {
			r = '?'
		}
		if b.Len() > max-4 {
			b.WriteString("…")
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}
