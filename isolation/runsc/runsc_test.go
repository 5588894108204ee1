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
	"github.com/fcarli/codesandbox/policy"
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

// defaultSeccomp is what a profile that says nothing of seccomp gets.
func defaultSeccomp(t testing.TB) string {
	p, err := policy.Parse(policy.Source{Name: "P", Data: []byte("version: 1\nprofiles: {default: {}}\nrules: []\n")})
	assert.NilError(t, err)
	seccomp := p.Profile("default").Seccomp
	assert.Assert(t, seccomp != "")
	return seccomp
}

// TestConformance holds every way to get a sandbox to the same suite: from a
// snapshot, rehearsed as a pool's are, and cold; started directly and by
// runsc's command line.
func TestConformance(t *testing.T) {
	for _, way := range []struct {
		name     string
		options  func(testing.TB, string) Options
		restored bool
	}{
		{"direct restored", options, true},
		{"direct cold", options, false},
		{"stock restored", stockOptions, true},
		{"stock cold", stockOptions, false},
	} {
		t.Run(way.name, func(t *testing.T) {
			stateDir := t.TempDir()
			r := openWith(t, way.options(t, stateDir))
			assert.DeepEqual(t, r.Unenforceable(), []string(nil))
			h := isolationtest.Harness{
				Launcher:  func(_ testing.TB, c isolation.Class) isolation.Launcher { return r.Launcher(c, nil) },
				Class:     class(t),
				Leftovers: r.Leftovers,
				StateDir:  stateDir,
				Python:    samePython(t),
			}
			h.Class.Seccomp = defaultSeccomp(t)
			if way.restored {
				h.Launcher = func(_ testing.TB, c isolation.Class) isolation.Launcher { return r.RestoreLauncher(c) }
				h.Class.Warmup = rehearsal
			}
			isolationtest.Run(t, h)
		})
	}
}

// rehearsal is a warm-up that tries to leave something behind.
const rehearsal = `
import sys
sys.stdout.reconfigure(encoding="latin-1")
print(sorted([2, 1]))
print("warm", file=sys.stderr)
raise ValueError("warm")
`

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
