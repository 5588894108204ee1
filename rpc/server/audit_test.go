package server_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/rpc"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// Under concurrent load every execution and every refusal has one line, which
// has nothing of the program.
func TestAudit(t *testing.T) {
	t.Parallel()
	file := filepath.Join(servertest.Dir(t), "audit")
	d := servertest.Start(t, servertest.Options{Env: []string{"CSBD_AUDIT=" + file}})
	const canary = "fb6f0c2cCANARY"
	var all sync.WaitGroup
	var mu sync.Mutex
	ids := map[string]bool{}
	for range 3 {
		c := d.Dial(t)
		all.Go(func() {
			for range 3 {
				a, err := c.Try("execute", map[string]any{"code": "print('" + canary + "')", "args": []string{canary}, "stdin": canary})
				var r servertest.Result
				if assert.Check(t, err) && assert.Check(t, json.Unmarshal(a.Result, &r)) {
					mu.Lock()
					ids[r.ID] = true
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	c := d.Dial(t)
	c.Call("execute", map[string]any{"code": canary, "limits": map[string]any{"memory": "64GiB"}}).Failed(t, "denied")
	c.Call("execute", map[string]any{canary: 1}).Failed(t, "invalid_params")
	c.Send(canary)
	c.Receive().Failed(t, "parse_error")
	d.Stop(t)
	data, err := os.ReadFile(file)
	assert.NilError(t, err)
	assert.Check(t, !strings.Contains(string(data), "CANARY"))
	kinds := map[string]int{}
	for line := range strings.Lines(string(data)) {
		var l struct {
			Event, Kind, ID, SHA256, Executable, Status string
			PID                                         int
		}
		assert.NilError(t, json.Unmarshal([]byte(line), &l))
		kinds[l.Event+l.Kind]++
		assert.Check(t, l.PID == os.Getpid() && l.Executable != "", "%s", line)
		if l.Event == "execution" {
			assert.Check(t, ids[l.ID] && len(l.SHA256) == 64 && l.Status == "ok", "%s", line)
			delete(ids, l.ID)
		}
	}
	assert.DeepEqual(t, kinds, map[string]int{"execution": 9, "refusaldenied": 1, "refusalinvalid_params": 1, "refusalparse_error": 1})
	assert.Check(t, len(ids) == 0, "without a line: %v", ids)
}

// An auditLine is what tests look at of one.
type auditLine struct {
	Event, Kind, ID, Executable, Status string
	PID                                 int
}

// auditLines reads whole lines of JSON, and nothing else.
func auditLines(t *testing.T, file string) (lines []auditLine) {
	t.Helper()
	data, err := os.ReadFile(file)
	assert.NilError(t, err)
	for text := range strings.Lines(string(data)) {
		var line auditLine
		assert.NilError(t, json.Unmarshal([]byte(text), &line), "%q", text)
		assert.Check(t, strings.HasSuffix(text, "\n"), "%q", text)
		lines = append(lines, line)
	}
	return lines
}

var tooMuch = map[string]any{"code": "print(1)", "limits": map[string]any{"memory": "64GiB"}}

// TestAuditOfTheDead: a caller that has died before csbd looks is not named by
// what has its number.
func TestAuditOfTheDead(t *testing.T) {
	t.Parallel()
	file := filepath.Join(servertest.Dir(t), "audit")
	d := servertest.Start(t, servertest.Options{NoImages: true, Env: []string{"CSBD_AUDIT=" + file}})
	request := filepath.Join(d.Dir, "request")
	assert.NilError(t, os.WriteFile(request, []byte(servertest.Request(1, "execute", tooMuch)+"\n"), 0o600))
	d.Signal(t, syscall.SIGSTOP)
	caller := exec.Command("socat", "-u", "OPEN:"+request, "UNIX-CONNECT:"+d.Socket)
	out, err := caller.CombinedOutput()
	d.Signal(t, syscall.SIGCONT)
	assert.NilError(t, err, "%s", out)
	d.Dial(t).Call("execute", tooMuch).Failed(t, "denied")
	d.Eventually(t, "two lines", func() bool { return len(auditLines(t, file)) == 2 })
	for _, line := range auditLines(t, file) {
		switch line.PID {
		case caller.Process.Pid:
			assert.Equal(t, line.Executable, "")
		case os.Getpid():
			assert.Check(t, line.Executable != "")
		default:
			t.Errorf("%+v", line)
		}
	}
}

// TestAuditKilled: a kill -9 loses at most what waited for the writer, and
// leaves whole lines, which the next csbd goes on from.
func TestAuditKilled(t *testing.T) {
	t.Parallel()
	file := filepath.Join(servertest.Dir(t), "audit")
	o := servertest.Options{NoImages: true, Env: []string{"CSBD_AUDIT=" + file}}
	const kills = 3
	answered := 0
	for range kills {
		d := servertest.Start(t, o)
		o.Dir = d.Dir
		c := d.Dial(t)
		var mu sync.Mutex
		enough := make(chan struct{})
		go func() {
			defer close(enough)
			for {
				if _, err := c.Try("execute", tooMuch); err != nil {
					return
				}
				mu.Lock()
				answered++
				mu.Unlock()
			}
		}()
		time.Sleep(300 * time.Millisecond)
		d.Kill(t)
		<-enough
	}
	lines := auditLines(t, file)
	t.Logf("%d answered, %d lines", answered, len(lines))
	assert.Check(t, answered > 100*kills && len(lines) <= answered+kills && len(lines) > answered-kills*4096)
	d := servertest.Start(t, o)
	d.Dial(t).Call("execute", tooMuch).Failed(t, "denied")
	d.Stop(t)
	assert.Equal(t, len(auditLines(t, file)), len(lines)+1)
}

// TestAuditFullDisk: executions go on without their lines, which are counted,
// and lines are written again when there is room.
func TestAuditFullDisk(t *testing.T) {
	t.Parallel()
	servertest.NeedRoot(t)
	dir := servertest.Dir(t)
	assert.NilError(t, unix.Mount("csbd-test", dir, "tmpfs", 0, "mode=700,size=64k"))
	t.Cleanup(func() { assert.Check(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	file := filepath.Join(dir, "audit")
	d := servertest.Start(t, servertest.Options{Env: []string{"CSBD_AUDIT=" + file}})
	c := d.Dial(t)
	run := func(n int) {
		for i := range n {
			assert.Equal(t, c.Run(fmt.Sprintf("print(%d)", i)).Stdout, fmt.Sprintln(i))
		}
	}
	counts := func(written, lost int64) {
		t.Helper()
		d.Eventually(t, fmt.Sprintf("%d lines written and %d lost", written, lost), func() bool {
			var s rpc.Status
			c.Call("status", nil).Decode(t, &s)
			return s.Audit.Written == written && s.Audit.Lost == lost
		})
		assert.Equal(t, int64(len(auditLines(t, file))), written)
	}
	run(2)
	counts(2, 0)
	filler := filepath.Join(dir, "filler")
	assert.ErrorIs(t, os.WriteFile(filler, make([]byte, 1<<20), 0o600), syscall.ENOSPC)
	// The page that the file has begun still has room for a line or two.
	var fit int64
	for fit = 0; ; fit++ {
		run(1)
		var s rpc.Status
		d.Eventually(t, "the line to be written or lost", func() bool {
			c.Call("status", nil).Decode(t, &s)
			return s.Audit.Written+s.Audit.Lost == 3+fit
		})
		if s.Audit.Lost == 1 {
			break
		}
		assert.Assert(t, fit < 10, "the disk does not get full")
	}
	run(4)
	counts(2+fit, 5)
	lines := d.Lines(t, "audit lines lost")
	assert.Check(t, len(lines) == 1 && strings.Contains(lines[0]["error"].(string), "no space left on device"), "%v", lines)
	assert.NilError(t, os.Remove(filler))
	run(3)
	counts(5+fit, 5)
	assert.Equal(t, len(d.Lines(t, "audit lines are written again")), 1)
}
