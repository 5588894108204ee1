package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// A report is what a soak has found.
type report struct {
	Seed       uint64  `json:"seed"`
	Executions int     `json:"executions"`
	Wanted     int     `json:"wanted"`
	Duration   float64 `json:"duration_s"`
	// Outcomes by status, or what became of it instead.
	Outcomes map[string]int `json:"outcomes"`
	// Programs that were sent, by their name.
	Programs map[string]int `json:"programs"`
	// Acts are what was done to csbd.
	Acts map[string]int `json:"acts"`

	WrongAnswers int `json:"wrong_answers"`
	LostReplies  int `json:"lost_replies"`
	// Unexplained are internal errors and killed programs beyond what kills of
	// sandboxes can have caused.
	Unexplained int   `json:"unexplained_failures"`
	Crashes     int   `json:"crashes"`
	Leaks       leaks `json:"leaks"`

	// Resident memory in bytes of the last csbd at rest, before and after its
	// share of the load.
	MemoryStart int64 `json:"memory_start"`
	MemoryEnd   int64 `json:"memory_end"`
	// Round trips of small programs, in milliseconds.
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`

	Problems []string `json:"problems,omitempty"`
	Passed   bool     `json:"passed"`
}

func newReport(o options, t *tally, s *disturber, l *load, took time.Duration) *report {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &report{
		Seed: o.seed, Wanted: o.n, Duration: took.Seconds(),
		Outcomes: maps.Clone(t.outcomes), Programs: maps.Clone(t.programs), Acts: maps.Clone(t.acts),
		WrongAnswers: t.outcomes[outcomeWrong], LostReplies: t.outcomes[outcomeLost],
		Leaks: s.leaks, MemoryStart: s.memory,
		P50:      milliseconds(percentile(t.durations, 0.50)),
		P99:      milliseconds(percentile(t.durations, 0.99)),
		Problems: slices.Clone(t.problems),
	}
	for _, n := range t.programs {
		r.Executions += n
	}
	// A sentry has one program, and a spawner has those of all users.
	inFlight := len(users) * connections * maxBatch
	explained := t.acts[string(killSentry)] + inFlight*t.acts[string(killSpawner)]
	r.Unexplained = max(t.outcomes[outcomeInternal]+t.outcomes[outcomeKilled]-explained, 0)
	return r
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// judge decides whether the soak has passed, given why it could not go on.
func (r *report) judge(failed error) {
	r.Problems = append(r.Problems, r.Leaks.Found...)
	r.Passed = failed == nil && r.Executions == r.Wanted && r.WrongAnswers+r.LostReplies+r.Unexplained+r.Crashes == 0 && r.Leaks.none()
}

// WriteTable implements trial.Report.
func (r *report) WriteTable(w io.Writer) error {
	var out strings.Builder
	row := func(name string, value any, note string) {
		fmt.Fprintln(&out, strings.TrimRight(fmt.Sprintf("%-44s %10v  %s", name, value, note), " "))
	}
	zero := func(name string, n int) {
		note := "ok"
		if n != 0 {
			note = "HAS TO BE 0"
		}
		row(name, n, note)
	}
	counts := func(title string, counts map[string]int) {
		fmt.Fprintf(&out, "\n%s\n", title)
		for _, name := range slices.Sorted(maps.Keys(counts)) {
			row("  "+name, counts[name], "")
		}
	}
	fmt.Fprintf(&out, "soak -n %d -seed %d, %.0f s\n\n", r.Wanted, r.Seed, r.Duration)
	note := "ok"
	if r.Executions != r.Wanted {
		note = fmt.Sprintf("HAS TO BE %d", r.Wanted)
	}
	row("executions", r.Executions, note)
	counts("outcomes", r.Outcomes)
	counts("programs", r.Programs)
	counts("done to csbd", r.Acts)
	fmt.Fprintf(&out, "\nhave to be 0\n")
	zero("  wrong answers", r.WrongAnswers)
	zero("  lost replies", r.LostReplies)
	zero("  failures that no kill explains", r.Unexplained)
	zero("  csbds that ended by themselves", r.Crashes)
	zero("  leaked processes", r.Leaks.Processes)
	zero("  leaked cgroups", r.Leaks.Cgroups)
	zero("  leaked mounts", r.Leaks.Mounts)
	zero("  leaked directories", r.Leaks.Directories)
	zero("  leaked descriptors of csbd", r.Leaks.Descriptors)
	zero("  leaked goroutines of csbd", r.Leaks.Goroutines)
	fmt.Fprintf(&out, "\nmeasured\n")
	row("  csbd's memory at rest, start", fmt.Sprintf("%.1f MB", float64(r.MemoryStart)/1e6), "")
	row("  csbd's memory at rest, end", fmt.Sprintf("%.1f MB", float64(r.MemoryEnd)/1e6), "")
	row("  small program under load, p50", fmt.Sprintf("%.1f ms", r.P50), "")
	row("  small program under load, p99", fmt.Sprintf("%.1f ms", r.P99), "")
	for _, p := range r.Problems {
		fmt.Fprintf(&out, "\nPROBLEM %s\n", p)
	}
	verdict := "passed"
	if !r.Passed {
		verdict = "FAILED"
	}
	fmt.Fprintf(&out, "\n%s\n", verdict)
	_, err := io.WriteString(w, out.String())
	return err
}
