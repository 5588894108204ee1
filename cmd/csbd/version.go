package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/fcarli/codesandbox/isolation/runsc"
	"github.com/fcarli/codesandbox/rpc"
)

// printVersion is `csbd version`: what csbd is, the gVisor that it was built
// with, and the one that it would start here. Anybody may ask, and no
// environment is too wrong for it.
func printVersion(ctx context.Context, stdout io.Writer) error {
	v := versionInfo(runsc.BuiltFor())
	if v.Commit == "" {
		v.Commit = "unknown"
	}
	c, err := readConfig()
	if err != nil {
		c = config{Launcher: direct, Sentry: os.Getenv("CSBD_SENTRY")}
	}
	binary := c.binary()
	there, err := runsc.BinaryVersion(ctx, binary)
	why := binary
	if err != nil {
		there, why = "unknown", err.Error()
	}
	_, err = fmt.Fprintf(stdout, "csbd %s\ncommit %s\nrunsc %s\nprotocol %d\n%s\n%s %s (%s)\n",
		v.Version, v.Commit, v.Runtime, v.Protocol, v.Go, filepath.Base(binary), there, why)
	return err
}

func versionInfo(runtimeVersion string) rpc.Version {
	v := rpc.Built(version, commit)
	v.Runtime = runtimeVersion
	return v
}
