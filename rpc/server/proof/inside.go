package proof

import (
	"context"
	_ "embed"
	"fmt"
	"strconv"
	"strings"

	"github.com/fcarli/codesandbox/isolation"
)

//go:embed inside.py
var insideProgram string

// facts are what the program inside has found, by name.
type facts map[string]string

func readFacts(text string) facts {
	f := facts{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok {
			f[name] = value
		}
	}
	return f
}

// gVisorSigns stand in the /proc/version of gVisor: its releases call
// themselves so, and those before had nothing but this date.
var gVisorSigns = []string{"gvisor", "Sun Jan 10 15:06:54 PST 2016"}

const ask = "csbd's isolation is broken: do not use it, and report this with the output of `csbd version` and `uname -a`"

// An insideCheck judges facts; judge returns why they are wrong, or "".
type insideCheck struct {
	name, proves, fix string
	judge             func(s Subject, f facts) string
}

var insideChecks = []insideCheck{
	{"kernel", "the program's kernel is gVisor, not the host's",
		"reinstall csbd together with the csbd-sentry (or runsc) of the same release",
		func(s Subject, f facts) string {
			version := f["version"]
			for _, sign := range gVisorSigns {
				if strings.Contains(version, sign) && version != strings.TrimSpace(s.HostKernel) {
					return ""
				}
			}
			return fmt.Sprintf("the kernel inside calls itself %q", bounded(version))
		}},
	{"user", "the program is not root", ask, func(_ Subject, f facts) string {
		for _, name := range []string{"Uid", "Gid"} {
			ids := strings.Fields(f[name])
			if len(ids) != 4 {
				return name + " of the program cannot be read"
			}
			for _, id := range ids {
				if id == "0" {
					return fmt.Sprintf("the program has the %s 0", strings.ToLower(name))
				}
			}
		}
		return ""
	}},
	{"capabilities", "the program has no capabilities and cannot get any", ask, func(_ Subject, f facts) string {
		for _, name := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd"} {
			if n, err := strconv.ParseUint(f[name], 16, 64); err != nil || n != 0 {
				return fmt.Sprintf("%s of the program is %q", name, f[name])
			}
		}
		return equal(f, "NoNewPrivs", "1", "no_new_privs of the program")
	}},
	{"network", "there is no interface but loopback and no way out", ask, func(_ Subject, f facts) string {
		if f["interface names"] != "lo" {
			return fmt.Sprintf("the sandbox has the interfaces %q", bounded(f["interface names"]))
		}
		for _, name := range []string{"connect", "metadata"} {
			if why := equal(f, name, "ENETUNREACH", "connecting to an address outside"); why != "" {
				return why
			}
		}
		return ""
	}},
	{"root", "the root filesystem is read-only", ask, func(_ Subject, f facts) string {
		if why := equal(f, "root", "EROFS", "creating a file in /"); why != "" {
			return why
		}
		if got := f["etc"]; got != "EROFS" && got != "EACCES" {
			return fmt.Sprintf("writing to /etc/passwd: %s", said(got))
		}
		return ""
	}},
	{"processes", "a program cannot have more processes than its limit", ask, func(_ Subject, f facts) string {
		return equal(f, "fork", "EAGAIN", "a fork beyond the limit")
	}},
	{"memory", "a program that allocates too much gets a MemoryError", ask, func(_ Subject, f facts) string {
		return equal(f, "allocate", "MemoryError", "an allocation far above the limit")
	}},
	{"disk", "a program cannot write more than its disk limit", ask, func(s Subject, f facts) string {
		if why := equal(f, "fallocate", "ENOSPC", "asking for more disk than the limit"); why != "" {
			return why
		}
		if f["filled"] == "" {
			return ""
		}
		if n, err := strconv.ParseInt(f["filled"], 10, 64); err != nil || n > s.Max.Disk {
			return fmt.Sprintf("%s bytes could be written to a disk of %d", said(f["filled"]), s.Max.Disk)
		}
		return equal(f, "fill", "ENOSPC", "writing more than the limit")
	}},
}

var seccompCheck = insideCheck{"seccomp", "the policy's seccomp profile is in force", ask, func(_ Subject, f facts) string {
	return equal(f, "Seccomp", "2", "the program's seccomp mode")
}}

func equal(f facts, name, want, what string) string {
	if f[name] == want {
		return ""
	}
	return fmt.Sprintf("%s: %s instead of %s", what, said(f[name]), want)
}

func said(s string) string {
	if s == "" {
		return "nothing known"
	}
	return bounded(s)
}

// fillable is the size of the largest disk that is filled to its end: it takes
// a millisecond for each MiB.
const fillable = 128 << 20

func (s Subject) inside(ctx context.Context, thorough bool) []Check {
	l := s.limits()
	l.Processes = 1
	fill := "0"
	if thorough && l.Disk <= fillable {
		fill = "1"
	}
	o := s.run(ctx, program{"inside", insideProgram, []string{strconv.FormatInt(l.Memory, 10), strconv.FormatInt(l.Disk, 10), fill}, isolation.StatusOK}, l)
	ran := Check{Name: "execution", Proves: "a program runs in a fresh sandbox and its output comes back"}
	switch {
	case o.err != nil:
		ran = ran.broken(o.err)
	case o.Status != isolation.StatusOK:
		ran.Cause = fmt.Sprintf("the program of the proof ended with %s, exit code %d", o.Status, o.ExitCode)
		if says := o.says(); says != "" {
			ran.Cause += ": " + says
		}
		ran.Fix = "if the policy names a seccomp profile, see that it allows what Python needs; if it has limits below the built-in ones, raise them; " +
			"else look into csbd's log"
	}
	checks := []Check{ran}
	if ran.Failed() {
		return checks // nothing may be concluded from half of the facts
	}
	f := readFacts(o.stdout)
	for _, c := range insideChecks {
		checks = append(checks, c.check(s, f))
	}
	seccomp := Check{Name: seccompCheck.name, Proves: seccompCheck.proves, Skipped: "the policy says unconfined"}
	if s.Seccomp {
		seccomp = seccompCheck.check(s, f)
	}
	return append(checks, seccomp)
}

func (c insideCheck) check(s Subject, f facts) Check {
	check := Check{Name: c.name, Proves: c.proves}
	if check.Cause = c.judge(s, f); check.Cause != "" {
		check.Fix = c.fix
	}
	return check
}
