package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"syscall"
	"time"

	"github.com/fcarli/codesandbox/isolation/cgroup"
)

// An event is something that is done to csbd.
type event string

const (
	killCsbd    event = "kill -9 of csbd"
	killSentry  event = "kill -9 of a sentry"
	killSpawner event = "kill -9 of the spawner"
	reload      event = "policy reloaded"
	reloadBad   event = "bad policy refused"
)

// due says what is done when that job is drawn.
func due(o options, index int) []event {
	var events []event
	// The last csbd has its share of the work, or its end would show nothing.
	if o.killEvery > 0 && index > 0 && index%o.killEvery == 0 && index <= o.n-o.killEvery/3 {
		events = append(events, killCsbd)
	}
	r := rand.New(rand.NewPCG(^o.seed, uint64(index)))
	for _, e := range []struct {
		event
		every int
	}{{killSentry, 30}, {killSpawner, 110}, {reload, 60}, {reloadBad, 120}} {
		if r.IntN(e.every) == 0 {
			events = append(events, e.event)
		}
	}
	return events
}

// A disturber does to csbd what is due, one thing after the other.
type disturber struct {
	daemon *daemon
	tally  *tally
	random *rand.Rand
	say    func(format string, args ...any)

	leaks       leaks
	descriptors int   // of the csbd that runs, at rest
	memory      int64 // its resident memory then, in bytes
	reloads     int
}

func (s *disturber) do(ctx context.Context, e event) error {
	switch e {
	case killCsbd:
		s.say("%s", e)
		if err := s.crash(ctx); err != nil {
			return err
		}
	case killSentry:
		pids := sentries(s.daemon.state)
		if len(pids) == 0 {
			return nil
		}
		s.killed(pids[s.random.IntN(len(pids))])
	case killSpawner:
		pid := spawner(s.daemon.process.Process.Pid)
		if pid == 0 {
			return nil
		}
		s.killed(pid)
	case reload:
		s.reloads++
		if err := s.daemon.reload(ctx, fmt.Sprintf(policyText, poolSize+s.reloads%2)); err != nil {
			return err
		}
	case reloadBad:
		if err := s.daemon.reload(ctx, "version: 1\nprofiles: {default: {memroy: 1GiB}}\n"); err != nil {
			return err
		}
	}
	s.tally.act(string(e))
	return nil
}

// killed kills a process that sandboxes need. Whoever gets an answer from then
// on must know.
func (s *disturber) killed(pid int) {
	s.tally.kill()
	_ = syscall.Kill(pid, syscall.SIGKILL)
	s.tally.kill()
}

// crash kills csbd and starts the next, which has to clear away what is left.
func (s *disturber) crash(ctx context.Context) error {
	before := observe(s.daemon.process.Process.Pid, s.daemon.state)
	if err := s.daemon.end(syscall.SIGKILL); err != nil {
		return err
	}
	return s.begin(ctx, before)
}

// begin starts csbd in the place of one that left a trace, measures it at rest
// and lets users in.
func (s *disturber) begin(ctx context.Context, before trace) error {
	if err := s.daemon.writePolicy(fmt.Sprintf(policyText, poolSize)); err != nil {
		return err
	}
	if err := s.daemon.start(ctx); err != nil {
		return err
	}
	if err := warmUp(s.daemon); err != nil {
		return s.daemon.failure(err.Error())
	}
	if left := before.survivors(); len(left) > 0 {
		s.leaks.add(leaks{Processes: len(left), Found: []string{fmt.Sprintf("after a start: processes %q of the csbd before", left)}})
	}
	now, err := s.rest(ctx, 1<<30)
	if err != nil {
		return err
	}
	s.descriptors, s.memory = now.descriptors, figure(s.daemon.process.Process.Pid, "VmRSS")<<10
	s.daemon.release()
	return nil
}

// rest waits until csbd is at rest and compares it with what it should have
// then. What it does after its answers is given a while.
func (s *disturber) rest(ctx context.Context, descriptors int) (trace, error) {
	for deadline := time.Now().Add(20 * time.Second); ; {
		if err := s.daemon.waitRest(ctx); err != nil {
			return trace{}, err
		}
		t := observe(s.daemon.process.Process.Pid, s.daemon.state)
		l := t.atRest(poolSize, descriptors)
		if l.none() {
			return t, nil
		}
		if time.Now().After(deadline) {
			s.leaks.add(l)
			return t, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// goroutines starts a csbd that has nothing to do, ends it, and returns the
// goroutines that it has then.
func (s *disturber) goroutines(ctx context.Context) (int, error) {
	if err := s.daemon.writePolicy(fmt.Sprintf(policyText, poolSize)); err != nil {
		return 0, err
	}
	if err := s.daemon.start(ctx); err != nil {
		return 0, err
	}
	if err := s.daemon.end(syscall.SIGTERM); err != nil {
		return 0, err
	}
	n := s.daemon.goroutines()
	if n == 0 {
		return 0, s.daemon.failure("does not say how many goroutines it ended with")
	}
	return n, nil
}

// soak is the whole of it. The report is nil if there is nothing to report.
func soak(ctx context.Context, o options, stderr io.Writer) (_ *report, err error) {
	dir, err := directory()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// A csbd that is killed leaves the cgroup that it was given, and its successor
	// does not know that the first had made it. So it is made here, and removed.
	base, err := cgroup.Open(o.cgroup, fmt.Sprintf("soak-%d", os.Getpid()))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, base.Close()) }()
	begun := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(stderr, "%6.1fs %s\n", time.Since(begun).Seconds(), fmt.Sprintf(format, args...))
	}
	say("soak -n %d -seed %d", o.n, o.seed)
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("not over after %v", o.timeout))
	defer cancel()
	d := newDaemon(o, dir)
	defer d.put()
	t := newTally()
	s := &disturber{daemon: d, tally: t, random: rand.New(rand.NewPCG(o.seed, 1)), say: say}

	say("a csbd that has nothing to do")
	idle, err := s.goroutines(ctx)
	if err != nil {
		return nil, err
	}
	say("the load")
	if err := s.begin(ctx, trace{}); err != nil {
		return nil, err
	}
	l := &load{options: o, daemon: d, tally: t, events: make(chan event, 8)}
	failed := s.during(ctx, l)
	if failed == nil && ctx.Err() != nil {
		failed = context.Cause(ctx)
	}
	var end int64
	if failed == nil {
		say("csbd at rest, and its end")
		end, failed = s.finish(ctx, idle)
	}
	r := newReport(o, t, s, l, time.Since(begun))
	r.MemoryEnd, r.Crashes = end, d.crashes()
	r.judge(failed)
	return r, failed
}

// during disturbs csbd while the load runs.
func (s *disturber) during(ctx context.Context, l *load) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	over := make(chan struct{})
	go func() {
		defer close(over)
		l.run(ctx)
	}()
	progress := time.NewTicker(10 * time.Second)
	defer progress.Stop()
	for {
		select {
		case e := <-l.events:
			if err := s.do(ctx, e); err != nil {
				cancel()
				<-over
				return err
			}
		case <-progress.C:
			l.mu.Lock()
			s.say("%d of %d", l.next, l.n)
			l.mu.Unlock()
		case <-over:
			return nil
		}
	}
}

// finish looks at the last csbd at rest and after its end, and returns the
// resident memory that it had at rest, in bytes.
func (s *disturber) finish(ctx context.Context, idle int) (memory int64, err error) {
	d := s.daemon
	if err := d.reload(ctx, fmt.Sprintf(policyText, poolSize)); err != nil {
		return 0, err
	}
	t, err := s.rest(ctx, s.descriptors)
	if err != nil {
		return 0, err
	}
	pid := d.process.Process.Pid
	memory = figure(pid, "VmRSS") << 10
	if err := d.end(syscall.SIGTERM); err != nil {
		return memory, err
	}
	if code := d.process.ProcessState.ExitCode(); code != 0 {
		return memory, d.failure(fmt.Sprintf("ended with %v", d.process.ProcessState))
	}
	s.leaks.add(t.ended(pid, d.state))
	if n := d.goroutines(); n == 0 {
		return memory, d.failure("does not say how many goroutines it ended with")
	} else if n > idle {
		s.leaks.add(leaks{Goroutines: n - idle, Found: []string{fmt.Sprintf("csbd ended with %d goroutines, one that had nothing to do with %d", n, idle)}})
	}
	return memory, nil
}

// put ends csbd if it still runs, whatever happened.
func (d *daemon) put() {
	d.mu.Lock()
	alive := d.alive
	d.mu.Unlock()
	if alive {
		_ = d.end(syscall.SIGTERM)
	}
}

func (d *daemon) crashes() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.crashed
}
