// Csbctl is the client of csbd: it sends a Python program and prints the result
// as JSON. `csbctl --help` says more.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/fcarli/codesandbox/rpc"
)

// Exit statuses. A program's own is passed on.
const (
	exitOK     = 0
	exitUsage  = 2
	exitFailed = 125 // csbd or csbctl failed, as docker run says it
	// 128+SIGINT, as shells say it.
	exitInterrupted = 130
)

const usage = `csbctl runs Python in a sandbox, by way of csbd, and prints the result as JSON.

  csbctl [FLAGS] [FILE [ARG...]]      run a file ("-" is stdin)
  csbctl [FLAGS] -c CODE [ARG...]     run CODE
  PYTHON_CODE=CODE csbctl [FLAGS]     run CODE
  csbctl [FLAGS] < FILE               run what comes on stdin
  csbctl status                       what csbd is doing, and whether it is ready
  csbctl top                          the same, live
  csbctl images                       the images that I may use
  csbctl policy show                  what I may do
  csbctl policy check FILE            whether a policy file is right
  csbctl doctor                       whether isolation works; how to mend it
  csbctl version                      what csbctl and csbd are

When the code does not come from stdin, stdin is the program's stdin. The exit
status is the program's: 124 after a timeout, 137 when killed for memory; 125
when csbd or csbctl failed, 2 when csbctl was called wrongly. The other commands
print for people, and JSON with --json; their exit status is 1 when the answer
is no. "csbctl COMMAND --help" lists their flags.

`

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv))
}

// options are the flags of every verb.
type options struct {
	socket string
	json   bool
	raw    bool
	code   *string
	rpc.ExecuteParams
}

type streams struct {
	in       *os.File
	out, err io.Writer
}

func run(ctx context.Context, args []string, stdin *os.File, stdout, stderr io.Writer, getenv func(string) string) int {
	o := options{}
	flags := o.flags()
	flags.SetOutput(io.Discard)
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return exitOK
	}
	if err == nil {
		if o.socket == "" {
			o.socket = getenv("CSBD_SOCKET")
		}
		if o.socket == "" {
			o.socket = defaultSocket(systemSocket, ownSocket(getenv))
		}
		var code int
		if code, err = o.dispatch(ctx, flags.Args(), streams{stdin, stdout, stderr}, getenv); err == nil {
			return code
		}
	} else {
		err = usageError(err.Error())
	}
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(stderr, "csbctl: interrupted; the execution is cancelled")
		return exitInterrupted
	}
	var help *helpRequest
	if errors.As(err, &help) {
		help.print(stdout)
		return exitOK
	}
	var wrong usageError
	if errors.As(err, &wrong) {
		fmt.Fprintf(stderr, "csbctl: %v\nTry `csbctl --help`.\n", err)
		return exitUsage
	}
	fmt.Fprintf(stderr, "csbctl: %v\n", err)
	if h := hint(ctx, o.socket, err); h != "" {
		fmt.Fprintf(stderr, "hint: %s\n", h)
	}
	return exitFailed
}

// A usageError is a mistake on the command line.
type usageError string

func (e usageError) Error() string { return string(e) }

func (o *options) dispatch(ctx context.Context, args []string, s streams, getenv func(string) string) (int, error) {
	verb := ""
	if len(args) > 0 && o.code == nil {
		verb = args[0]
	}
	switch verb {
	case "status":
		return o.status(ctx, args[1:], s)
	case "top":
		return o.top(ctx, args[1:], s, getenv)
	case "images":
		return o.images(ctx, args[1:], s)
	case "policy":
		return o.policy(ctx, args[1:], s)
	case "doctor":
		return o.doctor(ctx, args[1:], s)
	case "version":
		return o.version(ctx, args[1:], s)
	}
	if o.raw && o.json {
		return 0, usageError("--raw and --json exclude each other")
	}
	return o.execute(ctx, args, s, getenv)
}

func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("csbctl", flag.ContinueOnError)
	f.StringVar(&o.socket, "socket", "", "`path` of csbd's socket (default $CSBD_SOCKET, then /run/csbd/csbd.sock, then your own csbd's)")
	f.BoolVar(&o.json, "json", false, "print JSON, which results are anyway")
	f.BoolVar(&o.raw, "raw", false, "copy the program's stdout and stderr instead of printing JSON")
	f.Func("c", "Python `code` to run", func(s string) error {
		o.code = &s
		return nil
	})
	f.StringVar(&o.Image, "image", "", "`name` of the image to run in")
	l := &rpc.LimitParams{}
	quantity := func(into **rpc.Quantity) func(string) error {
		return func(s string) error {
			q := rpc.Quantity(s)
			*into, o.Limits = &q, l
			return nil
		}
	}
	count := func(into **int) func(string) error {
		return func(s string) error {
			n := 0
			if _, err := fmt.Sscanf(s+"\n", "%d\n", &n); err != nil {
				return errors.New("want a whole number")
			}
			*into, o.Limits = &n, l
			return nil
		}
	}
	f.Func("timeout", "wall-clock `time` the program may take, as 2s", quantity(&l.Timeout))
	f.Func("cpu-time", "processor `time` it may use", quantity(&l.CPUTime))
	f.Func("memory", "memory it may use, a `size` as 64MiB", quantity(&l.Memory))
	f.Func("disk", "`size` of its files", quantity(&l.Disk))
	f.Func("output", "`size` to which stdout and stderr are kept, each", quantity(&l.Output))
	f.Func("processes", "`number` of its processes and threads", count(&l.Processes))
	f.Func("open-files", "`number` of its open files", count(&l.OpenFiles))
	f.Func("env", "set an environment variable, `NAME=VALUE`; may be repeated", func(s string) error {
		name, value, ok := strings.Cut(s, "=")
		if !ok {
			return errors.New("want NAME=VALUE")
		}
		if o.Environment == nil {
			o.Environment = map[string]string{}
		}
		o.Environment[name] = value
		return nil
	})
	f.Func("file", "place a file in the working directory, `PATH[=LOCAL]`; may be repeated", o.addFile)
	return f
}
