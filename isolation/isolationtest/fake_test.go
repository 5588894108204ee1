package isolationtest

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/isolation"
)

func TestFakeKeepsTheContract(t *testing.T) {
	Contract(t, Harness{
		Class:    isolation.Class{Ceiling: Ceiling},
		Launcher: func(_ testing.TB, c isolation.Class) isolation.Launcher { return NewFake(c) },
	})
}

func TestFakePlaysItsScript(t *testing.T) {
	f := NewFake(isolation.Class{Ceiling: Ceiling})
	h := Harness{Class: isolation.Class{Ceiling: Ceiling}}
	spec := isolation.Spec{Code: []byte("anything"), Limits: h.limits()}
	ctx := context.Background()

	f.Play(Script{LaunchError: errors.New("no room")})
	_, err := f.Launch(ctx)
	assert.Error(t, err, "no room")
	assert.Equal(t, f.Launched(), 0)

	f.Play(Script{Stdout: "out", Stderr: "err", Result: isolation.Signalled(9), RunDelay: 30 * time.Millisecond})
	s, err := f.Launch(ctx)
	assert.NilError(t, err)
	var stdout, stderr bytes.Buffer
	res, err := s.Run(ctx, spec, isolation.Output{Stdout: &stdout, Stderr: &stderr})
	assert.NilError(t, err)
	assert.Equal(t, res.Status, isolation.StatusKilled)
	assert.Equal(t, res.ExitCode, 137)
	assert.Assert(t, res.Duration >= 30*time.Millisecond)
	assert.Equal(t, stdout.String()+stderr.String(), "outerr")

	f.Play(Script{RunError: errors.New("broken"), CloseError: errors.New("stuck")})
	s2, err := f.Launch(ctx)
	assert.NilError(t, err)
	_, err = s2.Run(ctx, spec, nowhere)
	assert.Error(t, err, "broken")
	assert.Error(t, s2.Close(), "stuck")
	assert.Error(t, s2.Close(), "stuck")

	assert.Equal(t, f.Launched(), 2)
	assert.Equal(t, f.Closed(), 1)
	assert.Equal(t, len(f.Ran()), 2)
}
