package server_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/fcarli/codesandbox/rpc"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// poolOf is the only pool of csbd.
func poolOf(t testing.TB, c *servertest.Conn) rpc.Pool {
	t.Helper()
	var status struct{ Pools []rpc.Pool }
	c.Call("status", nil).Decode(t, &status)
	assert.Equal(t, len(status.Pools), 1)
	return status.Pools[0]
}

// waitFull waits until the pool has what it wants and rests.
func waitFull(t testing.TB, d *servertest.Daemon) rpc.Pool {
	t.Helper()
	c := d.Dial(t)
	defer c.Close()
	var p rpc.Pool
	d.Eventually(t, "a full pool", func() bool {
		p = poolOf(t, c)
		return p.Ready >= p.Want && p.Starting == 0
	})
	return p
}

// sentries are the processes of the waiting sandboxes that speak with the host.
func sentries(t testing.TB, d *servertest.Daemon) (pids []int) {
	t.Helper()
	for _, process := range d.Processes() {
		pid, command, _ := strings.Cut(process, ": ")
		// Its guests' processes have the same command line, and a tracer.
		state, _ := os.ReadFile("/proc/" + pid + "/status")
		if strings.HasPrefix(command, "runsc-sandbox ") && strings.Contains(string(state), "TracerPid:\t0\n") {
			n, err := strconv.Atoi(pid)
			assert.NilError(t, err)
			pids = append(pids, n)
		}
	}
	return pids
}

// Sandboxes that die, or hang, while they wait are nobody's problem.
func TestPoolOutlivesItsSandboxes(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{Policy: `version: 1
profiles: {default: {}}
rules: [{user: 0, profile: default}]
pools: [{image: python, profile: default, ready: 3}]
`})
	p := waitFull(t, d)
	assert.Check(t, cmp.Equal(p.Snapshot, rpc.SnapshotReady))
	assert.Check(t, p.SnapshotAge > 0)
	assert.Equal(t, len(d.Lines(t, "making snapshot")), 1)
	assert.Equal(t, len(d.Lines(t, "snapshot made")), 1)
	c := d.Dial(t)
	run := func(n int) {
		t.Helper()
		for i := range n {
			r := c.Run(fmt.Sprintf("print(%d)", i))
			assert.Equal(t, r.Stdout, fmt.Sprintln(i))
		}
	}

	pids := sentries(t, d)
	assert.Equal(t, len(pids), 3)
	for _, pid := range pids {
		assert.Check(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	run(4)
	// Each was found out, while it waited or when it was to take the program.
	found := int(waitFull(t, d).Died) + len(d.Lines(t, "another sandbox is taken"))
	assert.Check(t, cmp.Equal(found, 3))

	// One that hangs looks like any other until it is given something to do.
	stopped := 0
	for _, pid := range sentries(t, d) {
		if stopped++; stopped <= 2 {
			assert.Check(t, syscall.Kill(pid, syscall.SIGSTOP))
		}
	}
	run(4)
	found += 2
	assert.Check(t, cmp.Equal(int(waitFull(t, d).Died)+len(d.Lines(t, "another sandbox is taken")), found))
	run(2)
}

// A thousand executions, cancelled and deserted at random, each with the
// answer that is its own; then the pool is as it was and nothing is left.
func TestThousandExecutions(t *testing.T) {
	t.Parallel()
	const clients, each = 10, 100
	d := servertest.Start(t, servertest.Options{Policy: `version: 1
profiles: {default: {concurrency: 6, queue: 100, rate: 1000000/s}}
rules: [{user: 0, profile: default}]
pools: [{image: python, profile: default, ready: 3, max: 4}]
`})
	waitFull(t, d)
	var ok, cancelled, deserted atomic.Int64
	var clientsDone sync.WaitGroup
	for client := range clients {
		clientsDone.Go(func() {
			random := rand.New(rand.NewPCG(uint64(client), 4711))
			c := d.Dial(t)
			for i := range each {
				name := fmt.Sprintf("%d-%d", client, i)
				code := fmt.Sprintf("import time; time.sleep(%.3f); print(%q)", random.ExpFloat64()*0.02, name)
				c.Request(name, "execute", map[string]any{"code": code})
				if random.IntN(5) < 2 {
					time.Sleep(time.Duration(random.IntN(120)) * time.Millisecond)
					c.Close()
					c = d.Dial(t)
					deserted.Add(1)
					continue
				}
				a := c.Receive()
				if string(a.ID) != strconv.Quote(name) {
					t.Errorf("asked %s, answered %s", name, a.ID)
				}
				var result struct{ Status, Stdout string }
				switch {
				case a.Error != nil:
					a.Failed(t, "cancelled")
					cancelled.Add(1)
				case json.Unmarshal(a.Result, &result) != nil:
					t.Errorf("%s", a.Result)
				case result.Status == "cancelled":
					cancelled.Add(1)
				default:
					ok.Add(1)
					if result.Status != "ok" || result.Stdout != name+"\n" {
						t.Errorf("%s ended with %+v", name, result)
					}
				}
			}
			c.Close()
		})
	}
	stop := make(chan struct{})
	var canceller sync.WaitGroup
	canceller.Go(func() {
		c := d.Dial(t)
		defer c.Close()
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
			if ids := statusOf(t, c).Caller.Executions; len(ids) > 0 {
				c.Call("cancel", map[string]any{"id": ids[rand.IntN(len(ids))]})
			}
		}
	})
	clientsDone.Wait()
	close(stop)
	canceller.Wait()
	t.Logf("%d answered, %d cancelled, %d deserted", ok.Load(), cancelled.Load(), deserted.Load())
	assert.Equal(t, ok.Load()+cancelled.Load()+deserted.Load(), int64(clients*each))
	assert.Check(t, ok.Load() > 100 && cancelled.Load() > 10 && deserted.Load() > 100)

	c := d.Dial(t)
	d.Eventually(t, "the end of what was deserted", func() bool {
		s := statusOf(t, c)
		return s.Running == 0 && s.Queued == 0
	})
	p := waitFull(t, d)
	assert.Check(t, p.Ready <= p.Max, "%+v", p)
	assert.Check(t, cmp.Equal(p.Failed, int64(0)))
	assert.Check(t, cmp.Equal(p.Died, int64(0)))
	d.Eventually(t, "as many sandboxes as the pool has", func() bool { return d.Sandboxes() == poolOf(t, c).Ready })
}

// What waits holds no more memory than it may, also after a burst.
func TestPoolMemory(t *testing.T) {
	t.Parallel()
	const budget, one = 200 << 20, 80 << 20
	d := servertest.Start(t, servertest.Options{
		Env: []string{"CSBD_POOL_MEMORY=200MiB", "CSBD_LAUNCHES=2"},
		Policy: `version: 1
profiles: {default: {concurrency: 8}}
rules: [{user: 0, profile: default}]
pools: [{image: python, profile: default, ready: 8, max: 10}]
`})
	c := d.Dial(t)
	rests := func() rpc.Pool {
		t.Helper()
		var p rpc.Pool
		d.Eventually(t, "a pool at its budget", func() bool {
			p = poolOf(t, c)
			return p.Starting == 0 && p.Memory >= budget
		})
		// Launches at a time may find room each.
		assert.Check(t, p.Memory <= budget+2*one, "%+v", p)
		assert.Check(t, p.Ready >= 2 && p.Ready < 8, "%+v", p)
		return p
	}
	rests()
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			c := d.Dial(t)
			defer c.Close()
			for range 3 {
				assert.Check(t, cmp.Equal(c.Run("print(1)").Stdout, "1\n"))
			}
		})
	}
	served := make(chan struct{})
	go func() { wg.Wait(); close(served) }()
	for over := false; !over; {
		select {
		case <-served:
			over = true
		case <-time.After(50 * time.Millisecond):
			p := poolOf(t, c)
			assert.Check(t, p.Memory <= budget+2*one, "%+v", p)
		}
	}
	rests()
}
