package server

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/policy"
	"github.com/fcarli/codesandbox/rpc"
)

func TestDecodeExecute(t *testing.T) {
	spec, request, failed := decodeExecute(json.RawMessage(`{
		"code": "print('ü')\u0000",
		"args": ["", "-x", "ü"],
		"stdin_base64": "/wA=",
		"environment": {"TZ": "UTC", "LANG": ""},
		"files": [
			{"path": "a", "content": "text"},
			{"path": "b/c", "content_base64": "AAE=", "mode": "0755"},
			{"path": "empty", "mode": "600"}
		],
		"image": "r",
		"limits": {"timeout": "2s", "cpu_time": 1.5, "memory": "64MiB", "disk": 1048576, "output": "1kB", "processes": 3, "open_files": 30}
	}`))
	assert.Assert(t, failed == nil, "%v", failed)
	assert.DeepEqual(t, spec, isolation.Spec{
		Code: []byte("print('ü')\x00"), Args: []string{"", "-x", "ü"}, Stdin: []byte{0xFF, 0},
		Environment: map[string]string{"TZ": "UTC", "LANG": ""},
		Files: []isolation.File{
			{Path: "a", Content: []byte("text")},
			{Path: "b/c", Mode: 0o755, Content: []byte{0, 1}},
			{Path: "empty", Mode: 0o600},
		},
	})
	timeout, cpu := 2*time.Second, 1500*time.Millisecond
	memory, disk, output := int64(64<<20), int64(1<<20), int64(1000)
	processes, files := 3, 30
	assert.DeepEqual(t, request, policy.Request{
		Image: "r", Environment: []string{"LANG", "TZ"}, Sizes: policy.Sizes{Code: 12, Stdin: 2, Files: 6},
		Limits: policy.Overrides{Timeout: &timeout, CPUTime: &cpu, Memory: &memory, Disk: &disk, Output: &output, Processes: &processes, OpenFiles: &files},
	})
}

// What a client may leave out, or say with null.
func TestDecodeExecuteAccepts(t *testing.T) {
	for _, params := range []string{
		`{"code": ""}`,
		`{"code": "", "args": [], "files": [], "environment": {}, "limits": {}, "image": ""}`,
		`{"code": "", "args": null, "stdin": null, "stdin_base64": null, "environment": null, "files": null, "image": null, "limits": null, "code_base64": null}`,
		`{"code_base64": ""}`,
		`{"code": "", "limits": {"timeout": null, "memory": null, "processes": null}}`,
	} {
		spec, request, failed := decodeExecute(json.RawMessage(params))
		assert.Assert(t, failed == nil, "%s: %v", params, failed)
		assert.Equal(t, len(spec.Code)+len(spec.Args)+len(spec.Stdin)+len(spec.Environment)+len(spec.Files), 0)
		assert.Equal(t, len(request.Environment), 0)
		assert.DeepEqual(t, request, policy.Request{Environment: request.Environment})
	}
}

// Every error is one of invalid parameters and names the field.
func TestDecodeExecuteErrors(t *testing.T) {
	many := func(n int, item string) string { return strings.TrimSuffix(strings.Repeat(item+",", n), ",") }
	for _, test := range []struct{ params, field, want string }{
		{``, "code", "code is missing"},
		{`{}`, "code", "code is missing"},
		{`{"code": null}`, "code", "code is missing"},
		{`[]`, "", "params has to be an object, not a list"},
		{`{"code": "", "cod": 1}`, "cod", `unknown parameter "cod"`},
		{`{"code": "", "limits": {"cpus": 1}}`, "cpus", `unknown parameter "cpus"`},
		{`{"code": "", "files": [{"path": "a", "owner": "root"}]}`, "owner", `unknown parameter "owner"`},
		{`{"code": "", "` + strings.Repeat("x", 5000) + `": 1}`, "*", `unknown parameter "` + strings.Repeat("x", 100) + `"`},

		{`{"code": 1}`, "code", "code cannot be a JSON number"},
		{`{"code": ["a"]}`, "code", "code cannot be a JSON array"},
		{`{"code_base64": {}}`, "code_base64", "code_base64 cannot be a JSON object"},
		{`{"code": "", "args": "a"}`, "args", "args cannot be a JSON string"},
		{`{"code": "", "args": [1]}`, "args", "args cannot be a JSON number"},
		{`{"code": "", "stdin": true}`, "stdin", "stdin cannot be a JSON bool"},
		{`{"code": "", "stdin_base64": 5}`, "stdin_base64", "stdin_base64 cannot be a JSON number"},
		{`{"code": "", "environment": ["A=1"]}`, "environment", "environment cannot be a JSON array"},
		{`{"code": "", "environment": {"A": 1}}`, "environment", "environment cannot be a JSON number"},
		{`{"code": "", "files": {}}`, "files", "files cannot be a JSON object"},
		{`{"code": "", "files": [{"path": 1}]}`, "files.path", "files.path cannot be a JSON number"},
		{`{"code": "", "files": [{"path": "a", "mode": 644}]}`, "files.mode", "files.mode cannot be a JSON number"},
		{`{"code": "", "image": 1}`, "image", "image cannot be a JSON number"},
		{`{"code": "", "limits": []}`, "limits", "limits cannot be a JSON array"},
		{`{"code": "", "limits": {"timeout": true}}`, "limits.timeout", "limits.timeout cannot be a JSON bool"},
		{`{"code": "", "limits": {"memory": {}}}`, "limits.memory", "limits.memory cannot be a JSON object"},
		{`{"code": "", "limits": {"processes": "4"}}`, "limits.processes", "limits.processes cannot be a JSON string"},
		{`{"code": "", "limits": {"processes": 4.5}}`, "limits.processes", "limits.processes cannot be a JSON number 4.5"},
		{`{"code": "", "limits": {"open_files": 1e99}}`, "limits.open_files", "limits.open_files cannot be a JSON number 1e99"},

		{`{"code": "", "code_base64": ""}`, "code", "code and code_base64 exclude each other"},
		{`{"code": "", "stdin": "", "stdin_base64": ""}`, "stdin", "stdin and stdin_base64 exclude each other"},
		{`{"code_base64": "a"}`, "code_base64", "code_base64: illegal base64 data at input byte 0"},
		{`{"code_base64": "YQ"}`, "code_base64", "code_base64: illegal base64 data at input byte 0"},
		{`{"code_base64": "YW_-"}`, "code_base64", "code_base64: illegal base64 data at input byte 2"},
		{`{"code": "", "stdin_base64": "===="}`, "stdin_base64", "stdin_base64: illegal base64 data at input byte 0"},

		{`{"code": "", "args": ["a", "b\u0000c"]}`, "args[1]", "an argument cannot hold a NUL"},
		{`{"code": "", "args": [` + many(maxArgs+1, `""`) + `]}`, "args", "more than 10000 arguments or 131072 bytes of them"},
		{`{"code": "", "args": ["` + strings.Repeat("x", maxArgsBytes) + `"]}`, "args", "more than 10000 arguments or 131072 bytes of them"},

		{`{"code": "", "environment": {"": "x"}}`, "environment.", `"" cannot be the name of a variable`},
		{`{"code": "", "environment": {"A=B": "x"}}`, "environment.A=B", `"A=B" cannot be the name of a variable`},
		{`{"code": "", "environment": {"A\u0000": "x"}}`, "environment.A\x00", `"A\x00" cannot be the name of a variable`},
		{`{"code": "", "environment": {"A": "x\u0000"}}`, "environment.A", `the value of "A" holds a NUL`},
		{`{"code": "", "environment": {"A": "` + strings.Repeat("x", maxEnvironment) + `"}}`, "environment", "more than 131072 bytes of variables"},

		{`{"code": "", "files": [{"content": ""}]}`, "files[0].path", "files[0]: path is empty"},
		{`{"code": "", "files": [{"path": "a"}, {"path": "/a"}]}`, "files[1].path", `files[1]: path "/a" is absolute; it has to be relative to the working directory`},
		{`{"code": "", "files": [{"path": "../a"}]}`, "files[0].path", `files[0]: path "../a" is not a clean relative path`},
		{`{"code": "", "files": [{"path": "a/../../b"}]}`, "files[0].path", `files[0]: path "a/../../b" is not a clean relative path`},
		{`{"code": "", "files": [{"path": "."}]}`, "files[0].path", `files[0]: path "." is not a clean relative path`},
		{`{"code": "", "files": [{"path": "./a"}]}`, "files[0].path", `files[0]: path "./a" is not a clean relative path`},
		{`{"code": "", "files": [{"path": "a/"}]}`, "files[0].path", `files[0]: path "a/" is not a clean relative path`},
		{`{"code": "", "files": [{"path": "a\u0000b"}]}`, "files[0].path", `files[0]: path "a\x00b" holds a NUL`},
		{`{"code": "", "files": [{"path": "` + strings.Repeat("a/", 512) + `a"}]}`, "files[0].path", "files[0]: path is longer than 1024 bytes"},
		{`{"code": "", "files": [{"path": "main.py"}]}`, "files[0].path", `files[0]: "main.py" is there already`},
		{`{"code": "", "files": [{"path": "a"}, {"path": "b"}, {"path": "a"}]}`, "files[2].path", `files[2]: "a" is there already`},
		{`{"code": "", "files": [{"path": "a", "content": "", "content_base64": ""}]}`, "files[0].content", "files[0].content and files[0].content_base64 exclude each other"},
		{`{"code": "", "files": [{"path": "a", "content_base64": "?"}]}`, "files[0].content_base64", "files[0].content_base64: illegal base64 data at input byte 0"},
		{`{"code": "", "files": [{"path": "a", "mode": "0"}]}`, "files[0].mode", `files[0]: mode "0" is not an octal number from 1 to 777`},
		{`{"code": "", "files": [{"path": "a", "mode": "1777"}]}`, "files[0].mode", `files[0]: mode "1777" is not an octal number from 1 to 777`},
		{`{"code": "", "files": [{"path": "a", "mode": "0o644"}]}`, "files[0].mode", `files[0]: mode "0o644" is not an octal number from 1 to 777`},
		{`{"code": "", "files": [{"path": "a", "mode": "689"}]}`, "files[0].mode", `files[0]: mode "689" is not an octal number from 1 to 777`},
		{`{"code": "", "files": [{"path": "a", "mode": "-1"}]}`, "files[0].mode", `files[0]: mode "-1" is not an octal number from 1 to 777`},
		{`{"code": "", "files": [{"path": "a", "mode": "rwxr-xr-x"}]}`, "files[0].mode", `files[0]: mode "rwxr-xr-x" is not an octal number from 1 to 777`},
		{`{"code": "", "files": [` + many(maxFiles+1, `{"path":"a"}`) + `]}`, "files", "more than 1000 files"},

		{`{"code": "", "limits": {"timeout": "soon"}}`, "limits.timeout", `timeout: duration "soon": want a number of seconds, or one with ms, s, m or h behind it`},
		{`{"code": "", "limits": {"cpu_time": -1}}`, "limits.cpu_time", `cpu_time: duration "-1": want a number of seconds, or one with ms, s, m or h behind it`},
		{`{"code": "", "limits": {"timeout": 99999999999}}`, "limits.timeout", `timeout: duration "99999999999": out of range`},
		{`{"code": "", "limits": {"memory": "lots"}}`, "limits.memory", `memory: size "lots": want a number of bytes, or one with KiB, MiB or GiB behind it`},
		{`{"code": "", "limits": {"disk": -1}}`, "limits.disk", `disk: size "-1": want a number of bytes, or one with KiB, MiB or GiB behind it`},
		{`{"code": "", "limits": {"output": 99999999999999999999}}`, "limits.output", `output: size "99999999999999999999": out of range`},
		{`{"code": "", "limits": {"output": ""}}`, "limits.output", `output: size "": want a number of bytes, or one with KiB, MiB or GiB behind it`},
	} {
		name := test.want
		t.Run(name[:min(len(name), 60)], func(t *testing.T) {
			_, _, failed := decodeExecute(json.RawMessage(test.params))
			assert.Assert(t, failed != nil)
			assert.Equal(t, failed.Code, int64(rpc.CodeInvalidParams))
			assert.Equal(t, failed.Message, test.want)
			if test.field != "*" {
				assert.Equal(t, failed.Data.Field, test.field)
			}
		})
	}
}

// An answer is as long as we decide, not as long as the request's names.
func TestDecodeErrorsAreShort(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for _, params := range []string{
		`{"code": "", "` + long + `": 1}`,
		`{"code": "", "environment": {"` + long + `=": ""}}`,
		`{"code": "", "files": [{"path": "a", "mode": "` + long + `"}]}`,
		`{"code": "", "files": [{"path": "/` + long + `"}]}`,
		`{"code": "", "limits": {"memory": "` + long + `"}}`,
		`{"code": "", "limits": {"timeout": "` + long + `"}}`,
		`{"code": "", "limits": {"processes": 1` + strings.Repeat("0", 1<<20) + `}}`,
	} {
		_, _, failed := decodeExecute(json.RawMessage(params))
		assert.Assert(t, failed != nil)
		assert.Check(t, len(failed.Message) < 4<<10 && len(failed.Data.Field) < 4<<10, "%.60s: message of %d bytes, field of %d", params, len(failed.Message), len(failed.Data.Field))
	}
}

// The bounds themselves are allowed.
func TestDecodeExecuteAtTheBounds(t *testing.T) {
	arguments := strings.TrimSuffix(strings.Repeat(`"",`, maxArgs), ",")
	_, _, failed := decodeExecute(json.RawMessage(`{"code": "", "args": [` + arguments + `]}`))
	assert.Check(t, failed == nil, "%v", failed)
	_, _, failed = decodeExecute(json.RawMessage(`{"code": "", "args": ["` + strings.Repeat("x", maxArgsBytes-1) + `"]}`))
	assert.Check(t, failed == nil, "%v", failed)
	_, _, failed = decodeExecute(json.RawMessage(`{"code": "", "environment": {"A": "` + strings.Repeat("x", maxEnvironment-3) + `"}}`))
	assert.Check(t, failed == nil, "%v", failed)
	var files []string
	for i := range maxFiles {
		files = append(files, fmt.Sprintf(`{"path": "f%d"}`, i))
	}
	spec, _, failed := decodeExecute(json.RawMessage(`{"code": "", "files": [` + strings.Join(files, ",") + `]}`))
	assert.Check(t, failed == nil, "%v", failed)
	assert.Equal(t, len(spec.Files), maxFiles)
}

func TestNoParams(t *testing.T) {
	for _, params := range []string{"", "{}", "{ }"} {
		assert.Check(t, noParams(json.RawMessage(params)) == nil, "%q", params)
	}
	failed := noParams(json.RawMessage(`{"verbose": true}`))
	assert.Assert(t, failed != nil)
	assert.Equal(t, failed.Data.Field, "verbose")
	assert.Check(t, noParams(json.RawMessage(`[]`)) != nil)
}

func TestText(t *testing.T) {
	for _, test := range []struct {
		in, plain string
		exact     bool
	}{
		{"", "", false},
		{"ü\n\x00\u2028\U0001F600", "ü\n\x00\u2028\U0001F600", false},
		{"\uFFFD", "\uFFFD", false}, // valid as it stands
		{"\xff", "\uFFFD", true},
		{"a\xffb\xfe", "a\uFFFDb\uFFFD", true},
		{"cut \xe2\x82", "cut \uFFFD", true},
		{"\xed\xa0\x80", "\uFFFD", true}, // a surrogate is no UTF-8
	} {
		plain, exact := text([]byte(test.in))
		assert.Check(t, plain == test.plain, "%q: %q", test.in, plain)
		want := ""
		if test.exact {
			want = base64.StdEncoding.EncodeToString([]byte(test.in))
		}
		assert.Equal(t, exact, want)
	}
}

// A policy may be sent by any caller: the name that it gives stands in each of
// the errors, of which there may be many.
func TestPolicyCheckAnswerIsBounded(t *testing.T) {
	var b strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&b, "k%d:\n", i)
	}
	params, err := json.Marshal(rpc.PolicyCheckParams{Policy: b.String(), Name: strings.Repeat("n", 20<<10)})
	assert.NilError(t, err)
	answer, failed := check(params)
	if failed != nil {
		assert.Equal(t, failed.Data.Field, "name")
		return
	}
	data, err := json.Marshal(answer)
	assert.NilError(t, err)
	assert.Check(t, len(data) < 1<<20, "%d bytes", len(data))
}
