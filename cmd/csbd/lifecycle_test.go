package main_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

const long = "print('before', flush=True)\n" + servertest.Occupy + "import time\ntime.sleep(55)\nprint('after')"

func execute(id any, code string) string {
	return servertest.Request(id, "execute", map[string]any{"code": code, "limits": map[string]any{"timeout": "60s"}})
}

// TestStop sends SIGTERM while one program is about to end, one is not, and
// one waits for its turn.
func TestStop(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{
		Policy: "version: 1\nprofiles: {default: {concurrency: 2}}\nrules: [{user: 0, profile: default}]\n",
		Env:    []string{"CSBD_STOP_TIMEOUT=8s"},
	})
	idle, c := d.Dial(t), d.Dial(t)
	assert.Check(t, idle.Call("version", nil).Error == nil)
	c.Send(execute("long", long))
	d.WaitOccupied(t, 1)
	half := d.Dial(t)
	half.Send(execute("short", servertest.Occupy+"import time; time.sleep(5); print('ended')"))
	half.CloseWrite()
	d.WaitOccupied(t, 2)
	c.Send(execute("queued", "print(1)"))
	d.Eventually(t, "the queue", func() bool {
		var status struct{ Queued int }
		idle.Call("status", nil).Decode(t, &status)
		return status.Queued == 1
	})

	start := time.Now()
	d.Signal(t, syscall.SIGTERM)
	a := c.Receive()
	assert.Equal(t, string(a.ID), `"queued"`)
	a.Failed(t, "shutting_down")
	c.Send(execute("late", "print(1)"))
	a = c.Receive()
	assert.Equal(t, string(a.ID), `"late"`)
	a.Failed(t, "shutting_down")
	assert.Check(t, idle.Call("version", nil).Error == nil, "who is there can still ask")

	r := half.Receive().Executed(t)
	assert.Check(t, r.Status == "ok" && r.Stdout == "ended\n", "%+v", r)
	half.End()
	r = c.Receive().Executed(t)
	assert.Check(t, r.Status == "cancelled" && r.ExitCode == 143 && r.Stdout == "before\n", "%+v", r)
	assert.DeepEqual(t, r.Error, map[string]any{"kind": "cancelled", "message": "csbd is stopping"})
	c.End()
	idle.End()
	assert.Equal(t, d.Wait(t), 0)
	took := time.Since(start)
	assert.Check(t, took > 7*time.Second && took < 20*time.Second, "%v", took)
	d.NothingLeft(t)
}

// TestStopAtOnce: with nothing to wait for, csbd waits for nothing.
func TestStopAtOnce(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		d := servertest.Start(t, servertest.Options{NoImages: true})
		c := d.Dial(t)
		assert.Check(t, c.Call("version", nil).Error == nil)
		start := time.Now()
		d.Signal(t, signal)
		assert.Equal(t, d.Wait(t), 0)
		assert.Check(t, time.Since(start) < 5*time.Second, "%v", time.Since(start))
		c.End()
	}
}

// TestCrash kills csbd while programs run. Its successor removes what is left
// and takes the socket over.
func TestCrash(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{})
	c := d.Dial(t)
	c.Send(execute(1, long), execute(2, long))
	d.WaitOccupied(t, 2)
	old := d.Processes()
	assert.Check(t, len(old) >= 3, "two sandboxes and what started them: %q", old)
	d.Kill(t)
	c.End()
	assert.Check(t, d.Sandboxes() == 2 && len(d.Cgroups()) > 0, "a crash leaves something, or this test shows nothing")
	_, err := os.Lstat(d.Socket)
	assert.NilError(t, err)

	next := servertest.Start(t, servertest.Options{Dir: d.Dir})
	assert.Equal(t, next.Sandboxes(), 0)
	for _, process := range next.Processes() {
		assert.Check(t, strings.Contains(process, ": csbd-spawner "), process)
	}
	for _, process := range old {
		pid, _, _ := strings.Cut(process, ":")
		n, err := strconv.Atoi(pid)
		assert.NilError(t, err)
		assert.Check(t, syscall.Kill(n, 0) == syscall.ESRCH || zombie(pid), "%s is still there", process)
	}
	assert.Equal(t, len(next.Lines(t, "removed what an earlier csbd left")), 1)
	assert.Equal(t, next.Dial(t).Run("print('new')").Stdout, "new\n")
}

// zombie says whether a process is dead and only waits for its parent to look.
func zombie(pid string) bool {
	data, err := os.ReadFile("/proc/" + pid + "/stat")
	return err != nil || strings.Contains(string(data), ") Z ")
}

// secret stands in requests and must not stand in the log, at any level.
const secret = "canary-5f1d"

func TestLog(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{Env: []string{"CSBD_LOG_LEVEL=debug", "CANARY=" + secret}})
	c := d.Dial(t)

	// Nothing of csbd's environment is in a sandbox, and csbd's own is as long
	// as any process of the guest can see.
	r := c.Run(`
import glob, os
text = repr(dict(os.environ))
for name in glob.glob("/proc/*/environ") + glob.glob("/proc/*/cmdline") + ["/proc/self/mountinfo"]:
    try:
        text += open(name, errors="replace").read()
    except OSError:
        pass
print(text)`)
	assert.Equal(t, r.Status, "ok", "%+v", r)
	assert.Check(t, strings.Contains(r.Stdout, "PATH"), "%s", r.Stdout)
	for _, word := range []string{secret, "CANARY", "CSBD_", d.Dir} {
		assert.Check(t, !strings.Contains(r.Stdout, word), "%q in %s", word, r.Stdout)
	}

	results := []servertest.Result{r}
	for _, code := range []string{
		"# %s\nprint('%[1]s', input())",
		"raise Exception('%s')",
		"import sys; sys.stderr.write('%s'); sys.exit(3)",
		"import os; print('%s', flush=True); os.abort()",
		"%s = = 1",
		"print('%s' * 100000)",
	} {
		results = append(results, c.Execute(map[string]any{
			"code": fmt.Sprintf(code, secret), "stdin": secret, "args": []string{secret},
			"environment": map[string]string{"GREETING": secret},
			"files":       []any{map[string]any{"path": secret, "content": secret}},
			"limits":      map[string]any{"output": 4096},
		}))
	}
	assert.Check(t, strings.Contains(results[1].Stdout, secret), "%+v", results[1])
	// Requests that fail leave no more of them.
	c.Send(`{"jsonrpc":"2.0","id":1,"method":"` + secret + `"`)
	c.Receive().Failed(t, "parse_error")
	c.Call("execute", map[string]any{"code": secret, "stdin_base64": secret}).Failed(t, "invalid_params")
	c.Call("execute", map[string]any{"code": secret, "limits": map[string]any{"timeout": "2h"}}).Failed(t, "denied")
	c.Close()
	d.WaitLog(t, `"msg":"disconnected"`)
	d.WaitNoSandbox(t)
	assert.Check(t, !strings.Contains(d.Log(), secret), "%s", d.Log())

	// One line for each execution, each with the same keys.
	lines := d.Lines(t, "executed")
	assert.Equal(t, len(lines), len(results))
	keys := slices.Sorted(maps.Keys(lines[0]))
	for _, key := range []string{"time", "level", "id", "uid", "pid", "profile", "image", "status", "exit_code", "queue", "start", "run", "cpu", "limits_hit"} {
		assert.Check(t, slices.Contains(keys, key), "%s is missing in %q", key, keys)
	}
	for i, line := range lines {
		assert.DeepEqual(t, slices.Sorted(maps.Keys(line)), keys)
		assert.Check(t, line["id"] == results[i].ID && line["status"] == results[i].Status && line["uid"] == 0.0 &&
			line["pid"] == float64(os.Getpid()), "%v, but %+v", line, results[i])
	}
	assert.Equal(t, lines[len(lines)-1]["limits_hit"], "truncated")
	for line := range strings.Lines(d.Log()) {
		assert.Check(t, strings.HasPrefix(line, `{"time":`), "not JSON: %s", line)
	}
}

func TestLogText(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{NoImages: true, Env: []string{"CSBD_LOG_FORMAT=text"}})
	for line := range strings.Lines(d.Log()) {
		assert.Check(t, strings.HasPrefix(line, "time=") && strings.Contains(line, " level="), "%s", line)
	}
	quiet := servertest.Start(t, servertest.Options{NoImages: true, Unready: true, Env: []string{"CSBD_LOG_LEVEL=error"}})
	quiet.Eventually(t, "the socket", func() bool { _, err := os.Lstat(quiet.Socket); return err == nil })
	quiet.Signal(t, syscall.SIGTERM)
	assert.Equal(t, quiet.Wait(t), 0)
	assert.Equal(t, quiet.Log(), "")
}

// TestConfined: csbd and what it starts have the capabilities that it uses, and
// nothing that they execute has more.
func TestConfined(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{})
	want := uint64(0)
	for _, c := range []int{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_KILL, unix.CAP_SETGID, unix.CAP_SETUID,
		unix.CAP_SETFCAP, unix.CAP_SYS_PTRACE, unix.CAP_SYS_RESOURCE} {
		want |= 1 << c
	}
	assert.Equal(t, field(t, d.Pid, "NoNewPrivs"), "1")
	for _, name := range []string{"CapBnd", "CapPrm", "CapEff"} {
		got, err := strconv.ParseUint(field(t, d.Pid, name), 16, 64)
		assert.NilError(t, err)
		assert.Check(t, got&^want == 0, "%s: %x has more than %x", name, got, want)
	}
	for _, name := range []string{"CapInh", "CapAmb"} {
		assert.Equal(t, strings.Trim(field(t, d.Pid, name), "0"), "")
	}
	assert.Equal(t, d.Dial(t).Run("print('works')").Stdout, "works\n")
}

// TestStrictUmask: sentries are other users than csbd, which may keep all that
// it makes to itself.
func TestStrictUmask(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{Policy: withPool, Wrapper: []string{"/bin/sh", "-c", `umask 0077; exec "$@"`, "sh"}})
	assert.Equal(t, field(t, d.Pid, "Umask"), "0077")
	assert.Equal(t, d.Dial(t).Run("print('works')").Stdout, "works\n")
}

// field is what /proc/PID/status says.
func field(t *testing.T, pid int, name string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	assert.NilError(t, err)
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(rest)
		}
	}
	t.Fatalf("/proc/%d/status has no %s", pid, name)
	return ""
}
