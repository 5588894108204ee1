package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"

	"github.com/fcarli/codesandbox/rpc"
)

// A contender does the same thing again and again. One that is slow takes part
// in every n-th round only.
type contender struct {
	section, name string
	every         int
	run           func(context.Context) (sample, error)
	targets       []Target
	tally         tally
}

// alternate takes the samples of all contenders in turn, each when no csbd has
// anything to do.
func (b *bench) alternate(ctx context.Context, rounds int, contenders []*contender) error {
	for round := range rounds {
		if rounds < 20 || round%10 == 0 {
			b.say("round %d of %d", round+1, rounds)
		}
		for _, c := range contenders {
			if round%max(c.every, 1) != 0 {
				continue
			}
			if err := b.settle(ctx); err != nil {
				return err
			}
			s, err := c.run(ctx)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				c.tally.errors++
				b.wrong(c.section+": "+c.name, err)
				continue
			}
			c.tally.add(s)
		}
	}
	return nil
}

// rows are the contenders' samples of one section.
func rows(contenders []*contender, section string) []Row {
	var out []Row
	for _, c := range contenders {
		if c.section != section {
			continue
		}
		r := Row{Section: c.section, Name: c.name, Targets: c.targets}
		c.tally.fill(&r)
		out = append(out, r)
	}
	return out
}

const (
	sectionPrint = "print(1)"
	sectionFrame = "import pandas and sum a column of a DataFrame"
)

// Which rounds a contender takes part in.
const (
	always    = 1
	sometimes = 2
	seldom    = 5 // those that take most of a second
)

// latency is how long one program takes on a quiet machine, everywhere.
func (b *bench) latency(ctx context.Context) error {
	contenders, err := b.otherContenders(ctx)
	if err != nil {
		return err
	}
	for _, launcher := range b.variants() {
		own, err := b.ownContenders(ctx, launcher)
		if err != nil {
			return err
		}
		contenders = append(contenders, own...)
	}
	if err := b.alternate(ctx, b.rounds, contenders); err != nil {
		return err
	}
	prints, frames := rows(contenders, sectionPrint), rows(contenders, sectionFrame)
	compare(prints, b.host.label(), figureP50)
	compare(frames, b.host.imageLabel(), figureP50)
	if b.host.bwrap == "" {
		prints = append(prints, Row{Section: sectionPrint, Name: "bwrap, host python3", NotRun: "bubblewrap is not installed"})
	}
	b.report.Rows = append(append(b.report.Rows, prints...), frames...)
	return nil
}

// otherContenders are those without csbd.
func (b *bench) otherContenders(ctx context.Context) ([]*contender, error) {
	h, err := b.openHost(ctx)
	if err != nil {
		return nil, err
	}
	s, err := b.openStock(ctx)
	if err != nil {
		return nil, err
	}
	list := []*contender{
		{section: sectionPrint, name: h.label(), every: always,
			run: func(ctx context.Context) (sample, error) { return h.runPython(ctx, printOne) }},
		{section: sectionPrint, name: h.imageLabel(), every: always,
			run: func(ctx context.Context) (sample, error) { return h.runImage(ctx, printOne) }},
	}
	if h.bwrap != "" {
		list = append(list, &contender{section: sectionPrint, name: "bwrap, host python3", every: always,
			run: func(ctx context.Context) (sample, error) {
				return inGroup(b.cgroups, h.bwrapCommand(ctx, printOne), printOne)
			}})
	}
	return append(list,
		&contender{section: sectionPrint, name: "stock runsc run", every: seldom,
			run: func(ctx context.Context) (sample, error) { return s.run(ctx, "print", printOne) }},
		&contender{section: sectionPrint, name: "stock runsc restore --direct, pandas imported", every: seldom,
			run: func(ctx context.Context) (sample, error) { return s.restore(ctx, printOne) }},
		&contender{section: sectionFrame, name: h.imageLabel(), every: seldom,
			run: func(ctx context.Context) (sample, error) { return h.runImage(ctx, frame) }},
		&contender{section: sectionFrame, name: "stock runsc run", every: seldom,
			run: func(ctx context.Context) (sample, error) { return s.run(ctx, "frame", frame) }},
		&contender{section: sectionFrame, name: "stock runsc restore --direct, pandas imported", every: seldom,
			run: func(ctx context.Context) (sample, error) { return s.restore(ctx, frame) }},
	), nil
}

// ownContenders are those of csbd with one launcher.
func (b *bench) ownContenders(ctx context.Context, launcher string) ([]*contender, error) {
	pandas, err := b.daemon(ctx, kindPandas, launcher)
	if err != nil {
		return nil, err
	}
	bare, err := b.daemon(ctx, kindBare, launcher)
	if err != nil {
		return nil, err
	}
	empty, err := b.daemon(ctx, kindEmpty, launcher)
	if err != nil {
		return nil, err
	}
	own := label(launcher)
	return []*contender{
		{section: sectionPrint, name: own + " warm", every: always, run: pandas.warm(printOne),
			targets: []Target{atMost(figureP50, 5), atMost(figureP99, 20), atMost(figureRatio, 0.25)}},
		{section: sectionPrint, name: own + " warm, image without preload", every: sometimes, run: bare.warm(printOne)},
		{section: sectionPrint, name: own + " empty pool, snapshot present", every: seldom, run: empty.cold(printOne),
			targets: []Target{atMost(figureP50, 200)}},
		{section: sectionPrint, name: own + " warm, csbctl whole process", every: sometimes, run: pandas.csbctl(b.bin, printOne),
			targets: []Target{atMost(figureP50, 12)}},
		{section: sectionFrame, name: own + " warm", every: always, run: pandas.warm(frame),
			targets: []Target{atMost(figureP50, 15), atMost(figureRatio, 1.0/30)}},
		{section: sectionFrame, name: own + " empty pool, snapshot present", every: seldom, run: empty.cold(frame)},
	}, nil
}

// warm measures a program that finds a sandbox ready.
func (d *daemon) warm(p program) func(context.Context) (sample, error) { return d.expect(p, true) }

// cold measures a program that has to wait until one is restored.
func (d *daemon) cold(p program) func(context.Context) (sample, error) { return d.expect(p, false) }

func (d *daemon) expect(p program, warm bool) func(context.Context) (sample, error) {
	return func(ctx context.Context) (sample, error) {
		s, r, err := p.execute(ctx, d.client)
		if err == nil {
			err = wantWarm(r, warm)
		}
		return s, err
	}
}

// csbctl measures the whole client, from its start to its exit status.
func (d *daemon) csbctl(bin string, p program) func(context.Context) (sample, error) {
	return func(ctx context.Context) (sample, error) {
		cmd := exec.CommandContext(ctx, filepath.Join(bin, "csbctl"), "-c", p.code)
		cmd.Env = []string{"CSBD_SOCKET=" + d.socket}
		answer, s, err := output(cmd, (*exec.Cmd).Start)
		if err != nil {
			return s, err
		}
		var r rpc.Result
		if err := json.Unmarshal(answer, &r); err != nil {
			return s, fmt.Errorf("csbctl's answer: %w", err)
		}
		if err := p.check(r.Stdout); err != nil {
			return s, err
		}
		return s, wantWarm(r, true)
	}
}
