package server

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/policy"
	"github.com/fcarli/codesandbox/rpc"
)

// A record is a line of the audit: an execution or a refusal. It has nothing of
// what the program was, was given or wrote but sizes and a digest.
type record struct {
	Time       time.Time   `json:"time"`
	Event      string      `json:"event"` // "execution" or "refusal"
	ID         string      `json:"id,omitempty"`
	UID        uint32      `json:"uid"`
	GID        uint32      `json:"gid"`
	PID        int32       `json:"pid"`
	Executable string      `json:"executable,omitempty"`
	Unit       string      `json:"unit,omitempty"`
	Kind       string      `json:"kind,omitempty"`  // of a refusal
	Field      string      `json:"field,omitempty"` // that the policy refused
	Rule       string      `json:"rule,omitempty"`
	Profile    string      `json:"profile,omitempty"`
	Image      string      `json:"image,omitempty"`
	Digest     string      `json:"digest,omitempty"`
	SHA256     string      `json:"sha256,omitempty"` // of the code
	Limits     *rpc.Limits `json:"limits,omitempty"`
	Status     string      `json:"status,omitempty"`
	ExitCode   *int        `json:"exit_code,omitempty"`
	// In seconds.
	Queue float64 `json:"queue_time,omitempty"`
	Start float64 `json:"start_time,omitempty"`
	Run   float64 `json:"execution_time,omitempty"`
	CPU   float64 `json:"cpu_time,omitempty"`
	// In bytes.
	Code   int   `json:"code_bytes"`
	Stdin  int   `json:"stdin_bytes"`
	Stdout int64 `json:"stdout_bytes"`
	Stderr int64 `json:"stderr_bytes"`
	Peak   int64 `json:"peak_memory,omitempty"`

	hash     chan string
	received time.Time
	sizes    policy.Sizes // of the request's parts
}

// program notes what is to be run; its digest is computed meanwhile.
func (r *record) program(s isolation.Spec) {
	r.Code, r.Stdin = len(s.Code), len(s.Stdin)
	r.hash = make(chan string, 1)
	go func() {
		sum := sha256.Sum256(s.Code)
		r.hash <- hex.EncodeToString(sum[:])
	}()
}

// audit writes the line of a request that was answered with result or err.
// Requests that only ask leave none unless they are refused.
func (c *connection) audit(r *record, result any, err *rpc.Error) {
	if c.server.Audit == nil {
		return
	}
	if r == nil {
		r = &record{}
	}
	done, ok := result.(*executed)
	switch {
	case err != nil:
		r.Event, r.Kind, r.Rule = "refusal", err.Data.Kind, err.Data.Rule
		if err.Code == rpc.CodeDenied {
			r.Field = err.Data.Field // otherwise it can be the caller's own words
		}
	case ok:
		r.Event, r.Status, r.ExitCode, r.Limits = "execution", done.Status, &done.ExitCode, &done.Limits
		r.Image, r.Digest = done.Image.Name, done.Image.Digest
		r.Queue, r.Start, r.Run = done.Usage.QueueTime, done.Usage.StartTime, done.ExecutionTime
		r.CPU, r.Peak = done.Usage.CPUTime, done.Usage.PeakMemory
	default:
		return
	}
	if r.hash != nil {
		r.SHA256 = <-r.hash
	}
	r.Time, r.UID, r.GID, r.PID = time.Now(), c.peer.uid, c.peer.gid, c.peer.pid
	r.Executable, r.Unit = c.process.executable, c.process.unit
	c.server.Audit.Add(r)
}
