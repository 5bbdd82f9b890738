package vmm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"
	"unsafe"

	cpuid "golang.org/x/sys/cpu"
	"golang.org/x/sys/unix"

	"github.com/zero-os/zos/problem"
)

// Ability is what a node can do about machines.
type Ability struct {
	// KVM is nil if a guest ran under KVM, else why none can; its code is
	// "isolation-unavailable".
	KVM error
	// Vsock and VhostNet are nil where the kernel's own devices of machines can be
	// used; without them machines run all the same, over virtio-serial and with
	// QEMU's own packet copying.
	Vsock, VhostNet error
}

// probeLimit is how long the probe's guest may take; it takes a few milliseconds,
// and under emulation a few hundred.
const probeLimit = 10 * time.Second

// Probe learns what this node can do, by doing it: it makes a virtual machine of one
// processor and 2 MiB of memory with KVM, lets it compute and say what came out,
// and opens the devices that machines use. It must run as root. It changes nothing.
//
// What it cannot see: faults of KVM that only a kernel as guest meets (interrupts,
// timers, more processors than one, I/O besides a port), and whether the
// VMM flist can be fetched. A machine that fails for such a reason says so when it
// is started.
func Probe(ctx context.Context) Ability {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	var a Ability
	if err := probeKVM(ctx); err != nil {
		a.KVM = problem.New("isolation-unavailable", "this node cannot run a virtual machine: %w", err).
			WithFix("turn on AMD-V or VT-x in the firmware; in a virtual machine, nested virtualisation in its host")
	}
	a.Vsock, a.VhostNet = openable("/dev/vhost-vsock"), openable("/dev/vhost-net")
	return a
}

func openable(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// AllowKVM lets every user on the node open /dev/kvm, as Debian's own rules do.
// Monitors run as users of their own, and runc can give a device to a user
// namespace only as it is. No other container has a /dev with it.
func AllowKVM() error {
	if err := os.Chmod("/dev/kvm", 0o666); err != nil {
		return fmt.Errorf("allow KVM: %w", err)
	}
	return nil
}

// Numbers of the kernel's interface, include/uapi/linux/kvm.h.
const (
	kvmGetAPIVersion       = 0xae00
	kvmCreateVM            = 0xae01
	kvmCheckExtension      = 0xae03
	kvmGetVCPUMmapSize     = 0xae04
	kvmCreateVCPU          = 0xae41
	kvmSetUserMemoryRegion = 0x4020ae46
	kvmGetSupportedCPUID   = 0xc008ae05
	kvmSetCPUID2           = 0x4008ae90
	kvmRun                 = 0xae80
	kvmSetRegs             = 0x4090ae82
	kvmGetSregs            = 0x8138ae83
	kvmSetSregs            = 0x4138ae84

	kvmVersion       = 12
	kvmCapUserMemory = 3
	kvmExitIO        = 2
	kvmExitIOOut     = 1

	// Of struct kvm_run: immediate_exit, exit_reason, and of struct io its
	// direction, size, port, count and the offset of its data.
	runImmediateExit, runExitReason                       = 1, 8
	runIODir, runIOSize, runIOPort, runIOCount, runIOData = 32, 33, 34, 36, 40
	runLeast                                              = 4096
)

type kvmMemoryRegion struct {
	Slot, Flags               uint32
	GuestPhys, Size, HostVirt uint64
}

type kvmRegs struct {
	RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP, R8, R9, R10, R11, R12, R13, R14, R15, RIP, RFLAGS uint64
}

type kvmSegment struct {
	Base                                              uint64
	Limit                                             uint32
	Selector                                          uint16
	Type, Present, DPL, DB, S, L, G, AVL, Unusable, _ uint8
}

type kvmTable struct {
	Base  uint64
	Limit uint16
	_     [3]uint16
}

type kvmSregs struct {
	CS, DS, ES, FS, GS, SS, TR, LDT         kvmSegment
	GDT, IDT                                kvmTable
	CR0, CR2, CR3, CR4, CR8, EFER, APICBase uint64
	Interrupts                              [4]uint64
}

// maxCPUID is as many entries as KVM ever lists of what it can show to a guest.
const maxCPUID = 256

type kvmCPUID struct {
	Count, _ uint32
	Entries  [maxCPUID][10]uint32
}

// Where things lie in the probe guest's memory, which begins at address 0: tables
// that map it all by one large page, code, and what it writes to.
const (
	probeMemory = 2 << 20
	probePML4   = 0x1000
	probePDPT   = 0x2000
	probePD     = 0x3000
	probeCode   = 0x4000
)

// probeGuest doubles a number, writes it to 64 pages that the machine has not
// touched yet, and sends it out of a port: in 64-bit mode with paging, as a kernel
// runs. Where the processor has BMI2, it doubles by such an instruction: a KVM that
// has to emulate its guest knows none of those, and a kernel's first act is full of
// them.
func probeGuest(bmi2 bool) []byte {
	double := []byte{0x41, 0xd1, 0xe0, 0x90, 0x90} // shl r8d, 1
	if bmi2 {
		double = []byte{0xc4, 0x42, 0x69, 0xf7, 0xc0} // shlx r8d, r8d, edx
	}
	return slices.Concat(
		[]byte{0x41, 0xb8, probeNumber, 0, 0, 0}, // mov r8d, probeNumber
		[]byte{0xba, 1, 0, 0, 0},                 // mov edx, 1
		double,
		[]byte{0xbf, 0, 0, 0x10, 0},       // mov edi, 0x100000
		[]byte{0xb9, 64, 0, 0, 0},         // mov ecx, 64
		[]byte{0x44, 0x89, 0x07},          // next: mov [rdi], r8d
		[]byte{0x81, 0xc7, 0, 0x10, 0, 0}, // add edi, 0x1000
		[]byte{0xff, 0xc9},                // dec ecx
		[]byte{0x75, 0xf3},                // jnz next
		[]byte{0x44, 0x88, 0xc0},          // mov al, r8b
		[]byte{0x66, 0xba, probePort, 0},  // mov dx, probePort
		[]byte{0xee, 0xf4},                // out dx, al; hlt
	)
}

const (
	probePort   = 0xf4
	probeNumber = 0x17
	probeTries  = 1000 // of a run that a signal interrupted
)

// probeKVM runs the guest; nil if it answered as it must.
func probeKVM(ctx context.Context) error {
	kvm, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/kvm: %w", err)
	}
	defer unix.Close(kvm)
	if v, err := ioctl(kvm, kvmGetAPIVersion, 0); err != nil || v != kvmVersion {
		return fmt.Errorf("KVM has the interface version %d, not %d: %w", v, kvmVersion, err)
	}
	if v, err := ioctl(kvm, kvmCheckExtension, kvmCapUserMemory); err != nil || v == 0 {
		return fmt.Errorf("KVM cannot give a guest memory: %w", err)
	}
	size, err := ioctl(kvm, kvmGetVCPUMmapSize, 0)
	if err != nil || size < runLeast || size > 1<<20 {
		return fmt.Errorf("KVM's processor state has %d bytes: %w", size, err)
	}
	vm, err := ioctl(kvm, kvmCreateVM, 0)
	if err != nil {
		return fmt.Errorf("make a machine: %w", err)
	}
	defer unix.Close(vm)
	memory, err := unix.Mmap(-1, 0, probeMemory, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("make memory: %w", err)
	}
	defer unix.Munmap(memory)
	const present, large = 3, 0x80
	binary.LittleEndian.PutUint64(memory[probePML4:], probePDPT|present)
	binary.LittleEndian.PutUint64(memory[probePDPT:], probePD|present)
	binary.LittleEndian.PutUint64(memory[probePD:], present|large)
	copy(memory[probeCode:], probeGuest(cpuid.X86.HasBMI2))
	region := kvmMemoryRegion{Size: probeMemory, HostVirt: uint64(uintptr(unsafe.Pointer(&memory[0])))}
	if err := ioctlPtr(vm, kvmSetUserMemoryRegion, unsafe.Pointer(&region)); err != nil {
		return fmt.Errorf("give it memory: %w", err)
	}
	cpu, err := ioctl(vm, kvmCreateVCPU, 0)
	if err != nil {
		return fmt.Errorf("give it a processor: %w", err)
	}
	defer unix.Close(cpu)
	run, err := unix.Mmap(cpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("share the processor's state: %w", err)
	}
	defer unix.Munmap(run)
	show := kvmCPUID{Count: maxCPUID}
	if err := ioctlPtr(kvm, kvmGetSupportedCPUID, unsafe.Pointer(&show)); err != nil {
		return fmt.Errorf("read what its processor can do: %w", err)
	}
	if err := ioctlPtr(cpu, kvmSetCPUID2, unsafe.Pointer(&show)); err != nil {
		return fmt.Errorf("say what its processor can do: %w", err)
	}
	var sregs kvmSregs
	if err := ioctlPtr(cpu, kvmGetSregs, unsafe.Pointer(&sregs)); err != nil {
		return fmt.Errorf("read its registers: %w", err)
	}
	longMode(&sregs)
	if err := ioctlPtr(cpu, kvmSetSregs, unsafe.Pointer(&sregs)); err != nil {
		return fmt.Errorf("set its registers: %w", err)
	}
	regs := kvmRegs{RIP: probeCode, RSP: probeMemory - 16, RFLAGS: 2}
	if err := ioctlPtr(cpu, kvmSetRegs, unsafe.Pointer(&regs)); err != nil {
		return fmt.Errorf("set its registers: %w", err)
	}
	return runGuest(ctx, cpu, run)
}

// longMode makes a processor one in 64-bit mode, with the probe's tables.
func longMode(s *kvmSregs) {
	const (
		protection, extension, paging = 1 << 0, 1 << 4, 1 << 31 // CR0
		physicalExtension             = 1 << 5                  // CR4
		enabled, active               = 1 << 8, 1 << 10         // EFER
	)
	s.CR0, s.CR3, s.CR4, s.EFER = protection|extension|paging, probePML4, physicalExtension, enabled|active
	code := kvmSegment{Limit: 1<<32 - 1, Selector: 8, Type: 11, Present: 1, S: 1, L: 1, G: 1}
	data := kvmSegment{Limit: 1<<32 - 1, Selector: 16, Type: 3, Present: 1, S: 1, DB: 1, G: 1}
	s.CS, s.DS, s.ES, s.FS, s.GS, s.SS = code, data, data, data, data, data
}

// runGuest enters the guest until it has answered or the time is over.
func runGuest(ctx context.Context, cpu int, run []byte) error {
	// A processor belongs to the thread that runs it; whoever stops it signals that.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tid, over, stopped := unix.Gettid(), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-over:
			return
		case <-ctx.Done():
		}
		run[runImmediateExit] = 1 // the kernel looks at it before it enters the guest
		for {
			// Go's own signal for such purposes, harmless at any time.
			_ = unix.Tgkill(unix.Getpid(), tid, unix.SIGURG)
			select {
			case <-over:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	defer func() { close(over); <-stopped }()
	for range probeTries {
		_, err := ioctl(cpu, kvmRun, 0)
		if ctx.Err() != nil {
			return fmt.Errorf("the guest did not answer: %w", ctx.Err())
		}
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return fmt.Errorf("run it: %w", err)
		}
		return answered(run)
	}
	return errors.New("the guest was interrupted again and again")
}

// answered reads from the processor's shared state why the guest stopped.
func answered(run []byte) error {
	if len(run) < runLeast {
		return errors.New("the processor's state is cut off")
	}
	u16 := func(at int) int { return int(run[at]) | int(run[at+1])<<8 }
	u32 := func(at int) int { return u16(at) | u16(at+2)<<16 }
	if reason := u32(runExitReason); reason != kvmExitIO {
		return fmt.Errorf("the guest stopped for the reason %d (kvm.h: KVM_EXIT_…) instead of answering", reason)
	}
	data := u32(runIOData)
	if run[runIODir] != kvmExitIOOut || run[runIOSize] != 1 || u16(runIOPort) != probePort || u32(runIOCount) != 1 || data < 0 || data >= len(run) {
		return errors.New("the guest spoke to another port than it was told to")
	}
	if got := run[data]; got != 2*probeNumber {
		return fmt.Errorf("the guest made %d of 2 times %d", got, probeNumber)
	}
	return nil
}

func ioctl(fd int, request, argument uintptr) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, argument)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

func ioctlPtr(fd int, request uintptr, p unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(p))
	if errno != 0 {
		return errno
	}
	return nil
}
