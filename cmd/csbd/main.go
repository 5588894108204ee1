// Csbd is the daemon of CodeSandbox: it runs Python programs for local callers,
// each in a gVisor sandbox of its own. `csbd --help` says how to configure it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/fcarli/codesandbox/policy"
)

// Set by the linker; see the Makefile.
var (
	version = "devel"
	commit  = ""
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	command := "serve"
	if len(args) > 0 {
		command, args = args[0], args[1:]
	}
	var err error
	switch command {
	case "serve":
		if err = none(args); err == nil {
			err = serve(ctx, stderr)
		}
	case "check":
		err = check(args, stdout)
	case "reload":
		err = reloadCommand(ctx, args, stdout)
	case "doctor":
		err = doctor(ctx, args, stdout, stderr)
	case "image":
		err = image(ctx, args, stdout, stderr)
	case "version", "--version":
		if err = none(args); err == nil {
			err = printVersion(ctx, stdout)
		}
	case "help", "--help", "-h":
		err = help(stdout)
	default:
		err = usageError(fmt.Sprintf("unknown command %q", command))
	}
	var usage usageError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "csbd: %v\nTry `csbd --help`.\n", err)
		return exitUsage
	case err != nil:
		fmt.Fprintf(stderr, "csbd: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// A usageError is the caller's mistake on the command line.
type usageError string

func (e usageError) Error() string { return string(e) }

func none(args []string) error {
	if len(args) > 0 {
		return usageError(fmt.Sprintf("unexpected argument %q", args[0]))
	}
	return nil
}

// check is `csbd check FILE`.
func check(args []string, stdout io.Writer) error {
	if len(args) != 1 {
		return usageError("check wants one policy file")
	}
	p, err := policy.Load(args[0])
	if err != nil {
		return err
	}
	for _, w := range p.Warnings {
		fmt.Fprintf(stdout, "warning: %s\n", w)
	}
	fmt.Fprintf(stdout, "%s: ok\n", args[0])
	return nil
}
