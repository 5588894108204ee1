package server_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

func user(uid uint32, groups ...uint32) syscall.Credential {
	return syscall.Credential{Uid: uid, Gid: uid, Groups: groups}
}

// A status answer, as far as tests look at it.
type status struct {
	Version          struct{ Protocol int }
	Uptime           float64
	Ready            bool
	Problem          string
	Running, Queued  int
	Connections      int
	Executions       map[string]int
	Refused          map[string]int
	PolicyGeneration int `json:"policy_generation"`
	Caller           struct {
		UID             uint32
		Groups          []uint32
		Running, Queued int
		// Executions of the caller that are queued or running, by id.
		Executions []string
	}
}

func statusOf(t *testing.T, c *servertest.Conn) (s status) {
	t.Helper()
	c.Call("status", nil).Decode(t, &s)
	return s
}

func answers(t *testing.T, d *servertest.Daemon) {
	c := d.Dial(t)
	var version struct {
		Version, Commit, Runtime, Go string
		Protocol                     int
	}
	c.Call("version", nil).Decode(t, &version)
	assert.Check(t, version.Version != "" && version.Protocol == 1 && version.Runtime != "" && strings.HasPrefix(version.Go, "go1."), "%+v", version)

	s := statusOf(t, c)
	assert.Check(t, s.Uptime > 0 && s.PolicyGeneration == 1 && s.Connections > 0 && s.Version.Protocol == 1, "%+v", s)
	assert.Check(t, s.Caller.UID == 0 && slices.Contains(s.Caller.Groups, 0), "%+v", s)
	c.Call("nonsense", nil).Failed(t, "method_not_found")
	assert.Check(t, statusOf(t, c).Refused["method_not_found"] > 0)

	var list struct{ Images []map[string]any }
	c.Call("images.list", nil).Decode(t, &list)
	assert.Equal(t, len(list.Images), 2, "%v", list) // one of the three does not exist
	python := list.Images[0]
	assert.Check(t, python["name"] == "python" && python["default"] == true && python["digest"] == imagetest.Python(t).Digest, "%v", python)
	packages, _ := python["packages"].(map[string]any)
	assert.Check(t, packages["numpy"] != nil && packages["pandas"] != nil, "%v", python)
	assert.Check(t, strings.HasPrefix(python["python"].(string), "3."), "%v", python)
	assert.Check(t, list.Images[1]["name"] == "garbage" && list.Images[1]["default"] == false, "%v", list)

	a := c.Call("policy.show", nil)
	var profile map[string]any
	a.Decode(t, &profile)
	for name, want := range map[string]any{
		"name": "default", "rule": "rule 1 (user 0)", "network": "none", "seccomp": "default", "output_exceeded": "truncate",
		"concurrency": 8.0, "queue": 32.0, "rate": "6000/min",
	} {
		assert.Check(t, profile[name] == want, "%s: %v, want %v", name, profile[name], want)
	}
	assert.DeepEqual(t, profile["images"], []any{"python", "garbage", "absent"})
	assert.DeepEqual(t, profile["environment"], []any{"LANG", "GREETING"})
	assert.DeepEqual(t, profile["request"], map[string]any{"code": 65536.0, "stdin": 65536.0, "files": 65536.0})
	assert.Equal(t, profile["max"].(map[string]any)["memory"], float64(256<<20))
	assert.Equal(t, profile["default"].(map[string]any)["timeout"], 20.0)

	type verdict struct {
		Valid            bool
		Errors, Warnings []string
	}
	check := func(policy string) (v verdict) {
		t.Helper()
		c.Call("policy.check", map[string]any{"policy": policy, "name": "mine.yaml"}).Decode(t, &v)
		return v
	}
	assert.DeepEqual(t, check(servertest.Policy), verdict{true, []string{}, []string{}})
	v := check("version: 1\nprofiles:\n  default: {timeuot: 3s, memory: 12parsecs}\nrules: []\n")
	assert.Check(t, !v.Valid && len(v.Errors) == 2, "%+v", v)
	assert.Check(t, strings.HasPrefix(v.Errors[0], "mine.yaml:3: profiles.default.timeuot: "), "%+v", v)
	assert.Check(t, strings.HasPrefix(v.Errors[1], "mine.yaml:3: profiles.default.memory: "), "%+v", v)
	// Nothing that a policy names is opened for a client.
	v = check("version: 1\nprofiles: {default: {seccomp: /etc/shadow}}\nrules: [{user: nobody-of-this-name, profile: default}]\n")
	assert.Check(t, v.Valid && len(v.Warnings) == 2, "%+v", v)
}

func aStranger(t *testing.T, d *servertest.Daemon) {
	c := d.As(t, user(stranger))
	assert.Check(t, c.Call("version", nil).Error == nil)
	for method, params := range map[string]any{
		"execute": map[string]any{"code": "print(1)"}, "cancel": map[string]any{"id": 1}, "status": nil,
		"policy.show": nil, "policy.check": map[string]any{"policy": ""}, "images.list": nil, "no such method": nil,
	} {
		failed := c.Call(method, params).Failed(t, "denied")
		assert.Equal(t, failed.Data.Rule, "no rule matches")
		assert.Equal(t, failed.Data.Field, "")
		assert.Check(t, strings.Contains(failed.Message, fmt.Sprint(stranger)), "%q", failed.Message)
	}
	// What csbd reads from somebody it does not serve is bounded more tightly.
	c.Send(padded(`{"jsonrpc":"2.0","id":1,"method":"version"}`, 64<<10+1))
	c.Receive().Failed(t, "invalid_request")
	assert.Check(t, c.Call("version", nil).Error == nil)
}

// groups lets users in by a group of their process, and by one that only the
// group database knows of.
func groups(t *testing.T, d *servertest.Daemon) {
	show := func(who syscall.Credential) (profile struct{ Rule string }) {
		t.Helper()
		d.As(t, who).Call("policy.show", nil).Decode(t, &profile)
		return profile
	}
	assert.Equal(t, show(user(stranger, 41, group, 42)).Rule, fmt.Sprintf("rule 6 (group %d)", group))
	assert.Equal(t, show(syscall.Credential{Uid: stranger, Gid: group}).Rule, fmt.Sprintf("rule 6 (group %d)", group))
	// The user nobody is in nogroup, whatever the groups of its process are.
	assert.Equal(t, show(syscall.Credential{Uid: 65534, Gid: 43001}).Rule, "rule 7 (group nogroup)")
	s := statusOf(t, d.As(t, syscall.Credential{Uid: 65534, Gid: 43001, Groups: []uint32{43002}}))
	assert.DeepEqual(t, s.Caller.Groups, []uint32{43001, 43002, 65534})
	d.As(t, user(stranger, 41, 42)).Call("policy.show", nil).Failed(t, "denied")
}

func twoUsers(t *testing.T, d *servertest.Daemon) {
	a, b := d.As(t, user(alice)), d.As(t, user(bob))
	a.Request(1, "execute", map[string]any{"code": `
import os, time
for dir in ("/tmp", "/tmp/work", "/dev/shm"):
    open(dir + "/of-alice", "w").write("secret of alice")
time.sleep(6)
print(sorted(os.listdir("/tmp")))`})
	time.Sleep(2 * time.Second)
	r := b.Run(`
import os
print([os.path.join(dir, n) for dir in ("/tmp", "/tmp/work", "/dev/shm") for n in os.listdir(dir)])
print([p for p in os.listdir("/proc") if p.isdigit() and b"of-alice" in open(f"/proc/{p}/cmdline", "rb").read()])
open("/tmp/of-bob", "w")`)
	assert.Equal(t, r.Status, "ok", "%+v", r)
	assert.Check(t, !strings.Contains(r.Stdout, "alice"), "%s", r.Stdout)
	r = a.Receive().Executed(t)
	assert.Check(t, strings.Contains(r.Stdout, "of-alice") && !strings.Contains(r.Stdout, "of-bob"), "%+v", r)
}

func busy(t *testing.T, d *servertest.Daemon) {
	c := d.As(t, user(tight))
	sleep := map[string]any{"code": "import time; time.sleep(50)", "image": "python"}
	c.Request("running", "execute", sleep)
	d.Eventually(t, "the execution", func() bool { return statusOf(t, c).Caller.Running == 1 })
	c.Request("queued", "execute", map[string]any{"code": "print('had to wait')", "image": "python"})
	d.Eventually(t, "the queue", func() bool { return statusOf(t, c).Caller.Queued == 1 })

	start := time.Now()
	failed := c.Call("execute", sleep).Failed(t, "busy")
	assert.Check(t, time.Since(start) < 5*time.Second, "busy is said at once")
	assert.Check(t, failed.Data.RetryAfter > 0, "%+v", failed)
	assert.Equal(t, failed.Data.Rule, "profile tight: queue")

	// Another connection of the same user shares its bounds; another user does not.
	d.As(t, user(tight)).Call("execute", sleep).Failed(t, "busy")
	assert.Equal(t, d.As(t, user(alice)).Run("print('not busy')").Stdout, "not busy\n")

	c.Request("cancel", "cancel", map[string]any{"id": "running"})
	got := map[string]servertest.Answer{}
	for range 3 {
		a := c.Receive()
		got[string(a.ID)] = a
	}
	r := got[`"queued"`].Executed(t)
	assert.Equal(t, r.Stdout, "had to wait\n")
	assert.Check(t, r.Usage["queue_time"].(float64) > 0.05, "%v", r.Usage)
	told := slices.ContainsFunc(d.Lines(t, "busy"), func(line map[string]any) bool {
		return line["bound"] == "queue" && line["uid"] == float64(tight)
	})
	assert.Check(t, told, "the log does not tell")

	// Cancelled in the queue: it never ran, which is an error and no result.
	c.Request("running", "execute", sleep)
	d.Eventually(t, "the execution", func() bool { return statusOf(t, c).Caller.Running == 1 })
	c.Request("queued", "execute", sleep)
	d.Eventually(t, "the queue", func() bool { return statusOf(t, c).Caller.Queued == 1 })
	c.Request("cancel", "cancel", map[string]any{"id": "queued"})
	for range 2 {
		a := c.Receive()
		got[string(a.ID)] = a
	}
	got[`"queued"`].Failed(t, "cancelled")
	assert.Equal(t, statusOf(t, c).Caller.Queued, 0)
}

func rate(t *testing.T, d *servertest.Daemon) {
	c := d.As(t, user(seldom))
	params := map[string]any{"code": "print(1)", "image": "python"}
	assert.Equal(t, c.Execute(params).Status, "ok")
	c.Call("execute", map[string]any{"code": "1", "image": "absent"}).Failed(t, "unknown_image") // costs nothing
	assert.Equal(t, c.Execute(params).Status, "ok")
	failed := c.Call("execute", params).Failed(t, "busy")
	assert.Equal(t, failed.Data.Rule, "profile seldom: rate")
	assert.Check(t, failed.Data.RetryAfter > 3000 && failed.Data.RetryAfter <= 3600, "%+v", failed)
}

const long = "print('before', flush=True)\n" + servertest.Occupy + "import time\ntime.sleep(55)\nprint('after')"

// TestCancel ends executions in every way that a client can.
func TestCancel(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{
		Env: []string{"CSBD_SOCKET_MODE=0666"},
		Policy: fmt.Sprintf(`version: 1
profiles: {default: {timeout: 60s, queue: 300}}
rules:
  - {user: %d, profile: default}
  - {user: %d, profile: default}
  - {user: 0, profile: default}
`, alice, bob),
	})
	wasCancelled := func(t *testing.T, a servertest.Answer) {
		t.Helper()
		r := a.Executed(t)
		assert.Check(t, r.Status == "cancelled" && r.ExitCode == 143 && r.Stdout == "before\n", "%s", a.Line)
		assert.DeepEqual(t, r.Error, map[string]any{"kind": "cancelled", "message": "cancelled by request"})
	}
	cancel := func(t *testing.T, c *servertest.Conn, id any) bool {
		t.Helper()
		c.Request("cancel", "cancel", map[string]any{"id": id})
		a := c.Receive()
		assert.Equal(t, string(a.ID), `"cancel"`, "%s", a.Line)
		var answer struct{ Cancelled *bool }
		a.Decode(t, &answer)
		assert.Assert(t, answer.Cancelled != nil, "%s", a.Line)
		return *answer.Cancelled
	}

	t.Run("by request id", func(t *testing.T) {
		c := d.Dial(t)
		c.Request(1, "execute", map[string]any{"code": long})
		c.Request("1", "execute", map[string]any{"code": long})
		d.WaitOccupied(t, 2)
		assert.Check(t, !cancel(t, c, 2), "there is no request 2")
		assert.Check(t, !cancel(t, d.Dial(t), 1), "request 1 is another connection's")
		c.Request("cancel", "cancel", map[string]any{"id": 1})
		both := []servertest.Answer{c.Receive(), c.Receive()}
		if string(both[0].ID) == "1" {
			slices.Reverse(both)
		}
		assert.Check(t, strings.Contains(both[0].Line, `"cancelled":true`), "%s", both[0].Line)
		assert.Equal(t, string(both[1].ID), "1")
		wasCancelled(t, both[1])
		assert.Check(t, !cancel(t, c, 1), "it has ended")
		// The connection is the only one that knows about the other.
		c.Close()
		d.WaitNoSandbox(t)
	})

	t.Run("by execution id", func(t *testing.T) {
		c := d.As(t, user(alice))
		c.Request(1, "execute", map[string]any{"code": long})
		d.WaitOccupied(t, 1)
		other := d.As(t, user(alice))
		ids := statusOf(t, other).Caller.Executions
		assert.Assert(t, len(ids) == 1, "status tells the ids of one's executions, the only way to know one before it ends: %q", ids)
		assert.Check(t, len(statusOf(t, d.As(t, user(bob))).Caller.Executions) == 0)
		// Somebody else's execution is as unknown as none, also to root.
		assert.Check(t, !cancel(t, d.As(t, user(bob)), ids[0]))
		assert.Check(t, !cancel(t, d.Dial(t), ids[0]))
		assert.Check(t, cancel(t, other, ids[0]))
		a := c.Receive()
		wasCancelled(t, a)
		assert.Equal(t, a.Executed(t).ID, ids[0])
		assert.Check(t, !cancel(t, other, ids[0]), "it has ended")
	})

	// Who goes away takes the executions along: whether the client closes the
	// connection or is killed, whether it has read everything or not, has
	// closed its sending direction before or not.
	for name, leave := range map[string]func(*servertest.Conn){
		"by closing":            func(c *servertest.Conn) { c.Close() },
		"by half-closing first": func(c *servertest.Conn) { c.CloseWrite(); time.Sleep(200 * time.Millisecond); c.Close() },
		"in mid-message":        func(c *servertest.Conn) { c.Write(`{"jsonrpc": "2.0", "met`); c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			d.WaitNoSandbox(t)
			before := len(d.Lines(t, "executed"))
			c := d.Dial(t)
			c.Request(1, "execute", map[string]any{"code": long})
			c.Request(nil, "execute", map[string]any{"code": long})
			d.WaitOccupied(t, 2)
			start := time.Now()
			leave(c)
			d.Eventually(t, "the log to tell", func() bool { return len(d.Lines(t, "executed")) == before+2 })
			d.WaitNoSandbox(t)
			assert.Check(t, time.Since(start) < 10*time.Second, "%v", time.Since(start))
			for _, line := range d.Lines(t, "executed")[before:] {
				assert.Check(t, line["status"] == "cancelled" && line["uid"] == 0.0, "%v", line)
			}
		})
	}
}

// TestCancelMany: a client that has sent more than csbd takes in from one
// connection at a time is missed as soon as any other.
func TestCancelMany(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{Policy: `version: 1
profiles: {default: {timeout: 60s, concurrency: 2, queue: 1000}}
rules: [{user: 0, profile: default}]
`})
	c := d.Dial(t)
	var requests []string
	for i := range 400 {
		requests = append(requests, servertest.Request(i, "execute", map[string]any{"code": long}))
	}
	c.Send(requests...)
	d.WaitOccupied(t, 2)
	start := time.Now()
	c.Close()
	d.Eventually(t, "the log to tell", func() bool { return len(d.Lines(t, "executed")) >= 2 })
	d.WaitNoSandbox(t)
	// Those that waited are told one by one: it is a matter of a moment, not of the same one.
	d.Eventually(t, "the queue to be empty", func() bool { return statusOf(t, d.Dial(t)).Queued == 0 })
	assert.Check(t, time.Since(start) < 10*time.Second, "%v", time.Since(start))
}

// TestReload changes the policy under a running execution.
func TestReload(t *testing.T) {
	t.Parallel()
	const old = "version: 1\nprofiles: {default: {timeout: 60s, concurrency: 3}}\nrules: [{user: 0, profile: default}]\n"
	d := servertest.Start(t, servertest.Options{Policy: old})
	concurrency := func(c *servertest.Conn) int {
		t.Helper()
		var profile struct{ Concurrency int }
		c.Call("policy.show", nil).Decode(t, &profile)
		return profile.Concurrency
	}
	c, running := d.Dial(t), d.Dial(t)
	running.Request(1, "execute", map[string]any{"code": servertest.Occupy + "import time; time.sleep(3); print('survived')"})
	d.WaitOccupied(t, 1)

	write := func(text string) {
		t.Helper()
		assert.NilError(t, os.WriteFile(d.PolicyFile, []byte(text), 0o644))
		d.Signal(t, syscall.SIGHUP)
	}
	write(strings.Replace(old, "concurrency: 3", "concurrency: 5", 1))
	d.WaitLog(t, `"msg":"policy reloaded"`)
	assert.Equal(t, concurrency(c), 5)
	assert.Equal(t, statusOf(t, c).PolicyGeneration, 2)

	write(strings.Replace(old, "concurrency: 3", "concurrency: 0", 1))
	d.WaitLog(t, `"msg":"policy not reloaded`)
	lines := d.Lines(t, "policy not reloaded; the old one stays")
	assert.Equal(t, len(lines), 1)
	assert.Check(t, strings.Contains(fmt.Sprint(lines[0]["error"]), d.PolicyFile+":2: profiles.default.concurrency: "), "%v", lines[0])
	assert.Equal(t, concurrency(c), 5)
	assert.Equal(t, statusOf(t, c).PolicyGeneration, 2)

	// A connection that was let in is asked anew at each request.
	write(strings.Replace(old, "user: 0", "user: 1", 1))
	d.Eventually(t, "the third policy", func() bool { return len(d.Lines(t, "policy reloaded")) == 2 })
	c.Call("policy.show", nil).Failed(t, "denied")
	assert.Equal(t, running.Receive().Executed(t).Stdout, "survived\n")

	assert.NilError(t, os.Remove(d.PolicyFile))
	d.Signal(t, syscall.SIGHUP)
	d.Eventually(t, "the second failure", func() bool { return len(d.Lines(t, "policy not reloaded; the old one stays")) == 2 })
	write(old)
	d.Eventually(t, "the fourth policy", func() bool { return len(d.Lines(t, "policy reloaded")) == 3 })
	assert.Equal(t, concurrency(c), 3)
}

// TestSocketPermissions shows that the kernel, and not csbd, keeps those out
// who may not write to the socket.
func TestSocketPermissions(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{NoImages: true, Env: []string{"CSBD_SOCKET_MODE=0660", fmt.Sprintf("CSBD_SOCKET_GROUP=%d", group)}})
	connect := func(who syscall.Credential) string {
		cmd := exec.Command("socat", "-t", "60", "-", "UNIX-CONNECT:"+d.Socket)
		cmd.Stdin = strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"version"}` + "\n")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &who}
		cmd.Dir = "/"
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	assert.Check(t, strings.Contains(connect(user(stranger)), "Permission denied"))
	var answer struct{ Result struct{ Protocol int } }
	out := connect(user(stranger, group))
	assert.NilError(t, json.Unmarshal([]byte(out), &answer), "%s", out)
	assert.Equal(t, answer.Result.Protocol, 1)
}
