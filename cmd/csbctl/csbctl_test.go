package main_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// A call of csbctl.
type call struct {
	args  []string
	env   []string // "PYTHON_CODE=…"
	stdin io.Reader
	as    *syscall.Credential
	dir   string
}

// An outcome is what a shell sees of a call.
type outcome struct {
	code           int
	stdout, stderr string
}

func (c call) command(t *testing.T, ctx context.Context, socket string) *exec.Cmd {
	t.Helper()
	binary := servertest.Binary(t, "csbctl")
	if c.as != nil {
		binary = forEverybody(t, binary)
	}
	cmd := exec.CommandContext(ctx, binary, c.args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "CSBD_SOCKET=" + socket}, c.env...)
	cmd.Stdin = c.stdin
	cmd.Dir = c.dir
	if c.as != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.as}
	}
	return cmd
}

// forEverybody copies a file to where any user can execute it.
func forEverybody(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	assert.NilError(t, err)
	path := filepath.Join(servertest.Dir(t), filepath.Base(file))
	assert.NilError(t, os.WriteFile(path, data, 0o755))
	return path
}

func (c call) run(t *testing.T, socket string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := c.command(t, ctx, socket)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	assert.Assert(t, ctx.Err() == nil, "csbctl %q does not end: %s", c.args, &errs)
	return outcome{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// result is the JSON on stdout, one compact line of it.
func (o outcome) result(t *testing.T) (r servertest.Result) {
	t.Helper()
	assert.Assert(t, json.Unmarshal([]byte(o.stdout), &r) == nil, "%+v", o)
	assert.Check(t, strings.Count(o.stdout, "\n") == 1 && strings.HasSuffix(o.stdout, "}\n"), "%q", o.stdout)
	assert.Check(t, o.stderr == "", "%q", o.stderr)
	assert.Check(t, r.ExitCode == o.code, "exit status %d of %+v", o.code, r)
	return r
}

const policy = `version: 1
profiles:
  default: {images: [python, absent], concurrency: 16, environment: [GREETING]}
  busy: {images: [absent, python], rate: 1/h}
rules:
  - {user: "0", profile: default}
  - {user: "42003", profile: busy}
`

func start(t *testing.T) *servertest.Daemon {
	t.Helper()
	return servertest.Start(t, servertest.Options{Policy: policy, Env: []string{"CSBD_SOCKET_MODE=0666"}})
}

// TestExecute runs programs in every way that a shell can ask for.
func TestExecute(t *testing.T) {
	t.Parallel()
	d := start(t)
	dir := servertest.Dir(t)
	file := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		assert.NilError(t, os.WriteFile(path, []byte(text), 0o640))
		return path
	}
	echo := file("script.py", "import sys\nprint(sys.argv[1:], repr(sys.stdin.read()))\n")
	each := func(name string, test func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
	prints := func(name string, c call, want string) {
		each(name, func(t *testing.T) {
			o := c.run(t, d.Socket)
			assert.Equal(t, o.code, 0, "%+v", o)
			assert.Equal(t, o.result(t).Stdout, want)
		})
	}
	in := func(text string) io.Reader { return strings.NewReader(text) }

	prints("code on stdin", call{stdin: in(`print("Hello from CodeSandbox!")`)}, "Hello from CodeSandbox!\n")
	prints("PYTHON_CODE", call{env: []string{"PYTHON_CODE=print('Hello World!')"}}, "Hello World!\n")
	prints("-c with arguments and stdin", call{args: []string{"-c", "import sys; print(sys.argv[1:], sys.stdin.read())", "a", "b"}, stdin: in("data")},
		"['a', 'b'] data\n")
	prints("a file with arguments and stdin", call{args: []string{echo, "arg", "--raw", "-c"}, stdin: in("data")}, "['arg', '--raw', '-c'] 'data'\n")
	prints("a file in this directory", call{args: []string{"script.py", "x"}, dir: dir}, "['x'] ''\n")
	prints("- is stdin", call{args: []string{"-", "a"}, stdin: in("import sys; print(sys.argv[1:], repr(sys.stdin.read()))"),
		env: []string{"PYTHON_CODE=print('not this')"}}, "['a'] ''\n")
	// Precedence: -c, a file, PYTHON_CODE, stdin.
	prints("-c before PYTHON_CODE", call{args: []string{"-c", "print('-c')", echo}, env: []string{"PYTHON_CODE=print('not this')"}, stdin: in("nor this")}, "-c\n")
	prints("a file before PYTHON_CODE", call{args: []string{echo}, env: []string{"PYTHON_CODE=print('not this')"}, stdin: in("1")}, "[] '1'\n")
	prints("PYTHON_CODE before stdin", call{env: []string{"PYTHON_CODE=print(input())"}, stdin: in("from stdin")}, "from stdin\n")
	prints("-c with nothing", call{args: []string{"-c", ""}, stdin: in("print('not this')")}, "")
	prints("stdin with nothing", call{stdin: in("")}, "")
	prints("--", call{args: []string{"-c", "import sys; print(sys.argv[1:])", "--", "-x", "--raw"}}, "['-x', '--raw']\n")
	prints("environment and files", call{args: []string{"--env", "GREETING=a=b", "--file", echo, "--file", "dir/x=" + echo, "-c",
		"import os; print(os.environ['GREETING'], [(n, oct(os.stat(n).st_mode & 0o777)) for n in ('script.py', 'dir/x')])"}},
		"a=b [('script.py', '0o640'), ('dir/x', '0o640')]\n")

	exits := func(name string, want int, status string, args ...string) {
		each(name, func(t *testing.T) {
			o := call{args: args}.run(t, d.Socket)
			assert.Equal(t, o.code, want, "%+v", o)
			assert.Equal(t, o.result(t).Status, status)
		})
	}
	exits("status of sys.exit", 3, "error", "-c", "import sys; sys.exit(3)")
	exits("status of an exception", 1, "error", "-c", "1/0")
	exits("status 125 of the program", 125, "error", "-c", "import sys; sys.exit(125)")
	exits("status of a signal", 134, "killed", "-c", "import os; os.abort()")
	exits("status of a timeout", 124, "timeout", "--timeout", "1s", "--memory", "64MiB", "-c", "while True: pass")
	exits("status of CPU time", 152, "cpu_limit", "--cpu-time", "500ms", "-c", "while True: pass")

	each("every limit", func(t *testing.T) {
		r := call{args: []string{"--timeout", "7s", "--cpu-time=3", "-memory", "100MiB", "--disk", "5MiB", "--output", "2000",
			"--processes", "9", "--open-files", "33", "--image", "python", "-c", "1"}}.run(t, d.Socket).result(t)
		assert.DeepEqual(t, r.Limits, map[string]float64{"timeout": 7, "cpu_time": 3, "memory": 100 << 20, "disk": 5 << 20,
			"output": 2000, "processes": 9, "open_files": 33, "cpus": 1})
	})

	each("code that is not UTF-8", func(t *testing.T) {
		code := "# -*- coding: latin-1 -*-\nimport sys\nprint(ascii('\xe4\xff'), len(open(__file__, 'rb').read()))"
		want := fmt.Sprintf("'\\xe4\\xff' %d\n", len(code))
		assert.Equal(t, call{stdin: in(code)}.run(t, d.Socket).result(t).Stdout, want)
		assert.Equal(t, call{args: []string{file("latin.py", code)}}.run(t, d.Socket).result(t).Stdout, want)
		assert.Equal(t, call{args: []string{"-c", code}}.run(t, d.Socket).result(t).Stdout, want)
	})

	each("binary", func(t *testing.T) {
		var all []byte
		for i := range 1 << 16 {
			all = append(all, byte(i), byte(i>>8))
		}
		const copies = "import sys; b = sys.stdin.buffer.read(); sys.stdout.buffer.write(b); sys.stderr.buffer.write(b[::-1])"
		backwards := bytes.Clone(all)
		for i := range all {
			backwards[i] = all[len(all)-1-i]
		}
		o := call{args: []string{"--raw", "-c", copies}, stdin: bytes.NewReader(all)}.run(t, d.Socket)
		assert.Equal(t, o.code, 0)
		assert.Check(t, o.stdout == string(all), "stdout is not what the program wrote")
		assert.Check(t, o.stderr == string(backwards), "stderr is not what the program wrote")

		r := call{args: []string{"-c", copies}, stdin: bytes.NewReader(all)}.run(t, d.Socket).result(t)
		exact, err := base64.StdEncoding.DecodeString(r.StdoutBase64)
		assert.NilError(t, err)
		assert.Check(t, bytes.Equal(exact, all))
	})

	each("raw", func(t *testing.T) {
		o := call{args: []string{"--raw", echo, "x"}, stdin: in("y")}.run(t, d.Socket)
		assert.Equal(t, o, outcome{0, "['x'] 'y'\n", ""})
		o = call{args: []string{"--raw", "-c", "import sys; print('out', end=''); print('err', end='', file=sys.stderr); sys.exit(9)"}}.run(t, d.Socket)
		assert.Equal(t, o, outcome{9, "out", "err"})
		o = call{args: []string{"--raw", "-c", "print('out')\n1/0"}}.run(t, d.Socket)
		assert.Check(t, o.code == 1 && o.stdout == "out\n" && strings.HasSuffix(o.stderr, "ZeroDivisionError: division by zero\n"), "%+v", o)
		o = call{args: []string{"--raw", "--timeout", "500ms", "-c", "print('out', flush=True)\nwhile True: pass"}}.run(t, d.Socket)
		assert.Check(t, o.code == 124 && o.stdout == "out\n" && strings.HasPrefix(o.stderr, "csbctl: ") && strings.Contains(o.stderr, "timeout"), "%+v", o)
		o = call{args: []string{"--raw", "--output", "100", "-c", "print('x' * 999, end='')"}}.run(t, d.Socket)
		assert.Check(t, o.code == 0 && o.stdout == strings.Repeat("x", 100) && strings.Contains(o.stderr, "899"), "%+v", o)
	})

	each("readable", func(t *testing.T) {
		o := call{args: []string{"-c", `print('<a & b> \\u003c ü \u2028')`}}.run(t, d.Socket)
		assert.Check(t, strings.Contains(o.stdout, `<a & b> \\u003c ü`), "%s", o.stdout)
		assert.Equal(t, o.result(t).Stdout, "<a & b> \\u003c ü \u2028\n")
	})

	each("terminal", func(t *testing.T) {
		// Neither code nor stdin comes from a terminal by itself.
		terminal := func(args string) (string, int) {
			t.Helper()
			cmd := exec.Command("script", "-qec", servertest.Binary(t, "csbctl")+" "+args, "/dev/null")
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "CSBD_SOCKET=" + d.Socket, "TERM=dumb"}
			out, _ := cmd.CombinedOutput()
			return strings.ReplaceAll(string(out), "\r\n", "\n"), cmd.ProcessState.ExitCode()
		}
		out, code := terminal(`-c "print(input())"`)
		assert.Check(t, strings.HasPrefix(out, "{\n  \"id\": \"") && strings.HasSuffix(out, "\n}\n"), "%q", out)
		assert.Check(t, code == 1 && strings.Contains(out, "EOFError"), "%d %q", code, out)
		out, code = terminal("")
		assert.Check(t, code == 2 && strings.Contains(out, "no code"), "%d %q", code, out)
	})

	each("closed stdout", func(t *testing.T) {
		shell := func(script string) (string, int) {
			t.Helper()
			cmd := exec.Command("bash", "-c", script, servertest.Binary(t, "csbctl"))
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "CSBD_SOCKET=" + d.Socket}
			out, _ := cmd.CombinedOutput()
			assert.Check(t, !strings.Contains(string(out), "goroutine"), "%s", out)
			return string(out), cmd.ProcessState.ExitCode()
		}
		out, code := shell(`"$0" -c 'print(1)' > /dev/full`)
		assert.Check(t, code == 125 && strings.Contains(out, "no space"), "%d %q", code, out)
		out, code = shell(`"$0" --raw -c 'print(1)' > /dev/full`)
		assert.Check(t, code == 125 && strings.Contains(out, "no space"), "%d %q", code, out)
		// As any filter: by SIGPIPE.
		out, code = shell(`set -o pipefail; "$0" -c 'print(1)' | true`)
		assert.Check(t, code == 128+13 || code == 125, "%d %q", code, out)
		_, code = shell(`"$0" -c 'print(1)' < /dev/null >&-`)
		assert.Check(t, code == 0 || code == 125, "%d", code)
	})

	each("interrupted", func(t *testing.T) { interrupted(t, d) })
	each("interrupted while it reads", func(t *testing.T) { interruptedReading(t, d) })
	each("verbs", func(t *testing.T) { verbs(t, d) })
	each("wrong usage", func(t *testing.T) { wrongUsage(t, d) })
	each("refused", func(t *testing.T) { refused(t, d) })
}

// interrupted presses Ctrl-C while a program runs.
func interrupted(t *testing.T, d *servertest.Daemon) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		cmd := call{args: []string{"--timeout", "60s", "-c", servertest.Occupy + "import time; time.sleep(55)"}}.command(t, t.Context(), d.Socket)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		assert.NilError(t, cmd.Start())
		d.WaitOccupied(t, 1)
		start := time.Now()
		assert.NilError(t, cmd.Process.Signal(signal))
		_ = cmd.Wait()
		assert.Check(t, time.Since(start) < 10*time.Second, "%v", time.Since(start))
		assert.Check(t, !cmd.ProcessState.Success(), "%v", cmd.ProcessState)
		assert.Check(t, !strings.Contains(errs.String(), "context canceled"), "not a word for people: %q", &errs)
		d.Eventually(t, "the execution's end", func() bool {
			for _, line := range d.Lines(t, "executed") {
				if line["pid"] == float64(cmd.Process.Pid) {
					return line["status"] == "cancelled"
				}
			}
			return false
		})
	}
}

// interruptedReading presses Ctrl-C while csbctl waits for its own input.
func interruptedReading(t *testing.T, d *servertest.Daemon) {
	for _, args := range [][]string{nil, {"-"}, {"-c", "1"}} {
		cmd := call{args: args}.command(t, t.Context(), d.Socket)
		stdin, err := cmd.StdinPipe()
		assert.NilError(t, err)
		assert.NilError(t, cmd.Start())
		_, err = io.WriteString(stdin, "print(1)")
		assert.NilError(t, err)
		time.Sleep(500 * time.Millisecond)
		assert.NilError(t, cmd.Process.Signal(syscall.SIGINT))
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-ended:
			assert.Check(t, !cmd.ProcessState.Success(), "%v", cmd.ProcessState)
		case <-time.After(5 * time.Second):
			t.Errorf("csbctl %q reads on after SIGINT", args)
			_ = cmd.Process.Kill()
			<-ended
		}
		stdin.Close()
	}
}

func verbs(t *testing.T, d *servertest.Daemon) {
	for _, test := range []struct {
		args []string
		says []string
	}{
		{[]string{"status", "--json"}, []string{`"ready":true`, `"policy_generation":1`}},
		{[]string{"--json", "status"}, []string{`"ready":true`, `"policy_generation":1`}},
		{[]string{"status"}, []string{"csbd is ready\n", "policy      generation 1\n", "you         uid 0 (root)"}},
		{[]string{"version", "--json"}, []string{`"csbctl":{`, `"csbd":{`, `"protocol":1`}},
		{[]string{"version"}, []string{"csbctl devel, commit ", "\ncsbd devel, commit ", "protocol 1, go1.", ", runsc v0."}},
		{[]string{"images", "--json"}, []string{`"name":"python"`, `"numpy"`}},
		{[]string{"images"}, []string{"NAME ", "\npython  3.", "  yes\n", "\npython has numpy "}},
		{[]string{"policy", "show", "--json"}, []string{`"rule":"rule 1 (user 0)"`, `"concurrency":16`}},
		{[]string{"policy", "show"}, []string{"default, by rule 1 (user 0)\n", "python, absent\n", "16 at a time", "\nmemory      256 MiB  1 GiB\n"}},
		{[]string{"--help"}, []string{"csbctl [FLAGS]", "-timeout", "-socket", "csbctl top"}},
		{[]string{"top", "--help"}, []string{"-interval", "-count", "-json", "-socket"}},
	} {
		o := call{args: test.args}.run(t, d.Socket)
		assert.Check(t, o.code == 0 && o.stderr == "", "%q: %+v", test.args, o)
		for _, part := range test.says {
			assert.Check(t, strings.Contains(o.stdout, part), "%q: %s", test.args, o.stdout)
		}
	}
	file := filepath.Join(servertest.Dir(t), "p.yaml")
	assert.NilError(t, os.WriteFile(file, []byte(policy), 0o600))
	assert.Equal(t, call{args: []string{"policy", "check", file}}.run(t, d.Socket), outcome{0, file + ": ok\n", ""})
	assert.NilError(t, os.WriteFile(file, []byte(strings.Replace(policy, "rate: 1/h", "rate: often", 1)), 0o600))
	o := call{args: []string{"policy", "check", file}}.run(t, d.Socket)
	assert.Check(t, o.code == 1 && o.stdout == "" && strings.HasPrefix(o.stderr, file+":4: profiles.busy.rate: "), "%+v", o)
	o = call{args: []string{"policy", "check", "--json", file}}.run(t, d.Socket)
	assert.Check(t, o.code == 1 && o.stderr == "" && strings.HasPrefix(o.stdout, `{"valid":false,"errors":["`+file+`:4: profiles.busy.rate: `), "%+v", o)
	// --socket goes before CSBD_SOCKET, wherever it stands.
	for _, args := range [][]string{{"--socket", d.Socket, "version"}, {"version", "--socket=" + d.Socket}, {"policy", "--socket", d.Socket, "show"}} {
		o = call{args: args, env: []string{"CSBD_SOCKET=/nonexistent"}}.run(t, "")
		assert.Equal(t, o.code, 0, "%+v", o)
	}
}

func wrongUsage(t *testing.T, d *servertest.Daemon) {
	for _, args := range [][]string{
		{"--no-such-flag"}, {"-c"}, {"--timeout"}, {"--processes", "many", "-c", "1"}, {"--env", "NAME", "-c", "1"},
		{"status", "now"}, {"policy"}, {"policy", "erase"}, {"policy", "check"}, {"policy", "show", "x"},
		{"status", "--raw"}, {"top", "5"}, {"top", "--interval", "1ms"}, {"top", "--interval", "soon"}, {"top", "--count", "0"}, {"--raw", "--json", "-c", "1"},
	} {
		o := call{args: args}.run(t, d.Socket)
		assert.Check(t, o.code == 2 && o.stdout == "" && strings.Contains(o.stderr, "csbctl --help"), "%q: %+v", args, o)
	}
	o := call{args: []string{"/nonexistent/script.py"}}.run(t, d.Socket)
	assert.Check(t, o.code == 125 && strings.Contains(o.stderr, "/nonexistent/script.py"), "%+v", o)
	assert.Check(t, !strings.Contains(o.stderr, "hint"), "csbd has nothing to do with it: %+v", o)
}

// refused asks csbd for what it does not give.
func refused(t *testing.T, d *servertest.Daemon) {
	for name, test := range map[string]struct {
		call
		says []string
	}{
		"stranger":      {call{args: []string{"-c", "1"}, as: &syscall.Credential{Uid: 42005, Gid: 42005}}, []string{"42005", "hint: ", "no rule"}},
		"limit":         {call{args: []string{"--memory", "2GiB", "-c", "1"}}, []string{"2GiB", "1GiB", "hint: `csbctl policy show`"}},
		"bad value":     {call{args: []string{"--timeout", "soon", "-c", "1"}}, []string{"timeout", "soon"}},
		"image":         {call{args: []string{"--image", "other", "-c", "1"}}, []string{"other", "policy show"}},
		"unknown image": {call{args: []string{"--image", "absent", "-c", "1"}}, []string{"absent", "hint: `csbctl images`"}},
	} {
		o := test.run(t, d.Socket)
		assert.Check(t, o.code == 125 && o.stdout == "" && strings.HasPrefix(o.stderr, "csbctl: "), "%s: %+v", name, o)
		for _, part := range test.says {
			assert.Check(t, strings.Contains(o.stderr, part), "%s: %q does not say %q", name, o.stderr, part)
		}
	}
	once := call{args: []string{"--image", "python", "-c", "print(1)"}, as: &syscall.Credential{Uid: 42003, Gid: 42003}}
	assert.Equal(t, once.run(t, d.Socket).code, 0)
	o := once.run(t, d.Socket)
	assert.Check(t, o.code == 125 && strings.Contains(o.stderr, "1 executions in") && strings.Contains(o.stderr, "hint: try again in 35"), "%+v", o)
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{NoImages: true})
	got := call{args: []string{"doctor"}}.run(t, d.Socket)
	assert.Check(t, got.code == 1 && strings.Contains(got.stdout, "failed  default: image: ") && strings.Contains(got.stdout, "fix: build it"), "%+v", got)
	got = call{args: []string{"doctor", "--json"}}.run(t, d.Socket)
	assert.Check(t, got.code == 1 && strings.HasPrefix(got.stdout, `{"ok":false,`), "%+v", got)
	assert.Equal(t, call{args: []string{"doctor", "now"}}.run(t, d.Socket).code, 2)
}
