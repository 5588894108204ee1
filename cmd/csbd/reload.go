package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fcarli/codesandbox/isolation/runsc"
	"github.com/fcarli/codesandbox/policy"
	"github.com/fcarli/codesandbox/rpc/server"
)

// An outcome is what came of the last attempt to take a policy over.
type outcome struct {
	// changes in effect, when it was taken over.
	changes []string
	// err is why the old one stays.
	err error
}

// String is the outcome in one line, as `systemctl status` shows it.
func (o outcome) String() string {
	switch {
	case o.err != nil:
		return "policy not reloaded, the old one stays: " + oneLine(o.err.Error())
	case len(o.changes) == 0:
		return "policy reloaded: nothing has changed"
	}
	return "policy reloaded: " + oneLine(strings.Join(o.changes, "; "))
}

// oneLine is text's first line, bounded for where there is little room.
func oneLine(text string) string {
	first, rest, _ := strings.Cut(text, "\n")
	if more := strings.Count(strings.TrimSpace(rest), "\n") + 1; strings.TrimSpace(rest) != "" {
		return fmt.Sprintf("%.300s (and %d more)", first, more)
	}
	return fmt.Sprintf("%.300s", first)
}

// reload reads the policy again and keeps the old one if the new is bad.
func reload(c config, srv *server.Server, source *source, r *runsc.Runtime, old *policy.Policy, log *slog.Logger) (*policy.Policy, outcome) {
	next, err := c.loadPolicy()
	if err == nil {
		err = enforceable(r, next)
	}
	if err == nil {
		err = boundMemory(c, next)
	}
	if err != nil {
		log.Error("policy not reloaded; the old one stays", "error", err)
		srv.PolicyStays()
		return old, outcome{err: err}
	}
	logWarnings(log, next)
	source.keep(next)
	o := outcome{changes: next.Changes(old)}
	log.Info("policy reloaded", "generation", srv.SetPolicy(next), "changes", strings.Join(o.changes, "; "))
	return next, o
}

// outcomeFile of the state directory holds what came of the last reload: "ok"
// or "failed", and a line about it. It is there for `csbd reload`, which cannot
// know otherwise when a csbd that it has sent a signal is done.
const outcomeFile = "reload"

func (o outcome) write(stateDir string) error {
	word := "ok"
	if o.err != nil {
		word = "failed"
	}
	path := filepath.Join(stateDir, outcomeFile)
	if err := os.WriteFile(path+".next", []byte(word+"\n"+o.String()+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".next", path)
}

// reloadTimeout is how long `csbd reload` waits. The policy's files are local.
const reloadTimeout = 30 * time.Second

// reloadCommand is `csbd reload PID`: it makes a running csbd of the same state
// directory read its policy again, waits until that is done, and says what has
// changed. Its error is why the old policy stays. It is what systemd's
// ExecReload= has to be where Type= is not notify-reload.
func reloadCommand(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) != 1 {
		return usageError("reload wants the process ID of csbd")
	}
	pid, err := strconv.Atoi(args[0])
	if err != nil || pid <= 1 {
		return usageError(fmt.Sprintf("reload: %q is not a process ID", args[0]))
	}
	c, err := readConfig()
	if err != nil {
		return err
	}
	path := filepath.Join(c.StateDir, outcomeFile)
	before, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reload: %w", err)
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		return fmt.Errorf("reload: process %d: %w", pid, err)
	}
	if err := process.Signal(syscall.SIGHUP); err != nil {
		return fmt.Errorf("reload: signal process %d: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		// Each outcome is a new file: one that is there cannot have its number.
		if after, err := os.Stat(path); err == nil && (before == nil || !os.SameFile(before, after)) {
			break
		}
		if err := process.Signal(syscall.Signal(0)); err != nil {
			return fmt.Errorf("reload: process %d: %w", pid, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("reload: csbd has not read its policy within %v: is %s its state directory, and %d its process?", reloadTimeout, c.StateDir, pid)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	word, text, _ := strings.Cut(strings.TrimSpace(string(data)), "\n")
	if word != "ok" {
		return errors.New(text)
	}
	_, err = fmt.Fprintln(stdout, text)
	return err
}
