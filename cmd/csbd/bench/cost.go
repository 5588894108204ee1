package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/fcarli/codesandbox/rpc"
)

// A bill is what a series of executions has cost.
type bill struct {
	name       string
	daemon     *daemon
	program    program
	targets    []Target
	executions int
	sandboxes  time.Duration // CPU of the control group
	csbd       time.Duration // CPU of csbd itself
	flow       tally
}

const sectionCPU = "CPU per sandbox, closed loop of 2 clients"

// cpu is what one fresh sandbox costs in processor time, from its start to its
// removal, program included. Series begin and end with a full pool, so that as
// many sandboxes were started as programs were run.
func (b *bench) cpu(ctx context.Context) error {
	var bills []*bill
	for _, launcher := range b.variants() {
		own, err := b.bills(ctx, launcher)
		if err != nil {
			return err
		}
		bills = append(bills, own...)
	}
	for round := range b.cpuRounds {
		b.say("round %d of %d", round+1, b.cpuRounds)
		for _, l := range bills {
			if err := b.charge(ctx, l); err != nil {
				return err
			}
		}
	}
	for _, l := range bills {
		r := Row{Section: sectionCPU, Name: l.name, Targets: l.targets}
		l.flow.fill(&r)
		r.CPU = milliseconds(l.sandboxes) / float64(l.executions)
		b.add(r)
	}
	for _, l := range bills {
		b.add(Row{Section: sectionCPU, Name: l.name + ": csbd itself", Samples: l.executions,
			CPU: milliseconds(l.csbd) / float64(l.executions)})
	}
	return nil
}

func (b *bench) bills(ctx context.Context, launcher string) ([]*bill, error) {
	pandas, err := b.daemon(ctx, kindPandas, launcher)
	if err != nil {
		return nil, err
	}
	bare, err := b.daemon(ctx, kindBare, launcher)
	if err != nil {
		return nil, err
	}
	own := label(launcher)
	return []*bill{
		{name: own + " pandas image, print(1)", daemon: pandas, program: printOne, targets: []Target{atMost(figureCPU, 240)}},
		{name: own + " pandas image, DataFrame", daemon: pandas, program: frame},
		{name: own + " image without preload, print(1)", daemon: bare, program: printOne},
	}, nil
}

// charge runs one series.
func (b *bench) charge(ctx context.Context, l *bill) error {
	if err := b.settle(ctx); err != nil {
		return err
	}
	sandboxes, csbd, err := l.daemon.used()
	if err != nil {
		return err
	}
	if err := b.series(ctx, l); err != nil {
		return err
	}
	if err := b.settle(ctx); err != nil {
		return err
	}
	sandboxesNow, csbdNow, err := l.daemon.used()
	if err != nil {
		return err
	}
	l.executions += b.cpuRuns
	l.sandboxes += sandboxesNow - sandboxes
	l.csbd += csbdNow - csbd
	return nil
}

// series runs the program as often as a round says, by two clients.
func (b *bench) series(ctx context.Context, l *bill) error {
	failures, err := crowd(ctx, l.daemon, 2, b.cpuRuns, func(ctx context.Context, c *rpc.Client, _ int) (sample, error) {
		s, _, err := l.program.execute(ctx, c)
		return s, err
	}, &l.flow)
	for _, f := range failures {
		b.wrong(l.name, f)
	}
	return err
}

// used is the processor time of all sandboxes so far, and of csbd itself.
func (d *daemon) used() (sandboxes, csbd time.Duration, err error) {
	dirs, err := d.groups()
	if err != nil {
		return 0, 0, err
	}
	if sandboxes, err = groupCPU(dirs); err != nil {
		return 0, 0, err
	}
	csbd, err = processCPU(d.pid())
	return sandboxes, csbd, err
}

// crowd has clients, each with a connection of its own, do n pieces of work,
// numbered from 0, and returns what was wrong with their answers.
func crowd(ctx context.Context, d *daemon, clients, n int, do func(context.Context, *rpc.Client, int) (sample, error), t *tally) ([]error, error) {
	connections, hangUp, err := d.dial(ctx, clients)
	if err != nil {
		return nil, err
	}
	defer hangUp()
	work := make(chan int)
	var mu sync.Mutex // guards t and failures
	var failures []error
	var workers sync.WaitGroup
	for _, c := range connections {
		workers.Go(func() {
			for i := range work {
				s, err := do(ctx, c, i)
				mu.Lock()
				if err != nil {
					t.errors++
					failures = append(failures, err)
				} else {
					t.add(s)
				}
				mu.Unlock()
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		work <- i
	}
	close(work)
	workers.Wait()
	return failures, ctx.Err()
}

// dial opens n connections that csbd has answered on.
func (d *daemon) dial(ctx context.Context, n int) (_ []*rpc.Client, hangUp func(), err error) {
	var connections []*rpc.Client
	hangUp = func() {
		for _, c := range connections {
			c.Close()
		}
	}
	for range n {
		c, err := rpc.Dial(ctx, d.socket)
		if err != nil {
			hangUp()
			return nil, nil, err
		}
		connections = append(connections, c)
		var v rpc.Version
		if err := c.Call(ctx, rpc.MethodVersion, nil, &v); err != nil {
			hangUp()
			return nil, nil, fmt.Errorf("connection %d: %w", len(connections), err)
		}
	}
	return connections, hangUp, nil
}

const sectionMemory = "memory per ready sandbox, by its control group"

// memory is what a sandbox holds that waits for a program.
func (b *bench) memory(ctx context.Context) error {
	for _, launcher := range b.variants() {
		for _, v := range []struct {
			kind
			name string
			most float64
		}{
			{kindPandas, "pandas image", 60},
			{kindBare, "image without preload", 25},
		} {
			d, err := b.daemon(ctx, v.kind, launcher)
			if err != nil {
				return err
			}
			if err := b.settle(ctx); err != nil {
				return err
			}
			r := Row{Section: sectionMemory, Name: label(launcher) + " " + v.name, Targets: []Target{atMost(figureMemory, v.most)}}
			if err := d.weigh(&r); err != nil {
				return err
			}
			b.add(r)
			if err := b.weighDaemon(d, launcher, v.name); err != nil {
				return err
			}
		}
	}
	return nil
}

// weigh fills in the mean of the waiting sandboxes.
func (d *daemon) weigh(r *Row) error {
	dirs, err := d.groups()
	if err != nil {
		return err
	}
	held, err := sandboxMemory(dirs)
	if err != nil {
		return err
	}
	var sum int64
	for _, n := range held {
		sum += n
	}
	r.Samples = len(held)
	r.Memory = megabytes(sum) / float64(len(held))
	return nil
}

// weighDaemon adds a row for csbd itself.
func (b *bench) weighDaemon(d *daemon, launcher, name string) error {
	rss, err := processRSS(d.pid())
	if err != nil {
		return err
	}
	b.add(Row{Section: sectionMemory, Name: label(launcher) + " " + name + ": csbd itself, RSS", Samples: 1, Memory: megabytes(rss)})
	return nil
}

func megabytes(n int64) float64 { return float64(n) / 1e6 }
