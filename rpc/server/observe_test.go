package server

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/policy"
	"github.com/fcarli/codesandbox/rpc"
	"github.com/fcarli/codesandbox/rpc/server/queue"
)

// A witness is an Observer that keeps what it is told.
type witness struct {
	executions []Execution
	refusals   []Refusal
	profiles   []ProfileImages
}

func (w *witness) Executed(e Execution)               { w.executions = append(w.executions, e) }
func (w *witness) Refused(r Refusal)                  { w.refusals = append(w.refusals, r) }
func (w *witness) PolicySet(profiles []ProfileImages) { w.profiles = profiles }

func observed(t *testing.T) (*Server, *witness) {
	t.Helper()
	p, err := policy.Parse(policy.Source{Name: "policy", Data: []byte("version: 1\nprofiles: {b.c: {images: [x, y]}, a: {}}\nrules: []\n")})
	assert.NilError(t, err)
	w := &witness{}
	return New(Config{Policy: p, Observer: w, Executions: 1, Memory: 1 << 30, Connections: 1, Log: slog.New(slog.DiscardHandler)}), w
}

func TestObserverKnowsProfiles(t *testing.T) {
	t.Parallel()
	_, w := observed(t)
	slices.SortFunc(w.profiles, func(a, b ProfileImages) int { return slices.Compare([]string{a.Profile}, []string{b.Profile}) })
	assert.DeepEqual(t, w.profiles, []ProfileImages{{"a", []string{"python"}}, {"b.c", []string{"x", "y"}}})
}

// Which bound it was that makes csbd busy is told as one word; nothing else of
// an error is told, since it can be the caller's own words.
func TestObserverOfRefusals(t *testing.T) {
	t.Parallel()
	s, w := observed(t)
	profile := &policy.Profile{Name: "b.c"}
	busy := func(bound string) *rpc.Error {
		return queueError(slog.New(slog.DiscardHandler), profile, &queue.BusyError{Bound: bound, Reason: "r"})
	}
	connections := rpc.Busy(time.Second, "too many")
	connections.Data.Rule = "connections"
	denied := rpc.Errorf(rpc.CodeDenied, "no: secret")
	denied.Data.Rule, denied.Data.Field = "rule 1 (secret)", "secret"
	for _, e := range []*rpc.Error{busy("queue"), busy("rate"), noMemory(), connections, denied, rpc.InvalidParams("secret", "secret"), internal("secret")} {
		s.refused("b.c", e)
	}
	assert.DeepEqual(t, w.refusals, []Refusal{
		{"busy", "queue", "b.c"}, {"busy", "rate", "b.c"}, {"busy", "memory", "b.c"}, {"busy", "connections", "b.c"},
		{"denied", "", "b.c"}, {"invalid_params", "", "b.c"}, {"internal", "", "b.c"}})
}

// An Observer gets what the answer says, and the sizes that it does not.
func TestObserverOfExecutions(t *testing.T) {
	t.Parallel()
	s, w := observed(t)
	e := &executed{}
	e.Status, e.ExecutionTime, e.Image.Name = "ok", 0.047338326, "python"
	e.Usage = rpc.Usage{CPUTime: 0.009904892, PeakMemory: 29147136, QueueTime: 0.000183402, StartTime: 0.454097508, Warm: true}
	e.Truncated = &rpc.Truncated{Stdout: &rpc.Cut{Dropped: 3}, Stderr: &rpc.Cut{Dropped: 4}}
	line := &record{Profile: "a", Stdout: 10, Stderr: 20, sizes: policy.Sizes{Code: 1, Stdin: 2, Files: 3}, received: time.Now().Add(-time.Second)}
	s.executed(line, e)
	assert.Equal(t, len(w.executions), 1)
	total := w.executions[0].Total
	assert.Check(t, total >= time.Second && total < time.Minute, "%v", total)
	w.executions[0].Total = 0
	assert.DeepEqual(t, w.executions[0], Execution{Profile: "a", Image: "python", Status: "ok", Warm: true,
		Queue: 183402, Start: 454097508, Run: 47338326, CPU: 9904892, PeakMemory: 29147136,
		Code: 1, Stdin: 2, Files: 3, Stdout: 10, Stderr: 20, Dropped: 7})
}
