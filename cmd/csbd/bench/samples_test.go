package main

import (
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

func TestPercentile(t *testing.T) {
	var hundred, twenty []time.Duration
	for i := 100; i > 0; i-- { // in no helpful order
		hundred = append(hundred, time.Duration(i))
	}
	for i := range 20 {
		twenty = append(twenty, time.Duration(i+1))
	}
	for _, c := range []struct {
		values []time.Duration
		part   float64
		want   time.Duration
	}{
		{nil, 0.5, 0},
		{[]time.Duration{7}, 0.5, 7},
		{[]time.Duration{7}, 0.99, 7},
		{[]time.Duration{2, 1}, 0.5, 1},
		{[]time.Duration{3, 1, 2}, 0.5, 2},
		{hundred, 0, 1},
		{hundred, 0.5, 50},
		{hundred, 0.95, 95},
		{hundred, 0.99, 99},
		{hundred, 1, 100},
		{twenty, 0.95, 19},
		{twenty, 0.99, 20},
	} {
		assert.Equal(t, percentile(c.values, c.part), c.want, "%d values, %v", len(c.values), c.part)
	}
	assert.Equal(t, hundred[0], time.Duration(100), "the values are not reordered")
}

func TestTally(t *testing.T) {
	var y tally
	y.add(sample{wall: 2 * time.Millisecond, cpu: 3 * time.Millisecond})
	y.add(sample{wall: 4 * time.Millisecond, cpu: 5 * time.Millisecond})
	y.add(sample{wall: 9 * time.Millisecond}) // CPU not known
	y.errors++
	var r Row
	y.fill(&r)
	assert.DeepEqual(t, r, Row{Samples: 3, Errors: 1, P50: 4, P95: 9, P99: 9, CPU: 4})
}

func TestWindow(t *testing.T) {
	begin := time.Unix(1000, 0)
	w := newWindow(begin, 10*time.Second)
	for _, second := range []int{-1, 0, 4, 10, 11} { // the first and the last do not count
		w.answer(begin.Add(time.Duration(second)*time.Second), sample{wall: time.Second})
	}
	assert.Equal(t, len(w.samples.wall), 3)
}
