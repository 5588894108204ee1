package server_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// A program of the corpus and what has to come of it.
type program struct {
	ID     string
	Code   string
	Expect struct {
		ExitCode       int    `json:"exit_code"`
		StdoutContains string `json:"stdout_contains"`
		StderrContains string `json:"stderr_contains"`
		MustNotContain string `json:"must_not_contain"`
	}
}

// corpus is beside the source tree.
func corpus(t *testing.T) []program {
	t.Helper()
	file := filepath.Join(filepath.Dir(imagetest.Root()), "shared", "corpora", "humaneval.jsonl")
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) && os.Getenv("CI") != "true" {
		t.Skipf("the corpus is not on this machine: there is no %s", file)
	}
	assert.NilError(t, err)
	defer f.Close()
	var programs []program
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var p program
		assert.NilError(t, json.Unmarshal(lines.Bytes(), &p))
		programs = append(programs, p)
	}
	assert.NilError(t, lines.Err())
	assert.Equal(t, len(programs), 328)
	return programs
}

// TestHumanEval runs the whole corpus through the socket.
func TestHumanEval(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: 328 cold sandboxes take about two minutes")
	}
	servertest.NeedRoot(t)
	programs := corpus(t)
	// Two programs need some seconds of processor time, and other tests run.
	d := servertest.Start(t, servertest.Options{Policy: `version: 1
profiles: {default: {timeout: 60s, cpu_time: 60s}}
rules: [{user: 0, profile: default}]
`})
	work := make(chan program)
	var workers sync.WaitGroup
	for range 3 {
		c := d.Dial(t)
		workers.Go(func() {
			for p := range work {
				if err := meets(c, p); err != nil {
					t.Errorf("%s: %v", p.ID, err)
				}
			}
		})
	}
	for _, p := range programs {
		work <- p
	}
	close(work)
	workers.Wait()
	lines := d.Lines(t, "executed")
	assert.Equal(t, len(lines), len(programs), "one line for each execution")
}

// meets runs the program and says what is wrong with its result.
func meets(c *servertest.Conn, p program) error {
	a, err := c.Try("execute", map[string]any{"code": p.Code})
	if err != nil {
		return err
	}
	var r servertest.Result
	if a.Error != nil {
		return fmt.Errorf("%s", a.Line)
	}
	if err := json.Unmarshal(a.Result, &r); err != nil {
		return err
	}
	e := p.Expect
	switch {
	case r.ExitCode != e.ExitCode:
		return fmt.Errorf("exit code %d, want %d: %s", r.ExitCode, e.ExitCode, a.Line)
	case !strings.Contains(r.Stdout, e.StdoutContains):
		return fmt.Errorf("stdout lacks %q: %s", e.StdoutContains, a.Line)
	case !strings.Contains(r.Stderr, e.StderrContains):
		return fmt.Errorf("stderr lacks %q: %s", e.StderrContains, a.Line)
	case e.MustNotContain != "" && strings.Contains(r.Stdout+r.Stderr, e.MustNotContain):
		return fmt.Errorf("output holds %q: %s", e.MustNotContain, a.Line)
	}
	return nil
}
