// Package proof shows that isolation works, from inside: it runs small programs
// in sandboxes and judges what they found. It believes nothing that it has not
// seen fail.
package proof

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/fcarli/codesandbox/isolation"
)

// A Check is one thing that was looked at, in words for people.
type Check struct {
	// Name of the check, as "network".
	Name string
	// Proves is what is shown if it passes.
	Proves string
	// Cause is why it failed, "" if it passed; Fix is what to do about it.
	Cause, Fix string
	// Err is what went wrong on the host, nil if nothing did. It may name paths,
	// which are nobody's business but the administrator's.
	Err error
	// Skipped is why it was not made, "" if it was.
	Skipped string
}

// Failed says whether the check was made and did not pass.
func (c Check) Failed() bool { return c.Cause != "" }

// A Subject is what is looked at.
type Subject struct {
	// Max are the limits that a program may be given at most, and that Run
	// accepts. Disk is exactly what a program gets.
	Max isolation.Limits
	// Seccomp says that a seccomp profile is to be in force.
	Seccomp bool
	// Unenforced names limits that the host need not enforce.
	Unenforced []string
	// HostKernel is the host's /proc/version.
	HostKernel string
	// Run runs a program in a fresh sandbox, as that of a request is run.
	Run func(context.Context, isolation.Spec, isolation.Output) (isolation.Result, error)
}

// Of makes the checks that one program can make: what it is, what it sees, and
// the limits that it can run into and go on. thorough fills the disk instead of
// asking for too much at once.
func Of(ctx context.Context, s Subject, thorough bool) []Check {
	return twice(func() []Check { return s.inside(ctx, thorough) })
}

// Pulse is the smallest proof: a program runs in a fresh sandbox and what it
// says comes back. The error says what happened instead.
func Pulse(ctx context.Context, s Subject) error {
	l := s.limits()
	o := s.run(ctx, program{"pulse", "import sys\nprint(sys.argv[1])\n", []string{"alive"}, isolation.StatusOK}, l)
	switch {
	case o.err != nil:
		return o.err
	case o.Status != isolation.StatusOK || o.stdout != "alive\n":
		return fmt.Errorf("a program of csbd's own ended with %s, exit code %d, and said %q", o.Status, o.ExitCode, bounded(o.stdout))
	}
	return nil
}

// Ends makes the checks that end a program each: the limits by which csbd and
// the host's kernel end one.
func Ends(ctx context.Context, s Subject) []Check {
	var checks []Check
	for _, end := range []func(context.Context) Check{s.memory, s.cpuTime, s.timeout} {
		checks = append(checks, twice(func() []Check { return []Check{end(ctx)} })...)
	}
	return checks
}

// twice repeats checks one of which failed: a sandbox can die with a process
// that somebody killed. What fails for a reason fails again.
func twice(f func() []Check) []Check {
	checks := f()
	for _, c := range checks {
		if c.Failed() {
			return f()
		}
	}
	return checks
}

// broken is the check of a program that could not be run at all.
func (c Check) broken(err error) Check {
	c.Cause, c.Err = "no sandbox could be started, or it died", err
	c.Fix = "csbd's log says more; `csbd doctor`, run as csbd's user, looks at what a sandbox needs of the host"
	return c
}

// Failures are the checks that failed.
func Failures(checks []Check) []Check {
	var failed []Check
	for _, c := range checks {
		if c.Failed() {
			failed = append(failed, c)
		}
	}
	return failed
}

// patience is how long a program of ours may take on a busy machine. One that
// had to be ended for its time, because the policy gives programs less, is run
// again meanwhile, tries times at most: it has shown nothing about isolation.
const (
	patience = 30 * time.Second
	tries    = 10
)

// limits are those of a program that runs into only what it is to run into.
func (s Subject) limits() isolation.Limits {
	l := s.Max
	l.Timeout = min(l.Timeout, patience)
	l.CPUTime = min(l.CPUTime, patience)
	l.Memory = min(l.Memory, 64<<20)
	l.Output = min(l.Output, 16<<10)
	l.KillOnOutput = false
	return l
}

// An outcome is what came of a program.
type outcome struct {
	isolation.Result
	stdout, stderr string
	err            error
}

// A program of the proof, and how it is to end.
type program struct {
	name, code string
	args       []string
	end        isolation.Status
}

func (s Subject) run(ctx context.Context, p program, l isolation.Limits) outcome {
	start := time.Now()
	for try := 1; ; try++ {
		o := s.once(ctx, p, l)
		late := o.err == nil && o.Status != p.end && (o.Status == isolation.StatusTimeout || o.Status == isolation.StatusCPULimit)
		if !late || try == tries || time.Since(start) >= patience || ctx.Err() != nil {
			return o
		}
	}
}

func (s Subject) once(ctx context.Context, p program, l isolation.Limits) outcome {
	out, errs := isolation.NewCapture(l.Output), isolation.NewCapture(4<<10)
	result, err := s.Run(ctx, isolation.Spec{ID: "proof-" + p.name, Code: []byte(p.code), Args: p.args, Limits: l},
		isolation.Output{Stdout: out, Stderr: errs})
	return outcome{result, string(out.Bytes()), string(errs.Bytes()), err}
}

// says is the last line that the program left, for people: an exception.
func (o outcome) says() string {
	lines := strings.Split(strings.TrimSpace(o.stderr), "\n")
	return bounded(lines[len(lines)-1])
}

func bounded(s string) string {
	if len(s) > 300 {
		s = s[:300] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
