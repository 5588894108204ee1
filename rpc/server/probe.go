package server

import (
	"bytes"
	"context"
	"fmt"

	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/policy"
)

// Probe runs a small program under the profile, as a request would, and so
// finds out whether csbd can do its job. Status reports what it found.
func (s *Server) Probe(ctx context.Context, profile *policy.Profile) error {
	err := s.probe(ctx, profile)
	s.health.set(err)
	return err
}

func (s *Server) probe(ctx context.Context, profile *policy.Profile) error {
	image, err := s.Images.Resolve(profile.Images[0])
	if err != nil {
		return err
	}
	sandbox, _, err := s.Sandboxes.Take(ctx, Class(image, profile, profile.Default.Disk))
	if err != nil {
		return err
	}
	const want = "csbd probe\n"
	out, errs := isolation.NewCapture(1<<10), isolation.NewCapture(4<<10)
	result, err := sandbox.Run(ctx, isolation.Spec{
		ID: "probe-" + newID(), Code: []byte("print('csbd probe')"), Limits: profile.Default,
	}, isolation.Output{Stdout: out, Stderr: errs})
	if closed := sandbox.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	if result.Status != isolation.StatusOK || !bytes.Equal(out.Bytes(), []byte(want)) {
		return fmt.Errorf("probe of image %s ended with %s, exit code %d, stdout %q, stderr %q",
			image.Name, result.Status, result.ExitCode, out.Bytes(), errs.Bytes())
	}
	return nil
}
