package server

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images"
	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/isolation/isolationtest"
	"github.com/fcarli/codesandbox/policy"
	"github.com/fcarli/codesandbox/rpc"
)

// facts is what a program of the proof says in a sound sandbox.
const facts = "version\tLinux version 4.19.0-gvisor\nUid\t1000\t1000\t1000\t1000\nGid\t1000\t1000\t1000\t1000\n" +
	"CapInh\t0\nCapPrm\t0\nCapEff\t0\nCapBnd\t0\nNoNewPrivs\t1\nSeccomp\t2\ninterface names\tlo\nconnect\tENETUNREACH\n" +
	"metadata\tENETUNREACH\nroot\tEROFS\netc\tEROFS\nfork\tEAGAIN\nallocate\tMemoryError\nfallocate\tENOSPC\n"

var errLava = errors.New("the floor is lava")

// A scene hands out fakes that answer the programs of csbd's own as a sound
// sandbox would, until it is broken or hangs. It counts them.
type scene struct {
	broken, hangs  atomic.Bool
	pulses, proofs atomic.Int64
	says           atomic.Pointer[string] // instead of facts
}

// Take implements Source.
func (s *scene) Take(ctx context.Context, c isolation.Class) (isolation.Sandbox, bool, error) {
	if s.hangs.Load() {
		<-ctx.Done()
		return nil, false, ctx.Err()
	}
	f := isolationtest.NewFake(c)
	sandbox, err := f.Launch(ctx)
	return actor{sandbox, f, s}, true, err
}

type actor struct {
	isolation.Sandbox
	fake  *isolationtest.Fake
	scene *scene
}

func (a actor) Run(ctx context.Context, spec isolation.Spec, out isolation.Output) (isolation.Result, error) {
	script := isolationtest.Script{RunDelay: 20 * time.Millisecond}
	switch spec.ID {
	case "proof-pulse":
		a.scene.pulses.Add(1)
		script.Stdout = "alive\n"
	case "proof-inside":
		a.scene.proofs.Add(1)
		script.Stdout = facts
		if says := a.scene.says.Load(); says != nil {
			script.Stdout = *says
		}
	case "proof-memory":
		script.Result = isolation.Forced(isolation.StatusMemoryLimit)
	case "proof-cpu":
		script.Result = isolation.Forced(isolation.StatusCPULimit)
	case "proof-timeout":
		script.Result = isolation.Forced(isolation.StatusTimeout)
	}
	if a.scene.broken.Load() {
		script.RunError = errLava
	}
	a.fake.Play(script)
	return a.Sandbox.Run(ctx, spec, out)
}

// Resolve implements ImageStore.
func (s *scene) Resolve(name string) (images.Image, error) {
	if name == "absent" {
		return images.Image{}, images.ErrNotFound
	}
	return images.Image{Name: name}, nil
}

func testServer(t *testing.T, s *scene, image string, log io.Writer) *Server {
	t.Helper()
	p, err := policy.Parse(policy.Source{Name: "test", Data: []byte("version: 1\nprofiles: {default: {images: [" + image + "]}}\nrules: [{user: 0, profile: default}]\n")})
	assert.NilError(t, err)
	return New(Config{Sandboxes: s, Images: s, Policy: p, Executions: 1, Memory: 1 << 30, Connections: 10, ConnectionsPerUser: 10,
		Log: slog.New(slog.NewTextHandler(log, nil))})
}

func unproven(s *Server) string {
	why, _ := s.prover.unproven()
	return why
}

// TestAlive: a watchdog learns of a csbd that cannot execute any more, makes
// one that can do no more than it must, and does not take an unproven one for
// sound.
func TestAlive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		scene := &scene{}
		s := testServer(t, scene, "python", io.Discard)
		assert.Check(t, s.LastSuccess().IsZero())
		assert.NilError(t, s.Alive(t.Context(), time.Second))
		assert.Equal(t, time.Since(s.LastSuccess()), time.Duration(0))
		assert.NilError(t, s.Alive(t.Context(), time.Second))
		assert.Equal(t, scene.pulses.Load(), int64(1), "an execution that nobody needed")
		time.Sleep(2 * time.Second)
		assert.NilError(t, s.Alive(t.Context(), time.Second))
		assert.Equal(t, scene.pulses.Load(), int64(2))

		time.Sleep(2 * time.Second)
		last := s.LastSuccess()
		scene.broken.Store(true)
		assert.ErrorIs(t, s.Alive(t.Context(), time.Second), errLava)
		assert.Equal(t, s.LastSuccess(), last)
		_, err := s.Prove(t.Context(), false)
		assert.ErrorIs(t, err, errLava)
		scene.broken.Store(false)
		assert.ErrorContains(t, s.Alive(t.Context(), time.Hour), "the self-test of profile default failed")

		// A success of long ago does not count for a sandbox that hangs.
		_, err = s.Prove(t.Context(), false)
		assert.NilError(t, err)
		time.Sleep(2 * time.Second)
		late, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		assert.ErrorContains(t, s.Alive(late, time.Second), "ended with cancelled")
	})
}

func TestNothingToWatch(t *testing.T) {
	t.Parallel()
	s := testServer(t, &scene{}, "absent", io.Discard)
	assert.NilError(t, s.Alive(t.Context(), 0))
	assert.Check(t, s.LastSuccess().IsZero())
}

// TestDoubtsAreCoalesced: however many executions fail, csbd looks at its
// sandboxes at once and then once in a while, also where it does not by itself,
// and a failure that stays makes it unready until it is gone.
func TestDoubtsAreCoalesced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		scene := &scene{}
		var log bytes.Buffer
		s := testServer(t, scene, "python", &log)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.KeepProving(ctx, 0)
		}()
		time.Sleep(time.Hour)
		assert.Equal(t, scene.proofs.Load(), int64(0), "never is never")
		for range 1000 {
			s.doubt()
		}
		time.Sleep(30 * time.Millisecond)
		assert.Equal(t, scene.proofs.Load(), int64(1), "not at once")
		const minute = 60
		for range 1000 * minute {
			s.doubt()
			time.Sleep(time.Millisecond)
		}
		n := scene.proofs.Load()
		assert.Check(t, n >= 10 && n <= 1+minute/5, "%d in a minute", n)

		time.Sleep(time.Minute)
		scene.broken.Store(true)
		s.doubt()
		time.Sleep(50 * time.Millisecond)
		assert.Check(t, unproven(s) != "", &log)
		time.Sleep(time.Hour)
		assert.Check(t, unproven(s) != "", &log)
		scene.broken.Store(false)
		time.Sleep(lastProofBackoff + time.Second)
		assert.Equal(t, unproven(s), "", &log)
		cancel()
		<-ended
	})
}

// TestDoubtsDoNotPutProofsOff: the thorough proof comes when it is due, and what
// it found is not cleared by one that does not look that far.
func TestDoubtsDoNotPutProofsOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := testServer(t, &scene{}, "python", io.Discard)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.KeepProving(ctx, 10*time.Minute)
		}()
		for range 1300 {
			s.doubt()
			time.Sleep(time.Second)
		}
		s.prover.mu.Lock()
		made := s.prover.made
		s.prover.mu.Unlock()
		assert.Check(t, !made.IsZero() && time.Since(made) < 5*time.Minute, "%v", time.Since(made))
		cancel()
		<-ended
		s.prover.problem, s.prover.deep = "the memory kill failed", true
		_, err := s.Prove(t.Context(), false)
		assert.NilError(t, err)
		assert.Equal(t, s.prover.made.Equal(time.Now()), true, "not a thorough proof")
	})
}

// TestDoctorGoesOn: the checks that a caller asked for who left are those that
// the next one gets, and end when the server does.
func TestDoctorGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		scene := &scene{}
		s := testServer(t, scene, "python", io.Discard)
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, failed := s.doctor(impatient)
		assert.Equal(t, failed.Data.Kind, "cancelled")
		start := time.Now()
		report, failed := s.doctor(t.Context())
		assert.Check(t, failed == nil && report.(rpc.Doctor).OK, "%+v %v", report, failed)
		assert.Check(t, time.Since(start) < time.Second && scene.proofs.Load() == 1, "%v, %d proofs", time.Since(start), scene.proofs.Load())
		time.Sleep(doctorAge / 2)
		report, _ = s.doctor(t.Context())
		assert.Check(t, report.(rpc.Doctor).Age >= doctorAge.Seconds()/2 && scene.proofs.Load() == 1, "%+v", report)
		time.Sleep(doctorAge)
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			time.Sleep(5 * time.Millisecond)
			s.Shutdown(t.Context())
		}()
		_, failed = s.doctor(t.Context())
		assert.Equal(t, failed.Data.Kind, "shutting_down")
		<-stopped
	})
}

// TestEndlessProof: a proof that does not come to an end has shown that csbd is
// not ready; one that was told to end has not.
func TestEndlessProof(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		scene := &scene{}
		s := testServer(t, scene, "python", io.Discard)
		told, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		scene.hangs.Store(true)
		_, err := s.Prove(told, true)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, unproven(s), "")
		start := time.Now()
		_, err = s.Prove(t.Context(), true)
		assert.ErrorContains(t, err, "did not end within")
		assert.Equal(t, time.Since(start), proofTime)
		assert.Check(t, unproven(s) != "")
	})
}

// TestRefusesWhenBroken: while isolation is shown not to work, or nothing shows
// that it does, nothing is executed; while no sandbox can be started whoever asks
// may try, and csbd notices that it works again before its next own attempt.
func TestRefusesWhenBroken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		scene := &scene{}
		s := testServer(t, scene, "python", io.Discard)
		scene.broken.Store(true)
		_, err := s.Prove(t.Context(), true)
		assert.ErrorIs(t, err, errLava)
		why, refuse := s.prover.unproven()
		assert.Check(t, why != "" && !refuse)
		scene.broken.Store(false)
		for _, said := range []string{"", facts + "CapEff\tffff\n"} {
			scene.says.Store(&said)
			_, err = s.Prove(t.Context(), false)
			assert.Check(t, err != nil)
			why, refuse = s.prover.unproven()
			assert.Check(t, why != "" && refuse, "%q", said)
		}
		scene.says.Store(nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		scene.broken.Store(true)
		_, err = s.Prove(t.Context(), true)
		assert.ErrorIs(t, err, errLava)
		go func() {
			defer close(ended)
			s.KeepProving(ctx, 0)
		}()
		time.Sleep(10 * time.Minute) // by now it waits a minute
		scene.broken.Store(false)
		s.doubt() // as an execution does that works
		time.Sleep(doubtRest + time.Second)
		assert.Equal(t, unproven(s), "")
		cancel()
		<-ended
	})
}
