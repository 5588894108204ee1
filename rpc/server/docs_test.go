package server_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/rpc"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

func protocolDocument(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(imagetest.Root(), "docs", "protocol.md"))
	assert.NilError(t, err, "docs/protocol.md has to describe the protocol")
	return string(data)
}

// A block of JSON in a document.
type block struct {
	line    int
	request bool // tagged "json request": it is sent to csbd
	text    string
}

func jsonBlocks(t *testing.T, document string) (blocks []block) {
	t.Helper()
	var open *block
	inside := false
	number := 0
	for line := range strings.Lines(document) {
		number++
		text := strings.TrimSpace(line)
		switch {
		case !strings.HasPrefix(text, "```"):
			if open != nil {
				open.text += line
			}
		case inside:
			if open != nil {
				blocks = append(blocks, *open)
			}
			open, inside = nil, false
		default:
			inside = true
			if tags := strings.Fields(text[3:]); len(tags) > 0 && tags[0] == "json" {
				open = &block{line: number + 1, request: slices.Contains(tags, "request")}
			}
		}
	}
	assert.Check(t, !inside, "a code block is not closed")
	return blocks
}

// objects are the JSON objects of the block, one or more.
func (b block) objects() ([]json.RawMessage, error) {
	var list []json.RawMessage
	for d := json.NewDecoder(strings.NewReader(b.text)); ; {
		var raw json.RawMessage
		err := d.Decode(&raw)
		switch {
		case errors.Is(err, io.EOF) && len(list) > 0:
			return list, nil
		case err != nil:
			return nil, err
		case raw[0] != '{':
			return nil, fmt.Errorf("%.50s is not an object", raw)
		}
		list = append(list, raw)
	}
}

// TestProtocolExamples parses the examples of docs/protocol.md and sends those
// that are requests.
func TestProtocolExamples(t *testing.T) {
	t.Parallel()
	blocks := jsonBlocks(t, protocolDocument(t))
	var requests []block
	for _, b := range blocks {
		_, err := b.objects()
		assert.Check(t, err, "docs/protocol.md:%d", b.line)
		if b.request {
			requests = append(requests, b)
		}
	}
	assert.Assert(t, len(requests) > 0, "docs/protocol.md has no block that begins with ```json request")
	policy, err := os.ReadFile(filepath.Join(imagetest.Root(), "packaging", "policy.yaml"))
	assert.NilError(t, err)
	d := servertest.Start(t, servertest.Options{Policy: string(policy)})
	for _, b := range requests {
		c := d.Dial(t)
		objects, err := b.objects()
		assert.NilError(t, err)
		due := 0
		for _, raw := range objects {
			var line bytes.Buffer
			assert.NilError(t, json.Compact(&line, raw))
			c.Send(line.String())
			var message map[string]json.RawMessage
			assert.NilError(t, json.Unmarshal(raw, &message))
			if message["id"] != nil {
				due++
			}
		}
		for range due {
			a := c.Receive()
			if a.Error != nil && slices.Contains([]string{"invalid_params", "method_not_found", "parse_error", "invalid_request"}, a.Error.Data.Kind) {
				t.Errorf("docs/protocol.md:%d: csbd answers %s", b.line, a.Line)
			}
		}
	}
}

// TestProtocolDocumented looks for every method, code and member of package
// rpc in docs/protocol.md.
func TestProtocolDocumented(t *testing.T) {
	t.Parallel()
	document := protocolDocument(t)
	constants := map[string]any{
		"MethodExecute": rpc.MethodExecute, "MethodCancel": rpc.MethodCancel, "MethodStatus": rpc.MethodStatus,
		"MethodVersion": rpc.MethodVersion, "MethodPolicyShow": rpc.MethodPolicyShow,
		"MethodPolicyCheck": rpc.MethodPolicyCheck, "MethodImagesList": rpc.MethodImagesList, "MethodDoctor": rpc.MethodDoctor,
		"CodeParseError": rpc.CodeParseError, "CodeInvalidRequest": rpc.CodeInvalidRequest,
		"CodeMethodNotFound": rpc.CodeMethodNotFound, "CodeInvalidParams": rpc.CodeInvalidParams,
		"CodeInternal": rpc.CodeInternal, "CodeDenied": rpc.CodeDenied, "CodeBusy": rpc.CodeBusy,
		"CodeUnknownImage": rpc.CodeUnknownImage, "CodeShuttingDown": rpc.CodeShuttingDown, "CodeCancelled": rpc.CodeCancelled,
	}
	roots := []any{rpc.ExecuteParams{}, rpc.Result{}, rpc.CancelParams{}, rpc.CancelResult{}, rpc.Status{}, rpc.Version{},
		rpc.Profile{}, rpc.PolicyCheckParams{}, rpc.PolicyCheck{}, rpc.ImageList{}, rpc.Doctor{}, rpc.ErrorData{}}

	members, structs := map[string][]string{}, map[string]bool{}
	for _, root := range roots {
		collect(reflect.TypeOf(root), members, structs)
	}
	declaredConstants, declaredStructs := declarations(t)
	for _, name := range declaredConstants {
		value, known := constants[name]
		assert.Check(t, known, "rpc.%s is new: add it to this test", name)
		assert.Check(t, strings.Contains(document, fmt.Sprint(value)), "docs/protocol.md does not say %v (rpc.%s)", value, name)
	}
	for _, name := range declaredStructs {
		assert.Check(t, structs[name], "rpc.%s is new: nothing that this test looks at has it", name)
	}
	for member, of := range members {
		// `member`, `limits.member` or "member".
		named := regexp.MustCompile("[`\".]" + regexp.QuoteMeta(member) + "[`\".\\[]")
		assert.Check(t, named.MatchString(document), "docs/protocol.md does not name %s of %s", member, strings.Join(of, ", "))
	}
	for _, e := range []string{"parse_error", "invalid_request", "method_not_found", "invalid_params", "internal", "denied", "busy",
		"unknown_image", "shutting_down", "cancelled",
		"ok", "error", "timeout", "cpu_limit", "memory_limit", "output_limit", "killed"} {
		assert.Check(t, regexp.MustCompile("[`\"]"+e+"[`\"]").MatchString(document), "docs/protocol.md does not explain %s", e)
	}
}

// collect gathers the JSON members of a type and of those in it.
func collect(typ reflect.Type, members map[string][]string, structs map[string]bool) {
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		collect(typ.Elem(), members, structs)
	case reflect.Struct:
		if structs[typ.Name()] {
			return
		}
		structs[typ.Name()] = true
		for i := range typ.NumField() {
			f := typ.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name != "" {
				members[name] = append(members[name], typ.Name())
			}
			collect(f.Type, members, structs)
		}
	}
}

// declarations reads the source of package rpc: its methods and codes, and the
// structs that have JSON members.
func declarations(t *testing.T) (constants, structs []string) {
	t.Helper()
	files := token.NewFileSet()
	dir := filepath.Join(imagetest.Root(), "rpc")
	sources, err := filepath.Glob(filepath.Join(dir, "*.go"))
	assert.NilError(t, err)
	for _, source := range sources {
		file, err := parser.ParseFile(files, source, nil, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		assert.NilError(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				for _, name := range n.Names {
					if s := name.Name; strings.HasPrefix(s, "Method") || strings.HasPrefix(s, "Code") {
						constants = append(constants, s)
					}
				}
			case *ast.TypeSpec:
				s, ok := n.Type.(*ast.StructType)
				tagged := ok && slices.ContainsFunc(s.Fields.List, func(f *ast.Field) bool {
					return f.Tag != nil && strings.Contains(f.Tag.Value, "json:")
				})
				if tagged && ast.IsExported(n.Name.Name) {
					structs = append(structs, n.Name.Name)
				}
			}
			return true
		})
	}
	assert.Check(t, len(constants) > 10 && len(structs) > 10)
	return constants, structs
}
