package main

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/fcarli/codesandbox/rpc"
)

const (
	sectionFairness = "one execution at a time, while another user floods"
	// flooder is the uid of the other user, and floodClients how many programs
	// it always wants run.
	flooder, floodClients = 42077, 40
	// fairnessFactor is the most that the flood may make the p99 of the other
	// user worse: docs/operations.md says why it is not 1.
	fairnessFactor = 10
)

// fairness is what one user's flood does to another, who asks for one execution
// at a time.
func (b *bench) fairness(ctx context.Context) error {
	d, err := b.daemon(ctx, kindBare, "")
	if err != nil {
		return err
	}
	quiet, flooded := Row{Section: sectionFairness, Name: "quiet"}, Row{Section: sectionFairness, Name: "flooded"}
	if err := b.settle(ctx); err != nil {
		return err
	}
	b.oneByOne(ctx, d, &quiet)
	flood, stop := context.WithCancel(ctx)
	var clients sync.WaitGroup
	for range floodClients {
		c, err := dialAs(ctx, d.socket, flooder)
		if err != nil {
			stop()
			clients.Wait()
			return fmt.Errorf("flood: %w", err)
		}
		clients.Go(func() {
			defer c.Close()
			for flood.Err() == nil {
				if _, _, err := printOne.execute(flood, c); err != nil {
					return
				}
			}
		})
	}
	b.oneByOne(ctx, d, &flooded)
	stop()
	clients.Wait()
	own := []Row{quiet, flooded}
	compare(own, quiet.Name, figureP99)
	own[1].Targets = []Target{atMost(figureRatio, fairnessFactor)}
	b.report.Rows = append(b.report.Rows, own...)
	return ctx.Err()
}

func (b *bench) oneByOne(ctx context.Context, d *daemon, r *Row) {
	var t tally
	for range b.rounds {
		s, _, err := printOne.execute(ctx, d.client)
		if err != nil {
			t.errors++
			b.wrong(r.Section, err)
			continue
		}
		t.add(s)
	}
	t.fill(r)
}

// dialAs connects as another user: the kernel notes the effective uid of the
// thread that connects. Files are still reached as before.
func dialAs(ctx context.Context, socket string, uid uintptr) (*rpc.Client, error) {
	const same = ^uintptr(0)
	runtime.LockOSThread()
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uid, same); errno != 0 {
		return nil, fmt.Errorf("setresuid: %w", errno)
	}
	_, _ = unix.SetfsuidRetUid(0)
	c, err := rpc.Dial(ctx, socket)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, 0, same); errno != 0 {
		return nil, fmt.Errorf("setresuid: %w", errno) // the thread ends with its goroutine
	}
	runtime.UnlockOSThread()
	return c, err
}
