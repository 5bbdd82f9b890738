package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/zero-os/zos/contract"
)

// size is a flag that holds bytes, written like in specs: 64MiB.
type size uint64

var units = []struct {
	name  string
	shift uint
}{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}}

// String implements pflag.Value.
func (s *size) String() string {
	if *s == 0 {
		return "0"
	}
	for _, u := range units {
		if *s%(1<<u.shift) == 0 {
			return fmt.Sprint(uint64(*s)>>u.shift) + u.name
		}
	}
	return fmt.Sprint(uint64(*s))
}

// Set implements pflag.Value.
func (s *size) Set(text string) error {
	for _, u := range units {
		if n, ok := strings.CutSuffix(text, u.name); ok {
			v, err := strconv.ParseUint(n, 10, 64)
			if err != nil || v > math.MaxUint64>>u.shift {
				break
			}
			*s = size(v << u.shift)
			return nil
		}
	}
	if text == "0" {
		*s = 0
		return nil
	}
	return fmt.Errorf("%q is no size: write a whole number with KiB, MiB, GiB or TiB, like 64MiB", text)
}

// Type implements pflag.Value; help shows it.
func (s *size) Type() string { return "size" }

// cores is a flag that holds thousandths of a processor core, written in cores.
type cores uint64

// String implements pflag.Value.
func (c *cores) String() string { return strconv.FormatFloat(float64(*c)/1000, 'f', -1, 64) }

// Set implements pflag.Value.
func (c *cores) Set(text string) error {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || v < 0 || v > 1e9 || math.IsNaN(v) {
		return fmt.Errorf("%q is no number of cores, like 0.5 or 4", text)
	}
	*c = cores(math.Round(v * 1000))
	return nil
}

// Type implements pflag.Value.
func (c *cores) Type() string { return "cores" }

// capacity are the flags --cpu, --memory and --disk.
type capacity struct {
	cpu          cores
	memory, disk size
}

func (c *capacity) flags(f *pflag.FlagSet, of string) {
	f.Var(&c.cpu, "cpu", "processor cores "+of)
	f.Var(&c.memory, "memory", "memory "+of)
	f.Var(&c.disk, "disk", "disk space "+of)
}

func (c *capacity) value() contract.Capacity {
	return contract.Capacity{CPU: uint64(c.cpu), Memory: uint64(c.memory), Disk: uint64(c.disk)}
}

// capacityJSON is a capacity for machines.
type capacityJSON struct {
	CPU    uint64 `json:"cpu"`    // thousandths of a core
	Memory uint64 `json:"memory"` // bytes
	Disk   uint64 `json:"disk"`   // bytes
}

// amount shows a capacity for people.
func amount(c contract.Capacity) string {
	return fmt.Sprintf("%g cpu, %s, %s disk", float64(c.CPU)/1000, mib(c.Memory), mib(c.Disk))
}

// when shows Unix seconds for people, in their time zone.
func when(seconds uint64) string {
	return time.Unix(int64(min(seconds, 1<<40)), 0).Format(time.DateTime)
}

// until is the Unix time after some duration from now.
func until(d time.Duration) uint64 { return uint64(time.Now().Add(d).Unix()) }

// year is the default life of statements that people renew.
const year = 365 * 24 * time.Hour
