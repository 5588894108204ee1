package runsc

import (
	"log/slog"
	"os/exec"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/isolation/isolationtest"
)

// open opens a Runtime on a state directory of its own.
func open(t testing.TB, stateDir string) *Runtime {
	t.Helper()
	return openWith(t, options(t, stateDir))
}

func openWith(t testing.TB, o Options) *Runtime {
	t.Helper()
	r, err := Open(t.Context(), o)
	assert.NilError(t, err)
	t.Cleanup(func() { assert.Check(t, r.Close()) })
	return r
}

func options(t testing.TB, stateDir string) Options {
	return Options{Binary: imagetest.Sentry(t), Direct: true, StateDir: stateDir, Log: slog.New(slog.DiscardHandler)}
}

func stockOptions(t testing.TB, stateDir string) Options {
	return Options{Binary: imagetest.Runsc(t), StateDir: stateDir, Log: slog.New(slog.DiscardHandler)}
}

func class(t testing.TB) isolation.Class {
	image := imagetest.Python(t)
	return isolation.Class{Image: image.Path, Digest: image.Digest, Ceiling: isolationtest.Ceiling}
}

func TestConformance(t *testing.T) {
	stateDir := t.TempDir()
	r := open(t, stateDir)
	assert.DeepEqual(t, r.Unenforceable(), []string(nil))
	isolationtest.Run(t, isolationtest.Harness{
		Launcher:  func(_ testing.TB, c isolation.Class) isolation.Launcher { return r.Launcher(c, nil) },
		Class:     class(t),
		Leftovers: r.Leftovers,
		StateDir:  stateDir,
		Python:    samePython(t),
	})
}

// samePython is the host's Python if it has the version of the image's.
func samePython(t testing.TB) string {
	const python = "/usr/bin/python3"
	said, err := exec.Command(python, "--version").Output()
	if want := "Python " + imagetest.Python(t).Python; err != nil || strings.TrimSpace(string(said)) != want {
		t.Logf("outcomes are not compared: %s is not %s", python, want)
		return ""
	}
	return python
}
