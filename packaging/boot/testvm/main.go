// Testvm shows that csbd's packages work on Debian 12 with control groups of
// version 2: it boots one in QEMU, without KVM, installs them with apt, uses them,
// and reboots.
//
//	testvm
//
// It is started at the top of the source tree, as root, by `make test-vm`, after
// `make packages`. The table of what it saw goes to stdout, what it is doing to
// stderr. The exit status is 1 if anything is not as it should be.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/fcarli/codesandbox/packaging/boot"
)

// timeout is generous: emulated processors are slow.
const timeout = 20 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	failed, err := run(ctx, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintf(os.Stderr, "testvm: %v\n", err)
	}
	if err != nil || failed > 0 {
		os.Exit(1)
	}
}

func run(ctx context.Context, stdout, stderr io.Writer) (failed int, err error) {
	var files []string
	for _, name := range []string{"csbd_*.deb", "csbd-image-python_*.deb"} {
		found, err := filepath.Glob(filepath.Join("dist", name))
		if err != nil || len(found) != 1 {
			return 0, fmt.Errorf("dist/%s: want one, got %q: run `make packages` first", name, found)
		}
		files = append(files, found...)
	}
	begin := time.Now()
	fmt.Fprintln(stderr, "== booting Debian 12 in QEMU, without KVM (the first time its disk is made, which takes two minutes)")
	vm, err := boot.StartVM(ctx, filepath.Join("run", "boot"), files)
	if err != nil {
		return 0, err
	}
	defer vm.Stop()
	fmt.Fprintf(stderr, "== up after %v\n", time.Since(begin).Round(time.Second))

	m := &machine{vm: vm, ctx: ctx}
	table := tabwriter.NewWriter(stdout, 2, 8, 2, ' ', 0)
	for _, c := range checks {
		before := time.Now()
		seen, err := c.look(m)
		took := time.Since(before).Round(100 * time.Millisecond)
		verdict := "ok"
		if err != nil {
			failed++
			verdict = "FAILED"
			seen = fmt.Sprintf("%s (%v)", seen, err)
		}
		fmt.Fprintf(stderr, "%-6s %s (%v): %s\n", verdict, c.name, took, seen)
		fmt.Fprintf(table, "%s\t%s\t%v\t%s\n", verdict, c.name, took, oneLine(seen))
		if err != nil && c.needed || ctx.Err() != nil {
			break
		}
	}
	if failed > 0 {
		fmt.Fprintf(stderr, "== console\n%s", ending(vm.Console()))
	}
	if err := table.Flush(); err != nil {
		return failed, err
	}
	fmt.Fprintf(stdout, "%d failed, %v\n", failed, time.Since(begin).Round(time.Second))
	return failed, ctx.Err()
}

// ending is the last lines of a console, to which the journal goes as well,
// without those parts of them that nobody reads.
func ending(console string) string {
	lines := strings.Split(strings.TrimSpace(console), "\n")
	var b strings.Builder
	for _, line := range lines[max(0, len(lines)-100):] {
		fmt.Fprintf(&b, "%.400s\n", strings.TrimSpace(line))
	}
	return b.String()
}
