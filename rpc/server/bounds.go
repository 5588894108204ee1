package server

import (
	"fmt"
	"net"
	"time"

	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/policy"
	"github.com/fcarli/codesandbox/rpc"
)

// What csbd needs on top of Config.Memory, in bytes: itself, its connections,
// and the garbage that has not been collected yet.
const ownMemory = 256 << 20

// largeRequest is the size in bytes from which requests are decoded one at a
// time.
const largeRequest = 1 << 20

// resultOverhead is what a result needs besides the output: the frame of the
// program's end, and its parts while they are encoded.
const resultOverhead = 2 << 20

// resultMemory is the most that an execution holds of what its program writes:
// two streams, each while it is copied once.
func resultMemory(output int64) int64 { return 4*output + resultOverhead }

// CheckMemory says whether Config.Memory is enough for the largest request and
// result that the policy allows, with room for a few; if so, it returns the
// most memory that csbd ever uses.
func CheckMemory(p *policy.Policy, memory int64) (bound int64, _ error) {
	var message int64
	for _, profile := range p.Profiles() {
		if need := 8 * maxMessage(profile); memory < need {
			return 0, fmt.Errorf("profile %s: its largest message is %d bytes: that needs %d bytes of memory", profile.Name, maxMessage(profile), need)
		}
		if need := 4 * resultMemory(profile.Max.Output); memory < need {
			return 0, fmt.Errorf("profile %s: its largest output is %d bytes: that needs %d bytes of memory", profile.Name, profile.Max.Output, need)
		}
		message = max(message, maxMessage(profile))
	}
	return ownMemory + memory + 3*message, nil // see decode
}

// decode decodes an execute request. From then on its parts are all that is
// held of it.
func (s *Server) decode(m *message) (isolation.Spec, policy.Request, *rpc.Error) {
	if len(m.params) > largeRequest {
		// Decoding copies everything up to three times.
		s.decoding.Lock()
		defer s.decoding.Unlock()
	}
	spec, request, failed := decodeExecute(m.take())
	sizes := request.Sizes
	m.request.resize(min(m.request.n, sizes.Code+sizes.Stdin+sizes.Files+2*requestOverhead+maxArgsBytes+maxEnvironment))
	return spec, request, failed
}

// admit finds out whose connection it is and whether it may be kept. It is
// called between two accepts and does not wait.
func (s *Server) admit(c *net.UnixConn) (uid uint32, ok bool) {
	credentials, err := credentialsOf(c)
	if err != nil {
		s.Log.Error("connection refused", "error", err)
		c.Close()
		return 0, false
	}
	uid = credentials.Uid
	if s.places.takeUpTo(uid, 1, int64(s.ConnectionsPerUser)) {
		return uid, true
	}
	e := rpc.Busy(time.Second, "too many connections are open")
	e.Data.Rule = "connections"
	s.refused("", e)
	turnAway(c, e)
	return 0, false
}
