package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/fcarli/codesandbox/cmd/csbd/trial"
	"github.com/fcarli/codesandbox/rpc"
)

// poolSize is how many sandboxes are kept ready when csbd is measured.
const poolSize = 3

// monitor is who asks csbd what it is doing: the user who runs this program.
const monitor = 0

// policyText lets users send what they like. The two sizes of the pool are what
// reloading the policy changes.
const policyText = `version: 1
profiles:
  default:
    concurrency: 4
    queue: 1000
    rate: 1000000/min
rules:
  - {user: "*", profile: default}
pools:
  - {image: python, profile: default, ready: %[1]d, max: %[1]d}
`

// A daemon is csbd: one process after the other on the same directory.
type daemon struct {
	options
	dir, socket, policy, state string

	mu      sync.Mutex
	life    int           // grows with each csbd
	serving chan struct{} // of this life, closed when it may be used
	alive   bool          // from the start to the moment when it is told to end
	crashed int           // csbds that ended by themselves

	process *trial.Csbd
	exited  chan struct{}
	log     string
}

func newDaemon(o options, dir string) *daemon {
	return &daemon{options: o, dir: dir, socket: filepath.Join(dir, "csbd.sock"), policy: filepath.Join(dir, "policy.yaml"),
		state: filepath.Join(dir, "state"), serving: make(chan struct{})}
}

func (d *daemon) writePolicy(text string) error { return os.WriteFile(d.policy, []byte(text), 0o600) }

// start starts csbd and waits until it serves and has its pool full. Nobody
// but the caller uses it before release.
func (d *daemon) start(ctx context.Context) error {
	d.log = filepath.Join(d.dir, fmt.Sprintf("log%d", d.life))
	process, err := trial.Start(d.csbd, d.dir, d.log, append([]string{
		"CSBD_SOCKET=" + d.socket, "CSBD_SOCKET_MODE=0666",
		"CSBD_STATE_DIR=" + d.state,
		"CSBD_POLICY=" + d.policy,
		"CSBD_IMAGE_DIR=" + d.imageDir,
		"CSBD_CGROUP=" + d.cgroup,
		"CSBD_LOG_FORMAT=json", "CSBD_LOG_LEVEL=debug",
	}, d.env...)...)
	if err != nil {
		return err
	}
	exited := make(chan struct{})
	d.mu.Lock()
	d.process, d.exited, d.alive = process, exited, true
	d.mu.Unlock()
	go func() {
		<-process.Exited
		d.mu.Lock()
		if d.alive {
			d.crashed++
			d.alive = false
		}
		d.mu.Unlock()
		close(exited)
	}()
	return d.waitRest(ctx)
}

// release lets users in.
func (d *daemon) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.serving)
}

// wait waits until csbd may be used, and returns which it is.
func (d *daemon) wait(ctx context.Context) (life int, err error) {
	d.mu.Lock()
	life, serving := d.life, d.serving
	d.mu.Unlock()
	select {
	case <-serving:
		return life, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// is says whether the csbd of that life has not been told to end.
func (d *daemon) is(life int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.life == life
}

// end begins a new life, so that everybody knows before it happens that what
// they are about to see is our doing.
func (d *daemon) end(s syscall.Signal) error {
	d.mu.Lock()
	alive := d.alive
	d.life, d.serving, d.alive = d.life+1, make(chan struct{}), false
	d.mu.Unlock()
	if !alive {
		return d.failure("has ended by itself")
	}
	if err := d.process.Process.Signal(s); err != nil {
		return err
	}
	select {
	case <-d.exited:
		return nil
	case <-time.After(2 * time.Minute):
		_ = d.process.Process.Kill()
		<-d.exited
		return d.failure("does not end")
	}
}

// failure is an error with the last words of csbd.
func (d *daemon) failure(what string) error {
	return d.process.Failure(what)
}

// status asks csbd what it is doing, on a connection of its own.
func (d *daemon) status() (rpc.Status, error) {
	var s rpc.Status
	c, err := dialAs(monitor, d.socket)
	if err != nil {
		return s, err
	}
	defer c.close()
	_ = c.conn.SetDeadline(time.Now().Add(30 * time.Second))
	if err := c.send("status", rpc.MethodStatus, nil); err != nil {
		return s, err
	}
	a, err := c.receive()
	if err != nil {
		return s, err
	}
	if a.Error != nil {
		return s, errors.New(a.Error.Message)
	}
	return s, json.Unmarshal(a.Result, &s)
}

// waitRest waits until csbd does nothing and its pool is full.
func (d *daemon) waitRest(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		s, err := d.status()
		if err == nil && atRest(s) {
			return nil
		}
		select {
		case <-d.exited:
			return d.failure("ended")
		case <-ctx.Done():
			return d.failure(fmt.Sprintf("does not come to rest (%v, %+v)", err, s))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// atRest says that nothing runs, waits or is being started, for anyone.
func atRest(s rpc.Status) bool {
	for _, p := range s.Pools {
		if p.Ready != p.Want || p.Starting > 0 {
			return false
		}
	}
	return s.Ready && s.Running+s.Queued == 0 && s.Connections == 1
}

// lines counts the lines of csbd's log that have one of the messages.
func (d *daemon) lines(messages ...string) int {
	data, _ := os.ReadFile(d.log)
	n := 0
	for _, m := range messages {
		n += bytes.Count(data, []byte(`"msg":"`+m+`"`))
	}
	return n
}

// goroutines are those that csbd still had when it ended, 0 if it did not say.
func (d *daemon) goroutines() int {
	data, _ := os.ReadFile(d.log)
	for line := range bytes.Lines(data) {
		var said struct {
			Msg        string
			Goroutines int
		}
		if json.Unmarshal(line, &said) == nil && said.Msg == "ended" {
			return said.Goroutines
		}
	}
	return 0
}

// reload writes a policy, tells csbd, and waits until it has taken notice.
func (d *daemon) reload(ctx context.Context, text string) error {
	seen := []string{"policy reloaded", "policy not reloaded; the old one stays"}
	before := d.lines(seen...)
	if err := d.writePolicy(text); err != nil {
		return err
	}
	if err := d.process.Process.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); d.lines(seen...) == before; {
		if time.Now().After(deadline) {
			return d.failure("takes no notice of SIGHUP")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.exited:
			return d.failure("ended")
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}
