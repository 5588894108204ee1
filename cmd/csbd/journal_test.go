package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/rpc"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// A journald is systemd's, with a /run of its own, in which it finds its sockets
// and keeps its journal.
type journald struct {
	cmd *exec.Cmd
}

func startJournald(t *testing.T) *journald {
	t.Helper()
	servertest.NeedRoot(t)
	j := &journald{exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", `
mount -t tmpfs -o mode=755 csbd-test /run && mkdir -p /run/systemd/journal /run/log/journal &&
mount -t tmpfs -o mode=755 csbd-test /var/log && exec /lib/systemd/systemd-journald`)}
	j.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	assert.NilError(t, j.cmd.Start())
	t.Cleanup(j.end)
	socket := fmt.Sprintf("/proc/%d/root/run/systemd/journal/socket", j.cmd.Process.Pid)
	for range 1000 {
		if _, err := os.Lstat(socket); err == nil {
			return j
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("journald does not make its socket")
	return nil
}

func (j *journald) end() {
	_ = j.cmd.Process.Kill()
	_ = j.cmd.Wait()
}

// within is a command in journald's mount namespace.
func (j *journald) within(command ...string) []string {
	return append([]string{"nsenter", "--mount", "--target", strconv.Itoa(j.cmd.Process.Pid)}, command...)
}

// read asks journalctl.
func (j *journald) read(t *testing.T, match ...string) (lines []map[string]any) {
	t.Helper()
	command := j.within(append([]string{"journalctl", "--no-pager", "--output=json", "--all"}, match...)...)
	out, err := exec.Command(command[0], command[1:]...).Output()
	assert.NilError(t, err, "%s", out)
	for text := range strings.Lines(string(out)) {
		var line map[string]any
		assert.NilError(t, json.Unmarshal([]byte(text), &line), "%s", text)
		lines = append(lines, line)
	}
	return lines
}

// TestJournal: log and audit are in systemd's journal, and can be searched by
// who and what.
func TestJournal(t *testing.T) {
	t.Parallel()
	j := startJournald(t)
	d := servertest.Start(t, servertest.Options{Wrapper: j.within(), Unready: true,
		Env: []string{"CSBD_LOG_FORMAT=journal", "CSBD_AUDIT=journal"}})
	d.Eventually(t, "the socket", func() bool { _, err := os.Lstat(d.Socket); return err == nil })
	c := d.Dial(t)
	r := c.Execute(map[string]any{"code": "print(1)\nwhile True: pass", "limits": map[string]any{"timeout": "300ms"}})
	assert.Equal(t, r.Status, "timeout")
	c.Call("execute", map[string]any{"code": "print(1)", "limits": map[string]any{"memory": "64GiB"}}).Failed(t, "denied")
	d.Eventually(t, "the lines", func() bool { return len(j.read(t, "CSBD_ID="+r.ID)) == 2 && len(j.read(t, "CSBD_KIND=denied")) == 1 })

	log := j.read(t, "CSBD_MSG=executed", "CSBD_STATUS=timeout", "CSBD_UID=0")
	assert.Equal(t, len(log), 1)
	for name, want := range map[string]string{"CSBD_ID": r.ID, "CSBD_EXIT_CODE": "124", "CSBD_LIMITS_HIT": "timeout", "CSBD_PROFILE": "default",
		"PRIORITY": "6", "SYSLOG_IDENTIFIER": "csbd", "_TRANSPORT": "journal", "_PID": strconv.Itoa(d.Pid), "CSBD_PID": strconv.Itoa(os.Getpid())} {
		assert.Check(t, log[0][name] == want, "%s is %q", name, log[0][name])
	}
	assert.Check(t, strings.HasPrefix(log[0]["MESSAGE"].(string), "executed uid=0 "), "%v", log[0])
	audit := j.read(t, "CSBD_EVENT=execution")
	assert.Equal(t, len(audit), 1)
	assert.Equal(t, audit[0]["MESSAGE"], "execution "+r.ID+" of uid 0 ended: timeout")
	var whole struct {
		ID, Status, SHA256 string
		Limits             struct{ Timeout float64 }
	}
	assert.NilError(t, json.Unmarshal([]byte(audit[0]["CSBD_AUDIT"].(string)), &whole))
	assert.Check(t, whole.ID == r.ID && whole.Limits.Timeout == 0.3 && whole.SHA256 == audit[0]["CSBD_SHA256"] && audit[0]["CSBD_LIMITS_TIMEOUT"] == "0.3", "%v", audit[0])
	assert.Equal(t, d.Log(), "", "nothing of it is on stderr")
}

// TestLogFollowsStderr: csbd finds out by itself that its stderr is the journal.
func TestLogFollowsStderr(t *testing.T) {
	t.Parallel()
	j := startJournald(t)
	// What systemd does for a unit.
	connect := `import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect("/run/systemd/journal/stdout")
s.sendall(b"csbd\n\n6\n0\n0\n0\n0\n")
os.dup2(s.fileno(), 2)
st = os.fstat(2)
os.environ["JOURNAL_STREAM"] = "%d:%d" % (st.st_dev, st.st_ino)
os.execv(sys.argv[1], sys.argv[1:])`
	d := servertest.Start(t, servertest.Options{NoImages: true, Unready: true, Wrapper: j.within("python3", "-c", connect),
		Env: []string{"CSBD_LOG_FORMAT=auto"}})
	d.Eventually(t, "the line", func() bool { return len(j.read(t, "CSBD_MSG=serving", "_TRANSPORT=journal")) == 1 })

	// A JOURNAL_STREAM that was inherited means nothing.
	plain := servertest.Start(t, servertest.Options{NoImages: true, Env: []string{"CSBD_LOG_FORMAT=auto", "JOURNAL_STREAM=1:2"}})
	assert.Check(t, strings.HasPrefix(plain.Log(), "time="))
}

// TestJournalGone: csbd does not wait for a journal that takes nothing or is not
// there. Lines of the log go to stderr; those of the audit are lost, and counted.
func TestJournalGone(t *testing.T) {
	t.Parallel()
	j := startJournald(t)
	d := servertest.Start(t, servertest.Options{NoImages: true, Wrapper: j.within(),
		Env: []string{"CSBD_LOG_FORMAT=json", "CSBD_AUDIT=journal"}})
	const refusals = 12000
	flood := func(socket *servertest.Daemon) (slowest time.Duration) {
		var all sync.WaitGroup
		var mu sync.Mutex
		for range 8 {
			c := socket.Dial(t)
			all.Go(func() {
				for range refusals / 8 {
					start := time.Now()
					if a, err := c.Try("execute", map[string]any{"code": "", "limits": map[string]any{"memory": "64GiB"}}); assert.Check(t, err) {
						assert.Check(t, a.Error != nil && a.Error.Data.Kind == "denied", "%s", a.Line)
					}
					mu.Lock()
					slowest = max(slowest, time.Since(start))
					mu.Unlock()
				}
			})
		}
		all.Wait()
		return slowest
	}
	c := d.Dial(t)
	counted := func(n int64) (s rpc.Status) {
		d.Eventually(t, fmt.Sprintf("%d lines written or lost", n), func() bool {
			c.Call("status", nil).Decode(t, &s)
			return s.Audit.Written+s.Audit.Lost == n
		})
		return s
	}
	assert.NilError(t, j.cmd.Process.Signal(syscall.SIGSTOP))
	slowest := flood(d)
	s := counted(refusals)
	t.Logf("%d lost, slowest answer %v", s.Audit.Lost, slowest)
	assert.Check(t, s.Audit.Lost > 0 && slowest < 2*time.Second)
	assert.Check(t, len(d.Lines(t, "audit lines lost")) > 0)
	written := s.Audit.Written
	assert.NilError(t, j.cmd.Process.Signal(syscall.SIGCONT))
	time.Sleep(1500 * time.Millisecond)
	c.Call("execute", map[string]any{"code": "", "limits": map[string]any{"memory": "64GiB"}}).Failed(t, "denied")
	assert.Equal(t, counted(refusals+1).Audit.Written, written+1)
	// What is said to be written is.
	d.Eventually(t, "the lines in the journal", func() bool { return int64(len(j.read(t, "CSBD_EVENT=refusal"))) == written+1 })

	j.end()
	c.Call("execute", map[string]any{"code": "", "limits": map[string]any{"memory": "64GiB"}}).Failed(t, "denied")
	assert.Equal(t, counted(refusals+2).Audit.Written, written+1)
	bare := servertest.Start(t, servertest.Options{NoImages: true, Wrapper: withoutJournal(t), Env: []string{"CSBD_LOG_FORMAT=journal"}})
	assert.Check(t, strings.HasPrefix(bare.Log(), "time="))
}

// withoutJournal is a command in a mount namespace whose /run is empty.
func withoutJournal(t *testing.T) []string {
	script := filepath.Join(servertest.Dir(t), "script")
	assert.NilError(t, os.WriteFile(script, []byte("#!/bin/sh\nmount -t tmpfs csbd-test /run && exec \"$@\"\n"), 0o755))
	return []string{"unshare", "--mount", "--propagation", "private", script}
}
