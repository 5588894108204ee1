package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/fcarli/codesandbox/rpc"
)

// The users of the load, and how many connections each has.
var users = []int{60001, 60002, 60003, 60004}

const (
	connections = 2
	// maxBatch is how many executions a connection has in flight at most.
	maxBatch = 3
)

// answerTimeout is when a reply counts as lost: far more than the longest
// program and the wait for its turn take together.
const answerTimeout = 4 * time.Minute

// A load draws jobs and sends them.
type load struct {
	options
	daemon *daemon
	tally  *tally
	events chan event

	mu   sync.Mutex
	next int
}

// draw takes up to n jobs, and has done to csbd what is due meanwhile.
func (l *load) draw(n int) []*job {
	l.mu.Lock()
	defer l.mu.Unlock()
	var batch []*job
	for ; n > 0 && l.next < l.n; n-- {
		batch = append(batch, newJob(l.seed, l.next))
		for _, e := range due(l.options, l.next) {
			select {
			case l.events <- e:
			default: // enough is going on
			}
		}
		l.next++
	}
	return batch
}

// run sends everything.
func (l *load) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, uid := range users {
		for n := range connections {
			wg.Go(func() {
				u := &user{load: l, uid: uid, random: rand.New(rand.NewPCG(l.seed, uint64(uid*100+n)))}
				u.run(ctx)
			})
		}
	}
	wg.Wait()
}

// A user has one connection at a time.
type user struct {
	*load
	uid    int
	random *rand.Rand
	client *client
	life   int // of csbd, to which client is connected
}

func (u *user) run(ctx context.Context) {
	defer u.leave()
	for ctx.Err() == nil {
		batch := u.draw(1 + u.random.IntN(maxBatch))
		if len(batch) == 0 {
			return
		}
		if err := u.connect(ctx); err != nil {
			for _, j := range batch {
				u.tally.ended(j, outcomeLost, fmt.Sprintf("%s: %v", j.token, err), 0)
			}
			return
		}
		stop := context.AfterFunc(ctx, func() { u.client.close() })
		u.send(ctx, batch)
		stop()
	}
}

func (u *user) leave() {
	if u.client != nil {
		u.client.close()
		u.client = nil
	}
}

// connect makes sure that there is a connection to the csbd that serves now.
func (u *user) connect(ctx context.Context) error {
	for {
		life, err := u.daemon.wait(ctx)
		if err != nil {
			return err
		}
		if u.client != nil && u.life == life {
			return nil
		}
		u.leave()
		if u.client, err = dialAs(u.uid, u.daemon.socket); err == nil {
			u.life = life
			return nil
		}
		u.client = nil
		if u.daemon.is(life) {
			return err
		}
	}
}

// send sends a batch of jobs, in one of the ways that clients have.
func (u *user) send(ctx context.Context, batch []*job) {
	var text []byte
	for _, j := range batch {
		text = append(text, message(j.token, rpc.MethodExecute, j.request)...)
	}
	sent := time.Now()
	_ = u.client.conn.SetDeadline(sent.Add(answerTimeout))
	way := u.random.IntN(100)
	if way < 3 && len(batch) == 1 {
		_, _ = u.client.conn.Write(text[:u.random.IntN(len(text)-1)])
		u.desert(batch, outcomeCut)
		return
	}
	pending := map[string]*job{}
	for _, j := range batch {
		pending[j.token] = j
	}
	if _, err := u.client.conn.Write(text); err != nil {
		u.broken(ctx, pending, err)
		return
	}
	switch {
	case way < 10:
		select {
		case <-time.After(time.Duration(u.random.IntN(300)) * time.Millisecond):
		case <-ctx.Done():
		}
		u.desert(batch, outcomeLeft)
	case way < 20:
		u.receive(ctx, pending, sent, batch[u.random.IntN(len(batch))])
	default:
		u.receive(ctx, pending, sent, nil)
	}
}

// desert closes the connection: nobody waits for the answers.
func (u *user) desert(batch []*job, outcome string) {
	u.leave()
	for _, j := range batch {
		u.tally.ended(j, outcome, "", 0)
	}
}

// receive reads the answers to the pending jobs, and cancels one meanwhile.
func (u *user) receive(ctx context.Context, pending map[string]*job, sent time.Time, cancelled *job) {
	var cancelling chan struct{} // closed when the cancel has been sent
	if cancelled != nil {
		cancelling = make(chan struct{})
		client, delay := u.client, time.Duration(u.random.IntN(400))*time.Millisecond
		go func() {
			defer close(cancelling)
			time.Sleep(delay)
			// If it cannot be sent, reading fails too.
			_ = client.send("cancel "+cancelled.token, rpc.MethodCancel, rpc.CancelParams{ID: quoted(cancelled.token)})
		}()
	}
	acknowledged := cancelled == nil
	for len(pending) > 0 || !acknowledged {
		a, err := u.client.receive()
		if err != nil {
			u.broken(ctx, pending, err)
			return
		}
		var id string
		if json.Unmarshal(a.ID, &id) == nil {
			if j := pending[id]; j != nil {
				delete(pending, id)
				// Whether the cancel was in time is csbd's to say.
				outcome, problem := judge(j, a, circumstances{cancelled: j == cancelled, disturbed: u.tally.disturbed(sent)})
				u.tally.ended(j, outcome, problem, time.Since(sent))
				continue
			}
			if cancelled != nil && id == "cancel "+cancelled.token && !acknowledged && a.Error == nil {
				acknowledged = true
				continue
			}
		}
		u.tally.stray(fmt.Sprintf("an answer that nobody waits for: id %s, result %.300s, error %+v", a.ID, a.Result, a.Error))
	}
}

func quoted(s string) json.RawMessage {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return text
}

// broken gives up a connection. Its jobs are lost, unless we have killed csbd.
func (u *user) broken(ctx context.Context, pending map[string]*job, err error) {
	killed := !u.daemon.is(u.life)
	u.leave()
	for _, j := range pending {
		switch {
		case ctx.Err() != nil:
			u.tally.ended(j, outcomeLeft, "", 0) // we are told to stop
		case killed:
			u.tally.ended(j, outcomeCrash, "", 0)
		default:
			u.tally.ended(j, outcomeLost, fmt.Sprintf("%s (%s): no answer: %v", j.token, j.program, err), 0)
		}
	}
}

// warmUp runs a few programs, so that csbd is measured after it has had its
// first ones.
func warmUp(d *daemon) error {
	c, err := dialAs(monitor, d.socket)
	if err != nil {
		return err
	}
	defer c.close()
	_ = c.conn.SetDeadline(time.Now().Add(time.Minute))
	for i := range 8 {
		want := fmt.Sprintf("warm %d\n", i)
		if err := c.send("warm", rpc.MethodExecute, map[string]any{"code": fmt.Sprintf("print('warm', %d)", i)}); err != nil {
			return err
		}
		a, err := c.receive()
		if err != nil {
			return err
		}
		var r rpc.Result
		if a.Error != nil || json.Unmarshal(a.Result, &r) != nil || r.Stdout != want {
			return fmt.Errorf("a first program ended with %s %+v", a.Result, a.Error)
		}
	}
	return nil
}

// directory makes the directory of csbd, which every user may enter.
func directory() (string, error) {
	dir, err := os.MkdirTemp("", "csbd-soak-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}
