package server_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/rpc"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// Every check passes in real sandboxes, says what it proves, and callers who
// ask together get one answer.
func TestDoctor(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{Env: []string{"CSBD_SOCKET_MODE=0666"}, Policy: `version: 1
profiles:
  default: {}
  open: {seccomp: unconfined}
  absent: {images: [no-such-image]}
rules:
  - {user: "0", profile: default}
`})
	reports := make([]rpc.Doctor, 3)
	var all sync.WaitGroup
	for i := range reports {
		c := d.Dial(t)
		all.Go(func() {
			if a, err := c.Try("doctor", nil); assert.Check(t, err) {
				a.Decode(t, &reports[i])
			}
		})
	}
	all.Wait()
	status := map[string]string{}
	for _, c := range reports[0].Checks {
		assert.Check(t, c.Proves != "", "%s", c.Name)
		assert.Check(t, (c.Status == rpc.CheckFailed) == (c.Fix != ""), "%+v", c)
		status[c.Profile+" "+c.Name] = c.Status
	}
	want := map[string]string{"absent image": rpc.CheckFailed, "open seccomp": rpc.CheckSkipped, "default seccomp": rpc.CheckOK}
	for _, name := range []string{"execution", "kernel", "user", "capabilities", "network", "root", "processes", "memory", "disk"} {
		want["default "+name], want["open "+name] = rpc.CheckOK, rpc.CheckOK
	}
	for _, name := range []string{"memory kill", "cpu_time", "timeout"} {
		want["default "+name] = rpc.CheckOK
	}
	assert.DeepEqual(t, status, want)
	assert.Check(t, !reports[0].OK)
	for _, r := range reports {
		assert.Equal(t, r.Duration, reports[0].Duration, "made more than once")
	}
	// An absent image stops nobody else.
	assert.Equal(t, d.Dial(t).Run("print(1)").Stdout, "1\n")
	d.As(t, syscall.Credential{Uid: 12345, Gid: 12345}).Call("doctor", nil).Failed(t, "denied")
	assert.Check(t, !strings.Contains(d.Log(), "self-test failed"))
}

// breakable is a runsc that works, or does not, as install says.
func breakable(t *testing.T) (path string, install func(works bool)) {
	servertest.NeedRoot(t)
	path = filepath.Join(servertest.Dir(t), "runsc")
	install = func(works bool) {
		command := "echo the floor is lava >&2; exit 1"
		if works {
			command = fmt.Sprintf(`exec %s "$@"`, imagetest.Runsc(t))
		}
		assert.NilError(t, os.WriteFile(path+".new", []byte("#!/bin/sh\n"+command+"\n"), 0o755))
		assert.NilError(t, os.Rename(path+".new", path))
	}
	install(true)
	return path, install
}

// A csbd whose runtime breaks while it serves refuses executions, says why, and
// goes on by itself once it works again.
func TestProofFailsClosed(t *testing.T) {
	t.Parallel()
	runsc, install := breakable(t)
	d := servertest.Start(t, servertest.Options{Env: []string{"CSBD_LAUNCHER=stock", "CSBD_RUNSC=" + runsc, "CSBD_PROOF_EVERY=500ms"}})
	c := d.Dial(t)
	status := func() (s rpc.Status) {
		c.Call("status", nil).Decode(t, &s)
		return s
	}
	assert.Check(t, status().Ready)
	install(false)
	d.Eventually(t, "a failed self-test", func() bool { return !status().Ready })
	assert.Check(t, strings.Contains(status().Problem, "self-test of profile default failed: "), "%q", status().Problem)
	assert.Check(t, !strings.Contains(status().Problem, d.Dir), "%q", status().Problem)
	c.Call("execute", map[string]any{"code": "print(1)"}).Failed(t, "internal")
	assert.Check(t, strings.Contains(d.Log(), "the floor is lava"))
	install(true)
	d.Eventually(t, "a self-test that passes", func() bool { return status().Ready })
	assert.Equal(t, c.Run("print(1)").Stdout, "1\n")
}

// TestFailureMakesUnready: csbd does not prove itself by and by here, but a
// failed execution is enough to make it look, and it recovers without being
// asked for anything.
func TestFailureMakesUnready(t *testing.T) {
	t.Parallel()
	runsc, install := breakable(t)
	d := servertest.Start(t, servertest.Options{Env: []string{"CSBD_LAUNCHER=stock", "CSBD_RUNSC=" + runsc, "CSBD_PROOF_EVERY=0"}})
	c := d.Dial(t)
	passed := func() int { return len(d.Lines(t, "self-test passed")) }
	before := passed()
	install(false)
	assert.Check(t, statusOf(t, c).Ready, "nobody knows yet")
	c.Call("execute", map[string]any{"code": "print(1)"}).Failed(t, "internal")
	d.Eventually(t, "a self-test that fails", func() bool { return strings.Contains(statusOf(t, c).Problem, "self-test of profile default failed") })
	assert.Check(t, !statusOf(t, c).Ready && passed() == before)
	install(true)
	d.Eventually(t, "a self-test that passes", func() bool { return statusOf(t, c).Ready })
	assert.Check(t, passed() > before)
	assert.Equal(t, c.Run("print(1)").Stdout, "1\n")
}
