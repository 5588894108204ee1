package hostile_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/fcarli/codesandbox/rpc"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

const (
	// clients at a time, each with one program.
	clients = 3
	// ready sandboxes of the pools.
	ready = 5
	// share is the part of the programs that runs unless all are asked for.
	share = 4
	// bound is what an answer may take longer than the program's timeout. It
	// is generous for a busy machine, but shorter than any wait that csbd would
	// fall back to if it had lost a program's end.
	bound = 8 * time.Second
	// prompt is the same for programs that leave before their timeout.
	prompt = 15 * time.Second
)

// The limits are small, so that all programs together take minutes. Nothing
// but the timeout depends on how fast the machine is. One profile ends programs
// that write too much, one has no seccomp profile.
const policy = `version: 1
profiles:
  default:
    timeout: {default: 20s, max: 60s}
    cpu_time: {default: 20s, max: 60s}
    memory: {default: 64MiB, max: 256MiB}
    disk: {default: 16MiB, max: 64MiB}
    output: {default: 64KiB, max: 16MiB}
    processes: {default: 32, max: 256}
    concurrency: 16
    rate: 1000000/s
  strict:
    timeout: {default: 20s, max: 60s}
    memory: {default: 64MiB, max: 256MiB}
    disk: 16MiB
    output: {default: 64KiB, max: 16MiB}
    output_exceeded: kill
    processes: {default: 32, max: 256}
  unconfined:
    timeout: {default: 20s, max: 60s}
    memory: {default: 64MiB, max: 256MiB}
    disk: {default: 16MiB, max: 64MiB}
    output: {default: 64KiB, max: 16MiB}
    processes: {default: 32, max: 256}
    seccomp: unconfined
rules:
  - {user: 0, profile: default}
  - {user: 4711, profile: strict}
  - {user: 4712, profile: unconfined}
pools:
  - {image: python, profile: default, ready: 3, max: 3}
  - {image: python, profile: unconfined, ready: 2, max: 2}
`

// Callers besides root. strict is one whose programs are ended when they write
// too much, and the one whose program is the neighbour of others; unconfined one
// whose programs have no seccomp profile: gVisor alone has to refuse them.
var (
	strict     = syscall.Credential{Uid: 4711, Gid: 4711}
	unconfined = syscall.Credential{Uid: 4712, Gid: 4712}
)

// An area is programs of one intention.
type area struct {
	name     string
	programs []program
	// neighbour is a program of another caller that runs meanwhile. It prints
	// a line when it is there.
	neighbour string
}

// A program is one attack and what has to come of it.
type program struct {
	name string
	// code of main.py, behind what is called prelude. If it begins with a line
	// break, the tabs that its lines share are taken away.
	code   string
	stdin  string
	files  map[string]string
	limits map[string]any
	as     syscall.Credential // who sends it; the zero value is root

	// ends are those that are permitted; none means that it is ok.
	ends []end
	// stdout and stderr are regular expressions for all of the output, in which
	// a dot is any character; empty means no output.
	stdout, stderr string
	// cut says that output has to have been left out.
	cut bool
	// then is the program of the next caller, which must print "clean".
	then string
}

// An end of a program.
type end struct {
	status string
	exit   int
}

var (
	ok           = end{"ok", 0}
	timeout      = end{"timeout", 124}
	cpuLimit     = end{"cpu_limit", 152}
	memoryLimit  = end{"memory_limit", 137}
	memoryError  = end{"memory_limit", 1}
	outputLimit  = end{"output_limit", 153}
	aborted      = dies(syscall.SIGABRT)
	segmentation = dies(syscall.SIGSEGV)
)

func exits(code int) end          { return end{"error", code} }
func dies(s syscall.Signal) end   { return end{"killed", 128 + int(s)} }
func within(d string) limits      { return limits{"timeout": d} }
func one(e end) []end             { return []end{e} }
func lines(want ...string) string { return `^` + strings.Join(want, `\n`) + `\n$` }

type limits = map[string]any

// noise is output that is left to chance: how many processes could complain
// before they were killed.
const noise = `.*`

func TestHostile(t *testing.T) {
	t.Parallel()
	if runtime.GOARCH != "amd64" {
		t.Skip("the programs have the system calls of x86-64")
	}
	w := newWorld(t)
	all := os.Getenv("CSB_HOSTILE") == "all"
	for _, a := range areas {
		if !all {
			a.programs = a.some()
		}
		t.Run(a.name, func(t *testing.T) { w.attack(t, a) })
	}
	w.close(t)
}

// areas of the suite.
var areas = []area{
	{name: "bombs", programs: bombs},
	{name: "processes", programs: processes},
	{name: "frames", programs: frames},
	{name: "kernel", programs: kernel},
	{name: "kernel without seccomp", programs: unfiltered},
	{name: "inside", programs: inside},
	{name: "host", programs: host, neighbour: neighbour},
	{name: "next caller", programs: nextCaller},
}

// some is every fourth program.
func (a area) some() (some []program) {
	for i := 0; i < len(a.programs); i += share {
		some = append(some, a.programs[i])
	}
	return some
}

// The suite stays as large as it was promised, and each program has a name of
// its own.
func TestSuite(t *testing.T) {
	names := map[string]bool{}
	for _, a := range areas {
		assert.Check(t, len(a.programs) >= 10, "%s", a.name)
		for _, p := range a.programs {
			assert.Check(t, !names[p.name], "there are two %q", p.name)
			names[p.name] = true
			for _, pattern := range []string{p.stdout, p.stderr} {
				_, err := regexp.Compile("(?s)" + pattern)
				assert.Check(t, err, p.name)
			}
		}
	}
	assert.Check(t, len(names) >= 150, "%d", len(names))
}

// attack runs the programs of an area.
func (w *world) attack(t *testing.T, a area) {
	stop := func() {}
	if a.neighbour != "" {
		stop = w.settle(t, a.neighbour)
	}
	work := make(chan program)
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			for p := range work {
				t.Run(p.name, func(t *testing.T) { w.run(t, p) })
			}
		})
	}
	for _, p := range a.programs {
		work <- p
	}
	close(work)
	group.Wait()
	stop()
	w.rests(t)
}

// run runs a program, and then another.
func (w *world) run(t *testing.T, p program) {
	var c *servertest.Conn
	if p.as.Uid != 0 {
		c = w.csbd.As(t, p.as)
	} else {
		c = w.csbd.Dial(t)
	}
	start := time.Now()
	answer := c.Call("execute", w.request(p.code, p))
	took := time.Since(start)
	w.reveals(t, answer)
	p.check(t, answer.Executed(t), took)
	c.Close()
	w.next(t, p)
}

// request has the program's code, with what it needs to know for its attacks.
func (w *world) request(code string, p program) map[string]any {
	params := map[string]any{"code": prelude + dedent(code), "args": w.args, "stdin": p.stdin}
	if p.limits != nil {
		params["limits"] = p.limits
	}
	var files []map[string]string
	for path, content := range p.files {
		files = append(files, map[string]string{"path": path, "content": content})
	}
	if files != nil {
		params["files"] = files
	}
	return params
}

// check looks at a result: is the end one of those permitted, the output what
// it has to be, and was it in time?
func (p program) check(t *testing.T, r servertest.Result, took time.Duration) {
	defer func() {
		if t.Failed() {
			t.Logf("%s, exit code %d, after %.2fs, %v\nstdout: %s\nstderr: %s", r.Status, r.ExitCode, r.ExecutionTime, r.Error, shorten(r.Stdout), shorten(r.Stderr))
		}
	}()
	ends := p.ends
	if ends == nil {
		ends = one(ok)
	}
	got := end{r.Status, r.ExitCode}
	assert.Check(t, slices.Contains(ends, got), "%v is none of %v", got, ends)
	assert.Check(t, (r.Error == nil) == (r.Status == "ok"))
	if r.Error != nil {
		assert.Check(t, cmp.Equal(r.Error["kind"], r.Status))
	}
	assert.Check(t, matches(p.stdout, r.Stdout), "stdout is not %q", p.stdout)
	assert.Check(t, matches(p.stderr, r.Stderr), "stderr is not %q", p.stderr)
	assert.Check(t, !p.cut || r.Truncated != nil, "nothing was cut")

	limit := time.Duration(r.Limits["timeout"] * float64(time.Second))
	waited := seconds(r.Usage["queue_time"]) + seconds(r.Usage["start_time"])
	assert.Check(t, took-waited < limit+bound, "took %v, of which %v before it began", took, waited)
	if !slices.Contains(ends, timeout) && !slices.Contains(ends, cpuLimit) {
		assert.Check(t, took-waited < prompt, "took %v, of which %v before it began", took, waited)
	}
}

func seconds(v any) time.Duration {
	s, _ := v.(float64)
	return time.Duration(s * float64(time.Second))
}

// next demands that somebody else's execution works at once and finds nothing.
func (w *world) next(t *testing.T, p program) {
	t.Helper()
	c := w.csbd.Dial(t)
	defer c.Close()
	token := secret()
	code, want := fmt.Sprintf("print(%q)", token), token+"\n"
	if p.then != "" {
		code, want = prelude+dedent(p.then), "clean\n"
	}
	start := time.Now()
	answer := c.Call("execute", map[string]any{"code": code, "args": w.args})
	took := time.Since(start)
	w.reveals(t, answer)
	r := answer.Executed(t)
	assert.Check(t, r.Status == "ok" && r.Stdout == want && r.Stderr == "", "the next execution: %s", answer.Line)
	assert.Check(t, took < bound, "the next execution took %v", took)
}

// rests checks that nothing of an area is left: nothing runs, and there are as
// many sandboxes, control groups and sentries as the pool keeps.
func (w *world) rests(t *testing.T) {
	t.Helper()
	c := w.csbd.Dial(t)
	defer c.Close()
	var status rpc.Status
	w.csbd.Eventually(t, "pools that are as they were", func() bool {
		status = rpc.Status{}
		c.Call("status", nil).Decode(t, &status)
		kept, starting := 0, 0
		for _, p := range status.Pools {
			kept, starting = kept+p.Ready, starting+p.Starting
		}
		return status.Running == 0 && status.Queued == 0 && kept == ready && starting == 0 &&
			w.csbd.Sandboxes() == ready && w.groups() == w.hierarchies*ready && w.sentries() == ready
	})
	assert.Check(t, status.Ready, "%+v", status)
	for _, p := range status.Pools {
		assert.Check(t, cmp.Equal(p.Failed, int64(0)))
	}
}

// groups counts the control groups of sandboxes, of all hierarchies.
func (w *world) groups() (n int) {
	for _, dir := range w.csbd.Cgroups() {
		found, _ := filepath.Glob(filepath.Join(dir, "sb-*"))
		n += len(found)
	}
	return n
}

// sentries counts the processes that speak with the host for a sandbox.
func (w *world) sentries() (n int) {
	for _, process := range w.csbd.Processes() {
		pid, command, _ := strings.Cut(process, ": ")
		// Its guests' processes have the same command line, and a tracer.
		state, _ := os.ReadFile("/proc/" + pid + "/status")
		if strings.HasPrefix(command, "runsc-sandbox ") && strings.Contains(string(state), "TracerPid:\t0\n") {
			n++
		}
	}
	return n
}

// reveals checks that an answer has no canary in it, nor in what it encodes.
func (w *world) reveals(t *testing.T, a servertest.Answer) {
	t.Helper()
	var r servertest.Result
	_ = json.Unmarshal(a.Result, &r)
	out, _ := base64.StdEncoding.DecodeString(r.StdoutBase64)
	err, _ := base64.StdEncoding.DecodeString(r.StderrBase64)
	for name, canary := range w.canaries {
		for _, text := range []string{a.Line, string(out), string(err)} {
			assert.Check(t, !strings.Contains(text, canary), "the secret of %s is in the answer: %s", name, shorten(text))
		}
	}
}

func matches(pattern, got string) bool {
	if pattern == "" {
		return got == ""
	}
	return regexp.MustCompile("(?s)" + pattern).MatchString(got)
}

func shorten(s string) string {
	if len(s) > 2000 {
		return fmt.Sprintf("%q [… %d bytes …] %q", s[:1000], len(s)-2000, s[len(s)-1000:])
	}
	return fmt.Sprintf("%q", s)
}

// dedent takes away the tabs that all lines share, and the first line break.
func dedent(code string) string {
	code, indented := strings.CutPrefix(code, "\n")
	if !indented {
		return code
	}
	tabs := code[:len(code)-len(strings.TrimLeft(code, "\t"))]
	return strings.ReplaceAll("\n"+strings.TrimRight(code, "\t"), "\n"+tabs, "\n")
}
