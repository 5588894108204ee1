package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fcarli/codesandbox/rpc"
)

// A load is one program asked for by a number of clients, each again as soon as
// it has its answer.
type load struct {
	name    string
	clients int
	open    opener
	targets []Target
	flow    flow
}

// An opener returns what one client does again and again, and what it does when
// it leaves.
type opener func(context.Context) (do func(context.Context) (sample, error), leave func(), err error)

// A flow is what came of a load in all its windows.
type flow struct {
	tally
	elapsed time.Duration
}

const sectionRate = "sustained rate, closed loop"

// rate is how many programs per second go through when clients never pause.
func (b *bench) rate(ctx context.Context) error {
	loads, err := b.loads(ctx)
	if err != nil {
		return err
	}
	for window := range b.windows {
		for _, l := range loads {
			if err := b.settle(ctx); err != nil {
				return err
			}
			b.say("window %d of %d: %s, %d clients", window+1, b.windows, l.name, l.clients)
			if err := b.sustain(ctx, l); err != nil {
				return err
			}
		}
	}
	b.report.Rows = append(b.report.Rows, rateRows(loads)...)
	return nil
}

// rateRows are the loads' figures; ratios are to stock runsc.
func rateRows(loads []*load) []Row {
	var out []Row
	for _, l := range loads {
		r := Row{Section: sectionRate, Name: fmt.Sprintf("%s, clients: %d", l.name, l.clients), Targets: l.targets}
		l.flow.fill(&r)
		if l.flow.elapsed > 0 {
			r.Rate = float64(len(l.flow.wall)) / l.flow.elapsed.Seconds()
		}
		out = append(out, r)
	}
	compare(out, out[0].Name, figureRate)
	return out
}

// loads lists what is measured, stock runsc first. Stock runsc has one row: more clients than
// processors only wait for each other.
func (b *bench) loads(ctx context.Context) ([]*load, error) {
	s, err := b.openStock(ctx)
	if err != nil {
		return nil, err
	}
	list := []*load{{name: "stock runsc restore --direct, pandas, print(1)", clients: 2, open: s.clients(printOne)}}
	for _, launcher := range b.variants() {
		for _, v := range []struct {
			kind
			program
			name  string
			least float64
		}{
			{kindPandas, printOne, "pandas image, print(1)", 8},
			{kindPandas, frame, "pandas image, DataFrame", 8},
			{kindBare, printOne, "image without preload, print(1)", 10},
		} {
			d, err := b.daemon(ctx, v.kind, launcher)
			if err != nil {
				return nil, err
			}
			for _, n := range b.clients {
				l := &load{name: label(launcher) + " " + v.name, clients: n, open: d.clients(v.program)}
				if n > 1 { // one client alone leaves processors idle
					l.targets = []Target{atLeast(figureRate, v.least)}
				}
				list = append(list, l)
			}
		}
	}
	return list, nil
}

// clients are programs that are restored by stock runsc.
func (s *stock) clients(p program) opener {
	return func(context.Context) (func(context.Context) (sample, error), func(), error) {
		return func(ctx context.Context) (sample, error) { return s.restore(ctx, p) }, func() {}, nil
	}
}

// clients have a connection of their own each.
func (d *daemon) clients(p program) opener {
	return func(ctx context.Context) (func(context.Context) (sample, error), func(), error) {
		c, err := rpc.Dial(ctx, d.socket)
		if err != nil {
			return nil, nil, err
		}
		execute := func(ctx context.Context) (sample, error) {
			s, _, err := p.execute(ctx, c)
			return s, err
		}
		return execute, func() { c.Close() }, nil
	}
}

// sustain runs a load for one window. What ends in the lead is not counted: it
// has the sandboxes that were ready.
func (b *bench) sustain(ctx context.Context, l *load) error {
	var clients sync.WaitGroup
	var mu sync.Mutex // guards what follows
	var failures []error
	w := newWindow(time.Now().Add(b.lead), b.window)

	for range l.clients {
		do, leave, err := l.open(ctx)
		if err != nil {
			return err
		}
		clients.Go(func() {
			defer leave()
			for time.Now().Before(w.end) && ctx.Err() == nil {
				s, err := do(ctx)
				mu.Lock()
				if err != nil {
					failures = append(failures, err)
				} else {
					w.answer(time.Now(), s)
				}
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	l.flow.errors += len(failures)
	if len(failures) > 0 {
		b.wrong(l.name, errors.Join(failures...))
	}
	l.flow.wall = append(l.flow.wall, w.samples.wall...)
	l.flow.elapsed += b.window
	return nil
}

// A window counts the answers between its begin and its end.
type window struct {
	begin, end time.Time
	samples    tally
}

func newWindow(begin time.Time, length time.Duration) *window {
	return &window{begin: begin, end: begin.Add(length)}
}

// answer notes an answer.
func (w *window) answer(now time.Time, s sample) {
	if !now.Before(w.begin) && !now.After(w.end) {
		w.samples.add(sample{wall: s.wall})
	}
}
