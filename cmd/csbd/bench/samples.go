package main

import (
	"math"
	"slices"
	"time"
)

// percentile is the smallest of the values that at least that part of them does
// not exceed (nearest rank); 0 if there are none.
func percentile(values []time.Duration, part float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	// The small amount takes back what 0.95*20 is above 19 in binary.
	rank := int(math.Ceil(part*float64(len(sorted)) - 1e-9))
	return sorted[min(max(rank-1, 0), len(sorted)-1)]
}

// mean is 0 if there are no values.
func mean(values []time.Duration) time.Duration {
	if len(values) == 0 {
		return 0
	}
	var sum time.Duration
	for _, v := range values {
		sum += v
	}
	return sum / time.Duration(len(values))
}

// A tally collects the samples of one row. Wrong answers are counted and not
// timed.
type tally struct {
	wall, cpu []time.Duration
	errors    int
}

func (t *tally) add(s sample) {
	t.wall = append(t.wall, s.wall)
	if s.cpu > 0 {
		t.cpu = append(t.cpu, s.cpu)
	}
}

// fill writes the samples into a row.
func (t *tally) fill(r *Row) {
	r.Samples, r.Errors = len(t.wall), t.errors
	r.P50 = milliseconds(percentile(t.wall, 0.50))
	r.P95 = milliseconds(percentile(t.wall, 0.95))
	r.P99 = milliseconds(percentile(t.wall, 0.99))
	r.CPU = milliseconds(mean(t.cpu))
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }
