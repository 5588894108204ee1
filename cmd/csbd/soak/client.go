package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/fcarli/codesandbox/rpc"
)

// An answer is one line that csbd sent.
type answer struct {
	ID     json.RawMessage `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  *failure        `json:"error"`
}

// A failure is a JSON-RPC error.
type failure struct {
	Code    int64         `json:"code"`
	Message string        `json:"message"`
	Data    rpc.ErrorData `json:"data"`
}

// A client is one connection of a user. It shares no code with rpc.Client, so
// that it can break what that keeps.
type client struct {
	conn net.Conn
	in   *bufio.Reader
}

// dialAs connects as another user. The kernel remembers for csbd what the
// connecting thread is, so the thread becomes that user and is never used again.
func dialAs(uid int, socket string) (*client, error) {
	type dialled struct {
		conn net.Conn
		err  error
	}
	done := make(chan dialled)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		conn, err := becomeAndDial(uid, socket)
		done <- dialled{conn, err}
	}()
	d := <-done
	if d.err != nil {
		return nil, fmt.Errorf("connect as uid %d: %w", uid, d.err)
	}
	return &client{d.conn, bufio.NewReader(d.conn)}, nil
}

func becomeAndDial(uid int, socket string) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), socket)
	defer f.Close()
	// The raw calls change this thread only.
	id := uintptr(uid)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return nil, errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, id, id, id); errno != 0 {
		return nil, errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, id, id, id); errno != 0 {
		return nil, errno
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

func (c *client) close() { c.conn.Close() }

// send sends a request.
func (c *client) send(id, method string, params any) error {
	_, err := c.conn.Write(message(id, method, params))
	return err
}

func message(id, method string, params any) []byte {
	m := map[string]any{"jsonrpc": "2.0", "id": id, "method": method}
	if params != nil {
		m["params"] = params
	}
	line, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return append(line, '\n')
}

// receive reads the next answer.
func (c *client) receive() (answer, error) {
	var a answer
	line, err := c.in.ReadBytes('\n')
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(line, &a); err != nil {
		return a, fmt.Errorf("%w: %.200q", errGarbage, line)
	}
	return a, nil
}
