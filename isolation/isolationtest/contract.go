package isolationtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/isolation"
)

// The programs of Contract, for a fake to recognise.
const (
	Hello   = "print('hello')\n"
	Echo    = "import sys\nsys.stdout.write(sys.stdin.read())\n"
	Fail    = "import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(3)\n"
	Raise   = "print('before')\nraise ValueError('boom')\n"
	Sleep   = "import time\nprint('started', flush=True)\ntime.sleep(600)\n"
	Chatter = "while True:\n    print('x' * 99, flush=True)\n"
)

// Contract holds Launchers to what package isolation promises.
func Contract(t *testing.T, h Harness) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Harness)
	}{
		{"a program ends well", endsWell},
		{"a program ends badly", endsBadly},
		{"an exception is part of the result", reportsException},
		{"Run is refused the second time", runsOnce},
		{"Run is refused after Close", notAfterClose},
		{"Close may be repeated, also at the same time", closesTwice},
		{"Close without Run", closesUnused},
		{"Close after a failed Run", closesAfterFailure},
		{"limits above the ceiling are errors", holdsCeiling},
		{"limits that are missing are errors", needsLimits},
		{"a ceiling without limits is an error", needsCeiling},
		{"the timeout keeps what was printed", timesOut},
		{"cancelling keeps what was printed", cancels},
		{"cancelled before it began", cancelledBefore},
		{"too much output is dropped", dropsOutput},
		{"too much output ends the program", killsOnOutput},
		{"writers rest once Run has returned", writersRest},
		{"a writer that fails makes Run fail", writerFails},
		{"a writer that writes short makes Run fail", writerShort},
		{"Launch with a cancelled context", launchCancelled},
		{"Launch that is cancelled on its way", launchInterrupted},
		{"many at once do not mix", launchesAtOnce},
	} {
		t.Run(c.name, func(t *testing.T) {
			noLeaks(t, h)
			c.test(t, h)
		})
	}
}

func (h Harness) spec(code string) isolation.Spec {
	return isolation.Spec{ID: "contract", Code: []byte(code), Limits: h.limits()}
}

// execute runs a spec in a new sandbox of the default class.
func execute(t *testing.T, h Harness, s isolation.Spec) (res isolation.Result, stdout, stderr string) {
	t.Helper()
	var o, e bytes.Buffer
	res, err := launch(t, h, h.Class).Run(context.Background(), s, isolation.Output{Stdout: &o, Stderr: &e})
	assert.NilError(t, err)
	return res, o.String(), e.String()
}

func endsWell(t *testing.T, h Harness) {
	res, stdout, stderr := execute(t, h, h.spec(Hello))
	assert.Equal(t, res.Status, isolation.StatusOK)
	assert.Equal(t, res.ExitCode, 0)
	assert.Assert(t, res.Exception == nil)
	assert.Equal(t, stdout, "hello\n")
	assert.Equal(t, stderr, "")
	assert.Assert(t, res.Duration > 0 && res.Duration < h.limits().Timeout, "%v", res.Duration)
	assert.Assert(t, res.Usage.CPU != 0 && res.Usage.PeakMemory != 0, "neither a number nor unknown: %+v", res.Usage)
}

func endsBadly(t *testing.T, h Harness) {
	res, stdout, stderr := execute(t, h, h.spec(Fail))
	assert.Equal(t, res.Status, isolation.StatusError)
	assert.Equal(t, res.ExitCode, 3)
	assert.Equal(t, stdout, "out\n")
	assert.Equal(t, stderr, "err\n")
}

func reportsException(t *testing.T, h Harness) {
	res, stdout, stderr := execute(t, h, h.spec(Raise))
	assert.Equal(t, res.Status, isolation.StatusError)
	assert.Equal(t, res.ExitCode, 1)
	assert.Equal(t, stdout, "before\n")
	assert.Assert(t, strings.HasSuffix(stderr, "\nValueError: boom\n"), "%s", stderr)
	assert.Assert(t, res.Exception != nil)
	assert.Equal(t, res.Exception.Type, "ValueError")
	assert.Equal(t, res.Exception.Message, "boom")
	assert.Equal(t, res.Exception.Line, 2)
	assert.Equal(t, res.Exception.Traceback, stderr)
}

func runsOnce(t *testing.T, h Harness) {
	s := launch(t, h, h.Class)
	_, err := s.Run(context.Background(), h.spec(Hello), nowhere)
	assert.NilError(t, err)
	var out bytes.Buffer
	_, err = s.Run(context.Background(), h.spec(Hello), isolation.Output{Stdout: &out, Stderr: &out})
	assert.Assert(t, err != nil, "a second program ran in a used sandbox")
	assert.Equal(t, out.String(), "")
}

func notAfterClose(t *testing.T, h Harness) {
	s := launch(t, h, h.Class)
	assert.NilError(t, s.Close())
	_, err := s.Run(context.Background(), h.spec(Hello), nowhere)
	assert.Assert(t, err != nil)
}

func closesTwice(t *testing.T, h Harness) {
	s := launch(t, h, h.Class)
	_, err := s.Run(context.Background(), h.spec(Hello), nowhere)
	assert.NilError(t, err)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { assert.Check(t, s.Close()) })
	}
	wg.Wait()
	assert.NilError(t, s.Close())
	nothingLeft(t, h)
}

func closesUnused(t *testing.T, h Harness) {
	assert.NilError(t, launch(t, h, h.Class).Close())
	nothingLeft(t, h)
}

func closesAfterFailure(t *testing.T, h Harness) {
	s := launch(t, h, h.Class)
	_, err := s.Run(context.Background(), isolation.Spec{}, nowhere)
	assert.Assert(t, err != nil)
	assert.NilError(t, s.Close())
	nothingLeft(t, h)
}

// Each limit, one above the class's ceiling, is refused before anything runs.
func holdsCeiling(t *testing.T, h Harness) {
	class := h.Class
	class.Ceiling = h.limits()
	for name, raise := range map[string]func(*isolation.Limits){
		"timeout":    func(l *isolation.Limits) { l.Timeout++ },
		"cpu_time":   func(l *isolation.Limits) { l.CPUTime++ },
		"memory":     func(l *isolation.Limits) { l.Memory++ },
		"disk":       func(l *isolation.Limits) { l.Disk++ },
		"output":     func(l *isolation.Limits) { l.Output++ },
		"processes":  func(l *isolation.Limits) { l.Processes++ },
		"open_files": func(l *isolation.Limits) { l.OpenFiles++ },
		"cpus":       func(l *isolation.Limits) { l.CPUs += 0.01 },
	} {
		spec := h.spec(Hello)
		raise(&spec.Limits)
		var out bytes.Buffer
		s := launch(t, h, class)
		_, err := s.Run(context.Background(), spec, isolation.Output{Stdout: &out, Stderr: &out})
		assert.ErrorContains(t, err, name)
		assert.Equal(t, out.String(), "")
		assert.NilError(t, s.Close())
	}
}

func needsLimits(t *testing.T, h Harness) {
	spec := h.spec(Hello)
	spec.Limits.Processes = 0
	_, err := launch(t, h, h.Class).Run(context.Background(), spec, nowhere)
	assert.ErrorContains(t, err, "processes")
}

func needsCeiling(t *testing.T, h Harness) {
	class := h.Class
	class.Ceiling.Memory = 0
	_, err := h.Launcher(t, class).Launch(context.Background())
	assert.ErrorContains(t, err, "memory")
}

func timesOut(t *testing.T, h Harness) {
	spec := h.spec(Sleep)
	spec.Limits.Timeout = time.Second
	start := time.Now()
	res, stdout, _ := execute(t, h, spec)
	assert.Equal(t, res.Status, isolation.StatusTimeout)
	assert.Equal(t, res.ExitCode, isolation.ExitTimeout)
	assert.Equal(t, stdout, "started\n")
	assert.Assert(t, res.Duration >= time.Second && time.Since(start) < 10*time.Second, "%v", res.Duration)
}

func cancels(t *testing.T, h Harness) {
	s := launch(t, h, h.Class)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var out bytes.Buffer
	res, err := s.Run(ctx, h.spec(Sleep), isolation.Output{Stdout: writerFunc(func(p []byte) (int, error) {
		cancel() // once the program has begun
		return out.Write(p)
	}), Stderr: io.Discard})
	assert.NilError(t, err)
	assert.Equal(t, res.Status, isolation.StatusCancelled)
	assert.Equal(t, res.ExitCode, isolation.ExitCancelled)
	assert.Equal(t, out.String(), "started\n")
}

func cancelledBefore(t *testing.T, h Harness) {
	s := launch(t, h, h.Class)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	res, err := s.Run(ctx, h.spec(Sleep), nowhere)
	assert.NilError(t, err)
	assert.Equal(t, res.Status, isolation.StatusCancelled)
}

func dropsOutput(t *testing.T, h Harness) {
	spec := h.spec(Chatter)
	spec.Limits.Timeout = 500 * time.Millisecond
	spec.Limits.Output = 1000
	capture := isolation.NewCapture(spec.Limits.Output)
	res, err := launch(t, h, h.Class).Run(context.Background(), spec, isolation.Output{Stdout: capture, Stderr: io.Discard})
	assert.NilError(t, err)
	assert.Equal(t, res.Status, isolation.StatusTimeout)
	assert.Equal(t, len(capture.Bytes()), 1000)
	dropped, _ := capture.Dropped()
	assert.Assert(t, dropped > 0)
}

func killsOnOutput(t *testing.T, h Harness) {
	spec := h.spec(Chatter)
	spec.Limits.Output = 1000
	spec.Limits.KillOnOutput = true
	res, stdout, _ := execute(t, h, spec)
	assert.Equal(t, res.Status, isolation.StatusOutputLimit)
	assert.Equal(t, res.ExitCode, isolation.ExitOutput)
	assert.Assert(t, len(stdout) >= 1000, "only %d bytes arrived", len(stdout))
}

func writersRest(t *testing.T, h Harness) {
	spec := h.spec(Chatter)
	spec.Limits.Timeout = 300 * time.Millisecond
	var returned atomic.Bool
	var late atomic.Int64
	w := writerFunc(func(p []byte) (int, error) {
		if returned.Load() {
			late.Add(1)
		}
		return len(p), nil
	})
	_, err := launch(t, h, h.Class).Run(context.Background(), spec, isolation.Output{Stdout: w, Stderr: w})
	returned.Store(true)
	assert.NilError(t, err)
	time.Sleep(200 * time.Millisecond)
	assert.Equal(t, late.Load(), int64(0))
}

func writerFails(t *testing.T, h Harness) {
	broken := writerFunc(func([]byte) (int, error) { return 0, errors.New("out of paper") })
	_, err := launch(t, h, h.Class).Run(context.Background(), h.spec(Hello), isolation.Output{Stdout: broken, Stderr: io.Discard})
	assert.ErrorContains(t, err, "out of paper")
}

func writerShort(t *testing.T, h Harness) {
	short := writerFunc(func(p []byte) (int, error) { return len(p) - 1, nil })
	_, err := launch(t, h, h.Class).Run(context.Background(), h.spec(Hello), isolation.Output{Stdout: short, Stderr: io.Discard})
	assert.ErrorIs(t, err, io.ErrShortWrite)
}

func launchCancelled(t *testing.T, h Harness) {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("changed my mind"))
	_, err := h.Launcher(t, h.Class).Launch(ctx)
	assert.ErrorContains(t, err, "changed my mind")
	nothingLeft(t, h)
}

func launchInterrupted(t *testing.T, h Harness) {
	for _, after := range []time.Duration{time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(context.Background(), after)
		s, err := h.Launcher(t, h.Class).Launch(ctx)
		cancel()
		if err == nil {
			assert.NilError(t, s.Close()) // it was faster
		} else {
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		}
		nothingLeft(t, h)
	}
}

func launchesAtOnce(t *testing.T, h Harness) {
	launcher := h.Launcher(t, h.Class)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			s, err := launcher.Launch(context.Background())
			if !assert.Check(t, err) {
				return
			}
			defer func() { assert.Check(t, s.Close()) }()
			spec := h.spec(Echo)
			spec.Stdin = fmt.Appendf(nil, "I am number %d\n", i)
			var out bytes.Buffer
			res, err := s.Run(context.Background(), spec, isolation.Output{Stdout: &out, Stderr: io.Discard})
			assert.Check(t, err)
			assert.Check(t, res.Status == isolation.StatusOK, "%+v", res)
			assert.Check(t, out.String() == string(spec.Stdin), "%q", out.String())
		})
	}
	wg.Wait()
	nothingLeft(t, h)
}

func nothingLeft(t *testing.T, h Harness) {
	t.Helper()
	if h.Leftovers == nil {
		return
	}
	directories, cgroups := h.Leftovers()
	assert.Equal(t, directories, 0)
	assert.Equal(t, cgroups, 0)
}

var nowhere = isolation.Output{Stdout: io.Discard, Stderr: io.Discard}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
