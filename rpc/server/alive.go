package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fcarli/codesandbox/images"
	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/policy"
	"github.com/fcarli/codesandbox/rpc/server/proof"
)

// LastSuccess is when a program last ran in a sandbox to its own end, whether a
// caller's or one of csbd's own; zero if none has. Programs that had to be ended
// do not count: a sandbox in which nothing moves any more looks like that.
func (s *Server) LastSuccess() time.Time { return s.health.lastSuccess() }

// Alive is for a watchdog. It returns nil if csbd does what it is there for: it
// is proven, and LastSuccess is no longer than within ago. If it is longer ago,
// Alive runs one small program in a sandbox now, which takes some milliseconds
// where a pool has one ready and a second where none is kept; the error is what
// went wrong with it, or that ctx ended before. Such a failure leads to a proof,
// as one of a caller's execution does. Without an image that a program could run
// in there is nothing to watch, and Alive returns nil. It is meant for one
// caller at a time.
func (s *Server) Alive(ctx context.Context, within time.Duration) error {
	if why, _ := s.prover.unproven(); why != "" {
		return errors.New(why)
	}
	if last := s.LastSuccess(); !last.IsZero() && time.Since(last) <= within {
		return nil
	}
	profile, image, ok := s.smallest()
	if !ok {
		return nil
	}
	if err := proof.Pulse(ctx, s.subject(profile, image)); err != nil {
		if ctx.Err() == nil {
			s.doubt()
		}
		return fmt.Errorf("no execution has succeeded for %v, and one just now did not either: %w", within, err)
	}
	s.health.worked()
	return nil
}

// smallest finds what a program of csbd's own costs least with: a profile that
// sandboxes are kept ready for, or else any whose default image is there.
func (s *Server) smallest() (*policy.Profile, images.Image, bool) {
	p := s.policy.Load()
	var profiles []*policy.Profile
	for _, pool := range p.Pools {
		if profile := p.Profile(pool.Profile); profile.Images[0] == pool.Image {
			profiles = append(profiles, profile)
		}
	}
	for _, profile := range append(profiles, p.Profiles()...) {
		if image, err := s.Images.Resolve(profile.Images[0]); err == nil {
			return profile, image, true
		}
	}
	return nil, images.Image{}, false
}

// ownEnd says whether a program came to an end that csbd did not bring about.
func ownEnd(r isolation.Result) bool {
	return r.Status == isolation.StatusOK || r.Status == isolation.StatusError
}
