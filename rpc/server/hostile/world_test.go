package hostile_test

import (
	"crypto/rand"
	_ "embed"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// prelude is what every program begins with: short names for attempts.
//
//go:embed testdata/prelude.py
var prelude string

// A world is csbd and what it has to protect.
type world struct {
	csbd *servertest.Daemon
	// canaries are secrets that must be in no answer, by where they are.
	canaries map[string]string
	// caller is a secret that callers give their own programs: csbd's log must
	// not have it.
	caller string
	// args tell a program where on the host it should look.
	args []string
	// hierarchies of control groups that a sandbox is in.
	hierarchies int
	// reached counts connections to the host's sockets.
	reached atomic.Int64
}

// secret returns a text that is nowhere else. It begins as all canaries do, so
// that a program can look for them.
func secret() string { return "CANARY-" + rand.Text() }

func newWorld(t *testing.T) *world {
	w := &world{canaries: map[string]string{}, caller: "CALLER-" + rand.Text()}
	for _, where := range []string{"environment", "file", "process", "socket", "neighbour"} {
		w.canaries[where] = secret()
	}
	dir := servertest.Dir(t)
	file, socket := filepath.Join(dir, "secret"), filepath.Join(dir, "socket")
	assert.NilError(t, os.WriteFile(file, []byte(w.canaries["file"]), 0o644))
	process := startProcess(t, w.canaries["process"])
	abstract := "csb-hostile-" + strconv.Itoa(os.Getpid())
	port := w.listen(t, "tcp", "0.0.0.0:0").(*net.TCPAddr).Port
	w.listen(t, "unix", "@"+abstract)
	w.listen(t, "unix", socket)
	assert.NilError(t, os.Chmod(socket, 0o666))

	w.csbd = servertest.Start(t, servertest.Options{Policy: policy, Env: []string{"CSBD_SOCKET_MODE=0666", "HOSTILE_CANARY=" + w.canaries["environment"]}})
	w.args = []string{file, w.csbd.Socket, strconv.Itoa(port), abstract, socket,
		strconv.Itoa(process), strconv.Itoa(w.csbd.Pid), strings.Join(addresses(t), ","), w.caller}
	w.csbd.Eventually(t, "full pools", func() bool { return w.sentries() == ready })
	w.hierarchies = len(w.csbd.Cgroups())
	w.rests(t)
	return w
}

// startProcess starts a process that has a secret in its arguments.
func startProcess(t *testing.T, secret string) (pid int) {
	cmd := exec.Command("sh", "-c", "read line", secret)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	assert.NilError(t, err)
	assert.NilError(t, cmd.Start())
	t.Cleanup(func() {
		assert.Check(t, stdin.Close())
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// listen opens a socket of the host that tells everybody who connects a secret.
func (w *world) listen(t *testing.T, network, address string) net.Addr {
	l, err := net.Listen(network, address)
	assert.NilError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.reached.Add(1)
			_, _ = c.Write([]byte(w.canaries["socket"]))
			c.Close()
		}
	}()
	return l.Addr()
}

// addresses are the host's own, IPv4.
func addresses(t *testing.T) (list []string) {
	all, err := net.InterfaceAddrs()
	assert.NilError(t, err)
	for _, a := range all {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil {
			list = append(list, ip.IP.String())
		}
	}
	return list
}

// settle starts a neighbour, who has a secret, and returns what ends it.
func (w *world) settle(t *testing.T, code string) (stop func()) {
	t.Helper()
	c := w.csbd.As(t, strict)
	secret := w.canaries["neighbour"]
	c.Request(1, "execute", map[string]any{
		"code": prelude + dedent(code) + servertest.Occupy + "forever()\n", "args": w.args, "stdin": secret,
		"limits": limits{"timeout": "60s", "memory": "200MiB"},
		"files":  []map[string]string{{"path": "secret", "content": secret}},
	})
	w.csbd.WaitOccupied(t, 1)
	return func() {
		c.Quiet() // it has been there all the time
		c.Request(2, "cancel", map[string]any{"id": 1})
		for range 2 {
			a := c.Receive()
			if string(a.ID) == "1" {
				r := a.Executed(t)
				assert.Check(t, r.Status == "cancelled" && r.Stdout == "settled\n" && r.Stderr == "", "%s", shorten(a.Line))
			}
		}
		c.Close()
	}
}

// close stops csbd and looks at what it has written.
func (w *world) close(t *testing.T) {
	assert.Check(t, !w.csbd.Ended(), "csbd has ended by itself")
	w.csbd.Stop(t)
	assert.Check(t, cmp.Equal(w.reached.Load(), int64(0)), "programs reached sockets of the host")
	log := w.csbd.Log()
	w.canaries["caller"] = w.caller
	for name, canary := range w.canaries {
		assert.Check(t, !strings.Contains(log, canary), "the secret of %s is in the log", name)
	}
	for _, message := range []string{"panic", "goroutine ", "DATA RACE"} {
		assert.Check(t, !strings.Contains(log, message), "the log has %q", message)
	}
}
