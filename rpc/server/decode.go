package server

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/policy"
	"github.com/fcarli/codesandbox/rpc"
)

const (
	maxFiles       = 1000
	maxArgs        = 10000
	maxArgsBytes   = 128 << 10
	maxEnvironment = 128 << 10
)

// decodeParams decodes an object strictly. No parameters are an empty object.
func decodeParams(raw json.RawMessage, into any) *rpc.Error {
	if len(raw) == 0 {
		raw = json.RawMessage("{}")
	}
	if raw[0] != '{' {
		return rpc.Errorf(rpc.CodeInvalidParams, "params has to be an object, not a list")
	}
	if failed := exact(raw, reflect.TypeOf(into)); failed != nil {
		return failed
	}
	err := json.Unmarshal(raw, into)
	var wrong *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrong):
		return rpc.InvalidParams(wrong.Field, "%s cannot be a JSON %.40s", wrong.Field, wrong.Value)
	}
	return rpc.Errorf(rpc.CodeInvalidParams, "%v", err)
}

// exact refuses members whose names are not exactly those of fields, and those
// that are there twice: encoding/json takes "Code" for "code", and the last of
// two.
func exact(raw json.RawMessage, t reflect.Type) (failed *rpc.Error) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		each(raw, func(_, item json.RawMessage) bool {
			failed = exact(item, t.Elem())
			return failed == nil
		})
	case t.Kind() == reflect.Struct && len(raw) > 0 && raw[0] == '{':
		seen := make([]bool, t.NumField())
		each(raw, func(quoted, value json.RawMessage) bool {
			name := unquote(quoted)
			i := field(t, name)
			switch {
			case i < 0:
				failed = rpc.InvalidParams(fmt.Sprintf("%.100s", name), "unknown parameter %.100q", name)
			case seen[i]:
				failed = rpc.InvalidParams(name, "parameter %q stands there twice", name)
			default:
				seen[i] = true
				failed = exact(value, t.Field(i).Type)
			}
			return failed == nil
		})
	}
	return failed
}

// field is the index of the field that has the JSON name, or -1.
func field(t reflect.Type, name string) int {
	for i := range t.NumField() {
		if known, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); known == name {
			return i
		}
	}
	return -1
}

func noParams(raw json.RawMessage) *rpc.Error {
	var none struct{}
	return decodeParams(raw, &none)
}

// decodeExecute takes execute's parameters apart: what is to be run, and what
// the policy has to decide about.
func decodeExecute(raw json.RawMessage) (spec isolation.Spec, request policy.Request, failed *rpc.Error) {
	var p rpc.ExecuteParams
	if failed = countable(raw); failed != nil {
		return
	}
	if failed = decodeParams(raw, &p); failed != nil {
		return
	}
	if p.Code == nil && p.CodeBase64 == nil {
		failed = rpc.InvalidParams("code", "code is missing")
		return
	}
	if spec.Code, failed = content("code", p.Code, p.CodeBase64); failed != nil {
		return
	}
	if spec.Stdin, failed = content("stdin", p.Stdin, p.StdinBase64); failed != nil {
		return
	}
	if spec.Args, failed = args(p.Args); failed != nil {
		return
	}
	if spec.Environment, failed = environment(p.Environment); failed != nil {
		return
	}
	if spec.Files, failed = files(p.Files); failed != nil {
		return
	}
	request = policy.Request{
		Image:       p.Image,
		Environment: slices.Sorted(maps.Keys(p.Environment)),
		Sizes:       policy.Sizes{Code: int64(len(spec.Code)), Stdin: int64(len(spec.Stdin))},
	}
	for _, f := range spec.Files {
		request.Sizes.Files += int64(len(f.Content))
	}
	if p.Limits != nil {
		request.Limits, failed = overrides(p.Limits)
	}
	return
}

// countable refuses lists that are too long before they are decoded: "{}," of a
// message would become a File in memory, twenty times as large.
func countable(raw json.RawMessage) (failed *rpc.Error) {
	each(raw, func(name, value json.RawMessage) bool {
		switch unquote(name) {
		case "args":
			if count(value, maxArgs) > maxArgs {
				failed = tooManyArgs()
			}
		case "environment":
			if count(value, maxEnvironment/2) > maxEnvironment/2 {
				failed = tooMuchEnvironment()
			}
		case "files":
			if count(value, maxFiles) > maxFiles {
				failed = tooManyFiles()
			}
		}
		return failed == nil
	})
	return failed
}

func tooManyArgs() *rpc.Error {
	return rpc.InvalidParams("args", "more than %d arguments or %d bytes of them", maxArgs, maxArgsBytes)
}

func tooMuchEnvironment() *rpc.Error {
	return rpc.InvalidParams("environment", "more than %d bytes of variables", maxEnvironment)
}

func tooManyFiles() *rpc.Error {
	return rpc.InvalidParams("files", "more than %d files", maxFiles)
}

// content is the value of a parameter that comes as text or in base64.
func content(name string, text, exact *string) ([]byte, *rpc.Error) {
	switch {
	case text != nil && exact != nil:
		return nil, rpc.InvalidParams(name, "%s and %s_base64 exclude each other", name, name)
	case text != nil:
		return []byte(*text), nil
	case exact != nil:
		b, err := base64.StdEncoding.DecodeString(*exact)
		if err != nil {
			return nil, rpc.InvalidParams(name+"_base64", "%s_base64: %v", name, err)
		}
		return b, nil
	}
	return nil, nil
}

func args(list []string) ([]string, *rpc.Error) {
	size := 0
	for i, a := range list {
		if strings.ContainsRune(a, 0) {
			return nil, rpc.InvalidParams(fmt.Sprintf("args[%d]", i), "an argument cannot hold a NUL")
		}
		size += len(a) + 1
	}
	if len(list) > maxArgs || size > maxArgsBytes {
		return nil, tooManyArgs()
	}
	return list, nil
}

func environment(env map[string]string) (map[string]string, *rpc.Error) {
	size := 0
	for name, value := range env {
		field := fmt.Sprintf("environment.%.100s", name)
		switch {
		case name == "" || strings.ContainsAny(name, "=\x00"):
			return nil, rpc.InvalidParams(field, "%.100q cannot be the name of a variable", name)
		case strings.ContainsRune(value, 0):
			return nil, rpc.InvalidParams(field, "the value of %.100q holds a NUL", name)
		}
		size += len(name) + len(value) + 2
	}
	if size > maxEnvironment {
		return nil, tooMuchEnvironment()
	}
	return env, nil
}

func files(list []rpc.File) ([]isolation.File, *rpc.Error) {
	if len(list) > maxFiles {
		return nil, tooManyFiles()
	}
	var out []isolation.File
	seen := map[string]bool{}
	for i, f := range list {
		at := fmt.Sprintf("files[%d]", i)
		if err := isolation.CheckFilePath(f.Path); err != nil {
			return nil, rpc.InvalidParams(at+".path", "%s: %v", at, err)
		}
		if seen[f.Path] || f.Path == "main.py" {
			return nil, rpc.InvalidParams(at+".path", "%s: %q is there already", at, f.Path)
		}
		seen[f.Path] = true
		data, failed := content(at+".content", f.Content, f.ContentBase64)
		if failed != nil {
			return nil, failed
		}
		var mode uint64
		if f.Mode != "" {
			var err error
			if mode, err = strconv.ParseUint(f.Mode, 8, 32); err != nil || mode == 0 || mode > 0o777 {
				return nil, rpc.InvalidParams(at+".mode", "%s: mode %.20q is not an octal number from 1 to 777", at, f.Mode)
			}
		}
		out = append(out, isolation.File{Path: f.Path, Mode: uint32(mode), Content: data})
	}
	return out, nil
}

func overrides(l *rpc.LimitParams) (o policy.Overrides, failed *rpc.Error) {
	for _, d := range []struct {
		name string
		text *rpc.Quantity
		into **time.Duration
	}{{"timeout", l.Timeout, &o.Timeout}, {"cpu_time", l.CPUTime, &o.CPUTime}} {
		if d.text == nil {
			continue
		}
		v, err := policy.ParseDuration(string(*d.text))
		if err != nil {
			return o, rpc.InvalidParams("limits."+d.name, "%s: %v", d.name, err)
		}
		*d.into = &v
	}
	for _, b := range []struct {
		name string
		text *rpc.Quantity
		into **int64
	}{{"memory", l.Memory, &o.Memory}, {"disk", l.Disk, &o.Disk}, {"output", l.Output, &o.Output}} {
		if b.text == nil {
			continue
		}
		v, err := policy.ParseSize(string(*b.text))
		if err != nil {
			return o, rpc.InvalidParams("limits."+b.name, "%s: %v", b.name, err)
		}
		*b.into = &v
	}
	o.Processes, o.OpenFiles = l.Processes, l.OpenFiles
	return o, nil
}
