package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/rpc"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// TestSoak is a short one, with one kill -9 of csbd.
func TestSoak(t *testing.T) {
	servertest.NeedRoot(t)
	imagetest.Python(t)
	o := options{
		n: 80, killEvery: 40, seed: 4, timeout: 5 * time.Minute,
		csbd: servertest.Binary(t, "csbd"), imageDir: imagetest.Store().Dir, cgroup: "/csbd-soak-test",
		env: []string{"CSBD_RUNSC=" + imagetest.Runsc(t), "CSBD_SENTRY=" + imagetest.Sentry(t)},
	}
	if base := os.Getenv("CSBD_CGROUP"); base != "" {
		o.cgroup = base
	}
	var said, out bytes.Buffer
	r, err := soak(t.Context(), o, &said)
	assert.NilError(t, err, "%s", &said)
	assert.NilError(t, r.WriteTable(&out))
	assert.Check(t, r.Passed, "%s\n%s", &said, &out)
	assert.Check(t, r.Executions == o.n && r.Acts[string(killCsbd)] == 1 && r.Outcomes["ok"] > 0 && r.MemoryEnd > 0, "%s", &out)
}

func quietJob() *job {
	return &job{program: small, token: "t", want: want{status: "ok", exit: []int{0}, stdout: "t 1\n"}}
}

func answered(t *testing.T, r rpc.Result) answer {
	data, err := json.Marshal(r)
	assert.NilError(t, err)
	return answer{Result: data}
}

// Only the right answer is right.
func TestJudge(t *testing.T) {
	right := rpc.Result{Status: "ok", Stdout: "t 1\n"}
	failed := func(kind string) answer { return answer{Error: &failure{Data: rpc.ErrorData{Kind: kind}}} }
	for name, c := range map[string]struct {
		answer answer
		circumstances
		want string
	}{
		"right":                       {answered(t, right), circumstances{}, "ok"},
		"right though cancelled":      {answered(t, right), circumstances{cancelled: true}, "ok"},
		"another's output":            {answered(t, rpc.Result{Status: "ok", Stdout: "u 1\n"}), circumstances{}, outcomeWrong},
		"half an output":              {answered(t, rpc.Result{Status: "ok", Stdout: "t"}), circumstances{disturbed: true, cancelled: true}, outcomeWrong},
		"another status":              {answered(t, rpc.Result{Status: "error", Stdout: "t 1\n"}), circumstances{}, outcomeWrong},
		"another exit code":           {answered(t, rpc.Result{Status: "ok", ExitCode: 1, Stdout: "t 1\n"}), circumstances{}, outcomeWrong},
		"cancelled":                   {answered(t, rpc.Result{Status: "cancelled", Stdout: "t "}), circumstances{cancelled: true}, "cancelled"},
		"cancelled by nobody":         {answered(t, rpc.Result{Status: "cancelled"}), circumstances{disturbed: true}, outcomeWrong},
		"cancelled, another's output": {answered(t, rpc.Result{Status: "cancelled", Stdout: "u"}), circumstances{cancelled: true}, outcomeWrong},
		"killed":                      {answered(t, rpc.Result{Status: "killed"}), circumstances{disturbed: true}, outcomeKilled},
		"killed by nobody":            {answered(t, rpc.Result{Status: "killed"}), circumstances{cancelled: true}, outcomeWrong},
		"not run":                     {failed("cancelled"), circumstances{cancelled: true}, outcomeNotRun},
		"not run, not cancelled":      {failed("cancelled"), circumstances{}, outcomeWrong},
		"internal error":              {failed("internal"), circumstances{disturbed: true}, outcomeInternal},
		"internal error, no reason":   {failed("internal"), circumstances{}, outcomeWrong},
		"busy":                        {failed("busy"), circumstances{disturbed: true, cancelled: true}, outcomeWrong},
		"garbage":                     {answer{Result: []byte("[]")}, circumstances{}, outcomeWrong},
	} {
		got, problem := judge(quietJob(), c.answer, c.circumstances)
		assert.Check(t, got == c.want && (problem != "") == (got == outcomeWrong), "%s: %s, %s", name, got, problem)
	}
}

// Each thing that has to be zero fails the soak when it is not.
func TestVerdict(t *testing.T) {
	sound := func() *report { return &report{Wanted: 1, Executions: 1} }
	r := sound()
	r.judge(nil)
	assert.Check(t, r.Passed)
	for name, spoil := range map[string]func(*report){
		"wrong": func(r *report) { r.WrongAnswers = 1 }, "lost": func(r *report) { r.LostReplies = 1 },
		"unexplained": func(r *report) { r.Unexplained = 1 }, "crash": func(r *report) { r.Crashes = 1 },
		"too few": func(r *report) { r.Executions = 0 }, "process": func(r *report) { r.Leaks.Processes = 1 },
		"cgroup": func(r *report) { r.Leaks.Cgroups = 1 }, "mount": func(r *report) { r.Leaks.Mounts = 1 },
		"directory": func(r *report) { r.Leaks.Directories = 1 }, "descriptor": func(r *report) { r.Leaks.Descriptors = 1 },
		"goroutine": func(r *report) { r.Leaks.Goroutines = 1 },
	} {
		r := sound()
		spoil(r)
		r.judge(nil)
		assert.Check(t, !r.Passed, name)
		var out strings.Builder
		assert.NilError(t, r.WriteTable(&out))
		assert.Check(t, strings.Contains(out.String(), "HAS TO BE") && strings.HasSuffix(out.String(), "FAILED\n"), "%s: %s", name, &out)
	}
	r = sound()
	r.judge(errors.New("cut short"))
	assert.Check(t, !r.Passed)

	tally := newTally()
	tally.ended(quietJob(), outcomeLost, "no answer", 0)
	tally.ended(quietJob(), outcomeInternal, "", 0)
	r = newReport(options{n: 2}, tally, &disturber{}, nil, 0)
	assert.Check(t, r.LostReplies == 1 && r.Unexplained == 1 && r.Executions == 2)
}

// What is left is found.
func TestLeaksAreFound(t *testing.T) {
	state := t.TempDir()
	assert.Check(t, observe(1<<30, state).atRest(0, 0).none())
	assert.NilError(t, os.MkdirAll(filepath.Join(state, "sandboxes", "sb-1"), 0o700))
	assert.NilError(t, os.MkdirAll(filepath.Join(state, "snapshots", ".make-1"), 0o700))
	groups := t.TempDir()
	assert.NilError(t, os.Mkdir(filepath.Join(groups, "sb-1"), 0o700))
	assert.NilError(t, os.WriteFile(filepath.Join(state, "cgroups"), []byte(groups+"\n"), 0o600))
	// This process stands for what csbd has left, and for csbd.
	trace := observe(os.Getpid(), state)
	l := trace.atRest(0, 0)
	assert.Check(t, l.Directories == 2 && l.Cgroups == 1 && l.Descriptors > 0, "%+v", l)
	trace.processes = []string{processes()[os.Getpid()].String()}
	l = trace.ended(1<<30, state)
	assert.Check(t, l.Directories == 2 && l.Cgroups == 1 && l.Processes == 1 && !l.none(), "%+v", l)
	assert.Check(t, trace.atRest(1, 1<<30).Cgroups == 0)
}

// A job depends on nothing but seed and index.
func TestJobsAreTheSameAgain(t *testing.T) {
	for i := range 200 {
		a, b := newJob(7, i), newJob(7, i)
		assert.DeepEqual(t, a.request, b.request)
		assert.Check(t, a.token == b.token && a.token != newJob(8, i).token)
	}
}
