package policy_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/fcarli/codesandbox/policy"
)

// seccompOf parses a profile with the given seccomp file and returns the OCI
// JSON that it stands for.
func seccompOf(t *testing.T, name string) specs.LinuxSeccomp {
	t.Helper()
	read := func(name string) ([]byte, error) { return os.ReadFile(filepath.Join("testdata", name)) }
	p, err := policy.Parse(policy.Source{Name: "P", ReadFile: read,
		Data: []byte("version: 1\nprofiles: {default: {seccomp: " + name + "}}\n" + rules)})
	assert.NilError(t, err)
	got := p.Profiles()[0]
	assert.Equal(t, got.SeccompName, name)
	var s specs.LinuxSeccomp
	assert.NilError(t, json.Unmarshal([]byte(got.Seccomp), &s))
	return s
}

// allowed is whether the filter lets a system call through, whatever its
// arguments.
func allowed(s specs.LinuxSeccomp, name string) bool {
	return slices.ContainsFunc(s.Syscalls, func(rule specs.LinuxSyscall) bool {
		return rule.Action == specs.ActAllow && len(rule.Args) == 0 && slices.Contains(rule.Names, name)
	})
}

func TestDefaultSeccomp(t *testing.T) {
	s := seccompOf(t, "default")
	assert.Equal(t, s.DefaultAction, specs.ActErrno)
	for _, name := range []string{"mount", "umount2", "unshare", "setns", "bpf", "keyctl", "add_key", "request_key",
		"clone", "clone3", "pivot_root", "chroot", "reboot", "kexec_load", "init_module", "finit_module", "delete_module",
		"perf_event_open", "userfaultfd", "open_by_handle_at", "io_uring_setup", "settimeofday", "swapon", "fsopen", "move_mount"} {
		assert.Check(t, !allowed(s, name), name)
	}
	// gVisor answers ENOSYS to what is to be traced by nobody.
	i := slices.IndexFunc(s.Syscalls, func(rule specs.LinuxSyscall) bool { return slices.Contains(rule.Names, "clone3") })
	assert.Assert(t, i >= 0)
	assert.Check(t, s.Syscalls[i].Action == specs.ActTrace && !allowed(s, "ptrace"))
	for _, rule := range s.Syscalls {
		assert.Check(t, rule.ErrnoRet == nil || *rule.ErrnoRet == 1, "gVisor would answer EPERM: %v", rule)
	}
	for _, name := range []string{"read", "write", "openat", "mmap", "futex", "execve", "exit_group", "rt_sigreturn", "socket"} {
		if name == "socket" {
			continue // depends on its arguments
		}
		assert.Check(t, allowed(s, name), name)
	}
	// A namespace of one's own is what the arguments of clone must not ask for.
	i = slices.IndexFunc(s.Syscalls, func(rule specs.LinuxSyscall) bool { return slices.Contains(rule.Names, "clone") })
	assert.Assert(t, i >= 0)
	assert.Assert(t, is.Len(s.Syscalls[i].Args, 1))
	const namespaces = 0x7E020000 // CLONE_NEW*
	arg := s.Syscalls[i].Args[0]
	assert.Equal(t, arg.Op, specs.OpMaskedEqual)
	assert.Check(t, arg.Value&0x7E020000 == namespaces && arg.ValueTwo == 0)
}

func TestSeccompFiles(t *testing.T) {
	oci := seccompOf(t, "oci.json")
	assert.Equal(t, oci.DefaultAction, specs.ActErrno)
	assert.Equal(t, *oci.DefaultErrnoRet, uint(1))
	assert.DeepEqual(t, oci.Architectures, []specs.Arch{specs.ArchX86_64})
	assert.Check(t, allowed(oci, "read") && !allowed(oci, "mount") && !allowed(oci, "personality"))

	// Docker's format has architectures by the machine and rules by capability,
	// of which a program has none.
	docker := seccompOf(t, "docker.json")
	assert.Check(t, allowed(docker, "read") && !allowed(docker, "mount") && allowed(docker, "chroot"))
}

// What runsc would refuse at every start of a sandbox, and what would let
// through what somebody meant to deny, is refused when the policy is read.
func TestSeccompContent(t *testing.T) {
	for _, test := range []struct{ file, want string }{
		{"list.json", "P:2: profiles.default.seccomp: list.json: "},
		{"type.json", "P:2: profiles.default.seccomp: type.json: "},
		{"archs.json", "P:2: profiles.default.seccomp: archs.json: both 'architectures' and 'archMap' are specified"},
		{"action.json", `P:2: profiles.default.seccomp: action.json: action "SCMP_ACT_BOGUS"`},
		{"rule.json", `P:2: profiles.default.seccomp: rule.json: action "SCMP_ACT_NO"`},
		{"typo.json", `P:2: profiles.default.seccomp: typo.json: json: unknown field "syscals"`},
	} {
		t.Run(test.file, func(t *testing.T) {
			_, err := parse("version: 1\nprofiles: {default: {seccomp: " + test.file + "}}\n" + rules)
			assert.Check(t, is.ErrorContains(err, test.want))
		})
	}
}

// A policy that somebody else sent names files that we do not open for him.
func TestSeccompOfAnothersPolicy(t *testing.T) {
	p, err := policy.Parse(policy.Source{Name: "P", Data: []byte("version: 1\nprofiles:\n  default:\n    seccomp: /etc/shadow\n" + rules)})
	assert.NilError(t, err)
	assert.DeepEqual(t, p.Warnings, []string{"P:4: profiles.default.seccomp: profile /etc/shadow is not checked here"})
}
