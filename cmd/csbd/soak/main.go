// Soak shows that csbd loses nothing, mixes nothing up and leaves nothing
// behind, whatever programs, clients and kill -9 do to it.
//
//	soak [-n NUMBER] [-seed NUMBER] [-timeout DURATION] [-json]
//
// It is started at the top of the source tree, as root, by `make soak`. It runs
// a csbd of its own, and users of its own send it programs whose right answer
// is known; meanwhile csbd, its spawner and its sentries are killed. The table
// goes to stdout and what it is doing to stderr. The exit status is 1 if
// anything that has to be zero is not.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/fcarli/codesandbox/cmd/csbd/trial"
)

func main() { trial.Main(run) }

// options are what the command line and the environment say.
type options struct {
	json      bool
	n         int
	killEvery int
	seed      uint64
	timeout   time.Duration

	csbd, imageDir, cgroup string
	env                    []string // of csbd, in addition
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer, getenv func(string) string) int {
	o, err := parse(args, stderr)
	if status, ends := trial.Misused(err, stderr, "soak"); ends {
		return status
	}
	if o.imageDir, err = trial.ImageDir(getenv); err != nil {
		fmt.Fprintf(stderr, "soak: %v\n", err)
		return trial.ExitFailed
	}
	if o.cgroup = getenv("CSBD_CGROUP"); o.cgroup == "" {
		o.cgroup = "/csbd-soak"
	}
	report, err := soak(ctx, o, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "soak: %v\n", err)
	}
	if report == nil {
		return trial.ExitFailed
	}
	if err := trial.Print(stdout, report, o.json); err != nil {
		fmt.Fprintf(stderr, "soak: %v\n", err)
		return trial.ExitFailed
	}
	if err != nil || !report.Passed {
		return trial.ExitFailed
	}
	return trial.ExitOK
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("soak", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.IntVar(&o.n, "n", 2000, "`number` of executions")
	f.IntVar(&o.killEvery, "kill-every", 400, "kill csbd after each such `number` of executions; 0 is never")
	f.Uint64Var(&o.seed, "seed", 0, "`number` that decides what is done; 0 takes one at random, which is printed")
	f.DurationVar(&o.timeout, "timeout", 30*time.Minute, "give up after this `duration`")
	f.BoolVar(&o.json, "json", false, "print one JSON document instead of the table")
	bin := f.String("bin", "bin", "`directory` of csbd, csbd-sentry and runsc")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.n < 1:
		return o, fmt.Errorf("-n %d: want a positive number", o.n)
	case o.killEvery < 0:
		return o, fmt.Errorf("-kill-every %d: want a number that is not negative", o.killEvery)
	case o.timeout <= 0:
		return o, fmt.Errorf("-timeout %v: want a positive duration", o.timeout)
	}
	if o.seed == 0 {
		o.seed = rand.Uint64N(1<<32) + 1
	}
	var err error
	o.csbd, err = filepath.Abs(filepath.Join(*bin, "csbd"))
	return o, err
}
