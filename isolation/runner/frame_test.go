package runner

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/isolation"
)

func TestWriteRequest(t *testing.T) {
	spec := isolation.Spec{
		Code:        []byte("print('ü')\x00\xff"),
		Args:        []string{"a", "", "ü\n\"<&>"},
		Stdin:       []byte{0, 1, 255},
		Environment: map[string]string{"K": "v=w"},
		Files: []isolation.File{
			{Path: "a/b", Content: []byte("one")},
			{Path: "empty", Mode: 0o755},
		},
		Limits: isolation.Limits{Memory: 5, Processes: 6, OpenFiles: 7},
	}
	var b bytes.Buffer
	assert.NilError(t, WriteRequest(&b, "the token", spec))

	assert.Equal(t, string(b.Next(4)), "CSB1")
	var h map[string]any
	assert.NilError(t, json.Unmarshal(b.Next(int(binary.BigEndian.Uint32(b.Next(4)))), &h))
	assert.DeepEqual(t, h, map[string]any{
		"token":       "the token",
		"args":        []any{"a", "", "ü\n\"<&>"},
		"environment": map[string]any{"K": "v=w"},
		"code":        13.0,
		"stdin":       3.0,
		"files": []any{
			map[string]any{"path": "a/b", "mode": float64(0o644), "size": 3.0},
			map[string]any{"path": "empty", "mode": float64(0o755), "size": 0.0},
		},
		"limits": map[string]any{"memory": 5.0, "processes": 6.0, "open_files": 7.0},
	})
	assert.Equal(t, b.String(), "print('ü')\x00\xff"+"\x00\x01\xff"+"one")
}

// What is not there is an empty list or object, not null.
func TestWriteRequestOfNothing(t *testing.T) {
	var b bytes.Buffer
	assert.NilError(t, WriteRequest(&b, "t", isolation.Spec{}))
	for _, want := range []string{`"args":[]`, `"environment":{}`, `"files":[]`} {
		assert.Assert(t, strings.Contains(b.String(), want), "%q", b.String())
	}
}

// A small request goes in one piece, a large one is not copied.
func TestWriteRequestPieces(t *testing.T) {
	for _, c := range []struct {
		stdin  int
		pieces int
	}{{0, 1}, {5, 1}, {60 << 10, 1}, {inOneWrite, 3}, {1 << 20, 3}} {
		spec := isolation.Spec{Code: []byte("code"), Stdin: bytes.Repeat([]byte("x"), c.stdin)}
		var whole bytes.Buffer
		assert.NilError(t, WriteRequest(&whole, "t", spec))
		assert.Assert(t, bytes.HasSuffix(whole.Bytes(), append([]byte("}code"), spec.Stdin...)))
		for room := range c.pieces {
			w := &brokenWriter{room: room}
			assert.ErrorContains(t, WriteRequest(w, "t", spec), "write request frame: broken")
		}
		assert.NilError(t, WriteRequest(&brokenWriter{room: c.pieces}, "t", spec), "%d bytes", c.stdin)
	}
}

func TestWriteNotice(t *testing.T) {
	var b bytes.Buffer
	assert.NilError(t, WriteNotice(&b))
	assert.Equal(t, b.String(), "CSBN")
	assert.ErrorContains(t, WriteNotice(&brokenWriter{}), "write notice: broken")
}

type brokenWriter struct{ room int }

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.room--; w.room < 0 {
		return 0, errors.New("broken")
	}
	return len(p), nil
}

func TestTokensDiffer(t *testing.T) {
	seen := map[Token]bool{}
	for range 1000 {
		token := NewToken()
		assert.Equal(t, len(token), 32)
		assert.Equal(t, strings.Trim(string(token), "0123456789abcdef"), "")
		assert.Assert(t, !seen[token])
		seen[token] = true
	}
}

func TestWaitReady(t *testing.T) {
	r := strings.NewReader(Ready + "output")
	assert.NilError(t, WaitReady(iotest.OneByteReader(r)))
	rest, err := io.ReadAll(r)
	assert.NilError(t, err)
	assert.Equal(t, string(rest), "output") // nothing of the program's is swallowed

	assert.ErrorIs(t, WaitReady(strings.NewReader("")), io.EOF)
	assert.ErrorIs(t, WaitReady(strings.NewReader("CSB1")), io.ErrUnexpectedEOF)
	assert.ErrorContains(t, WaitReady(strings.NewReader("Traceback (most recent")), `got "Traceback`)
}

func TestWaitTaken(t *testing.T) {
	r := strings.NewReader(Ready + "output")
	assert.NilError(t, WaitTaken(iotest.OneByteReader(r)))
	rest, err := io.ReadAll(r)
	assert.NilError(t, err)
	assert.Equal(t, string(rest), "output")

	refused := func(size uint32, reason string) io.Reader {
		return strings.NewReader(string(binary.BigEndian.AppendUint32([]byte(refusal), size)) + reason)
	}
	var setup *isolation.SetupError
	assert.Assert(t, errors.As(WaitTaken(iotest.OneByteReader(refused(7, "no room"))), &setup))
	assert.Equal(t, setup.Reason, "no room")
	assert.ErrorContains(t, WaitTaken(refused(maxReason+1, strings.Repeat("x", maxReason+1))), "a reason of 8193 bytes")
	assert.ErrorIs(t, WaitTaken(refused(8, "no room")), io.ErrUnexpectedEOF)
	assert.ErrorIs(t, WaitTaken(strings.NewReader(refusal)), io.EOF)
	assert.ErrorIs(t, WaitTaken(strings.NewReader("")), io.EOF)
	assert.ErrorContains(t, WaitTaken(strings.NewReader("Traceback (most recent")), `got "Traceback`)
	// A runner that waits refuses nothing.
	assert.ErrorContains(t, WaitReady(refused(7, "no room")), `got "CSB1 files`)
}

func TestParseEnd(t *testing.T) {
	for in, want := range map[string]End{
		`{}`:                              {},
		`{"exit_code": 255}`:              {ExitCode: 255},
		`{"signal": 64, "unknown": []}`:   {Signal: 64},
		`{"setup": "pretended"}`:          {}, // said before the program starts, or never
		`{"exception": {"line": -3}}`:     {Exception: &exception{}},
		`{"exception": {"type": "\ud8"}}`: {},
	} {
		got, err := parseEnd([]byte(in))
		if strings.Contains(in, `\ud8"`) {
			assert.Assert(t, err != nil)
			continue
		}
		assert.NilError(t, err, in)
		assert.DeepEqual(t, got, want)
	}
	for _, in := range []string{``, `null x`, `[]`, `"x"`, `{"exit_code": 256}`, `{"exit_code": -1}`, `{"exit_code": 1.5}`,
		`{"exit_code": 1e400}`, `{"signal": 65}`, `{"signal": -9}`, `{"exception": 1}`, `{"exception": {"line": "x"}}`,
		strings.Repeat("[", 100000), `{"exit_code": 99999999999999999999}`} {
		_, err := parseEnd([]byte(in))
		assert.Assert(t, err != nil, "%.100q", in)
	}
}

func TestEndResult(t *testing.T) {
	memory := &exception{Type: "MemoryError"}
	for _, c := range []struct {
		end          End
		status       isolation.Status
		exit, signal int
	}{
		{End{}, isolation.StatusOK, 0, 0},
		{End{ExitCode: 3}, isolation.StatusError, 3, 0},
		{End{Exception: &exception{Type: "X"}}, isolation.StatusError, 0, 0},
		{End{ExitCode: 1, Exception: memory}, isolation.StatusMemoryLimit, 1, 0},
		{End{Signal: 11}, isolation.StatusKilled, 139, 11},
		{End{ExitCode: 1, Signal: 2, Exception: &exception{Type: "KeyboardInterrupt"}}, isolation.StatusKilled, 130, 2},
	} {
		r := c.end.Result()
		assert.Equal(t, r.Status, c.status)
		assert.Equal(t, r.ExitCode, c.exit)
		assert.Equal(t, r.Signal, c.signal)
		assert.Equal(t, r.Exception != nil, c.end.Exception != nil)
	}
}

func TestPreload(t *testing.T) {
	assert.DeepEqual(t, Preload([]string{"numpy"}), []string{"/usr/bin/python3", Path, "numpy"})
	assert.DeepEqual(t, Preload(nil), []string{"/usr/bin/python3", Path})
}

// What both sides have to say in the same words.
func TestRunnerSpeaksTheSame(t *testing.T) {
	for _, want := range []string{
		`MAGIC = b"CSB1"`, `WARM = b"CSBW"`, `NOTICE = b"CSBN"`, `READY = b"CSB1 ready\n"`, `REFUSED = b"CSB1 files\n"`, `MARK = b"\x00csb-end "`,
	} {
		assert.Assert(t, bytes.Contains(Source, []byte(want)), "runner.py has no %s", want)
	}
	assert.Equal(t, string(Token("T").mark()), "\x00csb-end T ")
	assert.Equal(t, Ready, "CSB1 ready\n")
	assert.Equal(t, refusal, "CSB1 files\n")
	assert.Equal(t, len(refusal), len(Ready))
	assert.Equal(t, magic, "CSB1")
	assert.Equal(t, magicWarm, "CSBW")
	assert.Equal(t, magicNotice, "CSBN")
}

// The runner must stay a program for Python 3.8, which no other test has.
func TestRunnerIsPython38(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3 to parse it with")
	}
	cmd := exec.Command(python, "-c", "import ast, sys; ast.parse(sys.stdin.read(), 'runner.py', feature_version=(3, 8))")
	cmd.Stdin = bytes.NewReader(Source)
	out, err := cmd.CombinedOutput()
	assert.NilError(t, err, "%s", out)
}

func ExampleWriteRequest() {
	var b bytes.Buffer
	_ = WriteRequest(&b, "0123", isolation.Spec{Code: []byte("print(1)"), Stdin: []byte("in")})
	fmt.Printf("%q\n", b.String()[:8])
	fmt.Println(b.String()[8:])
	// Output:
	// "CSB1\x00\x00\x00|"
	// {"token":"0123","args":[],"environment":{},"code":8,"stdin":2,"files":[],"limits":{"memory":0,"processes":0,"open_files":0}}print(1)in
}
