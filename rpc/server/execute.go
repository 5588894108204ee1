package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fcarli/codesandbox/images"
	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/policy"
	"github.com/fcarli/codesandbox/rpc"
	"github.com/fcarli/codesandbox/rpc/server/queue"
)

// Bounds of trying further sandboxes when one does not take the program:
// because it died, as all do when their spawner dies, or because it hangs.
const (
	attempts     = 20
	attemptsTime = 15 * time.Second
)

// execute runs one program from request to answer.
func (c *connection) execute(ctx context.Context, profile *policy.Profile, m *message, line *record) (_ any, failed *rpc.Error) {
	s := c.server
	id := newID()
	log := c.log.With("id", id)
	received := time.Now()
	line.received = received

	spec, request, failed := s.decode(m)
	if failed != nil {
		return nil, failed
	}
	spec.ID, line.ID, line.sizes = id, id, request.Sizes
	if s.Audit != nil {
		line.program(spec)
	}
	if why, refuse := s.prover.unproven(); refuse {
		log.Error("execution refused", "problem", why)
		return nil, internal(id)
	}
	decision, err := profile.Decide(request)
	if err != nil {
		log.Info("refused", "profile", profile.Name, "reason", err)
		return nil, refusal(err)
	}
	spec.Limits = decision.Limits
	image, err := s.Images.Resolve(decision.Image)
	if err != nil {
		return nil, imageError(log, id, decision.Image, err)
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if !s.begin(id, c.peer.uid, cancel) {
		return nil, rpc.ShuttingDown()
	}
	defer s.end(id)
	release, err := s.queue.Acquire(ctx, c.peer.uid, queue.Bounds{
		Concurrency: profile.Concurrency, Waiting: profile.Queue, Rate: profile.Rate.N, Per: profile.Rate.Per})
	if err != nil {
		return nil, queueError(log, profile, err)
	}
	defer release()
	admitted := time.Now()
	// Waiting here is like running: it counts against the user's concurrency.
	if m.result, err = s.results.wait(ctx, c.peer.uid, resultMemory(spec.Limits.Output)); err != nil {
		return nil, cancelled(ctx)
	}

	stdout, stderr := isolation.NewCapture(spec.Limits.Output), isolation.NewCapture(spec.Limits.Output)
	var result isolation.Result
	var warm bool
	var started time.Time
	for attempt := 1; ; attempt++ {
		var sandbox isolation.Sandbox
		sandbox, warm, err = s.Sandboxes.Take(ctx, Class(image, profile, spec.Limits.Disk))
		if err != nil {
			if ctx.Err() != nil {
				return nil, cancelled(ctx)
			}
			s.health.failed(err)
			s.doubt()
			log.Error("no sandbox", "image", image.Name, "error", err)
			return nil, internal(id)
		}
		started = time.Now()
		result, err = sandbox.Run(ctx, spec, isolation.Output{Stdout: stdout, Stderr: stderr})
		if !errors.Is(err, isolation.ErrNotTaken) || attempt == attempts || time.Since(admitted) > attemptsTime {
			defer s.remove(log, sandbox)
			break
		}
		log.Warn("another sandbox is taken", "error", err)
		s.remove(log, sandbox)
	}
	if errors.Is(err, isolation.ErrNotTaken) {
		s.health.failed(err)
	} else {
		s.health.worked()
	}
	var setup *isolation.SetupError
	switch {
	case err == nil && ownEnd(result):
		s.health.succeeded()
		if why, _ := s.prover.unproven(); why != "" {
			s.doubt()
		}
	case err != nil && !errors.As(err, &setup):
		// The program may have done it to its sandbox, or the host is broken: one
		// of our own programs shows which.
		s.doubt()
	}
	switch {
	case errors.As(err, &setup):
		return nil, rpc.InvalidParams("files", "code and files cannot be placed in the working directory: %.200s", setup.Reason)
	case err != nil:
		log.Error("execution failed", "image", image.Name, "error", err)
		return nil, internal(id)
	}
	answer := s.encode(result, stdout, stderr)
	m.result.resize(int64(cap(answer.stdout)+cap(answer.stderr)) + resultOverhead)
	answer.ID = id
	answer.Image = rpc.ImageRef{Name: decision.Image, Digest: image.Digest}
	answer.Limits = wireLimits(spec.Limits)
	answer.Usage.QueueTime = admitted.Sub(received).Seconds()
	answer.Usage.StartTime = started.Sub(admitted).Seconds()
	answer.Usage.Warm = warm
	if result.Status == isolation.StatusCancelled {
		answer.Error.Message = context.Cause(ctx).Error()
	}
	s.counters.executed(answer.Status)
	line.Stdout, line.Stderr = total(stdout), total(stderr)
	log.Info("executed", "profile", profile.Name, "image", image.Name, "status", answer.Status, "exit_code", answer.ExitCode,
		"queue", admitted.Sub(received), "start", started.Sub(admitted), "run", result.Duration, "cpu", result.Usage.CPU,
		"peak_memory", result.Usage.PeakMemory, "limits_hit", limitsHit(answer.Result), "warm", warm)
	return answer, nil
}

// total is how many bytes were written to c.
func total(c *isolation.Capture) int64 {
	dropped, _ := c.Dropped()
	return dropped + int64(len(c.Bytes()))
}

// remove closes a sandbox in the background: it takes time that the caller need
// not wait for.
func (s *Server) remove(log *slog.Logger, sandbox isolation.Sandbox) {
	s.background.Add(1)
	go func() {
		defer s.background.Done()
		if err := sandbox.Close(); err != nil {
			log.Error("sandbox not removed", "error", err)
		}
	}()
}

// Class is what a sandbox is started with for a request of the profile: the
// profile's ceiling, which the request's limits tighten at hand-over, but for
// the size of the disk, which cannot be changed then.
func Class(i images.Image, p *policy.Profile, disk int64) isolation.Class {
	ceiling := p.Max
	ceiling.Disk = disk
	return isolation.Class{Image: i.Path, Digest: i.Digest, Preload: strings.Join(i.Preload, " "), Warmup: i.Warmup,
		Seccomp: p.Seccomp, Ceiling: ceiling}
}

func limitsHit(r rpc.Result) string {
	var hit []string
	if s := isolation.Status(r.Status); slices.Contains([]isolation.Status{isolation.StatusTimeout, isolation.StatusCPULimit,
		isolation.StatusMemoryLimit, isolation.StatusOutputLimit}, s) {
		hit = append(hit, r.Status)
	}
	if r.Truncated != nil {
		hit = append(hit, "truncated")
	}
	return strings.Join(hit, ",")
}

func imageError(log *slog.Logger, id, name string, err error) *rpc.Error {
	if errors.Is(err, images.ErrNotFound) {
		e := rpc.Errorf(rpc.CodeUnknownImage, "image %q is not built on this host", name)
		e.Data.Field = "image"
		return e
	}
	if errors.Is(err, images.ErrStale) {
		e := rpc.Errorf(rpc.CodeUnknownImage, "image %q was built for another version of csbd", name)
		e.Data.Field = "image"
		return e
	}
	log.Error("image unusable", "image", name, "error", err)
	return internal(id)
}

func queueError(log *slog.Logger, profile *policy.Profile, err error) *rpc.Error {
	var busy *queue.BusyError
	switch {
	case errors.As(err, &busy):
		log.Info("busy", "profile", profile.Name, "bound", busy.Bound)
		e := rpc.Busy(busy.RetryAfter, "%s", busy.Reason)
		e.Data.Rule = "profile " + profile.Name + ": " + busy.Bound
		return e
	case errors.Is(err, queue.ErrClosed), errors.Is(err, errStopping):
		return rpc.ShuttingDown()
	}
	return rpc.Errorf(rpc.CodeCancelled, "%v before the program ran", err)
}

func cancelled(ctx context.Context) *rpc.Error {
	if cause := context.Cause(ctx); !errors.Is(cause, errStopping) {
		return rpc.Errorf(rpc.CodeCancelled, "%v before the program ran", cause)
	}
	return rpc.ShuttingDown()
}

// begin and end keep the table of executions that cancel looks into.
func (s *Server) begin(id string, uid uint32, cancel context.CancelCauseFunc) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.executions[id] = execution{uid, cancel}
	return true
}

func (s *Server) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.executions, id)
}

// encode is the Result that the wire gets.
func (s *Server) encode(r isolation.Result, stdout, stderr *isolation.Capture) *executed {
	out := &executed{stdout: stdout.Bytes(), stderr: stderr.Bytes()}
	out.Result = rpc.Result{
		Status:        string(r.Status),
		ExitCode:      r.ExitCode,
		ExecutionTime: r.Duration.Seconds(),
		Usage:         rpc.Usage{CPUTime: max(r.Usage.CPU.Seconds(), 0), PeakMemory: max(r.Usage.PeakMemory, 0)},
		Isolation:     rpc.Isolation{Driver: s.Driver, Version: s.Version.Runtime},
		Unenforced:    s.Unenforced,
	}
	cutOut, cutErr := cut(stdout), cut(stderr)
	if cutOut != nil || cutErr != nil {
		out.Truncated = &rpc.Truncated{Stdout: cutOut, Stderr: cutErr}
	}
	if r.Status != isolation.StatusOK {
		out.Error = resultError(r)
	}
	return out
}

func cut(c *isolation.Capture) *rpc.Cut {
	if dropped, offset := c.Dropped(); dropped > 0 {
		return &rpc.Cut{Dropped: dropped, Offset: offset}
	}
	return nil
}

func resultError(r isolation.Result) *rpc.ResultError {
	e := &rpc.ResultError{Kind: string(r.Status)}
	switch r.Status {
	case isolation.StatusTimeout:
		e.Message = "the program did not end within its timeout"
	case isolation.StatusCPULimit:
		e.Message = "the program used up its CPU time"
	case isolation.StatusMemoryLimit:
		e.Message = "the program used more memory than its limit"
	case isolation.StatusOutputLimit:
		e.Message = "the program wrote more output than its limit"
	case isolation.StatusCancelled:
		e.Message = "cancelled"
	default:
		e.Message = fmt.Sprintf("the program exited with status %d", r.ExitCode)
	}
	if r.Signal != 0 {
		e.Signal = signalName(r.Signal)
		e.Message = "the program was killed by " + e.Signal
	}
	if x := r.Exception; x != nil {
		// The runner keeps them shorter, but the program may have written this.
		e.Type, e.Line, e.Traceback = clip(x.Type), x.Line, clip(x.Traceback)
		if e.Message = e.Type; x.Message != "" {
			e.Message += ": " + clip(x.Message)
		}
	}
	return e
}

// clip keeps text of a program's from becoming most of the answer.
func clip(text string) string { return fmt.Sprintf("%.65536s", text) }

func signalName(n int) string {
	if name := unix.SignalName(unix.Signal(n)); name != "" {
		return name
	}
	return fmt.Sprintf("signal %d", n)
}

func newID() string {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic("no randomness: " + err.Error())
	}
	return hex.EncodeToString(b[:])
}
