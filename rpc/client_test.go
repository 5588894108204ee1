package rpc_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/rpc"
)

// listen serves each connection with the function and returns the socket.
func listen(t *testing.T, serve func(c net.Conn)) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	assert.NilError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return socket
}

func dial(t *testing.T, socket string) *rpc.Client {
	t.Helper()
	c, err := rpc.Dial(context.Background(), socket)
	assert.NilError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

type request struct {
	JSONRPC string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params"`
}

// answering serves a connection's requests with what the function says, which
// gets the id for it.
func answering(t *testing.T, answer func(r request) string) func(net.Conn) {
	return func(c net.Conn) {
		lines := bufio.NewScanner(c)
		lines.Buffer(nil, 64<<20)
		for lines.Scan() {
			var r request
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil || r.JSONRPC != "2.0" || r.ID == nil {
				t.Errorf("%.200q: %v", lines.Bytes(), err)
				return
			}
			if line := answer(r); line != "" {
				fmt.Fprintln(c, line)
			}
		}
	}
}

func result(r request, result string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, r.ID, result)
}

func TestCall(t *testing.T) {
	c := dial(t, listen(t, answering(t, func(r request) string {
		if r.Method == rpc.MethodStatus {
			assert.Check(t, r.Params == nil, "%s", r.Params) // none, and not null
			return result(r, `{"ready":true}`)
		}
		return result(r, string(r.Params))
	})))
	var status rpc.Status
	assert.NilError(t, c.Call(soon(t), rpc.MethodStatus, nil, &status))
	assert.Check(t, status.Ready)
	var back rpc.CancelParams
	assert.NilError(t, c.Call(soon(t), rpc.MethodCancel, rpc.CancelParams{ID: json.RawMessage("5")}, &back))
	assert.Equal(t, string(back.ID), "5")
}

func TestExecute(t *testing.T) {
	code := "print('<ü>')\x00\n"
	c := dial(t, listen(t, answering(t, func(r request) string {
		var p rpc.ExecuteParams
		assert.Check(t, json.Unmarshal(r.Params, &p))
		assert.Check(t, r.Method == rpc.MethodExecute && p.Code != nil && *p.Code == code)
		return result(r, `{"id":"a1","status":"error","exit_code":3,"stdout":"<ü>\n","a_later_member":1}`)
	})))
	r, err := c.Execute(soon(t), rpc.ExecuteParams{Code: &code})
	assert.NilError(t, err)
	assert.DeepEqual(t, r, rpc.Result{ID: "a1", Status: "error", ExitCode: 3, Stdout: "<ü>\n"})
}

// Answers come in any order.
func TestConcurrentCalls(t *testing.T) {
	var mu sync.Mutex
	var held string
	c := dial(t, listen(t, answering(t, func(r request) string {
		mu.Lock()
		defer mu.Unlock()
		line := result(r, string(r.Params))
		if held == "" {
			held = line
			return ""
		}
		line, held = line+"\n"+held, ""
		return line
	})))
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			var got struct{ N int }
			err := c.Call(soon(t), "echo", struct{ N int }{i}, &got)
			assert.Check(t, err)
			assert.Check(t, got.N == i)
		})
	}
	wg.Wait()
}

func TestErrorAnswers(t *testing.T) {
	c := dial(t, listen(t, answering(t, func(r request) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32001,"message":"memory is above","data":{"kind":"denied","field":"limits.memory","rule":"profile default"}}}`, r.ID)
	})))
	for range 2 { // the connection goes on
		_, err := c.Execute(soon(t), rpc.ExecuteParams{})
		var e *rpc.Error
		assert.Assert(t, errors.As(err, &e), "%v", err)
		assert.DeepEqual(t, *e, rpc.Error{Code: rpc.CodeDenied, Message: "memory is above",
			Data: rpc.ErrorData{Kind: "denied", Field: "limits.memory", Rule: "profile default"}})
		assert.Error(t, err, "memory is above")
	}
}

// csbd answers a message that it could not read with id null. Whoever sent it
// must not wait for ever.
func TestAnswerWithoutAnID(t *testing.T) {
	for _, earlier := range []int{0, 3} {
		t.Run(fmt.Sprintf("after %d calls", earlier), func(t *testing.T) {
			c := dial(t, listen(t, answering(t, func(r request) string {
				if r.Method == "good" {
					return result(r, "1")
				}
				return `{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"message is longer than 65536 bytes","data":{"kind":"invalid_request"}}}`
			})))
			for range earlier {
				assert.NilError(t, c.Call(soon(t), "good", nil, nil))
			}
			ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			defer cancel()
			err := c.Call(ctx, rpc.MethodExecute, nil, nil)
			var e *rpc.Error
			assert.Assert(t, errors.As(err, &e), "%v", err)
			assert.Equal(t, e.Code, int64(rpc.CodeInvalidRequest))
		})
	}
}

// An answer without an id belongs to no call in particular: least of all is it
// the answer to the first.
func TestAnswerWithoutAnIDIsNotTheFirstCalls(t *testing.T) {
	second := make(chan bool)
	c := dial(t, listen(t, func(c net.Conn) {
		lines := bufio.NewScanner(c)
		lines.Scan()
		first := request{}
		assert.Check(t, json.Unmarshal(lines.Bytes(), &first))
		close(second)
		lines.Scan()
		fmt.Fprintln(c, `{"jsonrpc":"2.0","id":null,"result":"not yours"}`)
		fmt.Fprintln(c, result(first, `"yours"`))
		lines.Scan()
	}))
	go func() {
		<-second
		_ = c.Call(soon(t), "bad", nil, nil)
	}()
	var got string
	err := c.Call(soon(t), "good", nil, &got)
	assert.NilError(t, err)
	assert.Equal(t, got, "yours")
}

func TestDisconnected(t *testing.T) {
	for _, test := range []struct {
		name  string
		serve func(c net.Conn)
	}{
		{"at once", func(net.Conn) {}},
		{"after the request", func(c net.Conn) { _, _ = bufio.NewReader(c).ReadString('\n') }},
		{"with the request unread", func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) }},
		{"within the answer", func(c net.Conn) {
			_, _ = bufio.NewReader(c).ReadString('\n')
			fmt.Fprint(c, `{"jsonrpc":"2.0","id":0,"resu`)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			socket := listen(t, test.serve)
			for range 50 {
				c := dial(t, socket)
				_, err := c.Execute(soon(t), rpc.ExecuteParams{})
				assert.Assert(t, errors.Is(err, rpc.ErrDisconnected), "%v", err)
				// And so it stays.
				_, err = c.Execute(soon(t), rpc.ExecuteParams{})
				assert.Assert(t, errors.Is(err, rpc.ErrDisconnected), "%v", err)
			}
		})
	}
}

// TestNotSent: who asks again has to know that csbd cannot have begun.
func TestNotSent(t *testing.T) {
	code := strings.Repeat("#", 4<<20) // more than fits into a socket
	unread := listen(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) })
	_, err := dial(t, unread).Execute(soon(t), rpc.ExecuteParams{Code: &code})
	assert.Check(t, errors.Is(err, rpc.ErrNotSent) && errors.Is(err, rpc.ErrDisconnected), "%v", err)

	read := listen(t, func(c net.Conn) { _, _ = bufio.NewReader(c).ReadString('\n') })
	_, err = dial(t, read).Execute(soon(t), rpc.ExecuteParams{Code: &code})
	assert.Check(t, errors.Is(err, rpc.ErrDisconnected) && !errors.Is(err, rpc.ErrNotSent), "%v", err)
}

// Every call that is in flight learns of it.
func TestDisconnectedWithManyCalls(t *testing.T) {
	var seen int
	c := dial(t, listen(t, func(c net.Conn) {
		lines := bufio.NewScanner(c)
		for seen = 0; seen < 10 && lines.Scan(); seen++ {
		}
	}))
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			_, err := c.Execute(soon(t), rpc.ExecuteParams{})
			assert.Check(t, errors.Is(err, rpc.ErrDisconnected), "%v", err)
		})
	}
	wg.Wait()
}

func TestClosedClient(t *testing.T) {
	c := dial(t, listen(t, answering(t, func(request) string { return "" })))
	done := make(chan error)
	go func() {
		_, err := c.Execute(soon(t), rpc.ExecuteParams{})
		done <- err
	}()
	time.Sleep(10 * time.Millisecond)
	assert.NilError(t, c.Close())
	assert.Check(t, errors.Is(<-done, rpc.ErrDisconnected))
}

func TestCallContext(t *testing.T) {
	c := dial(t, listen(t, answering(t, func(request) string { return "" })))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := c.Execute(ctx, rpc.ExecuteParams{})
	assert.Error(t, err, "call execute: context deadline exceeded")
	assert.Check(t, errors.Is(err, context.DeadlineExceeded))
}

func TestUnreadableResult(t *testing.T) {
	c := dial(t, listen(t, answering(t, func(r request) string { return result(r, `"text"`) })))
	_, err := c.Execute(soon(t), rpc.ExecuteParams{})
	assert.ErrorContains(t, err, "call execute: json: cannot unmarshal string")
}

func TestDial(t *testing.T) {
	_, err := rpc.Dial(context.Background(), filepath.Join(t.TempDir(), "none"))
	assert.Check(t, errors.Is(err, os.ErrNotExist), "%v", err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = rpc.Dial(ctx, listen(t, func(net.Conn) {}))
	assert.Check(t, errors.Is(err, context.Canceled), "%v", err)
}
