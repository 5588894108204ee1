package container_test

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"slices"
	"testing"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"
)

// allowed are the system calls that csbd's container may make beyond those of
// Docker's default profile, to prepare the namespaces of sandboxes
// (isolation/runsc/spawner). In the namespaces that it has, csbd has no
// capability that they ask for; in the user namespace that it makes, its
// spawner has.
var allowed = []string{"clone", "mount", "pivot_root", "umount2"}

// TestSeccompProfile holds seccomp.json to Docker's default profile, which is
// also containerd's and so Kubernetes's RuntimeDefault, plus what is allowed:
// go test ./packaging/container -run TestSeccompProfile -update writes it.
func TestSeccompProfile(t *testing.T) {
	profile := seccomp.DefaultProfile()
	profile.Syscalls = slices.DeleteFunc(profile.Syscalls, func(s *seccomp.Syscall) bool {
		// The one that keeps clone from making namespaces.
		return s.Action == specs.ActAllow && slices.Contains(s.Names, "clone") && len(s.Args) > 0
	})
	profile.Syscalls = append(profile.Syscalls, &seccomp.Syscall{LinuxSyscall: specs.LinuxSyscall{Names: allowed, Action: specs.ActAllow}})
	var want bytes.Buffer
	e := json.NewEncoder(&want)
	e.SetIndent("", "  ")
	assert.NilError(t, e.Encode(profile))
	path, err := filepath.Abs("seccomp.json")
	assert.NilError(t, err)
	golden.Assert(t, want.String(), path)
}
