package server_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

// Uids of the clients. No user of the machine has them.
const (
	alice    = 42001 // default
	bob      = 42002 // default
	tight    = 42003 // one execution, one waiting
	seldom   = 42004 // two executions an hour
	stranger = 42005 // no rule
)

const group = 43000

// Small requests, so that a message can be too large without being huge. The
// self-test of csbd leaves the profiles out whose default image is absent.
var socketPolicy = fmt.Sprintf(`version: 1
profiles:
  default:
    images: [python, garbage, absent]
    timeout: {default: 20s, max: 60s}
    memory: {default: 128MiB, max: 256MiB}
    output: {default: 64KiB, max: 16MiB}
    request: {code: 64KiB, stdin: 64KiB, files: 64KiB}
    environment: [LANG, GREETING]
    concurrency: 8
  tight: {images: [absent, python], concurrency: 1, queue: 1}
  seldom: {images: [absent, python], rate: 2/h}
rules:
  - {user: 0, profile: default}
  - {user: %d, profile: default}
  - {user: %d, profile: default}
  - {user: %d, profile: tight}
  - {user: %d, profile: seldom}
  - {group: %d, profile: default}
  - {group: nogroup, profile: default}
`, alice, bob, tight, seldom, group)

// socketDaemon starts a csbd that everybody can connect to and that has two
// images: the default one, and one whose root filesystem is garbage.
func socketDaemon(t *testing.T) *servertest.Daemon {
	t.Helper()
	servertest.NeedRoot(t)
	store := filepath.Join(servertest.Dir(t), "images")
	names := filepath.Join(store, "names")
	assert.NilError(t, os.MkdirAll(names, 0o755))
	python := imagetest.Python(t)
	good := filepath.Dir(python.Path)
	assert.NilError(t, os.Symlink(good, filepath.Join(names, "python")))

	digest := strings.Repeat("ab", 32)
	bad := filepath.Join(store, "sha256-"+digest)
	assert.NilError(t, os.Mkdir(bad, 0o755))
	assert.NilError(t, os.Symlink(bad, filepath.Join(names, "garbage")))
	garbage := strings.Repeat("garbage\n", 1<<14)
	assert.NilError(t, os.WriteFile(filepath.Join(bad, "rootfs.erofs"), []byte(garbage), 0o444))
	meta := fmt.Sprintf(`{"name": "garbage", "digest": "sha256:%s", "size": %d, "python": "3.11.2", "runner": %q}`, digest, len(garbage), python.Runner)
	assert.NilError(t, os.WriteFile(filepath.Join(bad, "image.json"), []byte(meta), 0o444))

	return servertest.Start(t, servertest.Options{
		Policy: socketPolicy,
		Env:    []string{"CSBD_IMAGE_DIR=" + store, "CSBD_SOCKET_MODE=0666", "CSBD_EXECUTIONS=32"},
	})
}

// TestSocket speaks to one csbd in every way that a client can.
func TestSocket(t *testing.T) {
	t.Parallel()
	d := socketDaemon(t)
	for _, part := range []struct {
		name string
		run  func(*testing.T, *servertest.Daemon)
	}{
		{"every parameter", everyParameter},
		{"parameters as numbers", parametersAsNumbers},
		{"shape of a result", resultShape},
		{"output", output},
		{"ends", ends},
		{"not a request", notARequest},
		{"ids", ids},
		{"refused parameters", refusedParameters},
		{"parameters of the other methods", otherParameters},
		{"notifications", notifications},
		{"oversized", oversized},
		{"pipelined", pipelined},
		{"the same id twice", sameID},
		{"half-closed", halfClosed},
		{"socat", socat},
		{"python", pythonClient},
		{"a client that never reads", neverReads},
		{"an unusable image", unusableImage},
		{"answers", answers},
		{"a stranger", aStranger},
		{"groups", groups},
		{"two users", twoUsers},
		{"busy", busy},
		{"rate", rate},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel()
			part.run(t, d)
		})
	}
}

const showParameters = `
import base64, json, os, resource, sys
print(json.dumps({
    "argv": sys.argv[1:],
    "stdin": base64.b64encode(sys.stdin.buffer.read()).decode(),
    "environment": {k: os.environ.get(k) for k in ("LANG", "GREETING")},
    "text": open("dir/text", encoding="utf-8", newline="").read(),
    "bytes": base64.b64encode(open("bytes", "rb").read()).decode(),
    "modes": [oct(os.stat(n).st_mode & 0o777) for n in ("dir/text", "bytes", "empty")],
    "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
}))
`

func everyParameter(t *testing.T, d *servertest.Daemon) {
	r := d.Dial(t).Execute(map[string]any{
		"code_base64":  base64.StdEncoding.EncodeToString([]byte(showParameters)),
		"args":         []string{"a b", "", "ü\U0001F600", "-c"},
		"stdin_base64": "/wAK",
		"environment":  map[string]string{"GREETING": "good\nday", "LANG": "C"},
		"files": []map[string]any{
			{"path": "dir/text", "content": "ü\r\n"},
			{"path": "bytes", "content_base64": "AP8=", "mode": "0755"},
			{"path": "empty"},
		},
		"image": "python",
		"limits": map[string]any{"timeout": "30s", "cpu_time": "1m", "memory": "200MiB", "disk": "10MiB",
			"output": "1000kB", "processes": 20, "open_files": 50},
	})
	assert.Equal(t, r.Status, "ok", "%+v", r)
	var got map[string]any
	assert.NilError(t, json.Unmarshal([]byte(r.Stdout), &got), "%q", r.Stdout)
	assert.DeepEqual(t, got, map[string]any{
		"argv":        []any{"a b", "", "ü\U0001F600", "-c"},
		"stdin":       "/wAK",
		"environment": map[string]any{"GREETING": "good\nday", "LANG": "C"},
		"text":        "ü\r\n",
		"bytes":       "AP8=",
		"modes":       []any{"0o644", "0o755", "0o644"},
		"open_files":  50.0,
	})
	assert.DeepEqual(t, r.Limits, map[string]float64{"timeout": 30, "cpu_time": 60, "memory": 200 << 20, "disk": 10 << 20,
		"output": 1e6, "processes": 20, "open_files": 50, "cpus": 1})
}

func parametersAsNumbers(t *testing.T, d *servertest.Daemon) {
	r := d.Dial(t).Execute(map[string]any{
		"code": "print(ascii(input()))", "stdin": "ü\x00\U0001F600",
		"limits": map[string]any{"timeout": 12.5, "cpu_time": 1, "memory": 100000000, "disk": 1000000, "output": 4096},
	})
	assert.Equal(t, r.Stdout, `'\xfc\x00\U0001f600'`+"\n")
	assert.DeepEqual(t, r.Limits, map[string]float64{"timeout": 12.5, "cpu_time": 1, "memory": 1e8, "disk": 1e6,
		"output": 4096, "processes": 64, "open_files": 256, "cpus": 1})
}

func resultShape(t *testing.T, d *servertest.Daemon) {
	a := d.Dial(t).Call("execute", map[string]any{"code": "import sys; print('out'); print('err', file=sys.stderr)"})
	var members map[string]json.RawMessage
	a.Decode(t, &members)
	for _, name := range []string{"id", "status", "stdout", "stderr", "exit_code", "execution_time", "usage", "image", "isolation", "limits"} {
		assert.Check(t, len(members[name]) > 0, "%s is missing: %s", name, a.Line)
		delete(members, name)
	}
	assert.Check(t, len(members) == 0, "unexpected members: %s", a.Line)
	r := a.Executed(t)
	assert.Check(t, r.Status == "ok" && r.ExitCode == 0 && r.Stdout == "out\n" && r.Stderr == "err\n", "%s", a.Line)
	assert.Check(t, r.ExecutionTime > 0 && r.ExecutionTime < 20)
	assert.Check(t, r.Usage["cpu_time"].(float64) > 0, "%s", a.Line)
	assert.Check(t, r.Usage["start_time"].(float64) > 0, "%s", a.Line)
	assert.Check(t, r.Image["name"] == "python" && r.Image["digest"] == imagetest.Python(t).Digest, "%s", a.Line)
	assert.Check(t, r.Isolation["driver"] == "runsc" && r.Isolation["version"] != "", "%s", a.Line)
	assert.Check(t, strings.Count(a.Line, "\n") == 1, "one object, one line")
}

func output(t *testing.T, d *servertest.Daemon) {
	r := d.Dial(t).Execute(map[string]any{
		"code":   "import sys\nsys.stdout.buffer.write(b'\\xff\\x00<&>\\n')\nsys.stderr.write('h' + 'x' * 5000 + 't')",
		"limits": map[string]any{"output": 1000},
	})
	assert.Equal(t, r.Stdout, "\uFFFD\x00<&>\n")
	exact, err := base64.StdEncoding.DecodeString(r.StdoutBase64)
	assert.NilError(t, err)
	assert.Equal(t, string(exact), "\xff\x00<&>\n")
	assert.Check(t, r.StderrBase64 == "", "text needs no base64")
	assert.Equal(t, len(r.Stderr), 1000)
	assert.Check(t, strings.HasPrefix(r.Stderr, "hx") && strings.HasSuffix(r.Stderr, "xt"), "%q", r.Stderr)
	assert.DeepEqual(t, r.Truncated, map[string]any{"stderr": map[string]any{"dropped": 4002.0, "offset": 500.0}})
}

func ends(t *testing.T, d *servertest.Daemon) {
	c := d.Dial(t)
	r := c.Run("print('before', flush=True)\n\n1/0")
	assert.Check(t, r.Status == "error" && r.ExitCode == 1 && r.Stdout == "before\n", "%+v", r)
	assert.Check(t, strings.HasPrefix(r.Error["traceback"].(string), "Traceback (most recent call last)"), "%v", r.Error)
	delete(r.Error, "traceback")
	assert.DeepEqual(t, r.Error, map[string]any{"kind": "error", "type": "ZeroDivisionError", "line": 3.0,
		"message": "ZeroDivisionError: division by zero"})

	r = c.Run("import os; print('before', flush=True); os.kill(os.getpid(), 9)")
	assert.Check(t, r.Status == "killed" && r.ExitCode == 137 && r.Stdout == "before\n", "%+v", r)
	assert.DeepEqual(t, r.Error, map[string]any{"kind": "killed", "signal": "SIGKILL", "message": "the program was killed by SIGKILL"})

	r = c.Execute(map[string]any{"code": "print('before', flush=True)\nimport time\ntime.sleep(60)", "limits": map[string]any{"timeout": "1s"}})
	assert.Check(t, r.Status == "timeout" && r.ExitCode == 124 && r.Stdout == "before\n", "%+v", r)
	assert.Check(t, r.ExecutionTime >= 1 && r.ExecutionTime < 5, "%v", r.ExecutionTime)
}

// notARequest sends what is no request. Each is answered with an error whose
// id is null, and the connection goes on.
func notARequest(t *testing.T, d *servertest.Daemon) {
	c := d.Dial(t)
	for _, test := range []struct{ line, kind string }{
		{`{`, "parse_error"},
		{`{"jsonrpc":"2.0","id":1,"method":"version"`, "parse_error"},
		{`{"jsonrpc":"2.0","id":1,"method":"version"}}`, "parse_error"},
		{`{"jsonrpc":"2.0","id":1,"method":"version"} {}`, "parse_error"},
		{`hello`, "parse_error"},
		{`GET / HTTP/1.1`, "parse_error"},
		{"\x00\x01\x02", "parse_error"},
		{"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"execute\",\"params\":{\"code\":\"print('\xff')\"}}", "parse_error"}, // not UTF-8
		{strings.Repeat("[", 20000), "parse_error"},
		{`"text"`, "invalid_request"},
		{`1`, "invalid_request"},
		{`null`, "invalid_request"},
		{`{}`, "invalid_request"},
		{`{"id":1,"method":"version"}`, "invalid_request"},
		{`{"jsonrpc":"1.0","id":1,"method":"version"}`, "invalid_request"},
		{`{"jsonrpc":2.0,"id":1,"method":"version"}`, "invalid_request"},
		{`{"jsonrpc":"2.0","id":1}`, "invalid_request"},
		{`{"jsonrpc":"2.0","id":1,"method":7}`, "invalid_request"},
		{`{"jsonrpc":"2.0","id":null,"method":"version"}`, "invalid_request"},
		{`{"jsonrpc":"2.0","id":1.5,"method":"version"}`, "invalid_request"},
		{`{"jsonrpc":"2.0","id":-1,"method":"version"}`, "invalid_request"},
		{`{"jsonrpc":"2.0","id":9007199254740993,"method":"version"}`, "invalid_request"},
		{`{"jsonrpc":"2.0","id":true,"method":"version"}`, "invalid_request"},
		{`{"jsonrpc":"2.0","id":{},"method":"version"}`, "invalid_request"},
		{`{"jsonrpc":"2.0","id":[1],"method":"version"}`, "invalid_request"},
		{`{"jsonrpc":"2.0","id":1,"method":"version","params":1}`, "invalid_request"},
		{`{"jsonrpc":"2.0","id":1,"method":"version","params":"x"}`, "invalid_request"},
		{`{"jsonrpc":"2.0","id":1,"method":"version","params":null}`, "invalid_request"},
		{`[]`, "invalid_request"},
		{`[{"jsonrpc":"2.0","id":1,"method":"version"}]`, "invalid_request"},
		{`[{"jsonrpc":"2.0","id":1,"method":"version"},{"jsonrpc":"2.0","id":2,"method":"version"}]`, "invalid_request"},
		{`[{"jsonrpc":"2.0","id":1,"method":"version"}`, "parse_error"},
		{`{"jsonrpc":"2.0","id":1,"result":{}}`, "invalid_request"}, // an answer
	} {
		c.Send(test.line)
		a := c.Receive()
		assert.Check(t, string(a.ID) == "null", "%.100s: %s", test.line, a.Line)
		if a.Error == nil || a.Error.Data.Kind != test.kind {
			t.Errorf("%.100q: want %s, got %s", test.line, test.kind, a.Line)
		}
	}
	// Blank lines are nothing at all, and a carriage return is white space.
	c.Send("", "  ", "\t", "\r", `  {"jsonrpc":"2.0","id":"after","method":"version"}  `+"\r")
	assert.Equal(t, string(c.Receive().ID), `"after"`)
	c.Quiet()
}

func ids(t *testing.T, d *servertest.Daemon) {
	c := d.Dial(t)
	for _, id := range []any{0, 1, 1 << 53, "", "x", "1", "ü \U0001F600 \\ \" \n", strings.Repeat("long", 1000)} {
		c.Request(id, "version", nil)
		a := c.Receive()
		want, err := json.Marshal(id)
		assert.NilError(t, err)
		var sent, got any
		assert.NilError(t, json.Unmarshal(want, &sent))
		assert.NilError(t, json.Unmarshal(a.ID, &got))
		assert.Equal(t, got, sent)
		assert.Check(t, a.Error == nil, "%s", a.Line)
	}
}

func refusedParameters(t *testing.T, d *servertest.Daemon) {
	c := d.Dial(t)
	file := func(f map[string]any) map[string]any { return map[string]any{"code": "1", "files": []any{f}} }
	limits := func(name string, v any) map[string]any {
		return map[string]any{"code": "1", "limits": map[string]any{name: v}}
	}
	big := strings.Repeat("#", 64<<10+1)
	for _, test := range []struct {
		params      any
		kind, field string
		message     []string // what the message has to hold
	}{
		{nil, "invalid_params", "code", nil},
		{map[string]any{}, "invalid_params", "code", nil},
		{map[string]any{"code": nil}, "invalid_params", "code", nil},
		{[]any{"print(1)"}, "invalid_params", "", []string{"object"}},
		{map[string]any{"code": 1}, "invalid_params", "code", nil},
		{map[string]any{"code": "1", "code_base64": "MQ=="}, "invalid_params", "code", []string{"code_base64"}},
		{map[string]any{"code_base64": "M"}, "invalid_params", "code_base64", nil},
		{map[string]any{"code": "1", "stdin": "", "stdin_base64": ""}, "invalid_params", "stdin", nil},
		{map[string]any{"code": "1", "stdin_base64": "%"}, "invalid_params", "stdin_base64", nil},
		{map[string]any{"code": "1", "cod": "1"}, "invalid_params", "cod", []string{"unknown", "cod"}},
		// Names are exact: what is not in the protocol is unknown.
		{map[string]any{"Code": "1"}, "invalid_params", "Code", []string{"unknown", "Code"}},
		{map[string]any{"code": "1", "args": "x"}, "invalid_params", "args", nil},
		{map[string]any{"code": "1", "args": []any{1}}, "invalid_params", "args", nil},
		{map[string]any{"code": "1", "args": []any{"a", "\x00"}}, "invalid_params", "args[1]", nil},
		{map[string]any{"code": "1", "environment": []any{}}, "invalid_params", "environment", nil},
		{map[string]any{"code": "1", "environment": map[string]any{"GREETING": "\x00"}}, "invalid_params", "environment.GREETING", nil},
		{map[string]any{"code": "1", "environment": map[string]any{"A=B": "x"}}, "invalid_params", "environment.A=B", nil},
		{map[string]any{"code": "1", "environment": map[string]any{"LD_PRELOAD": "x"}}, "denied", "environment.LD_PRELOAD", []string{"LD_PRELOAD", "GREETING"}},
		{file(map[string]any{"path": ""}), "invalid_params", "files[0].path", nil},
		{file(map[string]any{}), "invalid_params", "files[0].path", nil},
		{file(map[string]any{"path": "../x"}), "invalid_params", "files[0].path", nil},
		{file(map[string]any{"path": "/etc/passwd"}), "invalid_params", "files[0].path", nil},
		{file(map[string]any{"path": "a/../../x"}), "invalid_params", "files[0].path", nil},
		{file(map[string]any{"path": "main.py"}), "invalid_params", "files[0].path", nil},
		{file(map[string]any{"path": "x", "mode": "0999"}), "invalid_params", "files[0].mode", nil},
		{file(map[string]any{"path": "x", "mode": "4755"}), "invalid_params", "files[0].mode", nil},
		{file(map[string]any{"path": "x", "content": "", "content_base64": ""}), "invalid_params", "files[0].content", nil},
		{file(map[string]any{"path": "x", "owner": "root"}), "invalid_params", "owner", []string{"unknown", "owner"}},
		{map[string]any{"code": "1", "files": []any{map[string]any{"path": "x"}, map[string]any{"path": "x"}}}, "invalid_params", "files[1].path", nil},
		{limits("network", "on"), "invalid_params", "network", []string{"unknown", "network"}},
		{limits("timeout", "soon"), "invalid_params", "limits.timeout", []string{"soon"}},
		{limits("timeout", true), "invalid_params", "limits.timeout", nil},
		{limits("timeout", "-1s"), "invalid_params", "limits.timeout", nil},
		{limits("timeout", 0), "invalid_params", "limits.timeout", nil},
		{limits("memory", "64 apples"), "invalid_params", "limits.memory", []string{"apples"}},
		{limits("memory", "1KiB"), "invalid_params", "limits.memory", []string{"1KiB", "4MiB"}},
		{limits("processes", "many"), "invalid_params", "limits.processes", nil},
		{limits("processes", 1.5), "invalid_params", "limits.processes", nil},
		// Above the ceiling: a refusal that names both.
		{limits("timeout", "61s"), "denied", "limits.timeout", []string{"1m1s", "1m0s"}},
		{limits("cpu_time", 90), "denied", "limits.cpu_time", []string{"1m30s", "1m0s"}},
		{limits("memory", "257MiB"), "denied", "limits.memory", []string{"257MiB", "256MiB"}},
		{limits("disk", "1GiB"), "denied", "limits.disk", []string{"1GiB", "512MiB"}},
		{limits("output", "17MiB"), "denied", "limits.output", []string{"17MiB", "16MiB"}},
		{limits("processes", 257), "denied", "limits.processes", []string{"257", "256"}},
		{limits("open_files", 1000), "denied", "limits.open_files", []string{"1000", "256"}},
		{map[string]any{"code": big}, "denied", "code", []string{"65537", "64KiB"}},
		{map[string]any{"code": "1", "stdin": big}, "denied", "stdin", []string{"65537", "64KiB"}},
		{file(map[string]any{"path": "x", "content": big}), "denied", "files", []string{"65537", "64KiB"}},
		{map[string]any{"code": "1", "image": "other"}, "denied", "image", []string{"other", "python"}},
		{map[string]any{"code": "1", "image": "../../etc"}, "denied", "image", nil},
		{map[string]any{"code": "1", "image": "absent"}, "unknown_image", "image", []string{"absent"}},
	} {
		a := c.Call("execute", test.params)
		if a.Error == nil || a.Error.Data.Kind != test.kind || a.Error.Data.Field != test.field {
			t.Errorf("%.200v: want %s of %q, got %.1000s", test.params, test.kind, test.field, a.Line)
			continue
		}
		for _, part := range test.message {
			assert.Check(t, strings.Contains(a.Error.Message, part), "%q does not say %q", a.Error.Message, part)
		}
		if test.kind == "denied" {
			assert.Check(t, a.Error.Data.Rule == "profile default", "%s", a.Line)
		}
	}
	// What only shows when the working directory is filled.
	a := c.Call("execute", map[string]any{"code": "1", "files": []any{map[string]any{"path": "a"}, map[string]any{"path": "a/b"}}})
	failed := a.Failed(t, "invalid_params")
	assert.Check(t, failed.Data.Field == "files", "%s", a.Line)
	assert.Check(t, !strings.Contains(a.Line, d.Dir), "%s", a.Line)
}

func otherParameters(t *testing.T, d *servertest.Daemon) {
	c := d.Dial(t)
	for _, method := range []string{"status", "version", "policy.show", "images.list"} {
		assert.Check(t, c.Call(method, map[string]any{}).Error == nil)
		assert.Equal(t, c.Call(method, map[string]any{"all": true}).Failed(t, "invalid_params").Data.Field, "all")
		c.Call(method, []any{}).Failed(t, "invalid_params")
	}
	for _, params := range []any{nil, map[string]any{}, map[string]any{"id": nil}, map[string]any{"id": 1.5}, map[string]any{"id": []any{}}} {
		assert.Equal(t, c.Call("cancel", params).Failed(t, "invalid_params").Data.Field, "id")
	}
	assert.Equal(t, c.Call("policy.check", map[string]any{"policy": "", "file": "/etc/shadow"}).Failed(t, "invalid_params").Data.Field, "file")
	for _, method := range []string{"", "Execute", "rpc.discover", "execute ", strings.Repeat("m", 10000)} {
		a := c.Call(method, nil)
		a.Failed(t, "method_not_found")
		assert.Check(t, len(a.Line) < 1000)
	}
}

func notifications(t *testing.T, d *servertest.Daemon) {
	c := d.Dial(t)
	c.Request(nil, "no such method", nil)
	c.Request(nil, "execute", map[string]any{"unknown": 1})
	c.Request(nil, "version", nil)
	c.Request(nil, "execute", map[string]any{"code": "import sys; print('x'); sys.exit(77)"})
	d.WaitLog(t, `"exit_code":77`)
	c.Request("only", "version", nil)
	assert.Equal(t, string(c.Receive().ID), `"only"`)
	c.CloseWrite()
	c.End()
}

func oversized(t *testing.T, d *servertest.Daemon) {
	c := d.Dial(t)
	var profile struct {
		MaxMessage int `json:"max_message"`
	}
	c.Call("policy.show", nil).Decode(t, &profile)
	most := profile.MaxMessage
	assert.Assert(t, most > 3*64<<10 && most < 10<<20, "%d", most)

	request := padded(`{"jsonrpc":"2.0","id":"largest","method":"version"}`, most)
	c.Send(request)
	assert.Equal(t, string(c.Receive().ID), `"largest"`)

	c.Send(request+" ", strings.Repeat("x", 3*most), `{"jsonrpc":"2.0","id":"next","method":"version"}`)
	for range 2 {
		a := c.Receive()
		assert.Check(t, string(a.ID) == "null", "%s", a.Line)
		failed := a.Failed(t, "invalid_request")
		assert.Check(t, strings.Contains(failed.Message, fmt.Sprint(most)), "%q does not say how much is possible", failed.Message)
	}
	assert.Equal(t, string(c.Receive().ID), `"next"`)

	// The last line may lack its newline, and is answered all the same.
	c = d.Dial(t)
	c.Write(strings.Repeat("x", 2*most))
	c.CloseWrite()
	c.Receive().Failed(t, "invalid_request")
	c.End()
}

// padded is a message of n bytes.
func padded(message string, n int) string {
	return message + strings.Repeat(" ", n-len(message))
}

func pipelined(t *testing.T, d *servertest.Daemon) {
	c := d.Dial(t)
	c.Send(
		servertest.Request("slow", "execute", map[string]any{"code": "import time; time.sleep(10); print('slow')"}),
		servertest.Request(1, "execute", map[string]any{"code": "print('one')"}),
		servertest.Request("broken", "execute", map[string]any{"code": 1}),
		servertest.Request(2, "execute", map[string]any{"code": "print('two')"}),
		servertest.Request("version", "version", nil),
	)
	var order []string
	byID := map[string]servertest.Answer{}
	for range 5 {
		a := c.Receive()
		order = append(order, string(a.ID))
		byID[string(a.ID)] = a
	}
	assert.Equal(t, order[4], `"slow"`, "%q", order)
	assert.Check(t, order[0] == `"version"` || order[0] == `"broken"`, "%q", order)
	for id, want := range map[string]string{`"slow"`: "slow\n", "1": "one\n", "2": "two\n"} {
		assert.Equal(t, byID[id].Executed(t).Stdout, want)
	}
	byID[`"broken"`].Failed(t, "invalid_params")
}

func sameID(t *testing.T, d *servertest.Daemon) {
	c := d.Dial(t)
	c.Request(5, "execute", map[string]any{"code": "import time; time.sleep(30)"})
	c.Request(5, "execute", map[string]any{"code": "print('second')"})
	a := c.Receive()
	assert.Equal(t, string(a.ID), "5")
	a.Failed(t, "invalid_request")
	// "5" is another id than 5.
	c.Request("5", "execute", map[string]any{"code": "print('text')"})
	assert.Equal(t, c.Receive().Executed(t).Stdout, "text\n")
	c.Request("end", "cancel", map[string]any{"id": 5})
	assert.Check(t, strings.Contains(c.Receive().Line, `"cancelled":true`))
	a = c.Receive()
	// Cancelled before or while it ran: that depends on how long it took to start.
	assert.Check(t, a.Error != nil || a.Executed(t).Status == "cancelled", "%s", a.Line)
	// An id can be used again when its request has been answered.
	c.Request(5, "execute", map[string]any{"code": "print('again')"})
	assert.Equal(t, c.Receive().Executed(t).Stdout, "again\n")
}

func halfClosed(t *testing.T, d *servertest.Daemon) {
	c := d.Dial(t)
	c.Request(1, "execute", map[string]any{"code": "import time; time.sleep(1); print('one')"})
	c.Request(2, "execute", map[string]any{"code": "print('two')"})
	c.CloseWrite()
	assert.Equal(t, c.Receive().Executed(t).Stdout, "two\n")
	assert.Equal(t, c.Receive().Executed(t).Stdout, "one\n")
	c.End()

	c = d.Dial(t)
	c.CloseWrite()
	c.End()
}

func socat(t *testing.T, d *servertest.Daemon) {
	// Without -t, socat waits half a second for the answer and no longer.
	cmd := exec.Command("bash", "-c", `echo '{"jsonrpc":"2.0","id":1,"method":"execute","params":{"code":"print(6*7)"}}' | socat -t 60 - UNIX-CONNECT:$0`, d.Socket)
	out, err := cmd.CombinedOutput()
	assert.NilError(t, err, "%s", out)
	assert.Check(t, strings.Contains(string(out), `"stdout":"42\n"`), "%s", out)

	cmd = exec.Command("bash", "-c", `printf '{"jsonrpc":"2.0","id":1,"method":"version"}' | socat -t 60 - UNIX-CONNECT:$0`, d.Socket)
	out, err = cmd.CombinedOutput()
	assert.NilError(t, err, "%s", out)
	assert.Check(t, strings.Contains(string(out), `"protocol":1`), "a last line without newline: %s", out)
}

func pythonClient(t *testing.T, d *servertest.Daemon) {
	out, err := exec.Command("/usr/bin/python3", "testdata/client.py", d.Socket).CombinedOutput()
	assert.NilError(t, err, "%s", out)
	assert.Equal(t, string(out), "0 zero\n1 one\n2 two\n")
}

func neverReads(t *testing.T, d *servertest.Daemon) {
	// A connection of which nothing is ever read, as Conn would.
	idle, err := net.Dial("unix", d.Socket)
	assert.NilError(t, err)
	defer idle.Close()
	big := servertest.Request(1, "execute", map[string]any{"code": "print('x' * (15 << 20))", "limits": map[string]any{"output": "16MiB"}})
	small := servertest.Request(2, "execute", map[string]any{"code": "print(1)"})
	_, err = idle.Write([]byte(big + "\n" + small + "\n" + strings.Repeat(`{"jsonrpc":"2.0","id":3,"method":"policy.show"}`+"\n", 200)))
	assert.NilError(t, err)
	time.Sleep(3 * time.Second)
	start := time.Now()
	c := d.Dial(t)
	c.Call("version", nil)
	assert.Equal(t, c.Run("print('free')").Stdout, "free\n")
	assert.Check(t, time.Since(start) < 20*time.Second, "%v", time.Since(start))
}

func unusableImage(t *testing.T, d *servertest.Daemon) {
	c := d.Dial(t)
	a := c.Call("execute", map[string]any{"code": "1", "image": "garbage"})
	failed := a.Failed(t, "internal")
	assert.Check(t, failed.Data.ID != "", "%s", a.Line)
	for _, secret := range []string{"/", "erofs", "runsc", "sb-", "abab"} {
		assert.Check(t, !strings.Contains(a.Line, secret), "%q in %s", secret, a.Line)
	}
	told := false
	for _, line := range d.Lines(t, "no sandbox") {
		told = told || line["id"] == failed.Data.ID && line["image"] == "garbage" && len(fmt.Sprint(line["error"])) > 20
	}
	assert.Check(t, told, "the log has nothing under id %s:\n%s", failed.Data.ID, d.Log())
	assert.Equal(t, c.Run("print('fine')").Stdout, "fine\n")
}
