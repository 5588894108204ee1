package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fcarli/codesandbox/images"
	"github.com/fcarli/codesandbox/isolation/cgroup"
)

// cgroupBase is where the sandboxes of all contenders live, so that what they
// use can be read apart from the rest of the machine.
const cgroupBase = "/csbd-bench"

// A section measures one kind of thing and adds rows to the report. Its error
// is that it could not measure; wrong answers are counted in the rows.
type section struct {
	name string
	run  func(*bench, context.Context) error
}

func allSections() []section {
	return []section{
		{"latency", (*bench).latency},
		{"rate", (*bench).rate},
		{"cpu", (*bench).cpu},
		{"memory", (*bench).memory},
		{"humaneval", (*bench).humanEval},
		{"growth", (*bench).growth},
		{"connections", (*bench).connections},
		{"fairness", (*bench).fairness},
		{"rss", (*bench).rssGrowth},
	}
}

func sectionNames() []string {
	var names []string
	for _, s := range allSections() {
		names = append(names, s.name)
	}
	return names
}

// sizes say how much is measured.
type sizes struct {
	rounds       int           // of the latency section
	clients      []int         // that ask at the same time, in the rate section
	windows      int           // of each load there
	window, lead time.Duration // length of one; before it, not counted
	cpuRounds    int           // of the cpu section
	cpuRuns      int           // executions in each
	growthRounds int
	mostAtOnce   int // connections
	programs     int // of the corpus; 0 is all
}

func (o options) sizes() sizes {
	if o.quick {
		return sizes{rounds: 6, clients: []int{1, 4}, windows: 1, window: 2 * time.Second, lead: 500 * time.Millisecond,
			cpuRounds: 1, cpuRuns: 4, growthRounds: 1, mostAtOnce: 16, programs: 16}
	}
	return sizes{rounds: 100, clients: []int{1, 2, 4, 8}, windows: 2, window: 5 * time.Second, lead: time.Second,
		cpuRounds: 3, cpuRuns: 16, growthRounds: 6, mostAtOnce: 256}
}

// A bench is one run.
type bench struct {
	options
	sizes
	progress io.Writer
	dir      string // removed at the end
	store    images.Store
	image    images.Image // the default image
	cgroups  *cgroup.Root // of what is not started by csbd
	host     *host
	stock    *stock
	daemons  []*daemon
	report   *Report
}

// measure runs the sections and puts everything away.
func measure(ctx context.Context, o options, progress io.Writer) (_ *Report, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("needs root, as csbd does")
	}
	b := &bench{options: o, sizes: o.sizes(), progress: progress, report: &Report{}}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.open(); err != nil {
		return nil, err
	}
	b.say("load average %s: the quieter the machine, the more the figures say", b.report.System.Load)
	start := time.Now()
	for _, s := range allSections() {
		if !o.only.MatchString(s.name) {
			continue
		}
		b.say("%s", s.name)
		if err := s.run(b, ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	b.report.Duration = time.Since(start).Seconds()
	b.report.finish()
	return b.report, nil
}

// open prepares what every section needs.
func (b *bench) open() (err error) {
	b.report.System = readSystem()
	// csbd runs in a directory of its own.
	if b.bin, err = filepath.Abs(b.bin); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "csbd-bench-"); err != nil {
		return err
	}
	if b.store, b.image, err = linkImages(b.imageDir, filepath.Join(b.dir, "images")); err != nil {
		return err
	}
	b.report.System.Image = b.image.Digest
	b.cgroups, err = cgroup.Open(cgroupBase, fmt.Sprintf("others-%d", os.Getpid()))
	return err
}

// close ends the daemons and removes what the run has made.
func (b *bench) close() error {
	var errs []error
	for _, d := range b.daemons {
		errs = append(errs, d.stop())
	}
	if b.host != nil {
		b.host.close()
	}
	if b.cgroups != nil {
		errs = append(errs, b.cgroups.Close())
	}
	if b.dir != "" {
		errs = append(errs, os.RemoveAll(b.dir))
	}
	return errors.Join(errs...)
}

// say tells whoever waits what is going on.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, time.Now().Format("15:04:05 ")+format+"\n", args...)
}

// wrong tells of an answer that is not right. The row counts it.
func (b *bench) wrong(what string, err error) {
	b.say("WRONG: %s: %.500s", what, strings.ReplaceAll(err.Error(), "\n", " "))
}

// add puts a row into the report.
func (b *bench) add(r Row) { b.report.Rows = append(b.report.Rows, r) }
