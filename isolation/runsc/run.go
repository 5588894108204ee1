package runsc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/isolation/runner"
)

// How often a running sandbox's control group is looked at for CPU time and
// memory kills: what a program can exceed its CPU time by, per processor.
const pollEvery = 20 * time.Millisecond

// takeTimeout bounds the time in which a waiting sandbox takes a request, which
// it does within a millisecond or two unless the host is overloaded. It takes
// longer for what has to be copied: at least takeRate bytes a second.
const (
	takeTimeout = 5 * time.Second
	takeRate    = 4 << 20
)

// settle bounds the time from the death of a sandbox to the end of its output.
const settle = 10 * time.Second

// Run implements isolation.Sandbox.
func (s *sandbox) Run(ctx context.Context, spec isolation.Spec, out isolation.Output) (isolation.Result, error) {
	if s.used {
		return isolation.Result{}, errors.New("sandbox was used before")
	}
	s.used = true
	if err := spec.Limits.Validate(); err != nil {
		return isolation.Result{}, err
	}
	if name := spec.Limits.Exceeds(s.class.Ceiling); name != "" {
		return isolation.Result{}, fmt.Errorf("limit %s is above the sandbox's", name)
	}
	if spec.Limits.Disk != s.class.Ceiling.Disk {
		return isolation.Result{}, errors.New("limit disk differs from the sandbox's, which cannot be changed any more")
	}
	// It wakes up while the limits are set.
	_ = runner.WriteNotice(s.stdin)
	cpuBefore, err := s.prepare(spec)
	if err != nil {
		return isolation.Result{}, fmt.Errorf("apply limits: %w", err)
	}

	token := runner.NewToken()
	go func() {
		// A failure shows as a request that is not taken, or a sandbox that ends.
		_ = runner.WriteRequest(s.stdin, token, spec)
		s.stdin.Close()
	}()
	start := time.Now()
	if err := s.taken(ctx, spec); err != nil {
		res, err := s.notTaken(ctx, err)
		res.Duration, res.Usage = time.Since(start), s.usage(cpuBefore)
		// It may have taken it this very moment: what it does is seen by nobody.
		return res, errors.Join(err, s.kill())
	}
	stdout := newStream(s.stdout, runner.NewScanner(token, out.Stdout, true), spec.Limits)
	stderr := newStream(s.stderr, runner.NewScanner(token, out.Stderr, false), spec.Limits)

	reason, err := s.watch(ctx, spec.Limits, start, cpuBefore, stdout, stderr)
	duration := time.Since(start)
	var res isolation.Result
	if reason != "" || err != nil {
		err = errors.Join(err, s.force(stdout, stderr))
		res = isolation.Forced(reason)
	} else {
		res, err = s.ended(ctx, spec.Limits, start, cpuBefore, stdout, stderr)
	}
	if err == nil {
		err = errors.Join(stdout.err, stderr.err)
	}
	if err != nil {
		return isolation.Result{}, err
	}
	res.Duration = duration
	res.Usage = s.usage(cpuBefore)
	return res, nil
}

// taken waits until the runner has taken the request: a sandbox that died since
// it was ready, or hangs, does not.
func (s *sandbox) taken(ctx context.Context, spec isolation.Spec) error {
	size := len(spec.Code) + len(spec.Stdin)
	for _, f := range spec.Files {
		size += len(f.Content)
	}
	_ = s.stdout.SetReadDeadline(time.Now().Add(takeTimeout + time.Duration(size)*time.Second/takeRate))
	cancelled := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = s.stdout.SetReadDeadline(time.Now())
		close(cancelled)
	})
	err := runner.WaitTaken(s.stdout)
	if !stop() {
		<-cancelled // or it would set the deadline later on
	}
	return errors.Join(err, s.stdout.SetReadDeadline(time.Time{}))
}

// notTaken says what it means that err kept the runner from taking the request.
// No program has run.
func (s *sandbox) notTaken(ctx context.Context, err error) (isolation.Result, error) {
	var setup *isolation.SetupError
	if errors.As(err, &setup) {
		return isolation.Result{}, setup
	}
	if ctx.Err() != nil {
		return isolation.Forced(isolation.StatusCancelled), nil
	}
	// Code, stdin and files are memory: another sandbox would not have more.
	if n, oom := s.group.OOMKills(); oom == nil && n > 0 {
		return isolation.Forced(isolation.StatusMemoryLimit), nil
	}
	return isolation.Result{}, fmt.Errorf("%w: %w", isolation.ErrNotTaken, err)
}

// prepare sets the control group to the request's limits and returns the CPU
// time that starting the sandbox has cost.
func (s *sandbox) prepare(spec isolation.Spec) (time.Duration, error) {
	idle, err := s.group.MemoryUse()
	if err != nil {
		return 0, err
	}
	l := spec.Limits
	memory := idle + l.Memory + runner.StackRoom(l) + l.Disk + int64(len(spec.Stdin)) + headroom
	if err := errors.Join(
		s.group.SetMemory(memory),
		s.group.SetPids(hostTasks(l.Processes)),
		s.group.SetCPUs(l.CPUs)); err != nil {
		return 0, err
	}
	return s.group.CPU()
}

// watch waits until the program ended by itself ("") or has to be ended for
// the returned reason. Its error is that a limit cannot be watched any more.
func (s *sandbox) watch(ctx context.Context, l isolation.Limits, start time.Time, cpuBefore time.Duration, stdout, stderr *stream) (isolation.Status, error) {
	timeout := time.NewTimer(time.Until(start.Add(l.Timeout)))
	defer timeout.Stop()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	// Without streams, the end of the sandbox is what is waited for.
	var outDone, errDone, outOver, errOver, exited chan struct{}
	if stdout != nil {
		outDone, errDone, outOver, errOver = stdout.done, stderr.done, stdout.over, stderr.over
	} else {
		exited = s.exited
	}
	for outDone != nil || errDone != nil || exited != nil {
		select {
		case <-exited:
			exited = nil
		case <-outDone:
			outDone = nil
		case <-errDone:
			errDone = nil
		case <-timeout.C:
			return isolation.StatusTimeout, nil
		case <-ctx.Done():
			return isolation.StatusCancelled, nil
		case <-outOver:
			return isolation.StatusOutputLimit, nil
		case <-errOver:
			return isolation.StatusOutputLimit, nil
		case <-poll.C:
			kills, err := s.group.OOMKills()
			if err != nil {
				return "", fmt.Errorf("watch memory: %w", err)
			}
			if kills > 0 {
				return isolation.StatusMemoryLimit, nil
			}
			used, err := s.group.CPU()
			if err != nil {
				return "", fmt.Errorf("watch CPU time: %w", err)
			}
			if used-cpuBefore > l.CPUTime {
				return isolation.StatusCPULimit, nil
			}
		}
	}
	return "", nil
}

// force kills the sandbox and collects what it had written.
func (s *sandbox) force(stdout, stderr *stream) error {
	err := s.kill()
	deadline := time.Now().Add(settle)
	for _, st := range []*stream{stdout, stderr} {
		_ = st.file.SetReadDeadline(deadline)
		<-st.done
	}
	return err
}

// ended says how a program that nobody stopped came to its end.
func (s *sandbox) ended(ctx context.Context, l isolation.Limits, start time.Time, cpuBefore time.Duration, stdout, stderr *stream) (isolation.Result, error) {
	if n, err := s.group.OOMKills(); err != nil || n > 0 {
		return isolation.Forced(isolation.StatusMemoryLimit), err
	}
	if end := stdout.scanner.End(); end != nil {
		return end.Result(), nil
	}
	// The streams ended without a word from the runner, or with one that makes
	// no sense: the sandbox is dead or dying, and its exit status is all there
	// is. A program that forged an end may run on; its limits still hold.
	if reason, err := s.watch(ctx, l, start, cpuBefore, nil, nil); reason != "" || err != nil {
		return isolation.Forced(reason), errors.Join(err, s.kill())
	}
	if n, err := s.group.OOMKills(); err != nil || n > 0 {
		return isolation.Forced(isolation.StatusMemoryLimit), err
	}
	switch {
	case s.waitErr != nil:
		return isolation.Result{}, fmt.Errorf("sandbox died: %w", s.waitErr)
	case !s.status.Exited():
		return isolation.Result{}, fmt.Errorf("sandbox died: signal: %v", s.status.Signal())
	}
	switch code := s.status.ExitStatus(); {
	case code == 2 || code == 128: // see init in runner.py
		return isolation.Result{}, fmt.Errorf("sandbox died: runsc failed with status %d", code)
	case code > 128 && code <= 128+64:
		return isolation.Signalled(code - 128), nil
	default:
		return isolation.Ended(code, nil), nil
	}
}

func (s *sandbox) usage(cpuBefore time.Duration) isolation.Usage {
	u := isolation.Usage{CPU: -1, PeakMemory: s.group.MemoryPeak()}
	if used, err := s.group.CPU(); err == nil {
		u.CPU = used - cpuBefore
	}
	return u
}

// A stream drains one output of the sandbox until the program's end mark, or
// the end of the stream.
type stream struct {
	file    *os.File
	scanner *runner.Scanner
	done    chan struct{}
	over    chan struct{} // closed when the program has written too much
	err     error         // of the output's writer; valid once done is closed
}

func newStream(f *os.File, scanner *runner.Scanner, l isolation.Limits) *stream {
	st := &stream{file: f, scanner: scanner, done: make(chan struct{}), over: make(chan struct{})}
	go st.drain(l)
	return st
}

// drain reads without ever making the program wait for anyone but this loop.
func (st *stream) drain(l isolation.Limits) {
	defer close(st.done)
	buf := make([]byte, 64<<10)
	for !st.scanner.Done() {
		n, err := st.file.Read(buf)
		if n > 0 {
			_, werr := st.scanner.Write(buf[:n])
			if werr != nil && st.err == nil {
				st.err = fmt.Errorf("pass output on: %w", werr)
			}
			if l.KillOnOutput && st.scanner.Passed() > l.Output {
				select {
				case <-st.over:
				default:
					close(st.over)
				}
			}
		}
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) && st.err == nil {
				st.err = errors.New("output of a dead sandbox does not end")
			}
			break
		}
	}
	if err := st.scanner.Flush(); err != nil && st.err == nil {
		st.err = err
	}
}
