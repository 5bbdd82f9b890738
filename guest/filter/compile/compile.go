// Package compile turns a seccomp profile of OCI's into a program for the kernel,
// without libseccomp, which is C. It knows what the profile of containers without
// capabilities uses, and fails on anything else.
package compile

import (
	"fmt"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Arch is one architecture of a processor, and the names of its system calls.
type Arch struct {
	Audit   uint32 // AUDIT_ARCH_...
	Wide    bool   // arguments have 64 bits
	Numbers map[string]uint32
	// Last is the highest number that is judged: runc answers a higher one with ENOSYS,
	// so that C libraries try an older call. It is the highest call of the
	// profile's that its libseccomp knows.
	Last uint32
}

// Where the kernel keeps what a filter sees (struct seccomp_data).
const (
	dataNumber = 0
	dataArch   = 4
	dataArgs   = 16 // eight bytes each, the lower half first
)

// Profile compiles a profile for some architectures. Names that an architecture does not
// have are passed over, as libseccomp does.
func Profile(p *specs.LinuxSeccomp, archs []Arch) ([]bpf.Instruction, error) {
	if p.DefaultAction != specs.ActErrno || p.DefaultErrnoRet == nil {
		return nil, fmt.Errorf("profile's default %s is not known here", p.DefaultAction)
	}
	out := []bpf.Instruction{bpf.LoadAbsolute{Off: dataArch, Size: 4}}
	for _, a := range archs {
		section, err := a.section(p)
		if err != nil {
			return nil, err
		}
		out = append(out, bpf.JumpIf{Cond: bpf.JumpEqual, Val: a.Audit, SkipTrue: 1}, bpf.Jump{Skip: uint32(len(section))})
		out = append(out, section...)
	}
	return append(out, bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS}), nil
}

// rule is a call that is judged by its arguments, or answered with an errno of its own.
type rule struct {
	action bpf.Instruction
	args   []specs.LinuxSeccompArg
}

// section judges the calls of one architecture; every way through it ends in a verdict.
func (a Arch) section(p *specs.LinuxSeccomp) ([]bpf.Instruction, error) {
	plain, ruled := map[uint32]bool{}, map[uint32][]rule{}
	for _, s := range p.Syscalls {
		action, err := verdict(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, err
		}
		for _, name := range s.Names {
			nr, ok := a.Numbers[name]
			switch {
			case !ok || nr > a.Last:
			case s.Action == specs.ActAllow && len(s.Args) == 0:
				plain[nr] = true
			default:
				// runc makes one rule of each where an argument is compared twice; nothing does.
				if len(s.Args) > 1 {
					return nil, fmt.Errorf("%s: more than one argument is not known here", name)
				}
				ruled[nr] = append(ruled[nr], rule{action, s.Args})
			}
		}
	}
	out := []bpf.Instruction{bpf.LoadAbsolute{Off: dataNumber, Size: 4}}
	// x32's numbers lie above as well.
	out = append(out, bpf.JumpIf{Cond: bpf.JumpLessOrEqual, Val: a.Last, SkipTrue: 1}, errno(unix.ENOSYS))
	for _, r := range ranges(plain) {
		out = append(out,
			bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: r[1], SkipTrue: 2},
			bpf.JumpIf{Cond: bpf.JumpLessThan, Val: r[0], SkipTrue: 1},
			allow())
	}
	refused := errno(unix.Errno(*p.DefaultErrnoRet))
	for _, nr := range sorted(ruled) {
		if plain[nr] {
			continue // it is allowed whatever its arguments are
		}
		var body []bpf.Instruction
		for _, r := range ruled[nr] {
			test, err := a.test(r)
			if err != nil {
				return nil, fmt.Errorf("call %d: %w", nr, err)
			}
			body = append(body, test...)
		}
		body = append(body, refused)
		out = append(out, bpf.JumpIf{Cond: bpf.JumpEqual, Val: nr, SkipTrue: 1}, bpf.Jump{Skip: uint32(len(body))})
		out = append(out, body...)
	}
	return append(out, refused), nil
}

// test is a rule's own: its verdict if it fits, else what follows.
func (a Arch) test(r rule) ([]bpf.Instruction, error) {
	if len(r.args) == 0 {
		return []bpf.Instruction{r.action}, nil
	}
	arg := r.args[0]
	low := bpf.LoadAbsolute{Off: dataArgs + 8*uint32(arg.Index), Size: 4}
	high := bpf.LoadAbsolute{Off: low.Off + 4, Size: 4}
	value := uint32(arg.Value)
	var body []bpf.Instruction
	if arg.Value>>32 != 0 || arg.ValueTwo != 0 {
		return nil, fmt.Errorf("a comparison with %#x and %#x is not known here", arg.Value, arg.ValueTwo)
	}
	switch arg.Op {
	case specs.OpEqualTo, specs.OpLessThan:
		cond := bpf.JumpNotEqual
		if arg.Op == specs.OpLessThan {
			cond = bpf.JumpGreaterOrEqual
		}
		if a.Wide {
			body = append(body, high, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 3})
		}
		body = append(body, low, bpf.JumpIf{Cond: cond, Val: value, SkipTrue: 1})
	case specs.OpMaskedEqual: // with 0: none of these bits, of which all lie in the lower half
		body = append(body, low, bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: value, SkipTrue: 1})
	default:
		return nil, fmt.Errorf("the comparison %s is not known here", arg.Op)
	}
	return append(body, r.action), nil
}

func allow() bpf.Instruction { return bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW} }

func errno(e unix.Errno) bpf.Instruction {
	return bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(e)}
}

func verdict(a specs.LinuxSeccompAction, number *uint) (bpf.Instruction, error) {
	switch {
	case a == specs.ActAllow:
		return allow(), nil
	case a == specs.ActErrno && number != nil:
		return errno(unix.Errno(*number)), nil
	}
	return nil, fmt.Errorf("the verdict %s is not known here", a)
}

func sorted[V any](m map[uint32]V) []uint32 {
	var all []uint32
	for n := range m {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}

// ranges joins neighbours: first and last of each.
func ranges(set map[uint32]bool) [][2]uint32 {
	var all [][2]uint32
	for _, n := range sorted(set) {
		if k := len(all) - 1; k >= 0 && all[k][1]+1 == n {
			all[k][1] = n
			continue
		}
		all = append(all, [2]uint32{n, n})
	}
	return all
}
