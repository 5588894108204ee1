package main

import (
	"context"
	"errors"
	"io/fs"
	"syscall"
	"time"

	"github.com/fcarli/codesandbox/rpc"
)

const (
	// patience is how long csbctl goes on trying when it has met a csbd that
	// stops. Where systemd keeps the socket, the first new connection waits
	// there for the next csbd; elsewhere the socket is gone meanwhile.
	patience = 10 * time.Second
	// retryEvery is the pause between two attempts.
	retryEvery = 100 * time.Millisecond
)

// dialled calls do with a connection, and again with another one if csbd was
// just stopping and says that it has not begun, or cannot have begun, with what
// it was asked. Nothing else is done twice.
func (o *options) dialled(ctx context.Context, do func(*rpc.Client) error) error {
	var stopping error
	var deadline time.Time
	for {
		client, err := rpc.Dial(ctx, o.socket)
		if err == nil {
			err = do(client)
			client.Close()
			if !notBegun(err) {
				return err
			}
			if stopping == nil {
				deadline = time.Now().Add(patience)
			}
			stopping = err
		} else if stopping == nil || !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if time.Now().After(deadline) {
			return stopping
		}
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// notBegun says whether an error means that csbd has not begun with a request,
// because it stops.
func notBegun(err error) bool {
	var answer *rpc.Error
	return errors.Is(err, rpc.ErrNotSent) || errors.As(err, &answer) && answer.Code == rpc.CodeShuttingDown
}
