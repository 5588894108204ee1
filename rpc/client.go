package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sourcegraph/jsonrpc2"
)

// A Client talks to one csbd over one connection. It is safe for concurrent
// use.
type Client struct {
	conn *jsonrpc2.Conn
	// rejected is the error that csbd answered without an id: which of our
	// messages it could not read it does not know, so all that wait get it.
	rejected *atomic.Pointer[jsonrpc2.Error]
}

// Dial connects to the socket of csbd. The context bounds the connecting only.
func Dial(ctx context.Context, socket string) (*Client, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	nobody := jsonrpc2.HandlerWithError(func(context.Context, *jsonrpc2.Conn, *jsonrpc2.Request) (any, error) {
		return nil, &jsonrpc2.Error{Code: CodeMethodNotFound, Message: "this is a client"}
	})
	rejected := new(atomic.Pointer[jsonrpc2.Error])
	noID := jsonrpc2.OnRecv(func(req *jsonrpc2.Request, resp *jsonrpc2.Response) {
		if req == nil && resp != nil && resp.ID == (jsonrpc2.ID{}) && resp.Error != nil {
			rejected.Store(resp.Error)
			c.Close()
		}
	})
	return &Client{jsonrpc2.NewConn(context.Background(), jsonrpc2.NewPlainObjectStream(c), nobody, noID, jsonrpc2.SetLogger(quiet{})), rejected}, nil
}

// quiet drops what the library would print on our standard error: every
// failure that it speaks of also comes back from Call.
type quiet struct{}

func (quiet) Printf(string, ...any) {}

// Close closes the connection and so cancels what runs on it.
func (c *Client) Close() error { return c.conn.Close() }

// ErrDisconnected says that csbd closed the connection before it answered.
var ErrDisconnected = errors.New("csbd closed the connection without an answer")

// ErrNotSent is an ErrDisconnected before csbd had the whole request: it cannot
// have been carried out, not even begun.
var ErrNotSent = fmt.Errorf("%w, or the whole request", ErrDisconnected)

// Call calls a method. Its error is an *Error when csbd answered with one.
func (c *Client) Call(ctx context.Context, method string, params, result any) error {
	// Strings, because the library reads an id of null as the number 0.
	call, err := c.conn.DispatchCall(ctx, method, params, jsonrpc2.StringID())
	if disconnected(err) {
		// csbd may have said why.
		select {
		case <-c.conn.DisconnectNotify():
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
		return c.orRejected(ErrNotSent)
	}
	if err == nil {
		err = call.Wait(ctx, result)
	}
	var wire *jsonrpc2.Error
	switch {
	case errors.As(err, &wire):
		return fromWire(wire)
	case disconnected(err):
		return c.orRejected(ErrDisconnected)
	case err != nil:
		return fmt.Errorf("call %s: %w", method, err)
	}
	return nil
}

func disconnected(err error) bool {
	return errors.Is(err, jsonrpc2.ErrClosed) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed)
}

// orRejected is the error that csbd answered without an id, or else err.
func (c *Client) orRejected(err error) error {
	if e := c.rejected.Load(); e != nil {
		return fromWire(e)
	}
	return err
}

// Execute runs one program.
func (c *Client) Execute(ctx context.Context, p ExecuteParams) (Result, error) {
	var r Result
	err := c.Call(ctx, MethodExecute, p, &r)
	return r, err
}
