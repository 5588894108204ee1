package isolationtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/fcarli/codesandbox/isolation"
)

// atOnce is how many rows run at the same time. A cold sandbox costs half a
// second of processor time.
const atOnce = 3

// A row is one program and how it has to end.
type row struct {
	name string
	// code of main.py. If it begins with a line break, the tabs that all its
	// lines share are taken away, and the line break.
	code  string
	args  []string
	stdin string
	env   map[string]string
	files []isolation.File
	// limits and class change the defaults.
	limits func(*isolation.Limits)
	class  func(*isolation.Class)

	status         isolation.Status // empty means ok
	exit, signal   int
	stdout, stderr match // nil means nothing
	raises         *raises
	// setup is part of the SetupError that Run returns instead of a result.
	setup string
	// within is the longest that Run may take.
	within time.Duration
	check  func(t *testing.T, got outcome)

	// same has the Harness's own Python run the program too, which must print
	// the same and leave with the same status. Not for programs that harm.
	same bool
}

// raises is the exception that a row expects.
type raises struct {
	kind, message string
	line          int
}

// anyLine is for exceptions that come where memory no longer suffices to note
// the line.
const anyLine = -1

// An outcome is what came of a row.
type outcome struct {
	res            isolation.Result
	stdout, stderr string
}

// Programs runs real Python programs.
func Programs(t *testing.T, h Harness) {
	noLeaks(t, h)
	t.Setenv("CSB_CANARY", "host environment")
	hostFile := filepath.Join(t.TempDir(), "canary")
	assert.NilError(t, os.WriteFile(hostFile, []byte("host file"), 0o644))

	var all []row
	for _, group := range [][]row{endings, exceptions, processes, timeLimits, memoryLimits, countLimits,
		diskLimits, outputs, forgeries, inputs, files, sources, mainModule, library, exits, inside(hostFile)} {
		all = append(all, group...)
	}
	rows := make(chan row)
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for r := range rows {
				t.Run(r.name, func(t *testing.T) { r.run(t, h) })
			}
		})
	}
	for _, r := range all {
		rows <- r
	}
	close(rows)
	wg.Wait()
	t.Run("output: a slow reader", func(t *testing.T) { slowReader(t, h) })
}

func (r row) run(t *testing.T, h Harness) {
	r.code = dedent(r.code)
	class := h.Class
	if r.class != nil {
		r.class(&class)
	}
	spec := isolation.Spec{
		ID: "row", Code: []byte(r.code), Args: r.args, Stdin: []byte(r.stdin),
		Environment: r.env, Files: r.files, Limits: h.limits(),
	}
	spec.Limits.Disk = class.Ceiling.Disk
	if r.limits != nil {
		r.limits(&spec.Limits)
	}
	if r.status == "" {
		r.status = isolation.StatusOK
	}

	s := launch(t, h, class)
	var stdout, stderr head
	start := time.Now()
	res, err := s.Run(context.Background(), spec, isolation.Output{Stdout: &stdout, Stderr: &stderr})
	took := time.Since(start)
	got := outcome{res, stdout.String(), stderr.String()}
	defer func() {
		if t.Failed() {
			t.Logf("error %v, result %+v, exception %+v\nstdout: %s\nstderr: %s", err, res, res.Exception, shorten(got.stdout), shorten(got.stderr))
		}
	}()
	if r.setup != "" {
		var setup *isolation.SetupError
		assert.Assert(t, errors.As(err, &setup), "%v", err)
		assert.Assert(t, cmp.Contains(setup.Reason, r.setup))
		return
	}
	assert.NilError(t, err)
	assert.Check(t, cmp.Equal(res.Status, r.status))
	assert.Check(t, cmp.Equal(res.ExitCode, r.exit))
	assert.Check(t, cmp.Equal(res.Signal, r.signal))
	assert.Check(t, r.stdout.matches(got.stdout), "stdout")
	assert.Check(t, r.stderr.matches(got.stderr), "stderr")
	r.checkException(t, res.Exception)
	if r.within > 0 {
		assert.Check(t, took <= r.within, "took %v", took)
	}
	if r.check != nil {
		r.check(t, got)
	}
	if r.same && h.Python != "" {
		compare(t, h.Python, r, got)
	}
}

func (r row) checkException(t *testing.T, x *isolation.Exception) {
	if r.raises == nil {
		assert.Check(t, x == nil, "raised %+v", x)
		return
	}
	if !assert.Check(t, x != nil, "no exception") {
		return
	}
	assert.Check(t, cmp.Equal(x.Type, r.raises.kind))
	assert.Check(t, cmp.Contains(x.Message, r.raises.message))
	if r.raises.line != anyLine {
		assert.Check(t, cmp.Equal(x.Line, r.raises.line))
	}
}

// A match says why output is not what it should be, or "".
type match func(got string) string

func (m match) matches(got string) cmp.Comparison {
	if m == nil {
		m = is("")
	}
	return func() cmp.Result {
		if why := m(got); why != "" {
			return cmp.ResultFailure(why)
		}
		return cmp.ResultSuccess
	}
}

// is wants exactly this output.
func is(want string) match {
	return func(got string) string {
		if got == want {
			return ""
		}
		return fmt.Sprintf("got %q, want %q", shorten(got), shorten(want))
	}
}

// lines wants exactly these lines.
func lines(want ...string) match { return is(strings.Join(want, "\n") + "\n") }

// has wants each of these somewhere.
func has(parts ...string) match {
	return func(got string) string {
		for _, p := range parts {
			if !strings.Contains(got, p) {
				return fmt.Sprintf("got %q, want it to contain %q", shorten(got), p)
			}
		}
		return ""
	}
}

// anything is left to the row's check.
func anything(string) string { return "" }

func shorten(s string) string {
	if len(s) > 3000 {
		return fmt.Sprintf("%s [… %d bytes …] %s", s[:1500], len(s)-3000, s[len(s)-1500:])
	}
	return s
}

func dedent(code string) string {
	code, indented := strings.CutPrefix(code, "\n")
	if !indented {
		return code
	}
	all := strings.Split(strings.TrimRight(code, "\t"), "\n")
	shared := len(all[0]) - len(strings.TrimLeft(all[0], "\t"))
	for i, line := range all {
		all[i] = strings.TrimPrefix(line, strings.Repeat("\t", min(shared, len(line)-len(strings.TrimLeft(line, "\t")))))
	}
	return strings.Join(all, "\n")
}

func mebibytes(n int64) int64 { return n << 20 }

func text(path, content string) isolation.File {
	return isolation.File{Path: path, Content: []byte(content)}
}

// A head keeps the beginning of what is written to it, enough for any row.
type head struct{ bytes.Buffer }

func (h *head) Write(p []byte) (int, error) {
	_, _ = h.Buffer.Write(p[:min(len(p), max(0, 16<<20-h.Len()))])
	return len(p), nil
}
