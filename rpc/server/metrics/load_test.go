package metrics_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

const loadPolicy = `version: 1
profiles:
  fast: {images: [python, missing], environment: [GREETING]}
  slow: {concurrency: 1, queue: 1, output_exceeded: kill}
rules:
  - {user: 0, profile: fast}
  - {user: 42001, profile: slow}
pools:
  - {image: python, profile: fast, ready: 2, max: 2}
`

// secret is in whatever callers send and programs write.
const secret = "c4n4ry"

// A tally is what csbd answered, added up from the answers alone.
type tally struct {
	executions, limits, refusals map[string]int
	queue, run, cpu              map[string][]float64 // by profile
	start                        map[string][]float64 // by profile and warmth
	peak                         map[string][]float64
	requested, written           map[string]int
	dropped                      int
	ids                          []string
}

// executed adds the result of a program in a profile; sent are the bytes of
// code, stdin and files.
func (y *tally) executed(profile string, r servertest.Result, sent [3]int) {
	y.ids = append(y.ids, r.ID)
	y.executions["image=python profile="+profile+" status="+r.Status]++
	warm := fmt.Sprint(r.Usage["warm"])
	for at, name := range map[*map[string][]float64]string{&y.queue: "queue_time", &y.cpu: "cpu_time", &y.peak: "peak_memory"} {
		(*at)[profile] = append((*at)[profile], r.Usage[name].(float64))
	}
	y.run[profile] = append(y.run[profile], r.ExecutionTime)
	key := "profile=" + profile + " warm=" + warm
	y.start[key] = append(y.start[key], r.Usage["start_time"].(float64))
	for i, part := range []string{"code", "stdin", "files"} {
		y.requested["part="+part] += sent[i]
	}
	cut := 0
	for stream, text := range map[string]string{"stdout": r.Stdout, "stderr": r.Stderr} {
		n := len(text)
		if c, ok := r.Truncated[stream].(map[string]any); ok {
			n += int(c["dropped"].(float64))
			cut += int(c["dropped"].(float64))
		}
		if n > 0 {
			y.written["stream="+stream] += n
		}
	}
	y.dropped += cut
	limit := map[string]string{"timeout": "timeout", "cpu_limit": "cpu_time", "memory_limit": "memory", "output_limit": "output"}[r.Status]
	if limit == "" && cut > 0 {
		limit = "output"
	}
	if limit != "" {
		y.limits["limit="+limit+" profile="+profile]++
	}
}

// histogram checks one, bucket by bucket.
func histogram(t *testing.T, p page, name, with string, values []float64) {
	t.Helper()
	h := p.one(t, name, with).GetHistogram()
	assert.Check(t, cmp.Equal(int(h.GetSampleCount()), len(values)), "%s{%s}", name, with)
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	// Both are sums of floats, in different orders.
	assert.Check(t, math.Abs(h.GetSampleSum()-sum) <= 1e-6*max(sum, 1), "%s{%s}: %v, want %v", name, with, h.GetSampleSum(), sum)
	for _, b := range h.GetBucket() {
		n := 0
		for _, v := range values {
			if v <= b.GetUpperBound() {
				n++
			}
		}
		assert.Check(t, cmp.Equal(int(b.GetCumulativeCount()), n), "%s{%s} up to %v", name, with, b.GetUpperBound())
	}
}

// TestKnownLoad sends a csbd programs of which every end is known, and compares
// its metrics with the answers, number by number.
func TestKnownLoad(t *testing.T) {
	t.Parallel()
	dir := servertest.Dir(t)
	socket := filepath.Join(dir, "metrics.sock")
	d := servertest.Start(t, servertest.Options{Dir: dir, Policy: loadPolicy,
		// Self-tests take sandboxes from the pool.
		Env: []string{"CSBD_METRICS=unix:" + socket, "CSBD_AUDIT=" + filepath.Join(dir, "audit"), "CSBD_PROOF_EVERY=0", "CSBD_SOCKET_MODE=0666", "CSBD_EXECUTIONS=7", "CSBD_CONNECTIONS=100"}})
	const pool = "image=python profile=fast"
	rest := func() {
		t.Helper()
		d.Eventually(t, "a full pool and nothing else", func() bool {
			p, _ := scrape(t, socket)
			return p.value(t, "csbd_pool_ready", pool) == 2 && p.value(t, "csbd_pool_starting", pool) == 0 && p.value(t, "csbd_sandboxes", "") == 2
		})
	}
	rest()
	before, _ := scrape(t, socket)
	// What only grows never shrinks, and no series goes away.
	last := before.series()
	grow := func() page {
		t.Helper()
		p, _ := scrape(t, socket)
		now := p.series()
		for name, n := range last {
			later, ok := now[name]
			assert.Check(t, ok && later >= n, "%s was %v, is %v", name, n, later)
		}
		last = now
		return p
	}
	for _, name := range []string{"csbd_executions_total", "csbd_limits_hit_total", "csbd_refusals_total", "csbd_request_bytes_total", "csbd_output_bytes_total"} {
		assert.Check(t, len(before[name].GetMetric()) > 0 && len(before.nonzero(name)) == 0, "%s: %v", name, before.nonzero(name))
	}

	want := &tally{executions: map[string]int{}, limits: map[string]int{}, refusals: map[string]int{}, queue: map[string][]float64{}, run: map[string][]float64{},
		cpu: map[string][]float64{}, start: map[string][]float64{}, peak: map[string][]float64{}, requested: map[string]int{}, written: map[string]int{}}
	root, slow, nobody := d.Dial(t), d.As(t, syscall.Credential{Uid: 42001, Gid: 42001}), d.As(t, syscall.Credential{Uid: 42002, Gid: 42002})
	run := func(c *servertest.Conn, profile, status, code string, limits map[string]any) {
		t.Helper()
		code = "# " + secret + "\n" + code
		params := map[string]any{"code": code, "limits": limits, "args": []string{secret}, "stdin": secret}
		sent := [3]int{len(code), len(secret), 0}
		if profile == "fast" {
			params["environment"] = map[string]string{"GREETING": secret}
			params["files"] = []any{map[string]any{"path": secret, "content": secret + secret}}
			sent[2] = 2 * len(secret)
		}
		r := c.Execute(params)
		assert.Check(t, cmp.Equal(r.Status, status), "%s: %+v", code, r)
		want.executed(profile, r, sent)
		grow()
	}
	for range 5 {
		run(root, "fast", "ok", "print('"+secret+"')", nil)
	}
	run(root, "fast", "error", "1/0", nil)
	run(root, "fast", "error", "import sys; sys.exit('"+secret+"')", nil)
	run(root, "fast", "timeout", "import time; time.sleep(60)", map[string]any{"timeout": "300ms"})
	run(root, "fast", "cpu_limit", "while True: pass", map[string]any{"cpu_time": "200ms"})
	run(root, "fast", "memory_limit", "b'x' * (200 << 20)", map[string]any{"memory": "64MiB"})
	run(root, "fast", "killed", "import os; os.kill(os.getpid(), 9)", nil)
	run(root, "fast", "ok", "import sys; print('y' * 5000); print('z' * 3000, file=sys.stderr)", map[string]any{"output": "1KiB"})
	run(slow, "slow", "ok", "print(1)", nil)
	run(slow, "slow", "output_limit", "while True: print('y' * 1000)", map[string]any{"output": "1KiB"})

	// One runs, one waits, one is too many; who waits and who runs are cancelled.
	long := servertest.Occupy + "import time; time.sleep(55)"
	slow.Request(secret, "execute", map[string]any{"code": long, "limits": map[string]any{"timeout": "60s"}})
	d.WaitOccupied(t, 1)
	slow.Request("waits", "execute", map[string]any{"code": "print(1)"})
	d.Eventually(t, "the queue", func() bool {
		p := grow()
		return p.value(t, "csbd_executions_queued", "") == 1 && p.value(t, "csbd_executions_running", "") == 1
	})
	for range 2 {
		slow.Call("execute", map[string]any{"code": "print(1)"}).Failed(t, "busy")
		want.refusals["bound=queue kind=busy profile=slow"]++
	}
	p := grow()
	assert.Check(t, p.value(t, "csbd_memory_held_bytes", "of=results") > 0 && p.value(t, "csbd_memory_held_bytes", "of=requests") > 0)
	slow.Send(servertest.Request(nil, "cancel", map[string]any{"id": "waits"}))
	slow.Receive().Failed(t, "cancelled")
	want.refusals["bound= kind=cancelled profile=slow"]++
	slow.Send(servertest.Request(nil, "cancel", map[string]any{"id": secret}))
	r := slow.Receive().Executed(t)
	assert.Equal(t, r.Status, "cancelled")
	want.executed("slow", r, [3]int{len(long), 0, 0})

	// Refusals of every other kind that a client can bring about.
	for range 3 {
		root.Call("execute", map[string]any{"code": secret, "limits": map[string]any{"memory": "64GiB"}}).Failed(t, "denied")
		want.refusals["bound= kind=denied profile=fast"]++
	}
	nobody.Call("execute", map[string]any{"code": secret}).Failed(t, "denied")
	want.refusals["bound= kind=denied profile="]++
	root.Call("execute", map[string]any{"code": secret, secret: secret}).Failed(t, "invalid_params")
	want.refusals["bound= kind=invalid_params profile=fast"]++
	root.Call("execute", map[string]any{"code": secret, "image": "missing"}).Failed(t, "unknown_image")
	want.refusals["bound= kind=unknown_image profile=fast"]++
	root.Call(secret, nil).Failed(t, "method_not_found")
	want.refusals["bound= kind=method_not_found profile=fast"]++
	root.Send(secret)
	root.Receive().Failed(t, "parse_error")
	want.refusals["bound= kind=parse_error profile="]++
	root.Send(`[]`)
	root.Receive().Failed(t, "invalid_request")
	want.refusals["bound= kind=invalid_request profile="]++

	rest()
	p = grow()
	t.Logf("executions %v\nlimits %v\nrefusals %v\nbytes %v %v, %d dropped", want.executions, want.limits, want.refusals, want.requested, want.written, want.dropped)
	assert.DeepEqual(t, p.nonzero("csbd_executions_total"), want.executions)
	assert.DeepEqual(t, p.nonzero("csbd_limits_hit_total"), want.limits)
	assert.DeepEqual(t, p.nonzero("csbd_refusals_total"), want.refusals)
	assert.DeepEqual(t, p.nonzero("csbd_request_bytes_total"), want.requested)
	assert.DeepEqual(t, p.nonzero("csbd_output_bytes_total"), want.written)
	assert.Equal(t, int(p.value(t, "csbd_output_dropped_bytes_total", "")), want.dropped)
	assert.Check(t, want.dropped >= 5001+3001-2*1024)
	hits, misses, all := 0, 0, 0
	for _, profile := range []string{"fast", "slow"} {
		of := "profile=" + profile
		histogram(t, p, "csbd_queue_seconds", of, want.queue[profile])
		histogram(t, p, "csbd_run_seconds", of, want.run[profile])
		histogram(t, p, "csbd_peak_memory_bytes", of, want.peak[profile])
		for _, warm := range []string{"true", "false"} {
			histogram(t, p, "csbd_start_seconds", of+" warm="+warm, want.start[of+" warm="+warm])
		}
		parts, cpu := 0.0, 0.0
		for i, seconds := range want.run[profile] {
			parts += seconds + want.queue[profile][i]
			cpu += want.cpu[profile][i]
		}
		assert.Check(t, math.Abs(p.value(t, "csbd_cpu_seconds_total", of)-cpu) < 1e-6, "%v %v", p.value(t, "csbd_cpu_seconds_total", of), cpu)
		total := p.one(t, "csbd_request_seconds", of).GetHistogram()
		assert.Check(t, int(total.GetSampleCount()) == len(want.run[profile]) && total.GetSampleSum() > parts, "%v, parts %v", total, parts)
		all += len(want.run[profile])
	}
	hits, misses = len(want.start["profile=fast warm=true"]), len(want.start["profile=fast warm=false"])
	assert.Check(t, hits > 0 && len(want.start["profile=slow warm=false"]) == len(want.run["slow"]), "of both kinds")
	for name, n := range map[string]int{"hits": hits, "misses": misses, "starts": hits + misses, "start_failures": 0, "deaths": 0} {
		name = "csbd_pool_" + name + "_total"
		assert.Check(t, cmp.Equal(int(p.value(t, name, pool)-before.value(t, name, pool)), n), name)
	}
	for name, n := range map[string]float64{"csbd_ready": 1, "csbd_executions_running": 0, "csbd_executions_queued": 0, "csbd_executions_max": 7,
		"csbd_connections": 3, "csbd_connections_max": 100, "csbd_policy_generation": 1, "csbd_audit_lines_lost_total": 0} {
		assert.Check(t, cmp.Equal(p.value(t, name, ""), n), name)
	}
	assert.Check(t, p.value(t, "csbd_pool_wanted", pool) == 2 && p.value(t, "csbd_pool_max", pool) == 2)
	assert.Check(t, p.value(t, "csbd_pool_memory_bytes", pool) > 40<<20 && p.value(t, "csbd_pool_refill_seconds", pool) > 0 && p.value(t, "csbd_pool_oldest_seconds", pool) > 0)
	assert.Check(t, p.value(t, "csbd_memory_max_bytes", "of=results") == 1<<30)
	start := p.value(t, "process_start_time_seconds", "")
	made, proved := p.value(t, "csbd_snapshot_timestamp_seconds", pool), p.value(t, "csbd_self_test_success_timestamp_seconds", "")
	assert.Check(t, made >= start-1 && proved >= start && proved < start+600 && made < start+600, "start %v, snapshot %v, self-test %v", start, made, proved)

	// csbd tells its clients the same.
	var status struct{ Executions, Refused map[string]int }
	root.Call("status", nil).Decode(t, &status)
	told := 0
	for key, n := range want.executions {
		status.Executions[key[strings.LastIndexByte(key, '=')+1:]] -= n
	}
	for key, n := range want.refusals {
		kind, _, _ := strings.Cut(key[strings.Index(key, "kind=")+5:], " ")
		status.Refused[kind] -= n
		told += n
	}
	for _, left := range []map[string]int{status.Executions, status.Refused} {
		for key, n := range left {
			assert.Check(t, n == 0, "%s: status says %d more", key, n)
		}
	}
	d.Eventually(t, "the audit's lines", func() bool {
		return int(grow().value(t, "csbd_audit_lines_written_total", "")) == all+told
	})

	// A good policy and a bad one.
	d.Signal(t, syscall.SIGHUP)
	d.Eventually(t, "a reload", func() bool { return grow().value(t, "csbd_policy_generation", "") == 2 })
	assert.NilError(t, os.WriteFile(d.PolicyFile, []byte("nonsense"), 0o644))
	d.Signal(t, syscall.SIGHUP)
	d.Eventually(t, "a failed reload", func() bool { return grow().value(t, "csbd_policy_reloads_total", "result=error") == 1 })
	p = grow()
	assert.Check(t, p.value(t, "csbd_policy_reloads_total", "result=ok") == 1 && p.value(t, "csbd_policy_generation", "") == 2)
	d.Eventually(t, "another self-test", func() bool { return grow().value(t, "csbd_self_test_success_timestamp_seconds", "") > proved })

	// Nothing of a caller's has come along.
	_, text := scrape(t, socket)
	for _, forbidden := range append(want.ids, secret, "main.py", "print(", "ZeroDivisionError", `"42001"`, `"42002"`) {
		assert.Check(t, !strings.Contains(text, forbidden), "%q is on the page", forbidden)
	}
	known := []string{"", "fast", "slow", "python", "missing", "true", "false", "code", "stdin", "files", "stdout", "stderr", "requests", "results",
		"ok", "error", "timeout", "cpu_limit", "memory_limit", "output_limit", "killed", "cancelled", "cpu_time", "memory", "output",
		"queue", "rate", "connections", "parse_error", "invalid_request", "method_not_found", "invalid_params", "internal", "denied", "busy", "unknown_image", "shutting_down"}
	p = grow()
	n := 0
	for _, name := range p.own() {
		for _, m := range p[name].GetMetric() {
			n++
			for _, l := range m.GetLabel() {
				assert.Check(t, name == "csbd_build_info" || slices.Contains(known, l.GetValue()), "%s{%s=%q}", name, l.GetName(), l.GetValue())
			}
		}
	}
	assert.Check(t, n < 200, "%d series", n)
	var version struct{ Version, Commit, Runtime, Go string }
	root.Call("version", nil).Decode(t, &version)
	data, err := json.Marshal(version)
	assert.NilError(t, err)
	assert.Check(t, p.value(t, "csbd_build_info", "commit="+version.Commit+" goversion="+version.Go+" runtime="+version.Runtime+" version="+version.Version) == 1, "%s", data)
}
