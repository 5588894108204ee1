package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/fcarli/codesandbox/rpc"
)

// A display shows what `csbctl top` sees.
type display interface {
	// first shows a status to which there is none before.
	first(v view) error
	show(v view) error
	// absent says that csbd does not answer.
	absent(at time.Time, why error) error
	// wait returns after a tick, or with done set when the user has had enough.
	wait(tick <-chan time.Time) (done bool)
	close()
}

// top is `csbctl top`: the status of csbd again and again, over one connection.
// A csbd that goes away is waited for, but one that is not there in the
// beginning is an error, as for any other verb.
func (o *options) top(ctx context.Context, args []string, s streams, getenv func(string) string) (int, error) {
	every, count := time.Second, 0
	err := o.noArguments("top", args, func(f *flag.FlagSet) {
		f.Func("interval", "`time` between two looks, as 500ms or 2 (default 1s)", func(text string) (err error) {
			every, err = parseInterval(text)
			return err
		})
		f.Func("count", "end after this `number` of them (default never)", func(text string) (err error) {
			if count, err = strconv.Atoi(text); err != nil || count < 1 {
				return errors.New("want a whole number from 1")
			}
			return nil
		})
	})
	if err != nil {
		return 0, err
	}
	w := watch{socket: o.socket}
	defer w.close()
	before, raw, err := w.status(ctx)
	if err != nil {
		return 0, err
	}
	var d display
	out, isFile := s.out.(*os.File)
	switch term := getenv("TERM"); {
	case o.json:
		d = &jsonLines{out: s.out, err: s.err}
	case isFile && isTerminal(out) && term != "" && term != "dumb":
		// Only a screen has something to put right before the end.
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		defer stop()
		d = openScreen(ctx, s.in, out)
	default:
		d = &lines{out: s.out}
	}
	defer d.close()
	last := &before
	if err := d.first(view{status: before, raw: raw, at: time.Now(), every: every}); err != nil {
		return 0, err
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for shown := 0; count == 0 || shown < count; shown++ {
		if d.wait(tick.C) {
			return exitOK, nil
		}
		now, raw, err := w.status(ctx)
		switch {
		case ctx.Err() != nil:
			return exitOK, nil
		case err != nil && !passing(err):
			return 0, err
		case err != nil:
			last = nil
			err = d.absent(time.Now(), err)
		default:
			err = d.show(view{status: now, before: last, raw: raw, at: time.Now(), every: every})
			last = &now
		}
		if err != nil {
			return 0, err
		}
	}
	return exitOK, nil
}

// parseInterval reads a duration, or a number of seconds.
func parseInterval(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if n, numberErr := strconv.ParseFloat(s, 64); numberErr == nil {
		d, err = time.Duration(n*float64(time.Second)), nil
	}
	if err != nil || d < 100*time.Millisecond || d > time.Hour {
		return 0, errors.New("want 100ms to 1h")
	}
	return d, nil
}

// A view is one status, and the one before for what has happened since.
type view struct {
	status rpc.Status
	before *rpc.Status // nil if there is none of the same csbd
	raw    json.RawMessage
	at     time.Time
	every  time.Duration
}

// rate is a counter's growth in a second, by csbd's own clock; ok is false
// where it is not known.
func (v view) rate(counter func(rpc.Status) int64) (perSecond float64, ok bool) {
	if v.before == nil {
		return 0, false
	}
	passed, grown := v.status.Uptime-v.before.Uptime, counter(v.status)-counter(*v.before)
	if passed <= 0 || grown < 0 {
		return 0, false // another csbd
	}
	return float64(grown) / passed, true
}

// perSecond is a rate for people.
func (v view) perSecond(counter func(rpc.Status) int64) string {
	r, ok := v.rate(counter)
	if !ok {
		return "-"
	}
	return fmt.Sprintf("%.1f", r)
}

// Counters of a status.

func executions(status string) func(rpc.Status) int64 {
	return func(s rpc.Status) int64 { return s.Executions[status] }
}

func allExecutions(s rpc.Status) int64 { return total(s.Executions) }

func refusals(kind string) func(rpc.Status) int64 {
	return func(s rpc.Status) int64 { return s.Refused[kind] }
}

func allRefusals(s rpc.Status) int64 { return total(s.Refused) }

func total(counts map[string]int64) (n int64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// pools adds up what a function says of each pool that is wanted.
func pools(which func(rpc.Pool) bool, what func(rpc.Pool) int64) func(rpc.Status) int64 {
	return func(s rpc.Status) (n int64) {
		for _, p := range s.Pools {
			if which(p) {
				n += what(p)
			}
		}
		return n
	}
}

func anyPool(rpc.Pool) bool { return true }

func hits(p rpc.Pool) int64     { return p.Hits }
func misses(p rpc.Pool) int64   { return p.Misses }
func ready(p rpc.Pool) int64    { return int64(p.Ready) }
func starting(p rpc.Pool) int64 { return int64(p.Starting) }

// hitRate is that of the time since the status before.
func (v view) hitRate(which func(rpc.Pool) bool) string {
	h, _ := v.rate(pools(which, hits))
	m, _ := v.rate(pools(which, misses))
	return hitRate(h, m)
}

// A watch asks one csbd again and again, and connects anew when it has to.
type watch struct {
	socket string
	client *rpc.Client
}

// silence is how long csbd may take to answer before it counts as absent.
const silence = 3 * time.Second

func (w *watch) status(ctx context.Context) (answer rpc.Status, raw json.RawMessage, err error) {
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	if w.client == nil {
		if w.client, err = rpc.Dial(ctx, w.socket); err != nil {
			return answer, nil, err
		}
	}
	if err = w.client.Call(ctx, rpc.MethodStatus, nil, &raw); err == nil {
		if err = json.Unmarshal(raw, &answer); err == nil {
			return answer, raw, nil
		}
		err = fmt.Errorf("read the answer: %w", err)
	}
	w.close()
	return answer, nil, err
}

func (w *watch) close() {
	if w.client != nil {
		w.client.Close()
		w.client = nil
	}
}

// passing says that an error may be over soon: csbd stops, starts, or has too
// much to do. What it says about us is not.
func passing(err error) bool {
	var refused *rpc.Error
	if !errors.As(err, &refused) {
		return true
	}
	switch refused.Code {
	case rpc.CodeBusy, rpc.CodeShuttingDown, rpc.CodeInternal:
		return true
	}
	return false
}

// reason is why csbd does not answer, in few words.
func reason(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("it has not answered for %v", silence)
	}
	var system syscall.Errno
	if errors.As(err, &system) {
		return system.Error()
	}
	return err.Error()
}
