package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/fcarli/codesandbox/cmd/csbd/trial"
)

func example() *Report {
	prints := []Row{
		{Section: "s", Name: "host", Samples: 5, P50: 20, P95: 21, P99: 22, CPU: 19},
		{Section: "s", Name: "csbd", Samples: 5, Errors: 1, P50: 4, P95: 9, P99: 30,
			Targets: []Target{atMost(figureP50, 5), atMost(figureP99, 20), atMost(figureRatio, 0.25)}},
		{Section: "s", Name: "other", NotRun: "it is not installed", Targets: []Target{atMost(figureP50, 1)}},
	}
	compare(prints, "host", figureP50)
	r := &Report{System: System{CPU: "a processor", Cores: 2}, Duration: 12}
	r.Rows = append(prints, Row{Section: "rates", Name: "csbd", Samples: 80, Rate: 8.25, Targets: []Target{atLeast(figureRate, 8)}})
	r.finish()
	return r
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	assert.NilError(t, example().WriteTable(&out))
	_, table, _ := strings.Cut(out.String(), "\n\n")
	assert.Equal(t, strings.TrimLeft(table, "\n"), `          n  p50 ms  p95 ms  p99 ms  CPU ms  per s  MB  ratio  target

s [ratio to: host]
  host    5    20.0    21.0    22.0    19.0              1.00
  csbd    5    4.00    9.00    30.0                     0.200  1 WRONG ANSWERS, p50 <= 5.00 ok, p99 <= 20.0 MISSED, ratio <= 0.250 ok
  other                                                        not run: it is not installed

rates
  csbd   80                                   8.25             rate >= 8.00 ok

1 wrong answers, 12 s
`)
}

// TestJSON holds the names that machines read.
func TestJSON(t *testing.T) {
	var out bytes.Buffer
	assert.NilError(t, trial.Print(&out, example(), true))
	var got struct {
		System map[string]any   `json:"system"`
		Rows   []map[string]any `json:"rows"`
		Errors int              `json:"errors"`
		Took   float64          `json:"duration_s"`
	}
	assert.NilError(t, json.Unmarshal(out.Bytes(), &got))
	assert.Equal(t, got.Errors, 1)
	assert.Equal(t, got.Took, 12.0)
	for _, name := range []string{"time", "cpu", "cores", "kernel", "load_average", "go", "runsc", "commit", "image", "csbd_settings"} {
		assert.Check(t, is.Contains(got.System, name))
	}
	assert.DeepEqual(t, got.Rows[0], map[string]any{"section": "s", "name": "host", "samples": 5.0, "errors": 0.0,
		"p50_ms": 20.0, "p95_ms": 21.0, "p99_ms": 22.0, "cpu_ms": 19.0, "ratio": 1.0, "ratio_to": "host"})
	assert.DeepEqual(t, got.Rows[1]["targets"], []any{
		map[string]any{"figure": "p50_ms", "value": 4.0, "limit": 5.0, "met": true},
		map[string]any{"figure": "p99_ms", "value": 30.0, "limit": 20.0, "met": false},
		map[string]any{"figure": "ratio", "value": 0.2, "limit": 0.25, "met": true},
	})
	assert.Equal(t, got.Rows[2]["not_run"], "it is not installed")
	assert.DeepEqual(t, got.Rows[3]["targets"], []any{
		map[string]any{"figure": "rate_per_s", "value": 8.25, "limit": 8.0, "at_least": true, "met": true}})
}

func TestTargets(t *testing.T) {
	for _, c := range []struct {
		target Target
		value  float64
		met    bool
	}{
		{atMost(figureP50, 5), 5, true},
		{atMost(figureP50, 5), 5.01, false},
		{atMost(figureP50, 5), 0, false}, // not measured
		{atLeast(figureRate, 8), 8, true},
		{atLeast(figureRate, 8), 7.99, false},
	} {
		c.target.judge(c.value)
		assert.Equal(t, c.target.Met, c.met, "%v of %v", c.value, c.target)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "", 0.0333: "0.033", 4.999: "5.00", 12.34: "12.3", 1234.5: "1234"} {
		assert.Equal(t, number(v), want)
	}
}
