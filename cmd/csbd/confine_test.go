package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
)

// TestUnitCapabilities: the unit leaves csbd the capabilities that csbd leaves
// itself, no more and no fewer.
func TestUnitCapabilities(t *testing.T) {
	names := map[uintptr]string{
		unix.CAP_CHOWN:        "CAP_CHOWN",
		unix.CAP_DAC_OVERRIDE: "CAP_DAC_OVERRIDE",
		unix.CAP_FOWNER:       "CAP_FOWNER",
		unix.CAP_KILL:         "CAP_KILL",
		unix.CAP_SETGID:       "CAP_SETGID",
		unix.CAP_SETUID:       "CAP_SETUID",
		unix.CAP_SETFCAP:      "CAP_SETFCAP",
		unix.CAP_SYS_PTRACE:   "CAP_SYS_PTRACE",
		unix.CAP_SYS_RESOURCE: "CAP_SYS_RESOURCE",
	}
	var want []string
	for c := range kept {
		assert.Assert(t, names[c] != "", "capability %d has no name here", c)
		want = append(want, names[c])
	}
	slices.Sort(want)

	text, err := os.ReadFile(filepath.Join(imagetest.Root(), "packaging", "systemd", "csbd.service"))
	assert.NilError(t, err)
	var got []string
	for line := range strings.Lines(string(text)) {
		if list, ok := strings.CutPrefix(line, "CapabilityBoundingSet="); ok {
			got = append(got, strings.Fields(list)...)
		}
	}
	slices.Sort(got)
	assert.DeepEqual(t, got, want)
}
