package proof

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/isolation/isolationtest"
)

var sound = facts{
	"version": "Linux version 4.19.0-gvisor #1 SMP", "Uid": "1000\t1000\t1000\t1000", "Gid": "1000\t1000\t1000\t1000",
	"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000", "CapBnd": "0000000000000000",
	"NoNewPrivs": "1", "Seccomp": "2", "interface names": "lo", "connect": "ENETUNREACH", "metadata": "ENETUNREACH",
	"root": "EROFS", "etc": "EACCES", "fork": "EAGAIN", "allocate": "MemoryError", "fallocate": "ENOSPC", "fill": "ENOSPC", "filled": "1044480",
}

// fake runs nothing: what a broken sandbox would show cannot be had from a real
// one.
func fake(t *testing.T, script isolationtest.Script) Subject {
	limits := isolation.Limits{Timeout: time.Second, CPUTime: time.Second, Memory: 1 << 20, Disk: 1 << 20, Output: 1 << 20, Processes: 4, OpenFiles: 64, CPUs: 1}
	f := isolationtest.NewFake(isolation.Class{Ceiling: limits})
	f.Play(script)
	return Subject{Max: limits, Seccomp: true, HostKernel: "Linux version 6.1 host", Run: func(ctx context.Context, spec isolation.Spec, out isolation.Output) (isolation.Result, error) {
		s, err := f.Launch(ctx)
		if err != nil {
			return isolation.Result{}, err
		}
		defer s.Close()
		return s.Run(ctx, spec, out)
	}}
}

func (f facts) text() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(f)) {
		b.WriteString(name + "\t" + f[name] + "\n")
	}
	return b.String()
}

func failed(t *testing.T, checks []Check) (names []string) {
	for _, c := range Failures(checks) {
		assert.Check(t, c.Cause != "" && c.Fix != "" && c.Proves != "", "%+v", c)
		names = append(names, c.Name)
	}
	return names
}

func TestEachFactCounts(t *testing.T) {
	t.Parallel()
	checks := Of(t.Context(), fake(t, isolationtest.Script{Stdout: sound.text()}), true)
	assert.Check(t, len(failed(t, checks)) == 0 && len(checks) == 10, "%+v", checks)
	for fact, wrong := range map[string]struct{ value, check string }{
		"version": {"Linux version 6.1 host", "kernel"}, "Uid": {"1000\t0\t1000\t1000", "user"}, "Gid": {"", "user"},
		"CapBnd": {"00000000a80425fb", "capabilities"}, "CapEff": {"", "capabilities"}, "NoNewPrivs": {"0", "capabilities"},
		"Seccomp": {"0", "seccomp"}, "interface names": {"lo eth0", "network"}, "connect": {"TimeoutError", "network"},
		"metadata": {"allowed", "network"}, "root": {"allowed", "root"}, "etc": {"allowed", "root"}, "fork": {"allowed", "processes"},
		"allocate": {"allowed", "memory"}, "fallocate": {"allowed", "disk"}, "fill": {"allowed", "disk"}, "filled": {"2097152", "disk"},
	} {
		f := maps.Clone(sound)
		f[fact] = wrong.value
		assert.DeepEqual(t, failed(t, Of(t.Context(), fake(t, isolationtest.Script{Stdout: f.text()}), true)), []string{wrong.check})
	}
}

func TestSandboxFails(t *testing.T) {
	t.Parallel()
	lava := errors.New("the floor is lava")
	for _, script := range []isolationtest.Script{{LaunchError: lava}, {RunError: lava}, {Result: isolation.Forced(isolation.StatusMemoryLimit)}} {
		assert.DeepEqual(t, failed(t, Of(t.Context(), fake(t, script), false)), []string{"execution"})
	}
	// Programs that end well where they had to be ended.
	checks := Ends(t.Context(), fake(t, isolationtest.Script{}))
	assert.DeepEqual(t, failed(t, checks), []string{"memory kill", "cpu_time", "timeout"})
	lenient := fake(t, isolationtest.Script{})
	lenient.Unenforced = []string{"memory", "cpu_time"}
	assert.DeepEqual(t, failed(t, Ends(t.Context(), lenient)), []string{"timeout"})
}

// A busy machine is not a broken one: what was ended for its time is run again,
// but not for ever, and what fails otherwise is not run until it passes.
func TestBusyMachine(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		late   int
		status isolation.Status
		failed []string
		runs   int
	}{
		{5, isolation.StatusTimeout, nil, 6},
		{5, isolation.StatusCPULimit, nil, 6},
		{1000, isolation.StatusTimeout, []string{"execution"}, 2 * tries},
		{1000, isolation.StatusMemoryLimit, []string{"execution"}, 2},
	} {
		s := fake(t, isolationtest.Script{Stdout: sound.text()})
		run, runs := s.Run, 0
		s.Run = func(ctx context.Context, spec isolation.Spec, out isolation.Output) (isolation.Result, error) {
			if runs++; runs <= test.late {
				return isolation.Forced(test.status), nil
			}
			return run(ctx, spec, out)
		}
		assert.DeepEqual(t, failed(t, Of(t.Context(), s, false)), test.failed)
		assert.Equal(t, runs, test.runs)
	}
	// Where the policy leaves little time, the processor time is over first.
	s := fake(t, isolationtest.Script{})
	s.Max.Timeout = 50 * time.Millisecond
	s.Run = func(_ context.Context, spec isolation.Spec, _ isolation.Output) (isolation.Result, error) {
		assert.Check(t, spec.Limits.CPUTime > 0 && spec.Limits.CPUTime <= spec.Limits.Timeout/10, "%+v", spec.Limits)
		return isolation.Forced(isolation.StatusCPULimit), nil
	}
	assert.DeepEqual(t, failed(t, []Check{s.cpuTime(t.Context())}), []string(nil))
}

func TestPulse(t *testing.T) {
	t.Parallel()
	assert.NilError(t, Pulse(t.Context(), fake(t, isolationtest.Script{Stdout: "alive\n"})))
	lava := errors.New("the floor is lava")
	assert.ErrorIs(t, Pulse(t.Context(), fake(t, isolationtest.Script{RunError: lava})), lava)
	for _, script := range []isolationtest.Script{{}, {Stdout: "alive"}, {Stdout: "alive\n", Result: isolation.Ended(1, nil)}} {
		assert.ErrorContains(t, Pulse(t.Context(), fake(t, script)), "a program of csbd's own ended with")
	}
}
