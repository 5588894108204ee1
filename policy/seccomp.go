package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// seccomp turns what a policy says into OCI seccomp JSON: "default" is
// Docker's default profile for a process without capabilities, a path a
// profile in Docker's or OCI's format. "" means none.
func (p *parser) seccomp(name string) (string, error) {
	// Docker's profiles have entries for capabilities and architectures.
	program := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}}
	var profile *specs.LinuxSeccomp
	var err error
	switch {
	case name == "" || name == "unconfined":
		return "", nil
	case name == "default":
		profile, err = seccomp.GetDefaultProfile(program)
	case p.source.ReadFile == nil:
		return "", nil
	default:
		var data []byte
		if data, err = p.source.ReadFile(name); err != nil {
			return "", err
		}
		if len(data) > MaxSize {
			return "", fmt.Errorf("%s: larger than %s", name, FormatSize(MaxSize))
		}
		profile, err = parseSeccomp(data, program)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	if profile == nil || profile.DefaultAction == "" {
		return "", fmt.Errorf("%s: no defaultAction", name)
	}
	if err := checkActions(profile); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	answerENOSYS(profile)
	out, err := json.Marshal(profile)
	return string(out), err
}

// answerENOSYS makes gVisor answer ENOSYS where the profile says so. Docker's
// does for clone3, whose flags a filter cannot see: the C library then tries
// clone, and starts no thread if it is told anything else. gVisor's only errno
// for SCMP_ACT_ERRNO is EPERM; but a call that is to be traced, by nobody, ends
// with ENOSYS (seccomp(2), SECCOMP_RET_TRACE). A tracer could let it through,
// so there must not be any.
func answerENOSYS(s *specs.LinuxSeccomp) {
	enosys := func(action *specs.LinuxSeccompAction, errno **uint) (changed bool) {
		if *action != specs.ActErrno || *errno == nil || **errno != uint(unix.ENOSYS) {
			return false
		}
		*action, *errno = specs.ActTrace, nil
		return true
	}
	traced := enosys(&s.DefaultAction, &s.DefaultErrnoRet)
	for i := range s.Syscalls {
		traced = enosys(&s.Syscalls[i].Action, &s.Syscalls[i].ErrnoRet) || traced
	}
	if !traced {
		return
	}
	isPtrace := func(name string) bool { return name == "ptrace" }
	for i, rule := range s.Syscalls {
		if rule.Action == specs.ActAllow {
			s.Syscalls[i].Names = slices.DeleteFunc(slices.Clone(rule.Names), isPtrace)
		}
	}
	s.Syscalls = slices.DeleteFunc(s.Syscalls, func(rule specs.LinuxSyscall) bool { return len(rule.Names) == 0 })
}

func parseSeccomp(data []byte, program *specs.Spec) (*specs.LinuxSeccomp, error) {
	if !json.Valid(data) {
		var v any
		return nil, json.Unmarshal(data, &v) // says where
	}
	// A misspelt "syscalls" must not become a profile without any.
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&seccomp.Seccomp{}); err != nil {
		return nil, err
	}
	return seccomp.LoadProfile(string(data), program)
}

// actions are those that runsc knows.
var actions = []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActTrap, specs.ActTrace}

func checkActions(s *specs.LinuxSeccomp) error {
	used := []specs.LinuxSeccompAction{s.DefaultAction}
	for _, rule := range s.Syscalls {
		used = append(used, rule.Action)
	}
	for _, a := range used {
		if !slices.Contains(actions, a) {
			return fmt.Errorf("action %.50q is not one of %q", a, actions)
		}
	}
	return nil
}
