package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/fcarli/codesandbox/isolation/runsc"
	"github.com/fcarli/codesandbox/policy"
	"github.com/fcarli/codesandbox/rpc/server"
	"github.com/fcarli/codesandbox/rpc/server/metrics"
)

// serve is csbd: it returns when ctx has ended and everything is put away.
func serve(ctx context.Context, stderr io.Writer) error {
	c, err := readConfig()
	if err != nil {
		return err
	}
	log := c.logger(stderr)
	// runsc's command line needs about all that root can do.
	if c.Launcher == direct {
		if err := confine(); err != nil {
			return fmt.Errorf("give privileges up: %w", err)
		}
	}
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)

	current, err := c.loadPolicy()
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	if uid := os.Geteuid(); uid != 0 {
		log.Info("running as an ordinary user, as whom every sandbox runs too", "uid", uid, "policy", c.policyName(), "images", c.ImageDir)
	}
	logWarnings(log, current)
	if log.Enabled(ctx, slog.LevelDebug) {
		defer logEnd(log)
	}
	runtime, err := runsc.Open(ctx, runsc.Options{Binary: c.binary(), Direct: c.Launcher == direct, Platform: string(c.Platform), StateDir: c.StateDir, Cgroup: c.Cgroup, SnapshotAge: c.SnapshotAge, Log: log})
	if err != nil {
		return err
	}
	defer func() {
		if err := runtime.Close(); err != nil {
			log.Error("close runtime", "error", err)
		}
	}()
	if err := enforceable(runtime, current); err != nil {
		return err
	}
	if err := boundMemory(c, current); err != nil {
		return err
	}
	connections, err := connectionsFor(c, current)
	if err != nil {
		return err
	}
	if connections < int(c.Connections) {
		log.Warn("fewer connections than configured: csbd may not open that many files (LimitNOFILE=)", "connections", connections)
	}
	store := c.images()
	source := newSource(c, runtime, store, log)
	defer source.Close()
	source.keep(current)
	lines, err := c.audit(log)
	if err != nil {
		return err
	}
	defer lines.Close()
	info := versionInfo(runtime.Version())
	counted := metrics.New(info)
	srv := server.New(server.Config{
		Sandboxes:          source,
		Images:             store,
		Pools:              source.status,
		Policy:             current,
		Version:            info,
		Driver:             "runsc",
		Executions:         int(c.Executions),
		Memory:             int64(c.Memory),
		Connections:        connections,
		ConnectionsPerUser: int(c.ConnectionsPerUser),
		Unenforced:         runtime.Unenforceable(),
		Log:                log,
		Audit:              lines,
		Observer:           counted,
	})
	counted.Show(srv.State, func() int {
		directories, _ := runtime.Leftovers()
		return directories
	})
	unwatch, err := watch(c, counted, log)
	if err != nil {
		return err
	}
	defer unwatch()
	// What systemd is told goes on until everything has been answered.
	telling, told := context.WithCancel(context.Background())
	var tellers sync.WaitGroup
	defer tellers.Wait()
	defer told()
	announcer := &announcer{srv: srv, log: log}
	tellers.Go(func() { announcer.keep(telling) })

	// Before the socket exists: who can connect can expect to be served.
	if _, err := srv.Prove(ctx, false); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop before it had begun
		}
		return err
	}
	listener, err := listen(c)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(listener) }()
	log.Info("serving", "socket", listener.Addr().String(), "version", version, "runsc", runtime.Version(),
		"cgroup", runtime.CgroupVersion(), "unenforced", runtime.Unenforceable())

	announcer.serves()
	// Not before there is something to watch: systemd does not look earlier.
	if every, err := daemon.SdWatchdogEnabled(false); err != nil {
		log.Warn("watchdog", "error", err)
	} else if every > 0 {
		tellers.Go(func() { feed(telling, srv, every, log) })
	}

	proving, enough := context.WithCancel(ctx)
	var proofs sync.WaitGroup
	defer proofs.Wait()
	defer enough()
	proofs.Go(func() { srv.KeepProving(proving, c.ProofEvery) })

	refresh := time.NewTicker(refreshEvery)
	defer refresh.Stop()
	for {
		select {
		case <-refresh.C:
			source.refresh()
		case <-hangup:
			announcer.reloading()
			var o outcome
			current, o = reload(c, srv, source, runtime, current, log)
			counted.Reloaded(o.err == nil)
			// New profiles have not been seen to work yet; failing is logged.
			proofs.Go(func() { _, _ = srv.Prove(proving, false) })
			announcer.reloaded(o)
			if err := o.write(c.StateDir); err != nil {
				log.Error("outcome of reload not noted", "error", err)
			}
		case <-ctx.Done():
			announcer.stopping(c.StopTimeout)
			log.Info("stopping", "timeout", c.StopTimeout)
			drain, cancel := context.WithTimeout(context.Background(), c.StopTimeout)
			defer cancel()
			srv.Shutdown(drain)
			log.Info("stopped")
			return nil
		case err := <-failed:
			now, cancel := context.WithCancel(context.Background())
			cancel()
			srv.Shutdown(now)
			return err
		}
	}
}

// enforceable refuses a policy whose limits this host cannot enforce, unless
// the policy says that it need not.
func enforceable(r *runsc.Runtime, p *policy.Policy) error {
	for _, name := range r.Unenforceable() {
		if !slices.Contains(p.AllowUnenforced, name) {
			whose := ""
			if os.Geteuid() != 0 {
				whose = ", also of user@.service for a service of a user"
			}
			return fmt.Errorf("limit %s cannot be enforced: cgroup version %d has no controller for it here; "+
				"give csbd a cgroup with it (Delegate=yes%s), or put %s into the policy's allow_unenforced", name, r.CgroupVersion(), whose, name)
		}
	}
	return nil
}

func logWarnings(log *slog.Logger, p *policy.Policy) {
	for _, w := range p.Warnings {
		log.Warn("policy", "warning", w)
	}
}
