package servertest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// An Answer is one line that csbd sent.
type Answer struct {
	JSONRPC string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Result  json.RawMessage `json:"result"`
	Error   *Failure        `json:"error"`
	// Line is the answer as it came.
	Line string `json:"-"`
}

// A Failure is a JSON-RPC error.
type Failure struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Data    struct {
		Kind       string  `json:"kind"`
		Field      string  `json:"field"`
		Rule       string  `json:"rule"`
		RetryAfter float64 `json:"retry_after"`
		ID         string  `json:"id"`
	} `json:"data"`
}

// A Result is what execute answers with, as far as tests look at it.
type Result struct {
	ID            string             `json:"id"`
	Status        string             `json:"status"`
	Stdout        string             `json:"stdout"`
	Stderr        string             `json:"stderr"`
	StdoutBase64  string             `json:"stdout_base64"`
	StderrBase64  string             `json:"stderr_base64"`
	ExitCode      int                `json:"exit_code"`
	ExecutionTime float64            `json:"execution_time"`
	Error         map[string]any     `json:"error"`
	Truncated     map[string]any     `json:"truncated"`
	Usage         map[string]any     `json:"usage"`
	Image         map[string]string  `json:"image"`
	Isolation     map[string]string  `json:"isolation"`
	Limits        map[string]float64 `json:"limits"`
}

// A Conn is a client of a few lines: it writes text and reads lines.
type Conn struct {
	t          testing.TB
	w          io.Writer
	lines      chan string
	closeWrite func() error
	close      func()
}

// Dial connects as the user who runs the test.
func (d *Daemon) Dial(t testing.TB) *Conn {
	t.Helper()
	return Dial(t, d.Socket)
}

// Dial connects to a socket.
func Dial(t testing.TB, socket string) *Conn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	assert.NilError(t, err)
	conn := newConn(t, c, c, c.CloseWrite)
	conn.close = func() { c.Close() }
	t.Cleanup(conn.Close)
	return conn
}

// As connects as another user, by way of socat.
func (d *Daemon) As(t testing.TB, who syscall.Credential) *Conn {
	t.Helper()
	cmd := exec.Command("socat", "-t", "120", "-", "UNIX-CONNECT:"+d.Socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &who, Pdeathsig: syscall.SIGKILL}
	cmd.Dir = "/"
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	assert.NilError(t, err)
	out, err := cmd.StdoutPipe()
	assert.NilError(t, err)
	assert.NilError(t, cmd.Start())
	conn := newConn(t, in, out, in.Close)
	conn.close = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() && stderr.Len() > 0 {
			t.Logf("socat: %s", &stderr)
		}
	}
	t.Cleanup(conn.Close)
	return conn
}

func newConn(t testing.TB, w io.Writer, r io.Reader, closeWrite func() error) *Conn {
	c := &Conn{t: t, w: w, lines: make(chan string, 1000), closeWrite: closeWrite}
	go func() {
		defer close(c.lines)
		for in := bufio.NewReader(r); ; {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			c.lines <- line
		}
	}()
	return c
}

// Close closes the connection.
func (c *Conn) Close() {
	if c.close != nil {
		c.close()
		c.close = nil
	}
}

// CloseWrite closes the sending direction.
func (c *Conn) CloseWrite() {
	c.t.Helper()
	assert.NilError(c.t, c.closeWrite())
}

// Send sends lines.
func (c *Conn) Send(lines ...string) {
	c.t.Helper()
	c.Write(strings.Join(lines, "\n") + "\n")
}

// Write sends text as it is.
func (c *Conn) Write(text string) {
	c.t.Helper()
	_, err := io.WriteString(c.w, text)
	assert.NilError(c.t, err)
}

// Request sends a request.
func (c *Conn) Request(id any, method string, params any) {
	c.t.Helper()
	c.Send(Request(id, method, params))
}

// Request is the text of a request.
func Request(id any, method string, params any) string {
	message := map[string]any{"jsonrpc": "2.0", "method": method}
	if id != nil {
		message["id"] = id
	}
	if params != nil {
		message["params"] = params
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(message); err != nil {
		panic(err)
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// Receive reads the next answer.
func (c *Conn) Receive() Answer {
	c.t.Helper()
	a, err := c.receive()
	assert.NilError(c.t, err)
	return a
}

func (c *Conn) receive() (Answer, error) {
	select {
	case line, ok := <-c.lines:
		if !ok {
			return Answer{}, errors.New("csbd closed the connection")
		}
		a := Answer{Line: line}
		err := json.Unmarshal([]byte(line), &a)
		if err == nil && (a.JSONRPC != "2.0" || (a.Result == nil) == (a.Error == nil) || len(a.ID) == 0) {
			err = errors.New("not a JSON-RPC answer")
		}
		if err != nil {
			err = fmt.Errorf("%w: %q", err, tail(line, 2000))
		}
		return a, err
	case <-time.After(2 * time.Minute):
		return Answer{}, errors.New("csbd does not answer")
	}
}

// End waits until csbd closes the connection, and fails on another answer.
func (c *Conn) End() {
	c.t.Helper()
	select {
	case line, ok := <-c.lines:
		assert.Assert(c.t, !ok, "an answer too many: %q", line)
	case <-time.After(time.Minute):
		c.t.Fatal("csbd does not close the connection")
	}
}

// Quiet checks that no answer waits to be read.
func (c *Conn) Quiet() {
	c.t.Helper()
	select {
	case line, ok := <-c.lines:
		c.t.Fatalf("an answer too many: %q (open: %v)", line, ok)
	default:
	}
}

// Call sends a request and reads its answer, on a connection where no other
// answer is due.
func (c *Conn) Call(method string, params any) Answer {
	c.t.Helper()
	c.Request("call", method, params)
	a := c.Receive()
	assert.Check(c.t, string(a.ID) == `"call"`, "%s", a.Line)
	return a
}

// Try is Call for goroutines that must not end the test.
func (c *Conn) Try(method string, params any) (Answer, error) {
	if _, err := io.WriteString(c.w, Request("try", method, params)+"\n"); err != nil {
		return Answer{}, err
	}
	return c.receive()
}

// Execute runs a program that has to come to a result.
func (c *Conn) Execute(params map[string]any) Result {
	c.t.Helper()
	return c.Call("execute", params).Executed(c.t)
}

// Run runs code that has to come to a result.
func (c *Conn) Run(code string) Result {
	c.t.Helper()
	return c.Execute(map[string]any{"code": code})
}

// Executed is the answer to execute, which must not be an error.
func (a Answer) Executed(t testing.TB) Result {
	t.Helper()
	var r Result
	a.Decode(t, &r)
	assert.Check(t, r.ID != "", "%s", a.Line)
	return r
}

// Decode decodes the result, which must not be an error.
func (a Answer) Decode(t testing.TB, into any) {
	t.Helper()
	assert.Assert(t, a.Error == nil, "%s", a.Line)
	assert.NilError(t, json.Unmarshal(a.Result, into))
}

// Failed is the error that the answer has to be, of a kind.
func (a Answer) Failed(t testing.TB, kind string) Failure {
	t.Helper()
	assert.Assert(t, a.Error != nil, "%s", tail(a.Line, 2000))
	assert.Assert(t, a.Error.Data.Kind == kind, "want %s: %s", kind, tail(a.Line, 2000))
	assert.Check(t, a.Error.Code == codes[kind], "%s", tail(a.Line, 2000))
	assert.Check(t, a.Error.Message != "")
	return *a.Error
}

// codes are the protocol's, written down once more on purpose: they never
// change.
var codes = map[string]int{
	"parse_error":      -32700,
	"invalid_request":  -32600,
	"method_not_found": -32601,
	"invalid_params":   -32602,
	"internal":         -32603,
	"denied":           -32001,
	"busy":             -32002,
	"unknown_image":    -32003,
	"shutting_down":    -32004,
	"cancelled":        -32005,
}
