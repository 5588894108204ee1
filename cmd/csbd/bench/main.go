// Bench measures csbd, and what it competes with, in one run.
//
//	bench [--quick] [--json] [--only REGEXP] [--launcher NAME,...] [--rss]
//
// It is started at the top of the source tree, as root, by `make bench`. It
// runs daemons of its own, takes the samples of all contenders in turn, so that
// whatever disturbs the machine disturbs each of them, and checks every answer.
// The table goes to stdout and what it is doing to stderr. The exit status is 1
// if an answer was wrong or missing; a target that was missed does not change it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/fcarli/codesandbox/cmd/csbd/trial"
)

func main() { trial.Main(run) }

// options are what the command line says.
type options struct {
	json, quick, rss bool
	only             *regexp.Regexp
	launchers        []string
	rssCounts        []int
	bin, corpus      string
	python, imageDir string
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer, getenv func(string) string) int {
	o, err := parse(args, stderr)
	if status, ends := trial.Misused(err, stderr, "bench"); ends {
		return status
	}
	var report *Report
	if o.imageDir, err = trial.ImageDir(getenv); err == nil {
		report, err = measure(ctx, o, stderr)
	}
	if ctx.Err() != nil {
		fmt.Fprintln(stderr, "bench: interrupted; what it had started is put away")
		return trial.ExitFailed
	}
	if err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return trial.ExitFailed
	}
	if err := trial.Print(stdout, report, o.json); err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return trial.ExitFailed
	}
	if report.Errors > 0 {
		fmt.Fprintf(stderr, "bench: %d wrong or missing answers\n", report.Errors)
		return trial.ExitFailed
	}
	return trial.ExitOK
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.BoolVar(&o.json, "json", false, "print one JSON document instead of the table")
	f.BoolVar(&o.quick, "quick", false, "take few samples: about a minute")
	f.BoolVar(&o.rss, "rss", false, "also see whether csbd's memory grows with executions (long)")
	counts := f.String("rss-counts", "1000,10000", "for --rss: compare csbd after the first of these `numbers` of executions with the last")
	only := f.String("only", "", "measure the sections that match `REGEXP`: "+strings.Join(sectionNames(), ", "))
	launchers := f.String("launcher", "", "also measure csbd with CSBD_LAUNCHER set to each of these `names`, separated by commas")
	f.StringVar(&o.bin, "bin", "bin", "`directory` of csbd, csbctl and runsc")
	f.StringVar(&o.corpus, "corpus", "../shared/corpora/humaneval.jsonl", "HumanEval corpus, a `file`")
	f.StringVar(&o.python, "python", "", "the host's Python, a `file`; the distribution's when empty")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if *launchers != "" {
		o.launchers = strings.Split(*launchers, ",")
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, fmt.Errorf("--only: %w", err)
	}
	o.rssCounts, err = parseCounts(*counts)
	return o, err
}

// parseCounts reads at least two rising numbers.
func parseCounts(s string) ([]int, error) {
	var counts []int
	for _, word := range strings.Split(s, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n <= 0 || len(counts) > 0 && n <= counts[len(counts)-1] {
			return nil, fmt.Errorf("--rss-counts %q: want rising positive numbers", s)
		}
		counts = append(counts, n)
	}
	if len(counts) < 2 {
		return nil, fmt.Errorf("--rss-counts %q: want at least two numbers", s)
	}
	return counts, nil
}
