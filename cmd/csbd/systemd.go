package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/fcarli/codesandbox/rpc/server"
)

const (
	// readyWithin bounds how long csbd waits for a first sandbox in every pool
	// before it says that it is ready: it serves meanwhile, only slower.
	readyWithin = time.Minute
	// readyEvery and statusEvery are how often csbd looks whether there is
	// something new to tell systemd, before and after it is ready.
	readyEvery  = 50 * time.Millisecond
	statusEvery = time.Second
	// stopSlack is what stopping takes apart from programs that come to their
	// end: answers that are not taken, sandboxes that are removed.
	stopSlack = 40 * time.Second
)

// notify tells systemd; elsewhere it does nothing.
func notify(log *slog.Logger, state ...string) {
	if _, err := daemon.SdNotify(false, strings.Join(state, "\n")); err != nil {
		log.Warn("notify systemd", "error", err)
	}
}

// An announcer tells systemd when csbd is ready, what it is doing, and that it
// is alive.
type announcer struct {
	srv *server.Server
	log *slog.Logger

	mu      sync.Mutex
	policy  string // what came of the last reload, "" for none
	serving bool   // there is a socket
	// before is how many sandboxes each pool had started when it began to serve,
	// for the self-test.
	before  map[poolName]int64
	ready   bool
	leaving bool
}

// serves says that csbd can be connected to: it is ready as soon as its pools
// are.
func (a *announcer) serves() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.serving, a.before = true, map[poolName]int64{}
	for _, p := range a.srv.Status().Pools {
		a.before[poolName{p.Image, p.Profile}] = p.Launched
	}
}

// A poolName is what names a pool.
type poolName struct{ image, profile string }

// reloading says that a policy is being read.
func (a *announcer) reloading() {
	notify(a.log, daemon.SdNotifyReloading, daemon.SdNotifyMonotonicUsec())
}

// reloaded says that this is over. What came of it stays in the status text
// until the next time.
func (a *announcer) reloaded(o outcome) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.policy = o.String()
	a.ready = true
	notify(a.log, daemon.SdNotifyReady, "STATUS="+a.text())
}

// stopping says that csbd is about to end, at the latest after the given time.
func (a *announcer) stopping(within time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leaving = true
	// Systemd's own patience is a setting of the unit, and not csbd's.
	notify(a.log, daemon.SdNotifyStopping, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", (within+stopSlack).Microseconds()), "STATUS="+a.text())
}

// keep says that csbd is ready when it is, and keeps the status text current,
// until ctx ends.
func (a *announcer) keep(ctx context.Context) {
	last, began := "", time.Now()
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for {
		a.mu.Lock()
		if !a.serving {
			began = time.Now()
		}
		if a.serving && !a.ready && !a.leaving && (a.stocked() || time.Since(began) > readyWithin) {
			a.ready = true
			notify(a.log, daemon.SdNotifyReady)
		}
		if a.ready {
			tick.Reset(statusEvery)
		}
		if text := a.text(); text != last {
			notify(a.log, "STATUS="+text)
			last = text
		}
		a.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// stocked says whether every pool has a sandbox, or had one that a client has
// taken, or cannot get one. The caller holds the mutex.
func (a *announcer) stocked() bool {
	for _, p := range a.srv.Status().Pools {
		started := p.Launched - a.before[poolName{p.Image, p.Profile}]
		if p.Want > 0 && p.Ready == 0 && started == 0 && p.Problem == "" {
			return false
		}
	}
	return true
}

// text is the status text. The caller holds the mutex.
func (a *announcer) text() string {
	status := a.srv.Status()
	var parts []string
	switch {
	case a.leaving:
		parts = append(parts, "Stopping")
	case !a.ready:
		parts = append(parts, "Starting")
	case !status.Ready:
		parts = append(parts, "Not ready: "+oneLine(status.Problem))
	default:
		parts = append(parts, "Ready")
	}
	if len(status.Pools) > 0 {
		want, ready, starting := 0, 0, 0
		for _, p := range status.Pools {
			want, ready, starting = want+p.Want, ready+p.Ready, starting+p.Starting
		}
		pool := fmt.Sprintf("pool %d of %d", ready, want)
		if starting > 0 {
			pool += fmt.Sprintf(" (%d starting)", starting)
		}
		parts = append(parts, pool)
	}
	parts = append(parts, fmt.Sprintf("%d running, %d queued", status.Running, status.Queued))
	if a.policy != "" {
		parts = append(parts, a.policy)
	}
	return strings.Join(parts, "; ")
}

// feed feeds systemd's watchdog, which is to bite when it has not been fed for
// the given time, for as long as programs run in sandboxes: a csbd that answers
// but can execute nothing is of no use.
func feed(ctx context.Context, srv *server.Server, every time.Duration, log *slog.Logger) {
	tick := time.NewTicker(every / 4)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		attempt, cancel := context.WithTimeout(ctx, every/2)
		alive := make(chan error, 1)
		go func() { alive <- srv.Alive(attempt, every/2) }()
		var err error
		select {
		case err = <-alive:
		case <-time.After(every/2 + every/8):
			// What it waits for does not heed its context: csbd hangs.
			log.Error("the watchdog is not fed", "error", "an execution neither ends nor can be ended")
			select {
			case err = <-alive:
			case <-ctx.Done():
			}
		}
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			notify(log, daemon.SdNotifyWatchdog)
		default:
			log.Error("the watchdog is not fed", "error", err)
		}
	}
}
