package server

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

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
		r := written(t, &executed{stdout: []byte(test.in), stderr: []byte("é" + test.in)})
		assert.Check(t, r.Stdout == test.plain, "%q: %q", test.in, r.Stdout)
		want := ""
		if test.exact {
			want = base64.StdEncoding.EncodeToString([]byte(test.in))
		}
		assert.Equal(t, r.StdoutBase64, want)
		assert.Equal(t, r.Stderr, "é"+test.plain)
	}
}

// written is a result as a client reads it.
func written(t *testing.T, e *executed) (r rpc.Result) {
	t.Helper()
	var line bytes.Buffer
	w := bufio.NewWriter(&line)
	assert.NilError(t, e.writeJSON(w))
	assert.NilError(t, w.Flush())
	assert.NilError(t, json.Unmarshal(line.Bytes(), &r), "%q", line.Bytes())
	return r
}

// FuzzOutput holds that any output arrives: as text in which what is no text is
// U+FFFD, and then in base64 as it was.
func FuzzOutput(f *testing.F) {
	for _, s := range []string{"", "text\n", "\x00\x1f\x7f\"\\/<&>\u2028\U0001F600", "\xff\xfeq\xe2\x82", "\xed\xa0\x80", "\uFFFD\xff", "\"stdout\":\"\",\"stderr\":\"\""} {
		f.Add([]byte(s), []byte("x"+s))
	}
	f.Fuzz(func(t *testing.T, stdout, stderr []byte) {
		message := strings.ToValidUTF8(string(stdout), "")
		r := written(t, &executed{Result: rpc.Result{ID: "00", Error: &rpc.ResultError{Message: message}}, stdout: stdout, stderr: stderr})
		check := func(sent []byte, plain, exact string) {
			if plain != strings.ToValidUTF8(string(sent), "\uFFFD") {
				t.Errorf("%q arrives as %q", sent, plain)
			}
			if back, err := base64.StdEncoding.DecodeString(exact); utf8.Valid(sent) && exact != "" || err != nil || !utf8.Valid(sent) && !bytes.Equal(back, sent) {
				t.Errorf("%q arrives as %q, %v", sent, back, err)
			}
		}
		check(stdout, r.Stdout, r.StdoutBase64)
		check(stderr, r.Stderr, r.StderrBase64)
		if r.ID != "00" || r.Error == nil || r.Error.Message != message {
			t.Errorf("%+v", r)
		}
	})
}

// FuzzExecute holds that no parameters make decodeExecute panic, that what it
// refuses is invalid, in few words, and that what it accepts is within the
// bounds and has no name that the protocol has not.
func FuzzExecute(f *testing.F) {
	for _, s := range []string{
		`{"code":"print(1)"}`, `{"code_base64":"cHJpbnQoMSk=","args":["a","\u0000"]}`, `{"CODE":""}`, `{"code":"","code":""}`,
		`{"code":"","files":[{"path":"a/b","content":"x","mode":"0755"},{"path":"main.py"}],"environment":{"A":"b"}}`,
		`{"code":"","stdin_base64":"/wAK","image":"python","limits":{"timeout":"2s","memory":"64MiB","processes":3,"output":1e3}}`,
		`[]`, ``, `{`, `{"code":"","limits":[{}]}`, `{"code":"","files":{"path":1}}`, `{"\u0063ode":"x"}`, `null`,
	} {
		f.Add([]byte(s))
	}
	known := reflect.TypeFor[rpc.ExecuteParams]()
	f.Fuzz(func(t *testing.T, raw []byte) {
		spec, request, failed := decodeExecute(raw)
		if failed != nil {
			if failed.Code != rpc.CodeInvalidParams || failed.Message == "" || len(failed.Message) > 4<<10 || len(failed.Data.Field) > 4<<10 {
				t.Errorf("%q is refused with %+v", raw, failed)
			}
			return
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(raw, &members); err != nil {
			t.Fatalf("%q is accepted: %v", raw, err)
		}
		for name := range members {
			if field(known, name) < 0 {
				t.Errorf("%q is accepted with %q", raw, name)
			}
		}
		if _, text := members["code"]; text && members["code_base64"] == nil {
			var code string
			if err := json.Unmarshal(members["code"], &code); err != nil || code != string(spec.Code) {
				t.Errorf("%q has code %q", raw, spec.Code)
			}
		}
		size := 0
		for _, a := range spec.Args {
			size += len(a) + 1
		}
		var files int64
		for _, file := range spec.Files {
			files += int64(len(file.Content))
			if isolation.CheckFilePath(file.Path) != nil || file.Mode > 0o777 {
				t.Errorf("%q has file %+v", raw, file)
			}
		}
		if len(spec.Args) > maxArgs || size > maxArgsBytes || len(spec.Files) > maxFiles || files != request.Sizes.Files ||
			int64(len(spec.Code)) != request.Sizes.Code || int64(len(spec.Stdin)) != request.Sizes.Stdin {
			t.Errorf("%q: %+v, %+v", raw, spec, request)
		}
	})
}

// A message of "{}," is not decoded into a File for each.
func TestListsAreCountedFirst(t *testing.T) {
	for name, params := range map[string]string{
		"args":        `{"code":"","args":[` + strings.Repeat(`"",`, 3<<20) + `""]}`,
		"files":       `{"code":"","files":[` + strings.Repeat(`{},`, 3<<20) + `{}]}`,
		"environment": `{"code":"","environment":{` + strings.Repeat(`"a":"",`, 3<<20) + `"a":""}}`,
	} {
		raw := json.RawMessage(params)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, failed := decodeExecute(raw)
		runtime.ReadMemStats(&after)
		assert.Assert(t, failed != nil)
		assert.Equal(t, failed.Data.Field, name)
		assert.Check(t, after.TotalAlloc-before.TotalAlloc < 2<<20, "%s: %d bytes for a message of %d", name, after.TotalAlloc-before.TotalAlloc, len(params))
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
