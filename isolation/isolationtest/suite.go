// Package isolationtest is the conformance suite that every isolation.Launcher
// passes, and a fake one for the tests of the packages that use Launchers.
//
// The suite has two halves. Contract holds a Launcher to the comments of
// package isolation with a handful of fixed programs, so that a fake passes it
// too. Programs runs real Python and demands that a program ends, prints and
// is limited as `python3 main.py` would be in the same bounds.
package isolationtest

import (
	"context"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/isolation"
)

// A Harness is what the suite has to know about the Launchers under test.
type Harness struct {
	// Launcher returns a Launcher of the class. It is called often.
	Launcher func(t testing.TB, c isolation.Class) isolation.Launcher
	// Class is the default class. Its ceiling is generous: at least that of
	// Ceiling.
	Class isolation.Class
	// Leftovers counts the directories and control groups that sandboxes have
	// at the moment. It is nil where there are none, as with a fake.
	Leftovers func() (directories, cgroups int)
	// StateDir is named by the command line of each host process and is above
	// each mount that a sandbox needs. Empty where there are none.
	StateDir string
	// Python is an interpreter on the host of the image's own version, with
	// which outcomes are compared. Empty means that there is none.
	Python string
}

// Ceiling is what a Harness's class allows at least.
var Ceiling = isolation.Limits{
	Timeout:   time.Minute,
	CPUTime:   time.Minute,
	Memory:    1 << 30,
	Disk:      64 << 20,
	Output:    64 << 20,
	Processes: 256,
	OpenFiles: 1024,
	CPUs:      2,
}

// limits of a program that says nothing about them.
func (h Harness) limits() isolation.Limits {
	return isolation.Limits{
		Timeout:   30 * time.Second,
		CPUTime:   20 * time.Second,
		Memory:    256 << 20,
		Disk:      h.Class.Ceiling.Disk,
		Output:    1 << 20,
		Processes: 64,
		OpenFiles: 256,
		CPUs:      1,
	}
}

// Run runs the whole suite.
func Run(t *testing.T, h Harness) {
	t.Run("Contract", func(t *testing.T) { Contract(t, h) })
	t.Run("Programs", func(t *testing.T) { Programs(t, h) })
}

// launch starts a sandbox that ends with the test.
func launch(t testing.TB, h Harness, c isolation.Class) isolation.Sandbox {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := h.Launcher(t, c).Launch(ctx)
	assert.NilError(t, err)
	t.Cleanup(func() { assert.Check(t, s.Close()) })
	return s
}
