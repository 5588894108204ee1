package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

var connectionCounts = []int{1, 4, 16, 64, 256}

const (
	sectionHeld   = "connections open, one of them asks for print(1)"
	sectionAtOnce = "connections that ask for print(1) at once, image without preload"
)

// connections is what other connections cost: idle ones, and those that want
// sandboxes at the same time.
func (b *bench) connections(ctx context.Context) error {
	if err := b.connectionsHeld(ctx); err != nil {
		return err
	}
	return b.connectionsAtOnce(ctx)
}

func (b *bench) connectionsHeld(ctx context.Context) error {
	d, err := b.daemon(ctx, kindPandas, "")
	if err != nil {
		return err
	}
	var contenders []*contender
	for _, n := range connectionCounts {
		contenders = append(contenders, &contender{section: sectionHeld, name: fmt.Sprint(n), run: d.amongOthers(n)})
	}
	if err := b.alternate(ctx, b.growthRounds, contenders); err != nil {
		return err
	}
	own := rows(contenders, sectionHeld)
	compare(own, own[0].Name, figureP50)
	b.report.Rows = append(b.report.Rows, own...)
	return nil
}

// amongOthers measures one warm execution while n-1 other connections are open.
func (d *daemon) amongOthers(n int) func(context.Context) (sample, error) {
	return func(ctx context.Context) (sample, error) {
		// The one that is measured is the daemon's kept connection.
		_, hangUp, err := d.dial(ctx, n-1)
		if err != nil {
			return sample{}, err
		}
		defer hangUp()
		time.Sleep(calm)
		return d.warm(printOne)(ctx)
	}
}

func (b *bench) connectionsAtOnce(ctx context.Context) error {
	d, err := b.daemon(ctx, kindBare, "")
	if err != nil {
		return err
	}
	var own []Row
	var counts []int
	var totals []float64
	for _, n := range connectionCounts {
		if n > b.mostAtOnce {
			own = append(own, Row{Section: sectionAtOnce, Name: fmt.Sprint(n), NotRun: "--quick"})
			continue
		}
		b.say("%d connections at once", n)
		r, total, err := b.atOnce(ctx, d, n)
		if err != nil {
			return err
		}
		own = append(own, r)
		// Those that find a sandbox ready are no work of that kind.
		if started := n - keptReady; started > 0 {
			counts, totals = append(counts, started), append(totals, total.Seconds())
		}
	}
	if len(counts) > 1 {
		own[len(own)-1].Targets = []Target{growthTarget(counts, totals)}
	}
	compare(own, own[0].Name, figureRate)
	b.report.Rows = append(b.report.Rows, own...)
	return nil
}

// atOnce has n connections ask for one execution each, and says how long it
// took until the last had its answer.
func (b *bench) atOnce(ctx context.Context, d *daemon, n int) (Row, time.Duration, error) {
	r := Row{Section: sectionAtOnce, Name: fmt.Sprint(n)}
	if err := b.settle(ctx); err != nil {
		return r, 0, err
	}
	connections, hangUp, err := d.dial(ctx, n)
	if err != nil {
		return r, 0, err
	}
	defer hangUp()
	samples, failures := make([]sample, n), make([]error, n)
	var clients sync.WaitGroup
	start := time.Now()
	for i, c := range connections {
		clients.Go(func() { samples[i], _, failures[i] = printOne.execute(ctx, c) })
	}
	clients.Wait()
	total := time.Since(start)
	var t tally
	for i, s := range samples {
		if failures[i] != nil {
			t.errors++
			b.wrong(r.Section, failures[i])
			continue
		}
		t.add(s)
	}
	t.fill(&r)
	r.Rate = float64(r.Samples) / total.Seconds()
	return r, total, ctx.Err()
}
