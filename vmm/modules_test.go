//go:build !invm

package vmm

import (
	"slices"
	"testing"
)

func TestModulesFitTheProcessor(t *testing.T) {
	for text, want := range map[string]string{
		"processor\t: 0\nflags\t\t: fpu svm lm\n":     "kvm_amd",
		"flags\t\t: vmx fpu\n":                        "kvm_intel",
		"flags\t\t: fpu lm\nvmx flags\t: vmx ept\n":   "",
		"model name\t: vmx svm\nflags\t\t: svmx vmxs": "",
		"": "",
	} {
		got := Modules([]byte(text))
		kvm := slices.DeleteFunc(slices.Clone(got), func(n string) bool { return n != "kvm_amd" && n != "kvm_intel" })
		if want == "" && len(kvm) != 0 || want != "" && !slices.Equal(kvm, []string{want}) {
			t.Errorf("%q: %v, want %q", text, got, want)
		}
		if !slices.Contains(got, "vhost_net") {
			t.Errorf("%q: %v", text, got)
		}
	}
}
