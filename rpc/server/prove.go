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
	// proofTime bounds one proof.
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
	problem string // why csbd refuses executions, "" if it does not
	deep    bool   // a thorough proof found it: only another one can clear it
	report  rpc.Doctor
	made    time.Time // when report was; zero for never
}

func newProver() *prover {
	return &prover{one: make(chan struct{}, 1), failed: make(chan struct{}, 1), doubts: make(chan struct{}, 1)}
}

// unproven says why executions have to be refused, or "".
func (p *prover) unproven() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.problem
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
	ctx, cancel := context.WithTimeout(ctx, proofTime)
	defer cancel()
	report := rpc.Doctor{OK: true, Checks: []rpc.DoctorCheck{}}
	start := time.Now()
	var failed error
	problem := ""
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
			subject := s.subject(profile, image)
			checks = proof.Of(ctx, subject, thorough)
			if thorough && !ended && len(proof.Failures(checks)) == 0 {
				checks = append(checks, proof.Ends(ctx, subject)...)
				ended = true
			}
		}
		if ctx.Err() != nil {
			return report, context.Cause(ctx) // nothing was shown, either way
		}
		for _, c := range checks {
			report.Checks = append(report.Checks, wireCheck(profile.Name, c))
		}
		for _, c := range proof.Failures(checks) {
			report.OK = false
			s.Log.Error("self-test failed", "profile", profile.Name, "check", c.Name, "cause", c.Cause, "fix", c.Fix, "error", c.Err)
			if failed == nil {
				problem = fmt.Sprintf("the self-test of profile %s failed: %s: %s", profile.Name, c.Name, c.Cause)
				if failed = fmt.Errorf("self-test of profile %s: %s: %s", profile.Name, c.Name, c.Cause); c.Err != nil {
					failed = fmt.Errorf("%w: %w", failed, c.Err)
				}
			}
		}
		if len(proof.Failures(checks)) == 0 {
			s.health.worked()
			s.Log.Info("self-test passed", "profile", profile.Name, "duration", time.Since(begin).Round(time.Millisecond))
		}
	}
	report.Duration = time.Since(start).Seconds()
	s.prover.mu.Lock()
	s.prover.problem, s.prover.deep = problem, problem != "" && thorough
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
// be to blame. It never waits.
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
		if s.prover.unproven() != "" {
			due = time.Now().Add(backoff)
			backoff = min(2*backoff, lastProofBackoff)
		} else {
			backoff = firstProofBackoff
			if every > 0 {
				due = last.Add(every)
			}
			if doubted && (due.IsZero() || rested.Before(due)) {
				due, thorough = rested, false
			}
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

// doctor answers with a thorough proof, one made lately if there is one.
func (s *Server) doctor(ctx context.Context) (any, *rpc.Error) {
	select {
	case s.prover.one <- struct{}{}:
		defer func() { <-s.prover.one }()
	case <-ctx.Done():
		return nil, cancelled(ctx)
	}
	s.prover.mu.Lock()
	report, made := s.prover.report, s.prover.made
	s.prover.mu.Unlock()
	if made.IsZero() || time.Since(made) > doctorAge {
		var err error
		if report, err = s.prove(ctx, true); ctx.Err() != nil {
			return nil, cancelled(ctx)
		} else if err != nil && report.OK {
			return nil, rpc.Errorf(rpc.CodeInternal, "the checks did not come to an end in time")
		}
		made = time.Now()
	}
	report.Age = time.Since(made).Seconds()
	return report, nil
}
