package server_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// A line of an answer from a bare connection.
type line struct {
	ID     any
	Result json.RawMessage
	Error  *servertest.Failure
}

// ask sends requests and reads as many answers, in the order in which they come.
func ask(c net.Conn, requests ...string) (answers []line, err error) {
	if err := c.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(c, strings.Join(requests, "\n")+"\n"); err != nil {
		return nil, err
	}
	for in := json.NewDecoder(c); len(answers) < len(requests); {
		var a line
		if err := in.Decode(&a); err != nil {
			return answers, err
		}
		answers = append(answers, a)
	}
	return answers, nil
}

// dialAs connects as another user, without a process for each: one thread is
// that user meanwhile, and it is the thread that the kernel asks.
func dialAs(t *testing.T, d *servertest.Daemon, uid int) net.Conn {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	become := func(uid int) {
		t.Helper()
		same := ^uintptr(0)
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same)
		assert.Equal(t, errno, syscall.Errno(0))
	}
	become(uid)
	c, err := net.Dial("unix", d.Socket)
	become(0)
	assert.NilError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// TestDeepNesting: however deep a message nests, it is answered at once, and
// with the same words as any other that is wrong.
func TestDeepNesting(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{Policy: abusePolicy, NoImages: true})
	c := d.Dial(t)
	nest := func(n int) string { return strings.Repeat(`[`, n) + strings.Repeat(`]`, n) }
	object := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	for _, test := range []struct{ name, line, kind string }{
		{"array in code", `{"jsonrpc":"2.0","id":1,"method":"execute","params":{"code":` + nest(9000) + `}}`, "invalid_params"},
		{"objects in limits", `{"jsonrpc":"2.0","id":1,"method":"execute","params":{"code":"","limits":` + object(9000) + `}}`, "invalid_params"},
		{"files of files", `{"jsonrpc":"2.0","id":1,"method":"execute","params":{"code":"","files":` + nest(9000) + `}}`, "invalid_params"},
		{"a million arrays", `{"jsonrpc":"2.0","id":1,"method":"execute","params":{"code":` + nest(1<<20) + `}}`, "parse_error"},
		{"a million objects", `{"jsonrpc":"2.0","id":1,"method":"version","meta":` + object(1<<20) + `}`, "parse_error"},
		{"a million arrays that are not closed", strings.Repeat("[", 1<<20), "parse_error"},
		{"id", `{"jsonrpc":"2.0","id":` + nest(9000) + `,"method":"version"}`, "invalid_request"},
		{"method", `{"jsonrpc":"2.0","id":1,"method":` + object(9000) + `}`, "invalid_request"},
		{"a batch", nest(9000), "invalid_request"},
		{"cancel", `{"jsonrpc":"2.0","id":1,"method":"cancel","params":{"id":` + nest(9000) + `}}`, "invalid_params"},
		{"policy.check", `{"jsonrpc":"2.0","id":1,"method":"policy.check","params":{"policy":` + object(9000) + `}}`, "invalid_params"},
	} {
		start := time.Now()
		c.Send(test.line)
		a := c.Receive()
		assert.Check(t, a.Error != nil && a.Error.Data.Kind == test.kind, "%s: %.300s", test.name, a.Line)
		assert.Check(t, len(a.Line) < 2000, "%s: an answer of %d bytes", test.name, len(a.Line))
		assert.Check(t, time.Since(start) < 5*time.Second, "%s: %v", test.name, time.Since(start))
	}
	// What is not ours to understand may nest.
	c.Send(`{"jsonrpc":"2.0","id":1,"method":"version","meta":` + nest(9000) + `}`)
	assert.Check(t, c.Receive().Error == nil)

	// A policy that nests is refused, too: its parser is another one.
	for _, text := range []string{strings.Repeat("[", 100000), strings.Repeat("{a: ", 50000), strings.Repeat("- ", 100000), "version: 1\nprofiles: " + nest(50000)} {
		start := time.Now()
		var verdict struct{ Valid bool }
		c.Call("policy.check", map[string]any{"policy": text}).Decode(t, &verdict)
		assert.Check(t, !verdict.Valid, "%.20s", text)
		assert.Check(t, time.Since(start) < 10*time.Second, "%.20s: %v", text, time.Since(start))
	}
}

// TestSlowClients: a client that sends byte by byte is served; one that sends a
// large message so slowly that it would hold memory for longer than allowed is
// told so, though it never stops sending.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{Policy: abusePolicy, NoImages: true})
	var clients sync.WaitGroup
	for range 20 {
		c := dial(t, d)
		clients.Go(func() {
			for _, b := range []byte(`{"jsonrpc":"2.0","id":"slow","method":"version"}` + "\n") {
				if _, err := c.Write([]byte{b}); err != nil {
					t.Error(err)
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
			answer, err := bufio.NewReader(c).ReadString('\n')
			if err != nil || !strings.Contains(answer, `"id":"slow"`) || !strings.Contains(answer, `"protocol":1`) {
				t.Errorf("%q, %v", answer, err)
			}
		})
	}
	c := dial(t, d)
	_, err := c.Write([]byte(strings.Repeat("x", 100<<10)))
	assert.NilError(t, err)
	start := time.Now()
	go func() {
		for {
			if _, err := c.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	// Others are answered meanwhile, at once.
	for time.Since(start) < 10*time.Second {
		asked := time.Now()
		answers, err := ask(dial(t, d), servertest.Request(1, "version", nil))
		assert.Check(t, err == nil && answers[0].Error == nil, "%v", err)
		assert.Check(t, time.Since(asked) < 2*time.Second, "%v", time.Since(asked))
		time.Sleep(100 * time.Millisecond)
	}
	in := bufio.NewReader(c)
	assert.NilError(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
	answer, err := in.ReadString('\n')
	took := time.Since(start)
	assert.NilError(t, err)
	assert.Check(t, strings.Contains(answer, "invalid_request"), "%s", answer)
	assert.Check(t, took > 25*time.Second && took < 45*time.Second, "%v", took)
	clients.Wait()
}

// TestGuessedIDs: somebody who guesses ids of others' executions, or of others'
// requests, cancels nothing and learns nothing.
func TestGuessedIDs(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{Policy: abusePolicy, Env: []string{"CSBD_SOCKET_MODE=0666"}})
	c := dialAs(t, d, alice)
	_, err := io.WriteString(c, servertest.Request(7, "execute", map[string]any{
		"code": "print('before', flush=True)\n" + servertest.Occupy + "import time\ntime.sleep(8)\nprint('after')"})+"\n")
	assert.NilError(t, err)
	d.WaitOccupied(t, 1)
	var mine status
	answers, err := ask(dialAs(t, d, alice), servertest.Request(1, "status", nil))
	assert.NilError(t, err)
	assert.NilError(t, json.Unmarshal(answers[0].Result, &mine))
	assert.Equal(t, len(mine.Caller.Executions), 1)
	id := mine.Caller.Executions[0]
	assert.Check(t, len(id) == 16 && strings.Trim(id, "0123456789abcdef") == "", "an id is 64 random bits: %q", id)

	guesses := []any{id, strings.ToUpper(id), id + " ", id[:15], 7, "7", 0, 1, "", "0", "*", "../" + id}
	for i := range 16 { // those next to it
		guesses = append(guesses, id[:15]+fmt.Sprintf("%x", i), fmt.Sprintf("%x", i)+id[1:])
	}
	requests := []string{}
	for i, guess := range guesses {
		requests = append(requests, servertest.Request(100+i, "cancel", map[string]any{"id": guess}))
	}
	other := dialAs(t, d, bob)
	answers, err = ask(other, requests...)
	assert.NilError(t, err)
	for _, a := range answers {
		assert.Check(t, a.Error == nil && string(a.Result) == `{"cancelled":false}`, "%+v %s", a.Error, a.Result)
	}
	// A cancel that nobody hears of, and everything that tells about executions.
	_, err = io.WriteString(other, servertest.Request(nil, "cancel", map[string]any{"id": id})+"\n")
	assert.NilError(t, err)
	answers, err = ask(other, servertest.Request("s", "status", nil), servertest.Request("p", "policy.show", nil), servertest.Request("i", "images.list", nil))
	assert.NilError(t, err)
	for _, a := range answers {
		assert.Check(t, !strings.Contains(string(a.Result), id), "%s", a.Result)
	}

	answers, err = ask(dialAs(t, d, alice), servertest.Request(1, "status", nil))
	assert.NilError(t, err)
	assert.Check(t, strings.Contains(string(answers[0].Result), id), "it ended before all guesses were made: this test has proved nothing")

	var a line
	assert.NilError(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
	assert.NilError(t, json.NewDecoder(c).Decode(&a))
	var r servertest.Result
	assert.NilError(t, json.Unmarshal(a.Result, &r))
	assert.Check(t, r.ID == id && r.Status == "ok" && r.Stdout == "before\nafter\n", "%+v", r)
}

// TestGroupsChange: a connection keeps the groups that its process and the
// database had when it connected; who is added to a group while csbd runs is a
// member from the next connection on, and who is removed is none.
func TestGroupsChange(t *testing.T) {
	t.Parallel()
	dir := servertest.Dir(t)
	database := filepath.Join(dir, "group")
	write := func(members string) {
		t.Helper()
		// In place: csbd has this very file mounted over its own.
		assert.NilError(t, os.WriteFile(database, []byte("root:x:0:\nnogroup:x:65534:\nsandboxers:x:43100:"+members+"\n"), 0o644))
	}
	write("")
	d := servertest.Start(t, servertest.Options{
		NoImages: true, Env: []string{"CSBD_SOCKET_MODE=0666"},
		Policy:  "version: 1\nprofiles: {default: {}}\nrules: [{group: sandboxers, profile: default}]\n",
		Wrapper: []string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/group && exec "$@"`, database},
	})
	who := syscall.Credential{Uid: 65534, Gid: 65534}
	before := d.As(t, who)
	before.Call("policy.show", nil).Failed(t, "denied")

	write("nobody")
	before.Call("policy.show", nil).Failed(t, "denied")
	during := d.As(t, who)
	assert.Check(t, during.Call("policy.show", nil).Error == nil)
	assert.Check(t, slices.Contains(statusOf(t, during).Caller.Groups, 43100))

	write("")
	assert.Check(t, during.Call("policy.show", nil).Error == nil)
	d.As(t, who).Call("policy.show", nil).Failed(t, "denied")
	before.Call("policy.show", nil).Failed(t, "denied")

	// A process may be in a group of which the database knows nothing.
	member := syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{43100}}
	assert.Check(t, d.As(t, member).Call("policy.show", nil).Error == nil)
}

// crowded lets each user run three at a time, and eight wait.
const crowded = `version: 1
profiles: {default: {timeout: 60s, concurrency: 3, queue: 8, rate: 100000/min}}
rules: [{user: "*", profile: default}]
pools: [{image: python, profile: default, ready: 4, max: 6}]
`

// TestLimitsAreExact: of what two users send at once, as many are accepted as
// may run and wait, and the rest is refused at once; and by their own clocks
// never more of one user's programs run at a time than may, and as many do.
func TestLimitsAreExact(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{Policy: crowded, Env: []string{"CSBD_SOCKET_MODE=0666", "CSBD_EXECUTIONS=16"}})
	const sent, concurrency, accepted = 40, 3, 3 + 8
	program := servertest.Request(1, "execute", map[string]any{
		"code": "import time\nbegin = time.time()\ntime.sleep(1.5)\nprint(begin, time.time())"})
	type outcome struct {
		begin, end float64
		busy       time.Duration
		err        error
	}
	var users sync.WaitGroup
	for _, uid := range []int{alice, bob} {
		connections := []net.Conn{}
		for range sent {
			connections = append(connections, dialAs(t, d, uid))
		}
		users.Go(func() {
			outcomes := make(chan outcome)
			for _, c := range connections {
				go func() {
					var o outcome
					start := time.Now()
					answers, err := ask(c, program)
					switch o.err = err; {
					case err != nil:
					case answers[0].Error != nil && answers[0].Error.Data.Kind == "busy":
						o.busy = time.Since(start)
					case answers[0].Error != nil:
						o.err = fmt.Errorf("%+v", answers[0].Error)
					default:
						var r servertest.Result
						if o.err = json.Unmarshal(answers[0].Result, &r); o.err == nil {
							_, o.err = fmt.Sscan(r.Stdout, &o.begin, &o.end)
						}
					}
					outcomes <- o
				}()
			}
			type change struct {
				at float64
				by int
			}
			var changes []change
			busy, slowest := 0, time.Duration(0)
			for range sent {
				o := <-outcomes
				switch {
				case o.err != nil:
					t.Error(o.err)
				case o.busy > 0:
					busy++
					slowest = max(slowest, o.busy)
				default:
					changes = append(changes, change{o.begin, 1}, change{o.end, -1})
				}
			}
			slices.SortFunc(changes, func(a, b change) int {
				if a.at < b.at {
					return -1
				}
				return 1
			})
			running, most := 0, 0
			for _, c := range changes {
				running += c.by
				most = max(most, running)
			}
			t.Logf("user %d: %d ran, at most %d at a time; %d busy, after %v at most", uid, len(changes)/2, most, busy, slowest)
			// All were sent before the first could end.
			if len(changes)/2 != accepted || busy != sent-accepted {
				t.Errorf("user %d: %d ran and %d were refused, of %d", uid, len(changes)/2, busy, sent)
			}
			if most != concurrency {
				t.Errorf("user %d: %d ran at a time", uid, most)
			}
			if slowest > 2*time.Second {
				t.Errorf("user %d: busy was said after %v", uid, slowest)
			}
		})
	}
	users.Wait()
}

// TestManyUsers: a crowd of users, each with many connections, is told apart:
// everybody gets their own answers, sees their own executions, and nobody more
// than the bound of connections.
func TestManyUsers(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{Policy: crowded,
		Env: []string{"CSBD_SOCKET_MODE=0666", "CSBD_CONNECTIONS=1000", "CSBD_CONNECTIONS_PER_USER=30", "CSBD_EXECUTIONS=8"}})
	const users, connections, programs = 12, 30, 8
	var clients sync.WaitGroup
	for n := range users {
		uid := 44000 + n
		for i := range connections {
			c := dialAs(t, d, uid)
			clients.Go(func() {
				requests := []string{servertest.Request("status", "status", nil)}
				word := fmt.Sprintf("of %d by connection %d", uid, i)
				if i < programs {
					requests = append(requests, servertest.Request("run", "execute", map[string]any{"code": fmt.Sprintf("print(%q)", word)}))
				}
				answers, err := ask(c, requests...)
				if err != nil {
					t.Errorf("%s: %v", word, err)
					return
				}
				for _, a := range answers {
					switch {
					case a.Error != nil:
						t.Errorf("%s: %+v", word, a.Error)
					case a.ID == "status":
						var s status
						if err := json.Unmarshal(a.Result, &s); err != nil || int(s.Caller.UID) != uid || len(s.Caller.Executions) > programs {
							t.Errorf("%s: %v: %s", word, err, a.Result)
						}
					default:
						var r servertest.Result
						if err := json.Unmarshal(a.Result, &r); err != nil || r.Stdout != word+"\n" {
							t.Errorf("%s: %v: %s", word, err, a.Result)
						}
					}
				}
			})
		}
		// One more is refused at once, while all the others work.
		more := dialAs(t, d, uid)
		assert.NilError(t, more.SetReadDeadline(time.Now().Add(time.Minute)))
		answer, err := bufio.NewReader(more).ReadString('\n')
		assert.NilError(t, err)
		assert.Check(t, strings.Contains(answer, `"kind":"busy"`), "%s", answer)
	}
	clients.Wait()
}
