package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"

	"github.com/fcarli/codesandbox/isolation/runsc"
	"github.com/fcarli/codesandbox/isolation/runsc/spawner"
	"github.com/fcarli/codesandbox/policy"
	"github.com/fcarli/codesandbox/rpc"
	"github.com/fcarli/codesandbox/rpc/server"
)

// errUnwell says that a check failed; the report is printed already.
var errUnwell = fmt.Errorf("not everything is well")

// doctor is `csbd doctor`: what csbd needs of the host, and then the checks of
// the self-test, in a state directory of its own.
func doctor(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && !slices.Equal(args, []string{"--json"}) {
		return usageError(fmt.Sprintf("doctor takes --json and nothing else, not %q", args))
	}
	c, err := readConfig()
	if err != nil {
		return err
	}
	report := rpc.Doctor{OK: true}
	examine(ctx, c, &report, slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelError})))
	if len(args) == 1 {
		err = json.NewEncoder(stdout).Encode(report)
	} else {
		_, err = fmt.Fprint(stdout, report)
	}
	if err == nil && !report.OK {
		return errUnwell
	}
	return err
}

// namespacesFix is for hosts where no setting that we know of is in the way.
const namespacesFix = "change the setting that the cause names; in a container, have its seccomp profile allow clone and unshare with user namespaces, and mount"

// examine stops at the first thing without which the next cannot be looked at.
func examine(ctx context.Context, c config, report *rpc.Doctor, log *slog.Logger) {
	check := func(name, proves, cause, fix string) bool {
		d := rpc.DoctorCheck{Name: name, Proves: proves, Status: rpc.CheckOK}
		if cause != "" {
			d.Status, d.Cause, d.Fix, report.OK = rpc.CheckFailed, cause, fix, false
		}
		report.Checks = append(report.Checks, d)
		return cause == ""
	}
	current, err := c.loadPolicy()
	if !check("policy", "the policy file can be read and is right", text(err), "correct the file, or name another with CSBD_POLICY; `csbd check FILE` says whether one is right") {
		return
	}
	self, err := os.Executable()
	if err == nil {
		err = spawner.TryNamespaces(self, "version")
	}
	if !check("namespaces", "sandboxes can have namespaces of their own", text(err), namespacesFix) {
		return
	}
	dir, err := os.MkdirTemp("", "csbd-doctor")
	if !check("directory", "there is room for a state directory", text(err), "make the directory for temporary files writable, or set TMPDIR") {
		return
	}
	defer os.RemoveAll(dir)
	r, err := runsc.Open(ctx, runsc.Options{Binary: c.binary(), Direct: c.Launcher == direct, Platform: string(c.Platform), StateDir: dir, Cgroup: c.Cgroup, Log: log})
	if !check("runtime", "csbd-sentry (or runsc) runs, and control groups can be made", text(err), "install csbd-sentry beside csbd or name it with CSBD_SENTRY; give csbd a cgroup (Delegate=yes, or CSBD_CGROUP)") {
		return
	}
	defer func() {
		if err := r.Close(); err != nil {
			log.Error("close runtime", "error", err)
		}
	}()
	cause := ""
	if built := runsc.BuiltFor(); built != "" && built != r.Version() {
		cause = fmt.Sprintf("it is %s, csbd was built for %s", r.Version(), built)
	}
	check("version", "csbd-sentry (or runsc) is of the version that csbd was built for", cause, "install both from the same release")
	if !check("cgroups", "the host can enforce every limit that the policy wants enforced", text(enforceable(r, current)), "see the cause") {
		return
	}
	store := c.images()
	source := newSource(c, r, store, log)
	defer source.Close()
	source.keep(&policy.Policy{}) // nothing is kept ready
	srv := server.New(server.Config{Sandboxes: source, Images: store, Policy: current, Version: versionInfo(r.Version()),
		Driver: "runsc", Executions: int(c.Executions), Unenforced: r.Unenforceable(), Log: log})
	found, err := srv.Prove(ctx, true)
	report.Checks = append(report.Checks, found.Checks...)
	report.Duration = found.Duration
	report.OK = report.OK && found.OK && err == nil
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
