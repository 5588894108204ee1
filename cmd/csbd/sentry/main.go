// Command csbd-sentry is the process of one sandbox: gVisor's own sentry, as
// `runsc boot` would run it, in a program that can do nothing else and
// therefore starts sooner.
//
//	csbd-sentry spawn              wait for orders of csbd (package spawner)
//	csbd-sentry [FLAGS] boot ...   be a sentry; the arguments are those of runsc
//	csbd-sentry restore SOCKET STATE META PAGES [FLAGS] boot ...
//	                               the same, and serve it the snapshot whose files
//	                               these descriptors are (package pageserver)
package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"gvisor.dev/gvisor/pkg/sentry/state/checkpointfiles"
	"gvisor.dev/gvisor/runsc/cli"
	"gvisor.dev/gvisor/runsc/cmd/sentry/sentrycmd"
	"gvisor.dev/gvisor/runsc/cmd/util"

	"github.com/fcarli/codesandbox/isolation/runsc/pageserver"
	"github.com/fcarli/codesandbox/isolation/runsc/spawner"
)

func main() {
	if len(os.Args) < 2 {
		fail(errors.New("this program is started by csbd"))
	}
	if os.Args[1] == "spawn" {
		if len(os.Args) != 3 {
			fail(errors.New("spawn takes one argument"))
		}
		if err := spawner.Serve(os.Args[2]); err != nil {
			fail(err)
		}
		return
	}
	heap := prepareHeap()
	if os.Args[1] == "restore" {
		loaded := func() { time.AfterFunc(started, heap.tidy) }
		if err := serveSnapshot(os.Args[2:], loaded); err != nil {
			fail(err)
		}
		os.Args = append(os.Args[:1], os.Args[6:]...)
	}
	cli.Run(nil, map[util.SubCommand]string{new(sentrycmd.Boot): ""}, nil)
}

// serveSnapshot starts to serve the snapshot, and calls done when it was read.
func serveSnapshot(args []string, done func()) error {
	names := []string{"", checkpointfiles.StateFileName, checkpointfiles.PagesMetadataFileName, checkpointfiles.PagesFileName}
	if len(args) < len(names) {
		return fmt.Errorf("restore needs %d descriptors", len(names))
	}
	files := map[string]*os.File{}
	for i, name := range names {
		fd, err := strconv.Atoi(args[i])
		if err != nil {
			return fmt.Errorf("descriptor %q: %w", args[i], err)
		}
		files[name] = os.NewFile(uintptr(fd), name)
	}
	socket := files[""]
	delete(files, "")
	return pageserver.Serve(socket, files, done)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "csbd-sentry:", err)
	os.Exit(128)
}
