package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/fcarli/codesandbox/images"
	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/policy"
	"github.com/fcarli/codesandbox/rpc"
	"github.com/fcarli/codesandbox/rpc/server/proof"
)

const (
	// doctorAge is how long a thorough proof answers for the next: so often a
	// caller can make csbd do the work.
	doctorAge = 10 * time.Second
	// proofTime bounds the proof of one profile.
	proofTime = 5 * time.Minute
	// How long csbd waits before it repeats a proof that failed: first, doubled
	// up to the last.
	firstProofBackoff = time.Second
	lastProofBackoff  = time.Minute
	// Between two proofs that failed executions give rise to, csbd rests for so
	// long, and for so many times what the first one took: whoever can make
	// executions fail makes csbd do no more than that.
	doubtRest       = 5 * time.Second
	doubtRestFactor = 9
)

// A prover remembers the last proof.
type prover struct {
	one    chan struct{} // holds one token: one proof at a time
	failed chan struct{} // a proof failed
	doubts chan struct{} // an execution failed, and nobody knows yet why

	mu      sync.Mutex
	flight  *flight
	problem string // why csbd is not ready, "" if it is
	broken  bool   // isolation is: csbd refuses executions
	deep    bool   // a thorough proof found it: only another one can clear it
	report  rpc.Doctor
	made    time.Time // when report was; zero for never
	passed  time.Time // when a proof last showed something and nothing failed
}

func newProver() *prover {
	return &prover{one: make(chan struct{}, 1), failed: make(chan struct{}, 1), doubts: make(chan struct{}, 1)}
}

// unproven says why csbd is not ready, or "". refuse says that a program has
// shown that isolation does not work, or has not shown that it does; else none
// could be run, and whoever asks may as well try.
func (p *prover) unproven() (why string, refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.problem, p.broken
}

// Prove makes the checks of package proof under every profile whose default
// image is there, and lets csbd execute, or not, by what comes of it. thorough
// adds those that take a second. The error names the first check that failed.
func (s *Server) Prove(ctx context.Context, thorough bool) (rpc.Doctor, error) {
	select {
	case s.prover.one <- struct{}{}:
		defer func() { <-s.prover.one }()
	case <-ctx.Done():
		return rpc.Doctor{}, context.Cause(ctx)
	}
	return s.prove(ctx, thorough)
}

// prove is Prove for who holds the token.
func (s *Server) prove(ctx context.Context, thorough bool) (rpc.Doctor, error) {
	s.prover.mu.Lock()
	thorough = thorough || s.prover.deep
	s.prover.mu.Unlock()
	report := rpc.Doctor{OK: true, Checks: []rpc.DoctorCheck{}}
	start := time.Now()
	var failed error
	problem, broken := "", false
	proved := false
	ended := false // the checks that end a program are made for one profile: they are the host's
	for _, profile := range s.policy.Load().Profiles() {
		begin := time.Now()
		image, err := s.Images.Resolve(profile.Images[0])
		if errors.Is(err, images.ErrNotFound) || errors.Is(err, images.ErrStale) {
			s.Log.Warn("image cannot be used", "profile", profile.Name, "error", err)
			report.OK = false
			report.Checks = append(report.Checks, rpc.DoctorCheck{Profile: profile.Name, Name: "image", Status: rpc.CheckFailed,
				Proves: "the profile's default image is there", Cause: fmt.Sprintf("image %q is not built on this host, or for another version of csbd", profile.Images[0]),
				Fix: "build it: csbd image build DIR"})
			continue
		}
		var checks []proof.Check
		if err != nil {
			checks = []proof.Check{{Name: "image", Proves: "the profile's default image is there", Cause: "it cannot be read", Fix: "see csbd's log", Err: err}}
		} else {
			checks = s.checks(ctx, s.subject(profile, image), thorough, thorough && !ended)
			ended = ended || len(proof.Failures(checks)) == 0
		}
		if ctx.Err() != nil {
			return report, context.Cause(ctx) // nothing was shown, either way
		}
		for _, c := range checks {
			report.Checks = append(report.Checks, wireCheck(profile.Name, c))
		}
		for _, c := range proof.Failures(checks) {
			report.OK = false
			broken = broken || c.Err == nil
			s.Log.Error("self-test failed", "profile", profile.Name, "check", c.Name, "cause", c.Cause, "fix", c.Fix, "error", c.Err)
			if failed == nil {
				problem = fmt.Sprintf("the self-test of profile %s failed: %s: %s", profile.Name, c.Name, c.Cause)
				if failed = fmt.Errorf("self-test of profile %s: %s: %s", profile.Name, c.Name, c.Cause); c.Err != nil {
					failed = fmt.Errorf("%w: %w", failed, c.Err)
				}
			}
		}
		if len(proof.Failures(checks)) == 0 {
			proved = true
			s.health.worked()
			s.Log.Info("self-test passed", "profile", profile.Name, "duration", time.Since(begin).Round(time.Millisecond))
		}
	}
	report.Duration = time.Since(start).Seconds()
	s.prover.mu.Lock()
	s.prover.problem, s.prover.broken, s.prover.deep = problem, broken, problem != "" && thorough
	if failed == nil && proved {
		s.prover.passed = time.Now()
	}
	if thorough {
		s.prover.report, s.prover.made = report, time.Now()
	}
	s.prover.mu.Unlock()
	if failed != nil {
		select {
		case s.prover.failed <- struct{}{}:
		default:
		}
	}
	return report, failed
}

// checks makes those of one profile, within proofTime.
func (s *Server) checks(ctx context.Context, subject proof.Subject, thorough, ends bool) []proof.Check {
	ctx, cancel := context.WithTimeout(ctx, proofTime)
	defer cancel()
	checks := proof.Of(ctx, subject, thorough)
	if ends && len(proof.Failures(checks)) == 0 {
		checks = append(checks, proof.Ends(ctx, subject)...)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return []proof.Check{{Name: "execution", Proves: "programs run in fresh sandboxes", Cause: "the checks did not end within " + proofTime.String(),
			Fix: "see whether the machine is overloaded, and csbd's log", Err: ctx.Err()}}
	}
	return checks
}

func (s *Server) subject(profile *policy.Profile, image images.Image) proof.Subject {
	limits := profile.Max
	limits.Disk = profile.Default.Disk
	host, _ := os.ReadFile("/proc/version")
	return proof.Subject{
		Max: limits, Seccomp: profile.Seccomp != "", Unenforced: s.Unenforced, HostKernel: string(host),
		Run: func(ctx context.Context, spec isolation.Spec, out isolation.Output) (isolation.Result, error) {
			for attempt := 1; ; attempt++ {
				sandbox, _, err := s.Sandboxes.Take(ctx, Class(image, profile, spec.Limits.Disk))
				if err != nil {
					return isolation.Result{}, err
				}
				result, err := sandbox.Run(ctx, spec, out)
				if closed := sandbox.Close(); err == nil {
					err = closed
				}
				if !errors.Is(err, isolation.ErrNotTaken) || attempt == attempts {
					if err == nil && ownEnd(result) {
						s.health.succeeded()
					}
					return result, err
				}
			}
		},
	}
}

func wireCheck(profile string, c proof.Check) rpc.DoctorCheck {
	w := rpc.DoctorCheck{Profile: profile, Name: c.Name, Proves: c.Proves, Status: rpc.CheckOK, Cause: c.Cause, Fix: c.Fix}
	switch {
	case c.Failed():
		w.Status = rpc.CheckFailed
	case c.Skipped != "":
		w.Status, w.Cause = rpc.CheckSkipped, c.Skipped
	}
	return w
}

// doubt has a proof made soon: an execution has failed, and the program may not
// be to blame, or one has worked although csbd takes itself to be unready. It
// never waits.
func (s *Server) doubt() {
	select {
	case s.prover.doubts <- struct{}{}:
	default: // one proof answers all
	}
}

// KeepProving repeats the proof until ctx ends: thoroughly, every so often (0
// is never) and with growing pauses while it fails; and the short one when an
// execution has failed inside csbd, at once the first time.
func (s *Server) KeepProving(ctx context.Context, every time.Duration) {
	last := time.Now() // when a thorough proof was made
	rested := last     // no doubt is looked into before
	doubted := false   // one waits for that
	backoff := firstProofBackoff
	for {
		var due time.Time // zero is never
		thorough := true
		if why, _ := s.prover.unproven(); why != "" {
			due = time.Now().Add(backoff)
			backoff = min(2*backoff, lastProofBackoff)
		} else {
			backoff = firstProofBackoff
			if every > 0 {
				due = last.Add(every)
			}
		}
		if doubted && (due.IsZero() || rested.Before(due)) {
			due, thorough = rested, false
		}
		var timer <-chan time.Time
		if !due.IsZero() {
			timer = time.After(time.Until(due))
		}
		doubts := s.prover.doubts
		if doubted {
			doubts = nil
		}
		select {
		case <-timer:
			doubted = false
			start := time.Now()
			// Its failure is in the log, and in status.
			_, _ = s.Prove(ctx, thorough)
			select {
			case <-s.prover.failed: // known
			default:
			}
			if thorough {
				last = time.Now()
			} else {
				rested = time.Now().Add(max(doubtRest, doubtRestFactor*time.Since(start)))
			}
		case <-doubts:
			doubted = true
		case <-s.prover.failed:
		case <-ctx.Done():
			return
		}
	}
}

// A flight is a thorough proof that callers of doctor wait for.
type flight struct {
	done   chan struct{} // closed when the rest is set
	report rpc.Doctor
	made   time.Time // zero if it came to no end
}

// doctor answers with a thorough proof, one made lately if there is one. The
// proof goes on if the caller leaves, for those who wait too, or ask soon.
func (s *Server) doctor(ctx context.Context) (any, *rpc.Error) {
	f := s.examine()
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil, cancelled(ctx)
	}
	if f.made.IsZero() {
		return nil, rpc.Errorf(rpc.CodeShuttingDown, "csbd is about to stop")
	}
	report := f.report
	report.Age = time.Since(f.made).Seconds()
	return report, nil
}

// examine returns the flight that is under way, or begins one, which ends with
// the server.
func (s *Server) examine() *flight {
	s.prover.mu.Lock()
	defer s.prover.mu.Unlock()
	if s.prover.flight != nil {
		return s.prover.flight
	}
	f := &flight{done: make(chan struct{})}
	s.prover.flight = f
	s.background.Add(1) // not the first: the connection that asked is one
	go func() {
		defer s.background.Done()
		defer close(f.done)
		f.report, f.made = s.thoroughly(s.life)
		s.prover.mu.Lock()
		defer s.prover.mu.Unlock()
		s.prover.flight = nil
	}()
	return f
}

// thoroughly returns a report that is at most doctorAge old, and when it was
// made: never, if ctx ended before.
func (s *Server) thoroughly(ctx context.Context) (rpc.Doctor, time.Time) {
	select {
	case s.prover.one <- struct{}{}:
		defer func() { <-s.prover.one }()
	case <-ctx.Done():
		return rpc.Doctor{}, time.Time{}
	}
	s.prover.mu.Lock()
	report, made := s.prover.report, s.prover.made
	s.prover.mu.Unlock()
	if !made.IsZero() && time.Since(made) <= doctorAge {
		return report, made
	}
	report, _ = s.prove(ctx, true) // failures stand in it
	if ctx.Err() != nil {
		return rpc.Doctor{}, time.Time{}
	}
	return report, time.Now()
}
