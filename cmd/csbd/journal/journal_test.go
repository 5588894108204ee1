package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// listen is a journal that only keeps what it gets. (cmd/csbd's tests run
// systemd's own.)
func listen(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	assert.NilError(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// receive reads a line as the protocol says: name=value, or name, length and
// value.
func receive(t *testing.T, l *net.UnixConn) map[string]string {
	t.Helper()
	data := make([]byte, 1<<20)
	assert.NilError(t, l.SetReadDeadline(time.Now().Add(10*time.Second)))
	n, err := l.Read(data)
	assert.NilError(t, err)
	fields := map[string]string{}
	for data = data[:n]; len(data) > 0; {
		head, rest, ok := bytes.Cut(data, []byte("\n"))
		assert.Assert(t, ok, "%q", data)
		name, value, simple := strings.Cut(string(head), "=")
		if data = rest; !simple {
			size := binary.LittleEndian.Uint64(rest)
			value, data = string(rest[8:8+size]), rest[8+size+1:]
		}
		_, twice := fields[name]
		assert.Check(t, !twice, "%s stands there twice", name)
		fields[name] = value
	}
	return fields
}

func TestHandler(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "socket")
	l := listen(t, path)
	var stderr bytes.Buffer
	conn := Dial(path, time.Second)
	defer conn.Close()
	base := slog.New(NewHandler(conn, &stderr, slog.LevelInfo))
	log := base.With("uid", 1000, "pid", int32(7))
	log.Info("executed", "id", "abc", "status", "timeout", "exit-code", 124, "run", 1500*time.Millisecond, "warm", true,
		"error", errors.New("two\nlines"), slog.Group("limits", "memory", 1<<20))
	assert.DeepEqual(t, receive(t, l), map[string]string{
		"PRIORITY": "6", "SYSLOG_IDENTIFIER": "csbd", "CSBD_MSG": "executed",
		"MESSAGE":  `executed uid=1000 pid=7 id=abc status=timeout exit-code=124 run=1.5s warm=true error="two\nlines" limits.memory=1048576`,
		"CSBD_UID": "1000", "CSBD_PID": "7", "CSBD_ID": "abc", "CSBD_STATUS": "timeout", "CSBD_EXIT_CODE": "124", "CSBD_RUN": "1.5s",
		"CSBD_WARM": "true", "CSBD_ERROR": "two\nlines", "CSBD_LIMITS_MEMORY": "1048576",
	})
	// Nothing of one logger is in another's lines.
	base.WithGroup("pool").With("a", 1).Warn("w", "b", 2)
	assert.DeepEqual(t, receive(t, l), map[string]string{"PRIORITY": "4", "SYSLOG_IDENTIFIER": "csbd", "CSBD_MSG": "w",
		"MESSAGE": "w pool.a=1 pool.b=2", "CSBD_POOL_A": "1", "CSBD_POOL_B": "2"})
	log.Debug("not at this level")
	log.Error("e", "long", strings.Repeat("x", 1<<20), "time", time.Unix(0, 0).UTC())
	got := receive(t, l)
	assert.Check(t, got["PRIORITY"] == "3" && got["CSBD_LONG"] == strings.Repeat("x", maxValue)+"…" && got["CSBD_TIME"] == "1970-01-01T00:00:00Z")
	assert.Equal(t, stderr.String(), "")
}

// TestJournalGone: without a journal lines go to stderr, whole; with a new one
// they go there.
func TestJournalGone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "socket")
	var stderr bytes.Buffer
	conn := Dial(path, time.Second)
	defer conn.Close()
	log := slog.New(NewHandler(conn, &stderr, slog.LevelInfo)).With("uid", 1000)
	log.Info("nobody listens", "id", "abc")
	assert.Check(t, strings.HasPrefix(stderr.String(), "time=") && strings.HasSuffix(stderr.String(), ` level=INFO msg="nobody listens" uid=1000 id=abc`+"\n"), "%s", &stderr)
	for range 3 {
		stderr.Reset()
		l := listen(t, path)
		time.Sleep(sulk)
		log.Info("here")
		assert.Equal(t, receive(t, l)["MESSAGE"], "here uid=1000")
		assert.NilError(t, l.Close())
		assert.NilError(t, os.Remove(path))
	}
	assert.Equal(t, stderr.String(), "")
}

// TestJournalFull: one that takes nothing, because others have filled its queue,
// costs a caller its patience once a second, and no processor. What could not be
// sent is not sent later.
func TestJournalFull(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "socket")
	l := listen(t, path)
	filled := 0
	for range 100 {
		other, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
		assert.NilError(t, err)
		defer other.Close()
		raw, err := other.SyscallConn()
		assert.NilError(t, err)
		var full error
		assert.NilError(t, raw.Write(func(fd uintptr) bool {
			for {
				if _, full = unix.SendmsgN(int(fd), []byte("x"), nil, nil, unix.MSG_DONTWAIT); full != nil {
					return true
				}
				filled++
			}
		}))
		assert.ErrorIs(t, full, unix.EAGAIN)
	}
	const patience = 300 * time.Millisecond
	var stderr bytes.Buffer
	conn := Dial(path, patience)
	defer conn.Close()
	log := slog.New(NewHandler(conn, &stderr, slog.LevelInfo))
	var before, after syscall.Rusage
	assert.NilError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &before))
	start := time.Now()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 25 {
				log.Info("lost")
			}
		})
	}
	all.Wait()
	took := time.Since(start)
	assert.Check(t, took >= patience && took < patience+sulk, "%v", took)
	assert.NilError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &after))
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	assert.Check(t, cpu < took/2, "%v of processor time in %v", cpu, took)
	assert.Equal(t, strings.Count(stderr.String(), "msg=lost\n"), 100)

	// Audit lines are not delayed either, and known to be lost.
	_, err := Audit{conn}.Write([]byte("{}\n"))
	assert.ErrorIs(t, err, errSulking)
	for ; filled > 0; filled-- {
		_, err := l.Read(make([]byte, 10))
		assert.NilError(t, err)
	}
	time.Sleep(sulk)
	_, err = Audit{conn}.Write([]byte(`{"event":"execution","id":"i","uid":5,"status":"ok"}` + "\n"))
	assert.NilError(t, err)
	assert.Equal(t, receive(t, l)["CSBD_ID"], "i")
}

func TestAudit(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "socket")
	l := listen(t, path)
	conn := Dial(path, time.Second)
	a := Audit{conn}
	line := `{"time":"2026-11-25T10:00:00Z","event":"execution","id":"abc","uid":1000,"pid":7,"unit":"batch.service",` +
		`"limits":{"memory":1048576,"timeout":2.5},"status":"ok","exit_code":0,"execution_time":0.25,"list":[1],"none":null}`
	n, err := a.Write([]byte(line + "\n"))
	assert.Check(t, err == nil && n == len(line)+1, "%d %v", n, err)
	assert.DeepEqual(t, receive(t, l), map[string]string{
		"PRIORITY": "6", "SYSLOG_IDENTIFIER": "csbd", "MESSAGE_ID": auditID, "MESSAGE": "execution abc of uid 1000 ended: ok", "CSBD_AUDIT": line,
		"CSBD_TIME": "2026-11-25T10:00:00Z", "CSBD_EVENT": "execution", "CSBD_ID": "abc", "CSBD_UID": "1000", "CSBD_PID": "7",
		"CSBD_UNIT": "batch.service", "CSBD_LIMITS_MEMORY": "1048576", "CSBD_LIMITS_TIMEOUT": "2.5", "CSBD_STATUS": "ok",
		"CSBD_EXIT_CODE": "0", "CSBD_EXECUTION_TIME": "0.25", "CSBD_LIST": "[1]",
	})
	_, err = a.Write([]byte(`{"event":"refusal","kind":"denied","uid":1000}`))
	assert.NilError(t, err)
	assert.Equal(t, receive(t, l)["MESSAGE"], "refusal to uid 1000: denied")
	_, err = a.Write([]byte("no JSON"))
	assert.ErrorContains(t, err, "audit line")
	assert.NilError(t, a.Close())
	_, err = a.Write([]byte(line))
	assert.NilError(t, err, "a closed one is opened again")
	assert.NilError(t, a.Close())
}
