package isolationtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/fcarli/codesandbox/isolation"
)

// A Fake is a Launcher whose sandboxes run the programs of Contract, by
// recognising them, and any other program as its Script says.
type Fake struct {
	class isolation.Class

	mu       sync.Mutex
	script   Script
	launched int
	closed   int
	ran      []isolation.Spec
}

// A Script says what a Fake does. Changing it is safe at any time and concerns
// the Launches and Runs that begin afterwards.
type Script struct {
	// LaunchDelay is how long Launch takes, and LaunchError what it then
	// returns.
	LaunchDelay time.Duration
	LaunchError error
	// RunDelay is how long a program takes that Contract does not know; its
	// timeout and context end it earlier.
	RunDelay time.Duration
	// RunError is returned by every Run, after RunDelay.
	RunError error
	// CloseError is returned by every Close.
	CloseError error
	// Stdout, Stderr and Result are what a program does that Contract does not
	// know. A Result without Status stands for a good end.
	Stdout, Stderr string
	Result         isolation.Result
}

// NewFake returns a Fake of the class.
func NewFake(c isolation.Class) *Fake { return &Fake{class: c} }

// Play sets the script.
func (f *Fake) Play(s Script) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script = s
}

// Launched counts the sandboxes that were started.
func (f *Fake) Launched() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.launched
}

// Closed counts the sandboxes that were closed, each once.
func (f *Fake) Closed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

// Ran lists what the sandboxes were asked to run.
func (f *Fake) Ran() []isolation.Spec {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]isolation.Spec(nil), f.ran...)
}

func (f *Fake) playing() Script {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.script
}

// Launch implements isolation.Launcher.
func (f *Fake) Launch(ctx context.Context) (isolation.Sandbox, error) {
	if err := f.class.Ceiling.Validate(); err != nil {
		return nil, err
	}
	script := f.playing()
	if wait(ctx, script.LaunchDelay) != nil {
		return nil, fmt.Errorf("start fake sandbox: %w", context.Cause(ctx))
	}
	if script.LaunchError != nil {
		return nil, script.LaunchError
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.launched++
	return &fakeSandbox{fake: f}, nil
}

type fakeSandbox struct {
	fake *Fake

	mu     sync.Mutex
	used   bool
	closed bool
}

// Close implements isolation.Sandbox.
func (s *fakeSandbox) Close() error {
	err := s.fake.playing().CloseError
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.fake.mu.Lock()
		s.fake.closed++
		s.fake.mu.Unlock()
	}
	return err
}

// begin claims the sandbox for its one Run.
func (s *fakeSandbox) begin(spec isolation.Spec) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.used {
		return errors.New("sandbox was used before")
	}
	s.used = true
	if err := spec.Limits.Validate(); err != nil {
		return err
	}
	if name := spec.Limits.Exceeds(s.fake.class.Ceiling); name != "" {
		return fmt.Errorf("limit %s is above the sandbox's", name)
	}
	s.fake.mu.Lock()
	defer s.fake.mu.Unlock()
	s.fake.ran = append(s.fake.ran, spec)
	return nil
}

// Run implements isolation.Sandbox.
func (s *fakeSandbox) Run(ctx context.Context, spec isolation.Spec, out isolation.Output) (isolation.Result, error) {
	if err := s.begin(spec); err != nil {
		return isolation.Result{}, err
	}
	start := time.Now()
	run, cancel := context.WithTimeout(ctx, spec.Limits.Timeout)
	defer cancel()
	p := &performance{ctx: run, spec: spec, out: out}
	res := p.play(s.fake.playing())
	switch {
	case p.err != nil:
		return isolation.Result{}, p.err
	case p.over:
		res = isolation.Forced(isolation.StatusOutputLimit)
	case p.cut && ctx.Err() != nil:
		res = isolation.Forced(isolation.StatusCancelled)
	case p.cut:
		res = isolation.Forced(isolation.StatusTimeout)
	}
	res.Duration = max(res.Duration, time.Since(start), 1)
	if res.Usage == (isolation.Usage{}) {
		res.Usage = isolation.Usage{CPU: -1, PeakMemory: -1}
	}
	return res, nil
}

// A performance is one Run of a fake.
type performance struct {
	ctx  context.Context
	spec isolation.Spec
	out  isolation.Output

	written int64
	over    bool // more output than allowed
	cut     bool // by the timeout or the caller
	err     error
}

func (p *performance) play(script Script) isolation.Result {
	if script.RunError != nil {
		p.rest(script.RunDelay)
		p.err = script.RunError
		return isolation.Result{}
	}
	switch string(p.spec.Code) {
	case Hello:
		p.print(p.out.Stdout, "hello\n")
	case Echo:
		p.print(p.out.Stdout, string(p.spec.Stdin))
	case Fail:
		p.print(p.out.Stdout, "out\n")
		p.print(p.out.Stderr, "err\n")
		return isolation.Ended(3, nil)
	case Raise:
		x := &isolation.Exception{Type: "ValueError", Message: "boom", Line: 2,
			Traceback: "Traceback (most recent call last):\n  File \"/tmp/work/main.py\", line 2, in <module>\n" +
				"    raise ValueError('boom')\nValueError: boom\n"}
		p.print(p.out.Stdout, "before\n")
		p.print(p.out.Stderr, x.Traceback)
		return isolation.Ended(1, x)
	case Sleep:
		p.print(p.out.Stdout, "started\n")
		p.rest(600 * time.Second)
	case Chatter:
		for !p.cut && !p.over && p.err == nil {
			p.print(p.out.Stdout, strings.Repeat("x", 99)+"\n")
			p.rest(time.Millisecond)
		}
	default:
		p.rest(script.RunDelay)
		p.print(p.out.Stdout, script.Stdout)
		p.print(p.out.Stderr, script.Stderr)
		if script.Result.Status != "" {
			return script.Result
		}
	}
	return isolation.Ended(0, nil)
}

// rest lets the program take its time, unless it is over already.
func (p *performance) rest(d time.Duration) {
	if wait(p.ctx, d) != nil {
		p.cut = true
	}
}

func (p *performance) print(w io.Writer, text string) {
	if text == "" || p.cut || p.over || p.err != nil {
		return
	}
	n, err := io.WriteString(w, text)
	if err == nil && n < len(text) {
		err = io.ErrShortWrite
	}
	if err != nil {
		p.err = fmt.Errorf("pass output on: %w", err)
	}
	p.written += int64(n)
	p.over = p.spec.Limits.KillOnOutput && p.written > p.spec.Limits.Output
}

func wait(ctx context.Context, d time.Duration) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
