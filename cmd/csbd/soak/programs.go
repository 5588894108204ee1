package main

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/fcarli/codesandbox/rpc"
)

// A job is one execution: what is sent, and what is right as the answer.
type job struct {
	index   int
	program string // which of programs
	token   string // stands in its output and in no other's
	request map[string]any
	want    want
}

// A want is the right answer to a job. There is no other, unless somebody
// cancelled the job or killed what ran it.
type want struct {
	status string
	// exit statuses; any if empty.
	exit []int
	// stdout, whole; with begins its first part.
	stdout string
	begins bool
	// also looks at the rest of the result, and says what is wrong with it.
	also func(rpc.Result) string
}

// check says what is wrong with a result, or "".
func (w want) check(r rpc.Result) string {
	switch {
	case r.Status != w.status:
		return fmt.Sprintf("status %s, not %s", r.Status, w.status)
	case len(w.exit) > 0 && !slices.Contains(w.exit, r.ExitCode):
		return fmt.Sprintf("exit code %d, not of %v", r.ExitCode, w.exit)
	case w.begins && !strings.HasPrefix(r.Stdout, w.stdout), !w.begins && r.Stdout != w.stdout:
		return fmt.Sprintf("stdout %.200q, not %.200q", r.Stdout, w.stdout)
	case w.also != nil:
		return w.also(r)
	}
	return ""
}

// may says whether stdout is what the job may have written before it was
// stopped in the middle.
func (w want) may(stdout string) bool {
	return strings.HasPrefix(w.stdout, stdout) || w.begins && strings.HasPrefix(stdout, w.stdout)
}

// A program is one way to make jobs; weight is how often compared with others.
type program struct {
	name   string
	weight int
	make   func(r *rand.Rand, j *job) (code string)
}

// small is the program whose durations are reported.
const small = "small"

var programs = []program{
	{small, 30, func(r *rand.Rand, j *job) string {
		a, b := r.IntN(1e6), r.IntN(1e6)
		j.want = want{status: "ok", exit: []int{0}, stdout: fmt.Sprintf("%s %d\n", j.token, a*b)}
		return fmt.Sprintf("print(%q, %d*%d)", j.token, a, b)
	}},
	{"input", 8, func(r *rand.Rand, j *job) string {
		bytes := make([]byte, r.IntN(20000))
		for i := range bytes {
			bytes[i] = byte(r.Uint32())
		}
		sum := 0
		for _, b := range bytes {
			sum += int(b)
		}
		j.request["stdin_base64"] = base64.StdEncoding.EncodeToString(bytes)
		j.request["args"] = []string{j.token, "ü"}
		j.request["files"] = []any{map[string]any{"path": "d/" + j.token, "content": "text of " + j.token}}
		j.want = want{status: "ok", exit: []int{0}, stdout: fmt.Sprintf("%s ü text of %[1]s %d\n", j.token, sum)}
		return "import sys; print(*sys.argv[1:], open('d/'+sys.argv[1]).read(), sum(sys.stdin.buffer.read()))"
	}},
	{"pandas", 6, func(r *rand.Rand, j *job) string {
		values, sums := make([]string, 60), [3]int{}
		for i := range values {
			n := r.IntN(1000)
			values[i], sums[i%3] = fmt.Sprint(n), sums[i%3]+n
		}
		j.want = want{status: "ok", exit: []int{0}, stdout: fmt.Sprintf("%s [%d, %d, %d]\n", j.token, sums[0], sums[1], sums[2])}
		return fmt.Sprintf("import pandas as pd\nd = pd.DataFrame({'k': list(range(3))*20, 'v': [%s]})\nprint(%q, d.groupby('k').v.sum().tolist())",
			strings.Join(values, ","), j.token)
	}},
	{"exception", 8, func(r *rand.Rand, j *job) string {
		j.want = want{status: "error", exit: []int{1}, stdout: j.token + "\n", also: func(r rpc.Result) string {
			if r.Error == nil || r.Error.Type != "ValueError" || r.Error.Message != "ValueError: "+j.token || r.Error.Line != 2 {
				return fmt.Sprintf("error %+v", r.Error)
			}
			return ""
		}}
		return fmt.Sprintf("print(%q)\nraise ValueError(%[1]q)", j.token)
	}},
	{"exit", 6, func(r *rand.Rand, j *job) string {
		n := 2 + r.IntN(90)
		j.want = want{status: "error", exit: []int{n}, stdout: j.token + "\n"}
		return fmt.Sprintf("import sys; print(%q); sys.exit(%d)", j.token, n)
	}},
	{"signal", 5, func(r *rand.Rand, j *job) string {
		signals := []struct {
			name   string
			number int
		}{{"SIGKILL", 9}, {"SIGSEGV", 11}, {"SIGABRT", 6}}
		s := signals[r.IntN(len(signals))]
		j.want = want{status: "killed", exit: []int{128 + s.number}, stdout: j.token + "\n", also: func(r rpc.Result) string {
			if r.Error == nil || r.Error.Signal != s.name {
				return fmt.Sprintf("error %+v, not %s", r.Error, s.name)
			}
			return ""
		}}
		return fmt.Sprintf("import os; print(%q, flush=True); os.kill(os.getpid(), %d)", j.token, s.number)
	}},
	{"sleeper", 8, func(r *rand.Rand, j *job) string {
		j.want = want{status: "ok", exit: []int{0}, stdout: j.token + "\nawake\n"}
		return fmt.Sprintf("import time; print(%q, flush=True); time.sleep(%.3f); print('awake')", j.token, r.Float64())
	}},
	{"timeout", 4, func(r *rand.Rand, j *job) string {
		j.limit("timeout", fmt.Sprintf("%dms", 500+r.IntN(1000)))
		j.want = want{status: "timeout", exit: []int{124}, stdout: j.token + "\n"}
		return fmt.Sprintf("import signal, time\nprint(%q, flush=True)\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(100)", j.token)
	}},
	{"processor hog", 2, func(r *rand.Rand, j *job) string {
		j.limit("cpu_time", "500ms")
		j.want = want{status: "cpu_limit", exit: []int{152}, stdout: j.token + "\n"}
		return fmt.Sprintf("print(%q, flush=True)\nwhile True: pass", j.token)
	}},
	{"memory hog", 3, func(r *rand.Rand, j *job) string {
		j.limit("memory", "32MiB")
		j.want = want{status: "memory_limit", exit: []int{1, 137}, stdout: j.token + "\n"}
		return fmt.Sprintf("print(%q, flush=True)\nx = []\nwhile True: x.append(bytearray(1 << 20))", j.token)
	}},
	{"disk hog", 1, func(r *rand.Rand, j *job) string {
		j.limit("disk", "8MiB") // no pool has that: it is started cold
		j.want = want{status: "ok", exit: []int{0}, stdout: j.token + "\n28\n"}
		return fmt.Sprintf("print(%q, flush=True)\ntry:\n with open('f', 'wb', 0) as f:\n  while True: f.write(b'x' * 65536)\nexcept OSError as e: print(e.errno)", j.token)
	}},
	{"fork bomb", 3, func(r *rand.Rand, j *job) string {
		j.limit("processes", 12)
		j.want = want{status: "ok", exit: []int{0}, stdout: j.token + "\nfull\n"}
		return fmt.Sprintf(`import os, time
print(%q, flush=True)
try:
    for _ in range(200):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
    print('no limit')
except BlockingIOError:
    print('full')`, j.token)
	}},
	{"endless fork bomb", 1, func(r *rand.Rand, j *job) string {
		// Each that goes on forking gets memory of its own, 25 MB with pandas: with
		// more of them it depends on the machine which limit comes first.
		j.limit("processes", 4)
		j.limit("timeout", "1s")
		j.want = want{status: "timeout", exit: []int{124}, stdout: j.token + "\n"}
		return fmt.Sprintf("import os\nprint(%q, flush=True)\nwhile True:\n try: os.fork()\n except OSError: pass", j.token)
	}},
	{"daemon", 2, func(r *rand.Rand, j *job) string {
		j.want = want{status: "ok", exit: []int{0}, stdout: j.token + "\n"}
		return fmt.Sprintf("import os, time\nif os.fork() == 0:\n os.setsid()\n time.sleep(60)\n os._exit(0)\nprint(%q)", j.token)
	}},
	{"flood", 4, func(r *rand.Rand, j *job) string {
		const kept = 64 << 10
		lines := 20000 + r.IntN(20000)
		line := int64(len(j.token) + 7)
		j.limit("output", kept)
		j.want = want{status: "ok", exit: []int{0}, stdout: fmt.Sprintf("%s %05d\n", j.token, 0), begins: true, also: func(r rpc.Result) string {
			end := fmt.Sprintf("%s %05d\n", j.token, lines-1)
			if !strings.HasSuffix(r.Stdout, end) || r.Truncated == nil || r.Truncated.Stdout == nil || len(r.Stdout) != kept ||
				r.Truncated.Stdout.Dropped != int64(lines)*line-kept {
				return fmt.Sprintf("%d bytes of stdout are kept, truncated %+v; %d lines of %d bytes were written", len(r.Stdout), r.Truncated, lines, line)
			}
			return ""
		}}
		return fmt.Sprintf("for i in range(%d): print('%s %%05d' %% i)", lines, j.token)
	}},
	{"traces", 5, func(r *rand.Rand, j *job) string {
		j.want = want{status: "ok", exit: []int{0}, stdout: j.token + " ['work'] [] ['main.py']\n"}
		return fmt.Sprintf(`import os
print(%q, os.listdir('/tmp'), os.listdir('/dev/shm'), os.listdir('.'))
for d in '/tmp', '/dev/shm', '.':
    open(d + '/left', 'w').write(%[1]q)`, j.token)
	}},
}

func (j *job) limit(name string, value any) { j.request["limits"].(map[string]any)[name] = value }

// newJob makes the job of that index, which depends on nothing but it and the
// seed.
func newJob(seed uint64, index int) *job {
	r := rand.New(rand.NewPCG(seed, uint64(index)))
	total := 0
	for _, p := range programs {
		total += p.weight
	}
	choice := r.IntN(total)
	for _, p := range programs {
		if choice -= p.weight; choice >= 0 {
			continue
		}
		j := &job{index: index, program: p.name, token: fmt.Sprintf("t%d-%016x", index, r.Uint64())}
		// What does not end by itself is stopped by its own limit; the others
		// have time, whatever else the machine has to do.
		j.request = map[string]any{"limits": map[string]any{"timeout": "60s", "cpu_time": "60s"}}
		j.request["code"] = p.make(r, j)
		return j
	}
	panic("unreachable")
}
