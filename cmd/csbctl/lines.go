package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// lines shows `csbctl top` where there is no screen: a line each time, as
// vmstat.
type lines struct {
	out   io.Writer
	below int // lines since the last heading
}

// headEvery is after how many lines the heading comes again.
const headEvery = 20

// columns of a line, with their widths in the heading.
var columns = []struct {
	head string
	text func(v view) string
}{
	{"    TIME", func(v view) string { return v.at.Format(time.TimeOnly) }},
	{" RUN", func(v view) string { return fmt.Sprint(v.status.Running) }},
	{"QUEUE", func(v view) string { return fmt.Sprint(v.status.Queued) }},
	{" CONN", func(v view) string { return fmt.Sprint(v.status.Connections) }},
	{"READY", func(v view) string { return fmt.Sprint(pools(anyPool, ready)(v.status)) }},
	{"START", func(v view) string { return fmt.Sprint(pools(anyPool, starting)(v.status)) }},
	{"HITS", func(v view) string { return v.hitRate(anyPool) }},
	{"EXEC/S", func(v view) string { return v.perSecond(allExecutions) }},
	{"    OK", ofStatus("ok")},
	{" ERROR", ofStatus("error")},
	{"TIMEOUT", ofStatus("timeout")},
	{"  CPU", ofStatus("cpu_limit")},
	{"MEMORY", ofStatus("memory_limit")},
	{"OUTPUT", ofStatus("output_limit")},
	{"KILLED", ofStatus("killed")},
	{"CANCEL", ofStatus("cancelled")},
	{"REFUSED", func(v view) string { return v.perSecond(allRefusals) }},
}

func ofStatus(status string) func(view) string {
	return func(v view) string { return v.perSecond(executions(status)) }
}

// first shows nothing: what a line is for are rates.
func (l *lines) first(view) error { return nil }

func (l *lines) show(v view) error {
	var b strings.Builder
	if l.below%headEvery == 0 {
		for i, c := range columns {
			b.WriteString(separator(i) + c.head)
		}
		b.WriteByte('\n')
	}
	l.below++
	for i, c := range columns {
		fmt.Fprintf(&b, "%s%*s", separator(i), len(c.head), c.text(v))
	}
	if !v.status.Ready {
		b.WriteString("  " + readiness(v.status))
	}
	b.WriteByte('\n')
	_, err := io.WriteString(l.out, b.String())
	return err
}

func separator(column int) string {
	if column == 0 {
		return ""
	}
	return " "
}

func (l *lines) absent(at time.Time, why error) error {
	_, err := fmt.Fprintf(l.out, "%s csbd is not there: %s\n", at.Format(time.TimeOnly), reason(why))
	return err
}

func (l *lines) wait(tick <-chan time.Time) bool { <-tick; return false }
func (l *lines) close()                          {}

// jsonLines prints each status as csbd wrote it.
type jsonLines struct{ out, err io.Writer }

func (j *jsonLines) first(view) error { return nil }

func (j *jsonLines) show(v view) error { return printJSON(j.out, v.raw) }

func (j *jsonLines) absent(_ time.Time, why error) error {
	_, err := fmt.Fprintf(j.err, "csbctl: csbd is not there: %s\n", reason(why))
	return err
}

func (j *jsonLines) wait(tick <-chan time.Time) bool { <-tick; return false }
func (j *jsonLines) close()                          {}
