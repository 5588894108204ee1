package main

import (
	"context"
	"fmt"
	"time"

	"github.com/fcarli/codesandbox/rpc"
)

const sectionRSS = "csbd's own memory after many executions"

// rssClients keep both the pool and the launches of a small machine busy.
const rssClients = 4

// rssGrowth is whether csbd's resident memory grows with the executions that it
// has done.
func (b *bench) rssGrowth(ctx context.Context) error {
	if !b.rss {
		b.add(Row{Section: sectionRSS, Name: fmt.Sprintf("%d executions, image without preload", b.rssCounts[len(b.rssCounts)-1]), NotRun: "--rss was not given"})
		return nil
	}
	d, err := b.daemon(ctx, kindRSS, "")
	if err != nil {
		return err
	}
	var own []Row
	done := 0
	for _, count := range b.rssCounts {
		b.say("%d executions", count)
		r, err := b.executeUntil(ctx, d, done, count)
		if err != nil {
			return err
		}
		own, done = append(own, r), count
	}
	own[len(own)-1].Targets = []Target{atMost(figureRatio, 1.10)}
	compare(own, own[0].Name, figureMemory)
	b.report.Rows = append(b.report.Rows, own...)
	return nil
}

// executeUntil does what is missing to a number of executions, and then looks
// at csbd's memory.
func (b *bench) executeUntil(ctx context.Context, d *daemon, done, count int) (Row, error) {
	r := Row{Section: sectionRSS, Name: fmt.Sprintf("%d executions, image without preload", count)}
	var t tally
	start := time.Now()
	failures, err := crowd(ctx, d, rssClients, count-done, func(ctx context.Context, c *rpc.Client, _ int) (sample, error) {
		s, _, err := printOne.execute(ctx, c)
		return s, err
	}, &t)
	if err != nil {
		return r, err
	}
	for _, f := range failures {
		b.wrong(r.Name, f)
	}
	t.fill(&r)
	r.Rate = float64(len(t.wall)) / time.Since(start).Seconds()
	if err := b.settle(ctx); err != nil {
		return r, err
	}
	rss, err := processRSS(d.pid())
	r.Memory = megabytes(rss)
	return r, err
}
