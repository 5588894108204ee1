package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/fcarli/codesandbox/rpc"
)

// Outcomes that are no status of a result.
const (
	outcomeNotRun   = "cancelled before it ran"
	outcomeInternal = "internal error, its sandbox was killed"
	outcomeKilled   = "sandbox killed"
	outcomeCrash    = "csbd killed"
	outcomeLeft     = "client left"
	outcomeCut      = "client left in mid-message"
	outcomeWrong    = "wrong answer"
	outcomeLost     = "lost reply"
)

var errGarbage = errors.New("not an answer")

// slack is how long after its death a sandbox's end may still be the reason of
// an answer: a program may get one that was about to be found dead.
const slack = 10 * time.Second

// circumstances are what else happened while a job waited for its answer.
type circumstances struct {
	cancelled bool // we asked for that
	disturbed bool // we killed a sentry, or all of them
}

// judge says what a job's answer amounts to and, if it is wrong, why. It is
// the only place that knows what is right.
func judge(j *job, a answer, c circumstances) (outcome, problem string) {
	wrong := func(format string, args ...any) (string, string) {
		return outcomeWrong, fmt.Sprintf("%s (%s): ", j.token, j.program) + fmt.Sprintf(format, args...)
	}
	if a.Error != nil {
		switch kind := a.Error.Data.Kind; {
		case kind == "cancelled" && c.cancelled:
			return outcomeNotRun, ""
		case kind == "internal" && c.disturbed:
			return outcomeInternal, ""
		}
		return wrong("error %d %s %q", a.Error.Code, a.Error.Data.Kind, a.Error.Message)
	}
	var r rpc.Result
	if err := json.Unmarshal(a.Result, &r); err != nil {
		return wrong("%v: %.200q", err, a.Result)
	}
	problem = j.want.check(r)
	stopped := r.Status == "cancelled" && c.cancelled || r.Status == "killed" && c.disturbed
	switch {
	case problem == "":
		return r.Status, ""
	case stopped && !j.want.may(r.Stdout):
		return wrong("%s with stdout %.200q", r.Status, r.Stdout)
	case stopped && r.Status == "killed":
		return outcomeKilled, ""
	case stopped:
		return r.Status, ""
	}
	return wrong("%s; result %.1000s", problem, a.Result)
}

// A tally counts. It is safe for concurrent use.
type tally struct {
	mu        sync.Mutex
	outcomes  map[string]int
	programs  map[string]int
	problems  []string
	durations []time.Duration // of small executions
	acts      map[string]int  // what was done to csbd
	killed    []time.Time     // when sandboxes were
}

func newTally() *tally {
	return &tally{outcomes: map[string]int{}, programs: map[string]int{}, acts: map[string]int{}}
}

// maxProblems bounds what is told to people.
const maxProblems = 50

func (t *tally) ended(j *job, outcome, problem string, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.outcomes[outcome]++
	t.programs[j.program]++
	if problem != "" && len(t.problems) < maxProblems {
		t.problems = append(t.problems, problem)
	}
	if j.program == small && outcome == "ok" {
		t.durations = append(t.durations, took)
	}
}

// stray counts an answer that nobody waits for.
func (t *tally) stray(problem string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.outcomes[outcomeWrong]++
	if len(t.problems) < maxProblems {
		t.problems = append(t.problems, problem)
	}
}

// act counts what is done to csbd. It is called before and after sandboxes are
// killed, so that whoever gets an answer then knows.
func (t *tally) act(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.acts[name]++
}

func (t *tally) kill() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.killed = append(t.killed, time.Now())
}

// disturbed says whether a sandbox was killed that may have been that of a job
// that was sent at that time.
func (t *tally) disturbed(sent time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.killed) > 0 && t.killed[len(t.killed)-1].After(sent.Add(-slack))
}

// percentile of the durations, 0 if there are none.
func percentile(durations []time.Duration, p float64) time.Duration {
	if len(durations) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(durations))
	return sorted[min(int(p*float64(len(sorted))), len(sorted)-1)]
}
