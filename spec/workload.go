package spec

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/zero-os/zos/spec/plan"
)

// workload reads what the schema accepted of one entry.
func (s *source) workload(m map[string]any, pointer string, networks []Network) Workload {
	if m["kind"] == plan.KindGateway {
		return s.gateway(m, pointer)
	}
	w := Workload{
		Name: text(m["name"]), Kind: text(m["kind"]), Image: text(m["image"]), Node: text(m["node"]), Spread: text(m["spread"]),
		CPU: DefaultCPU, Memory: DefaultMemory, Disk: DefaultDisk, PIDs: DefaultPIDs,
	}
	if w.Kind == plan.KindVM {
		w.CPU, w.Memory, w.Disk, w.PIDs = DefaultVMCPU, DefaultVMMemory, DefaultVMDisk, vmPIDs
	}
	s.resources(&w, m, pointer)
	w.Life = s.life(m, pointer)
	w.Secrets = s.secrets(m, pointer)
	for _, v := range listOf(m["depends_on"]) {
		w.After = append(w.After, text(v))
	}
	if v, ok := m["replicas"]; ok {
		w.Replicas = uint64(number(v))
	}
	switch {
	case w.Spread != "" && w.Replicas < 2:
		s.add(s.placeOf(pointer+"/spread"), "spread is for replicas, and there is one of this workload", "add replicas: 2, or remove it")
	case w.Spread != "" && w.Node != "":
		s.add(s.placeOf(pointer+"/spread"), fmt.Sprintf("spread and node contradict each other: all replicas would be on %s", w.Node), "remove one of the two")
	}
	if w.Kind == plan.KindVM {
		s.machine(&w, m, pointer)
	} else {
		s.container(&w, m, pointer)
	}
	w.Networks = s.attachments(m, pointer, networks)
	return w
}

// container reads what containers alone have.
func (s *source) container(w *Workload, m map[string]any, pointer string) {
	w.WorkDir, w.User = text(m["workdir"]), text(m["user"])
	w.Setuid, _ = m["setuid"].(bool)
	w.Privileged, _ = m["privileged"].(bool)
	for _, a := range listOf(m["command"]) {
		w.Command = append(w.Command, text(a))
	}
	if env, ok := m["env"].(map[string]any); ok {
		w.Env = make(map[string]string, len(env))
		for k, v := range env {
			w.Env[k] = text(v)
		}
	}
	if w.Isolation = text(m["isolation"]); w.Isolation == "" {
		w.Isolation = IsolationAny
	}
	if w.Privileged && w.Isolation == plan.IsolationNamespace {
		s.add(s.placeOf(pointer+"/privileged"), "a privileged program in a namespace could take over its node", "write isolation: microvm, where it has a machine of its own")
	}
	if w.Privileged && w.Isolation == IsolationAny {
		w.Isolation = plan.IsolationMicroVM
	}
	w.Files = s.files(m, pointer)
}

// machine reads what machines alone have.
func (s *source) machine(w *Workload, m map[string]any, pointer string) {
	if w.Boot, w.Cmdline = text(m["boot"]), text(m["cmdline"]); w.Boot == "" {
		w.Boot = plan.BootKernel
	}
	if w.Boot == plan.BootDisk && w.Cmdline != "" {
		s.add(s.placeOf(pointer+"/cmdline"), "a machine that boots from its disk has the command line of its own boot loader", "write it there, or write boot: kernel")
	}
	if strings.ContainsFunc(w.Cmdline, func(c rune) bool { return c < ' ' || c > '~' }) {
		s.add(s.placeOf(pointer+"/cmdline"), "the command line has characters beside printing ASCII", "write it in one line")
	}
	first := map[string]int{}
	for i, item := range listOf(m["disks"]) {
		e := item.(map[string]any)
		disk := plan.Disk{Serial: text(e["serial"]), Size: quantity(text(e["size"]))}
		if j, twice := first[disk.Serial]; twice {
			s.add(s.placeOf(fmt.Sprintf("%s/disks/%d/serial", pointer, i)), fmt.Sprintf("the serial %q is that of the disk in line %d", disk.Serial, s.placeOf(fmt.Sprintf("%s/disks/%d", pointer, j)).line), "give each disk a serial of its own")
		}
		first[disk.Serial] = i
		w.Disks = append(w.Disks, disk)
		w.Disk += disk.Size
	}
	slices.SortStableFunc(w.Disks, func(a, b plan.Disk) int { return strings.Compare(a.Serial, b.Serial) })
	cloud, _ := m["cloudInit"].(map[string]any)
	w.UserData = text(cloud["userData"])
	for _, k := range listOf(cloud["keys"]) {
		w.Keys = append(w.Keys, text(k))
	}
	if h := w.Life.Health; h != nil && h.Kind == plan.CheckExec {
		s.add(s.placeOf(pointer+"/health/exec"), "nothing inside a machine runs programs for its node", `check it from outside: tcp: 22, or http: "8080/healthz"`)
	}
}

// resources reads the limits over the defaults in w.
func (s *source) resources(w *Workload, m map[string]any, pointer string) {
	res, _ := m["resources"].(map[string]any)
	if v, ok := res["cpu"]; ok {
		milli := number(v) * 1000
		w.CPU = uint64(math.Round(milli))
		if math.Abs(milli-math.Round(milli)) > 1e-6 {
			s.add(s.placeOf(pointer+"/resources/cpu"), "cpu has more than three decimals", "round it to thousandths of a core")
		}
	}
	if v, ok := res["memory"]; ok {
		w.Memory = quantity(text(v))
	}
	if v, ok := res["disk"]; ok {
		w.Disk = quantity(text(v))
	}
	if v, ok := res["pids"]; ok {
		w.PIDs = uint64(number(v))
	}
}
