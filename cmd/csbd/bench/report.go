package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A Report is what a run has found. In JSON the names carry the units; a figure
// that was not measured is absent.
type Report struct {
	System System `json:"system"`
	Rows   []Row  `json:"rows"`
	// Errors counts wrong and missing answers.
	Errors   int     `json:"errors"`
	Duration float64 `json:"duration_s"`
}

// A Row is one contender at one task.
type Row struct {
	// Section is the task, Name the contender.
	Section string  `json:"section"`
	Name    string  `json:"name"`
	Samples int     `json:"samples"`
	Errors  int     `json:"errors"`
	P50     float64 `json:"p50_ms,omitempty"`
	P95     float64 `json:"p95_ms,omitempty"`
	P99     float64 `json:"p99_ms,omitempty"`
	// CPU is per sample, all processes together.
	CPU    float64 `json:"cpu_ms,omitempty"`
	Rate   float64 `json:"rate_per_s,omitempty"`
	Memory float64 `json:"memory_mb,omitempty"` // of 10^6 bytes
	// Ratio is the row's main figure to that of the row RatioTo.
	Ratio   float64  `json:"ratio,omitempty"`
	RatioTo string   `json:"ratio_to,omitempty"`
	Targets []Target `json:"targets,omitempty"`
	// NotRun says why there are no figures.
	NotRun string `json:"not_run,omitempty"`
}

// A Target is what a figure of a row should be.
type Target struct {
	// Figure is the JSON name of the figure, Value what was measured.
	Figure string  `json:"figure"`
	Value  float64 `json:"value"`
	// Limit is the most, or, if AtLeast, the least.
	Limit   float64 `json:"limit"`
	AtLeast bool    `json:"at_least,omitempty"`
	Met     bool    `json:"met"`
}

// Figures of a row that have targets, by their JSON names.
const (
	figureP50    = "p50_ms"
	figureP99    = "p99_ms"
	figureCPU    = "cpu_ms"
	figureRate   = "rate_per_s"
	figureMemory = "memory_mb"
	figureRatio  = "ratio"
	// figureGrowth is how much faster than the work the cost has grown, at its
	// worst step: 1 is linear.
	figureGrowth = "growth_to_linear"
)

func (r *Row) figure(name string) float64 {
	return map[string]float64{figureP50: r.P50, figureP99: r.P99, figureCPU: r.CPU, figureRate: r.Rate,
		figureMemory: r.Memory, figureRatio: r.Ratio}[name]
}

func atMost(figure string, limit float64) Target { return Target{Figure: figure, Limit: limit} }

func atLeast(figure string, limit float64) Target {
	return Target{Figure: figure, Limit: limit, AtLeast: true}
}

// judge says whether the value that was measured is good enough.
func (t *Target) judge(value float64) {
	t.Value = value
	t.Met = value > 0 && (t.AtLeast && value >= t.Limit || !t.AtLeast && value <= t.Limit)
}

// compare fills the ratio of each row of a section to the one of the given
// name, by a figure.
func compare(rows []Row, name, figure string) {
	for _, base := range rows {
		if base.Name != name || base.figure(figure) == 0 {
			continue
		}
		for i := range rows {
			if rows[i].figure(figure) > 0 {
				rows[i].Ratio, rows[i].RatioTo = rows[i].figure(figure)/base.figure(figure), name
			}
		}
	}
}

// finish judges the targets and counts the errors.
func (r *Report) finish() {
	for i := range r.Rows {
		row := &r.Rows[i]
		r.Errors += row.Errors
		for j := range row.Targets {
			if t := &row.Targets[j]; t.Value == 0 {
				t.judge(row.figure(t.Figure))
			}
		}
	}
}

var columns = []string{"", "n", "p50 ms", "p95 ms", "p99 ms", "CPU ms", "per s", "MB", "ratio", "target"}

// WriteTable implements trial.Report.
func (r *Report) WriteTable(w io.Writer) error {
	lines := [][]string{columns}
	section := ""
	for i, row := range r.Rows {
		if row.Section != section {
			section = row.Section
			lines = append(lines, nil, []string{heading(r.Rows[i:])})
		}
		lines = append(lines, row.cells())
	}
	_, err := fmt.Fprintf(w, "%s\n%s\n%d wrong answers, %.0f s\n", r.System, align(lines), r.Errors, r.Duration)
	return err
}

// heading names the section of the first row, and what its ratios are to.
func heading(rows []Row) string {
	for _, row := range rows {
		if row.Section == rows[0].Section && row.RatioTo != "" {
			return row.Section + " [ratio to: " + row.RatioTo + "]"
		}
	}
	return rows[0].Section
}

// cells are the row as text, in the order of columns.
func (r Row) cells() []string {
	name := "  " + r.Name
	if r.NotRun != "" {
		return []string{name, "", "", "", "", "", "", "", "", "not run: " + r.NotRun}
	}
	var notes []string
	if r.Errors > 0 {
		notes = append(notes, fmt.Sprintf("%d WRONG ANSWERS", r.Errors))
	}
	for _, t := range r.Targets {
		notes = append(notes, t.String())
	}
	return []string{name, strconv.Itoa(r.Samples), number(r.P50), number(r.P95), number(r.P99), number(r.CPU),
		number(r.Rate), number(r.Memory), number(r.Ratio), strings.Join(notes, ", ")}
}

func (t Target) String() string {
	relation, verdict := "<=", "MISSED"
	if t.AtLeast {
		relation = ">="
	}
	if t.Met {
		verdict = "ok"
	}
	name, value := t.Figure, ""
	switch t.Figure {
	case figureP50, figureP99:
		name = strings.TrimSuffix(t.Figure, "_ms")
	case figureCPU:
		name = "CPU"
	case figureRate:
		name = "rate"
	case figureMemory:
		name = "memory"
	case figureGrowth:
		name, value = "growth/linear", " ("+number(t.Value)+")"
	}
	return fmt.Sprintf("%s %s %s %s%s", name, relation, number(t.Limit), verdict, value)
}

// number writes a figure with three digits or so; nothing for 0, which is not
// measured.
func number(v float64) string {
	switch {
	case v == 0:
		return ""
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case v >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 3, 64)
}

// align sets lines of cells in columns: the first and the last to the left, the
// others to the right. A line of one cell is a heading and widens nothing.
func align(lines [][]string) string {
	widths := make([]int, len(columns))
	for _, line := range lines {
		for i, cell := range line {
			if len(line) > 1 {
				widths[i] = max(widths[i], utf8.RuneCountInString(cell))
			}
		}
	}
	var b strings.Builder
	for _, line := range lines {
		var text strings.Builder
		for i, cell := range line {
			pad := strings.Repeat(" ", max(widths[i]-utf8.RuneCountInString(cell), 0))
			switch {
			case i == 0:
				text.WriteString(cell + pad)
			case i == len(columns)-1:
				text.WriteString("  " + cell)
			default:
				text.WriteString("  " + pad + cell)
			}
		}
		b.WriteString(strings.TrimRight(text.String(), " ") + "\n")
	}
	return b.String()
}
