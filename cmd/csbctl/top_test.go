package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// working is a csbd to whom each status is two seconds after the one before,
// with 20 good executions, 3 timeouts, a refusal, 9 hits and 3 misses more.
func working(t *testing.T) (socket string) {
	t.Helper()
	var looks atomic.Int64
	return fake(t, func(method string, id json.RawMessage) string {
		n := looks.Add(1)
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"version":{"version":"1.2.3"},"uptime":%d,"ready":true,"running":2,"queued":1,"connections":7,`+
			`"executions":{"ok":%d,"timeout":%d},"refused":{"busy":%d},"policy_generation":1,"pools":[{"image":"python","profile":"default",`+
			`"want":2,"max":4,"ready":3,"starting":1,"hits":%d,"misses":%d,"memory":1048576}],"caller":{}}}`, id, 2*n, 20*n, 3*n, n, 9*n, 3*n)
	})
}

func TestTopLines(t *testing.T) {
	t.Parallel()
	socket := working(t)
	o := call{args: []string{"top", "--interval", "100ms", "--count", "21"}}.run(t, socket)
	assert.Check(t, o.code == 0 && o.stderr == "", "%+v", o)
	const head = "    TIME  RUN QUEUE  CONN READY START HITS EXEC/S     OK  ERROR TIMEOUT   CPU MEMORY OUTPUT KILLED CANCEL REFUSED\n"
	const line = "00:00:00    2     1     7     3     1  75%   11.5   10.0    0.0     1.5   0.0    0.0    0.0    0.0    0.0     0.5\n"
	clock := regexp.MustCompile(`\d\d:\d\d:\d\d`)
	assert.Equal(t, clock.ReplaceAllString(o.stdout, "00:00:00"), head+strings.Repeat(line, 20)+head+line)

	// Not with escape sequences even on a terminal, if it is too simple.
	cmd := call{args: []string{"top", "--interval", "0.1", "--count", "2"}, env: []string{"TERM=dumb"}}.command(t, t.Context(), socket)
	terminal, err := pty.Start(cmd)
	assert.NilError(t, err)
	defer terminal.Close()
	seen := record(terminal)
	assert.NilError(t, cmd.Wait())
	assert.Equal(t, clock.ReplaceAllString(seen.text(), "00:00:00"), strings.ReplaceAll(head+line+line, "\n", "\r\n"))

	o = call{args: []string{"top", "--json", "--interval", "100ms", "--count", "2"}}.run(t, socket)
	assert.Check(t, o.code == 0 && o.stderr == "", "%+v", o)
	for text := range strings.Lines(o.stdout) {
		var status struct{ Running int }
		assert.Check(t, json.Unmarshal([]byte(text), &status) == nil && status.Running == 2, "%q", text)
	}
	assert.Equal(t, strings.Count(o.stdout, "\n"), 2)
}

// A recording is what a terminal was told.
type recording struct {
	mu   sync.Mutex
	all  bytes.Buffer
	done chan struct{}
}

func record(terminal interface{ Read([]byte) (int, error) }) *recording {
	r := &recording{done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for buf := make([]byte, 4096); ; {
			n, err := terminal.Read(buf)
			r.mu.Lock()
			r.all.Write(buf[:n])
			r.mu.Unlock()
			if err != nil {
				return // EIO, when the last process has closed it
			}
		}
	}()
	return r
}

// text is everything, once the program has ended.
func (r *recording) text() string {
	<-r.done
	return r.all.String()
}

func (r *recording) soFar() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all.String()
}

const (
	enter = "\x1b[?1049h\x1b[?25l"
	leave = "\x1b[?25h\x1b[?1049l"
)

// frames are the pages that were drawn, each as its rows.
func frames(text string) (pages [][]string) {
	for _, page := range strings.Split(text, "\x1b[H")[1:] {
		page, _, _ = strings.Cut(page, "\x1b[J")
		rows := strings.Split(strings.ReplaceAll(page, "\r", ""), "\n")
		for i := range rows {
			rows[i] = strings.TrimSuffix(rows[i], "\x1b[K")
		}
		pages = append(pages, rows)
	}
	return pages
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		assert.Assert(t, time.Now().Before(deadline), "not seen: %s", what)
	}
}

// TestTopScreen sits at a terminal.
func TestTopScreen(t *testing.T) {
	t.Parallel()
	socket := working(t)
	open := func(t *testing.T, size pty.Winsize, env string) (*recording, *exec.Cmd, func(string), func(pty.Winsize)) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		t.Cleanup(cancel)
		cmd := call{args: []string{"top", "--interval", "200ms"}, env: []string{env}}.command(t, ctx, socket)
		terminal, err := pty.StartWithSize(cmd, &size)
		assert.NilError(t, err)
		t.Cleanup(func() { terminal.Close() })
		r := record(terminal)
		until(t, "two pages", func() bool { return len(frames(r.soFar())) > 2 })
		keys, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
		assert.NilError(t, err)
		assert.Check(t, keys.Lflag&(unix.ECHO|unix.ICANON) == 0, "keys are echoed into the page")
		t.Cleanup(func() {
			keys, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
			assert.NilError(t, err)
			assert.Check(t, keys.Lflag&unix.ECHO != 0 && keys.Lflag&unix.ICANON != 0, "the terminal is left without echo")
		})
		press := func(key string) {
			t.Helper()
			_, err := terminal.WriteString(key)
			assert.NilError(t, err)
		}
		return r, cmd, press, func(size pty.Winsize) { assert.NilError(t, pty.Setsize(terminal, &size)) }
	}
	fits := func(t *testing.T, page []string, size pty.Winsize) {
		t.Helper()
		assert.Check(t, len(page) <= int(size.Rows), "%d rows on %d", len(page), size.Rows)
		for _, row := range page {
			assert.Check(t, len(row) <= int(size.Cols), "%q is wider than %d", row, size.Cols)
		}
	}
	ended := func(t *testing.T, r *recording, cmd *exec.Cmd) {
		t.Helper()
		assert.NilError(t, cmd.Wait())
		text := r.text()
		assert.Check(t, strings.HasPrefix(text, enter) && strings.HasSuffix(text, leave), "%q", text)
		assert.Check(t, strings.Count(text, enter) == strings.Count(text, leave), "%q", text)
	}

	t.Run("Ctrl-C", func(t *testing.T) {
		t.Parallel()
		size := pty.Winsize{Rows: 40, Cols: 120}
		r, cmd, press, _ := open(t, size, "TERM=xterm")
		press("\x03")
		ended(t, r, cmd)
		pages := frames(r.text())
		fits(t, pages[1], size)
		page := strings.Join(pages[1], "\n")
		for _, part := range []string{"csbd is ready\n", "csbd 1.2.3, up ", "running 2, queued 1, connections 7\n", "executions              11.5 ", "  ok                    10.0 ",
			"  timeout                1.5 ", "refused                  0.5 ", "  busy                   0.5 ", "python  default  3      2     4    1         4.5     1.5       75%       75%"} {
			assert.Check(t, strings.Contains(page, part), "%s\ndoes not say %q", page, part)
		}
		// Nothing has passed before the first.
		assert.Check(t, strings.Contains(strings.Join(pages[0], "\n"), "executions                 - "), "%q", pages[0])
	})
	t.Run("q", func(t *testing.T) {
		t.Parallel()
		r, cmd, press, _ := open(t, pty.Winsize{Rows: 24, Cols: 80}, "TERM=screen")
		press("xq")
		ended(t, r, cmd)
	})
	t.Run("window size", func(t *testing.T) {
		t.Parallel()
		r, cmd, press, resize := open(t, pty.Winsize{Rows: 30, Cols: 100}, "TERM=xterm")
		small := pty.Winsize{Rows: 5, Cols: 20}
		resize(small)
		isSmall := func() bool {
			pages := frames(r.soFar())
			return len(pages[len(pages)-2]) == int(small.Rows)
		}
		until(t, "a smaller page", isSmall)
		pages := frames(r.soFar())
		fits(t, pages[len(pages)-2], small)
		resize(pty.Winsize{Rows: 30, Cols: 100})
		until(t, "a larger page", func() bool { return !isSmall() })
		press("q")
		ended(t, r, cmd)
	})
	t.Run("Ctrl-Z", func(t *testing.T) {
		t.Parallel()
		r, cmd, press, _ := open(t, pty.Winsize{Rows: 24, Cols: 80}, "TERM=xterm")
		press("\x1a")
		until(t, "the screen that was there before", func() bool { return strings.HasSuffix(r.soFar(), leave) })
		until(t, "a stopped process", func() bool {
			stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
			return bytes.Contains(stat, []byte(") T "))
		})
		pages := len(frames(r.soFar()))
		assert.NilError(t, cmd.Process.Signal(unix.SIGCONT))
		until(t, "more pages", func() bool { return len(frames(r.soFar())) > pages+2 })
		press("q")
		ended(t, r, cmd)
	})
}

// TestTopAcrossRestart watches a real csbd that works, stops, and comes back.
func TestTopAcrossRestart(t *testing.T) {
	t.Parallel()
	d := start(t)
	cmd := call{args: []string{"top", "--interval", "100ms"}}.command(t, t.Context(), d.Socket)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	assert.NilError(t, err)
	assert.NilError(t, cmd.Start())
	r := record(out)
	ended := sync.OnceFunc(func() {
		_ = cmd.Process.Signal(unix.SIGINT)
		<-r.done
		_ = cmd.Wait()
	})
	defer ended()
	// The columns of each line that has them.
	lines := func() (all [][]string) {
		for line := range strings.Lines(r.soFar()) {
			if fields := strings.Fields(line); len(fields) > 16 && fields[0] != "TIME" {
				all = append(all, fields)
			}
		}
		return all
	}
	executed := func() (n int) {
		for _, fields := range lines() {
			if fields[8] != "0.0" && fields[8] != "-" {
				n++
			}
		}
		return n
	}
	until(t, "a line", func() bool { return len(lines()) > 0 })
	assert.Equal(t, executed(), 0, "%s", r.soFar())
	assert.Equal(t, call{args: []string{"-c", "1"}}.run(t, d.Socket).code, 0)
	until(t, "an execution", func() bool { return executed() > 0 })
	// Its own connection, and no more.
	for _, fields := range lines() {
		assert.Check(t, fields[3] == "1" || fields[3] == "2", "%q", fields)
	}
	d.Stop(t)
	until(t, "the absence", func() bool { return strings.Contains(r.soFar(), "csbd is not there: ") })
	before := len(lines())
	servertest.Start(t, servertest.Options{Policy: policy, Dir: d.Dir})
	until(t, "two lines of the next csbd", func() bool { return len(lines()) > before+1 })
	// There is no difference to another csbd.
	all := lines()
	assert.Equal(t, all[before][7], "-", "%s", r.soFar())
	assert.Equal(t, all[before+1][7], "0.0", "%s", r.soFar())
	ended()
	assert.Equal(t, errs.String(), "")
}

// A caller who may not ask any more is told so.
func TestTopDenied(t *testing.T) {
	t.Parallel()
	var looks atomic.Int64
	socket := fake(t, func(method string, id json.RawMessage) string {
		if looks.Add(1) < 3 {
			return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":{"ready":false,"problem":"it is Monday"}}`, id)
		}
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32001,"message":"go away","data":{"kind":"denied"}}}`, id)
	})
	o := call{args: []string{"top", "--interval", "100ms"}}.run(t, socket)
	assert.Check(t, o.code == 125 && strings.HasSuffix(o.stdout, "  csbd is NOT READY: it is Monday\n"), "%+v", o)
	assert.Check(t, strings.HasPrefix(o.stderr, "csbctl: go away\nhint: "), "%+v", o)
}
