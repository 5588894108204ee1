package server_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// abusePolicy gives alice and bob the same, with large messages.
var abusePolicy = fmt.Sprintf(`version: 1
profiles:
  default:
    timeout: 60s
    output: {default: 64KiB, max: 4MiB}
    request: {code: 1MiB, stdin: 2MiB, files: 4MiB}
    concurrency: 4
    queue: 32
    rate: 100000/min
rules:
  - {user: %d, profile: default}
  - {user: %d, profile: default}
  - {user: 0, profile: default}
`, alice, bob)

const abuseMemory = 128 << 20

// dial opens a bare connection, of which nothing is read.
func dial(t *testing.T, d *servertest.Daemon) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: d.Socket, Net: "unix"})
	assert.NilError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// refusedWith reads one line, which has to be an error without an id, and
// after it the end of the connection.
func refusedWith(t *testing.T, c *net.UnixConn, kind, rule string) {
	t.Helper()
	assert.NilError(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
	in := bufio.NewReader(c)
	line, err := in.ReadString('\n')
	assert.NilError(t, err)
	var a servertest.Answer
	assert.NilError(t, json.Unmarshal([]byte(line), &a))
	a.Line = line
	assert.Equal(t, string(a.ID), "null")
	failed := a.Failed(t, kind)
	assert.Equal(t, failed.Data.Rule, rule)
	_, err = in.ReadByte()
	assert.ErrorIs(t, err, io.EOF)
}

// openFiles lets this test binary open as many files as it may.
func openFiles(t *testing.T) {
	t.Helper()
	var l unix.Rlimit
	assert.NilError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &l))
	l.Cur = l.Max
	assert.NilError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &l))
	assert.Assert(t, l.Max > 3000, "this test needs 3000 descriptors; the limit is %d", l.Max)
}

// TestThousandsOfConnections: 2,000 idle connections of one user do not keep
// another from working; one more is refused at once, and room comes back.
func TestThousandsOfConnections(t *testing.T) {
	t.Parallel()
	openFiles(t)
	d := servertest.Start(t, servertest.Options{Policy: abusePolicy,
		Env: []string{"CSBD_SOCKET_MODE=0666", "CSBD_CONNECTIONS=5000", "CSBD_CONNECTIONS_PER_USER=2000"}})
	var idle []*net.UnixConn
	for range 2000 {
		idle = append(idle, dial(t, d))
	}
	refusedWith(t, dial(t, d), "busy", "connections")
	c := d.As(t, user(bob))
	d.Eventually(t, "2,001 connections", func() bool { return statusOf(t, c).Connections == 2001 })
	assert.Equal(t, c.Run("print('among many')").Stdout, "among many\n")
	assert.Check(t, statusOf(t, c).Refused["busy"] >= 1)

	// They are all alive: the first, the last, and one of which half a line came.
	_, err := idle[1000].Write([]byte(`{"jsonrpc":"2.0",`))
	assert.NilError(t, err)
	for _, i := range []int{0, 1999, 1000} {
		text := `{"jsonrpc":"2.0","id":1,"method":"version"}`
		if i == 1000 {
			text = `"id":1,"method":"version"}`
		}
		_, err := idle[i].Write([]byte(text + "\n"))
		assert.NilError(t, err)
		line, err := bufio.NewReader(idle[i]).ReadString('\n')
		assert.NilError(t, err)
		assert.Check(t, strings.Contains(line, `"protocol":1`), "%s", line)
	}
	for _, c := range idle {
		c.Close()
	}
	d.Eventually(t, "the connections to be forgotten", func() bool { return statusOf(t, c).Connections == 1 })
	assert.Check(t, d.Dial(t).Call("version", nil).Error == nil)
}

// TestHalfOfTheConnections: one user gets half of what there is, whatever the
// bound for each.
func TestHalfOfTheConnections(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{Policy: abusePolicy, NoImages: true,
		Env: []string{"CSBD_SOCKET_MODE=0666", "CSBD_CONNECTIONS=20"}})
	for range 10 {
		dial(t, d)
	}
	refusedWith(t, dial(t, d), "busy", "connections")
	assert.Check(t, d.As(t, user(bob)).Call("version", nil).Error == nil)
}

// TestDescriptorsRunOut: csbd keeps back the descriptors that its sandboxes
// need; when they are taken away all the same, it says so, does not spin, and
// recovers by itself.
func TestDescriptorsRunOut(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{Policy: abusePolicy, Wrapper: []string{"prlimit", "--nofile=300"},
		Env: []string{"CSBD_EXECUTIONS=2", "CSBD_LAUNCHES=1", "CSBD_LOG_LEVEL=warn", "CSBD_SOCKET_MODE=0666"}, Unready: true})
	d.Eventually(t, "the socket", func() bool { _, err := os.Stat(d.Socket); return err == nil })
	d.WaitLog(t, "fewer connections than configured")
	c := d.As(t, user(bob))
	assert.Check(t, c.Call("version", nil).Error == nil)
	var idle []*net.UnixConn
	for range 300 {
		idle = append(idle, dial(t, d))
	}
	refusedWith(t, idle[299], "busy", "connections")
	assert.Equal(t, c.Run("print('kept back')").Stdout, "kept back\n")
	for _, c := range idle {
		c.Close()
	}

	var before unix.Rlimit
	assert.NilError(t, unix.Prlimit(d.Pid, unix.RLIMIT_NOFILE, nil, &before))
	assert.NilError(t, unix.Prlimit(d.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: before.Max}, nil))
	waiting := dial(t, d)
	d.WaitLog(t, "too many open files")
	c.Call("execute", map[string]any{"code": "print(1)"}).Failed(t, "internal")
	time.Sleep(3 * time.Second)
	assert.Check(t, len(d.Lines(t, "accept")) < 30, "csbd spins: %d lines", len(d.Lines(t, "accept")))
	assert.NilError(t, unix.Prlimit(d.Pid, unix.RLIMIT_NOFILE, &before, nil))
	_, err := waiting.Write([]byte(`{"jsonrpc":"2.0","id":1,"method":"version"}` + "\n"))
	assert.NilError(t, err)
	assert.NilError(t, waiting.SetReadDeadline(time.Now().Add(time.Minute)))
	line, err := bufio.NewReader(waiting).ReadString('\n')
	assert.NilError(t, err)
	assert.Check(t, strings.Contains(line, `"protocol":1`), "%s", line)
	assert.Equal(t, c.Run("print('again')").Stdout, "again\n")
}

// rss is csbd's resident memory in bytes: what it is, and its highest so far.
func rss(t *testing.T, pid int) (now, peak int64) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	assert.NilError(t, err)
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "VmRSS:":
			now = n << 10
		case "VmHWM:":
			peak = n << 10
		}
	}
	return now, peak
}

// TestMemoryIsBounded: clients that send the largest messages that they may,
// finished and unfinished, and programs that print the most, to clients that
// never read, all at once: csbd stays below what docs/operations.md says, and
// another user works.
func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{Policy: abusePolicy, Plain: true,
		Env: []string{"CSBD_SOCKET_MODE=0666", fmt.Sprintf("CSBD_MEMORY=%d", abuseMemory)}})
	var profile struct {
		MaxMessage int `json:"max_message"`
	}
	other := d.As(t, user(bob))
	other.Call("policy.show", nil).Decode(t, &profile)
	bound := int64(256<<20 + abuseMemory + 3*profile.MaxMessage)

	head := `{"jsonrpc":"2.0","id":1,"method":"execute","params":{"limits":{"output":"4MiB"},` +
		`"code":"import os\nfor fd in 1, 2: os.write(fd, bytes(4 << 20))","stdin":"`
	// Close to the longest message, with parts close to their largest.
	largest := []byte(head + strings.Repeat(`\u0000`, 1800<<10) + `","files":[{"path":"f","content":"` + strings.Repeat("f", 4<<20-100) + `"}]}` + "\n")
	assert.Assert(t, len(largest) < profile.MaxMessage, "%d", len(largest))
	junk := []byte(head + strings.Repeat("x", profile.MaxMessage-len(head)) + "\n")
	loud := []byte(strings.Repeat(servertest.Request(nil, "policy.show", nil)+"\n"+
		head+`"}}`+"\n", 50))
	nested := []byte(`{"jsonrpc":"2.0","id":1,"method":"execute","params":` + strings.Repeat(`{"a":[`, 1<<20) + "\n")
	empty := []byte(`{"jsonrpc":"2.0","id":1,"method":"execute","params":{"code":"","files":[` + strings.Repeat("{},", 4<<20) + "{}]}}\n")
	// Unread answers fill the socket, so that a write may never end.
	var clients sync.WaitGroup
	for i := range 64 {
		c := dial(t, d)
		assert.NilError(t, c.SetWriteDeadline(time.Now().Add(20*time.Second)))
		text := [][]byte{largest, junk[:len(junk)-1], loud, nested, empty, junk}[i%6]
		clients.Go(func() { _, _ = io.Copy(c, bytes.NewReader(text)) })
	}
	start := time.Now()
	served := 0
	for time.Since(start) < 8*time.Second || served < 2 {
		if r := other.Run("print('served')"); r.Stdout == "served\n" {
			served++
		}
		assert.Assert(t, time.Since(start) < 2*time.Minute, "another user is not served")
	}
	clients.Wait()
	_, peak := rss(t, d.Pid)
	t.Logf("%d MiB at most, %d MiB stated; another user was served %d times", peak>>20, bound>>20, served)
	assert.Check(t, peak < bound, "%d MiB, more than %d MiB", peak>>20, bound>>20)
	assert.Check(t, statusOf(t, other).Refused["busy"] > 0, "nothing was refused: this test has proved nothing")
}

// TestUnfinishedMessage: a message that stops half-way gives its memory back
// after half a minute.
func TestUnfinishedMessage(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{Policy: abusePolicy, NoImages: true})
	c := dial(t, d)
	_, err := c.Write([]byte(strings.Repeat("x", 100<<10)))
	assert.NilError(t, err)
	start := time.Now()
	refusedWith(t, c, "invalid_request", "")
	took := time.Since(start)
	assert.Check(t, took > 25*time.Second && took < 55*time.Second, "%v", took)
}

// TestVanishingClients: clients come, say something or half of it, and go, by
// the hundred; nothing of them stays.
func TestVanishingClients(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{Policy: abusePolicy, Env: []string{"CSBD_SOCKET_MODE=0666"}})
	c := d.As(t, user(bob))
	execute := servertest.Request(1, "execute", map[string]any{"code": "import time; time.sleep(60)"}) + "\n"
	for i := range 400 {
		gone := dial(t, d)
		for _, text := range []string{"", execute, execute[:len(execute)/2], strings.Repeat(execute, 40), strings.Repeat("[", 100<<10)} {
			if i%5 == 0 {
				_ = gone.CloseWrite()
			}
			_ = gone.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = gone.Write([]byte(text))
		}
		gone.Close()
	}
	assert.Equal(t, c.Run("print('still here')").Stdout, "still here\n")
	d.Eventually(t, "the clients to be forgotten", func() bool {
		s := statusOf(t, c)
		return s.Connections == 1 && s.Running == 0 && s.Queued == 0
	})
	d.WaitNoSandbox(t)
	files := func() int {
		entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.Pid))
		return len(entries)
	}
	d.Eventually(t, "the descriptors to be closed", func() bool { return files() < 60 })
}

// TestFairness: while one user keeps its queue full and sends whatever else it
// can, another's executions, one at a time, wait for a few of the first one's
// and never for its queue.
func TestFairness(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{Policy: abusePolicy, Env: []string{"CSBD_SOCKET_MODE=0666", "CSBD_EXECUTIONS=2"}})
	stop := make(chan struct{})
	var flood sync.WaitGroup
	for range 40 { // four more than are admitted
		c := d.Dial(t)
		flood.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				a, err := c.Try("execute", map[string]any{"code": "print('flood')"})
				if err != nil || a.Error != nil && a.Error.Data.Kind != "busy" {
					t.Errorf("%v: %s", err, a.Line)
					return
				}
				if a.Error != nil {
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
	defer flood.Wait()
	defer close(stop)
	c := d.As(t, user(bob))
	d.Eventually(t, "a full queue", func() bool { return statusOf(t, c).Queued >= 30 && statusOf(t, c).Refused["busy"] > 0 })
	for range 10 {
		r := c.Run("print('one')")
		assert.Equal(t, r.Stdout, "one\n")
	}
	// What of the flood ended between two of bob's is what he has waited for,
	// and what ran beside his own.
	between, most, mine := 0, 0, 0
	for _, line := range d.Lines(t, "executed") {
		if line["uid"] != float64(bob) {
			between++
			continue
		}
		if mine++; mine > 1 {
			most = max(most, between)
		}
		between = 0
	}
	t.Logf("at most %d executions of the flood between two", most)
	assert.Equal(t, mine, 10)
	assert.Check(t, most <= 12, "%d executions of the flood came between two of another user's", most)
}
