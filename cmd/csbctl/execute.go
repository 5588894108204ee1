package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/fcarli/codesandbox/rpc"
)

// execute runs a program and passes its exit status on.
func (o *options) execute(ctx context.Context, args []string, s streams, getenv func(string) string) (int, error) {
	p := o.ExecuteParams
	stdinIsCode := false
	var code []byte
	var err error
	switch {
	case o.code != nil:
		code, p.Args = []byte(*o.code), args
	case len(args) > 0 && args[0] != "-":
		if code, err = readFile(args[0]); err != nil {
			return 0, err
		}
		p.Args = args[1:]
	case len(args) == 0 && getenv("PYTHON_CODE") != "":
		code = []byte(getenv("PYTHON_CODE"))
	default:
		if len(args) > 0 {
			p.Args = args[1:]
		} else if isTerminal(s.in) {
			return 0, usageError("no code: give a file, -c CODE, PYTHON_CODE, or code on stdin")
		}
		stdinIsCode = true
		if code, err = readAll(s.in); err != nil {
			return 0, fmt.Errorf("read code from stdin: %w", err)
		}
	}
	p.Code, p.CodeBase64 = content(code)
	if !stdinIsCode && !isTerminal(s.in) {
		data, err := readAll(s.in)
		if err != nil {
			return 0, fmt.Errorf("read stdin: %w", err)
		}
		if len(data) > 0 {
			p.Stdin, p.StdinBase64 = content(data)
		}
	}
	// From here on there is something to cancel; before, a signal just ends us.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if o.raw {
		var result rpc.Result
		if err := o.dialled(ctx, func(c *rpc.Client) (err error) { result, err = c.Execute(ctx, p); return }); err != nil {
			return 0, err
		}
		return result.ExitCode, printRaw(result, s)
	}
	// The answer is printed as csbd wrote it, unknown members included.
	var raw json.RawMessage
	if err := o.dialled(ctx, func(c *rpc.Client) error { return c.Call(ctx, rpc.MethodExecute, p, &raw) }); err != nil {
		return 0, err
	}
	var result struct {
		ExitCode int `json:"exit_code"`
	}
	if err := json.Unmarshal(raw, &result); err != nil {
		return 0, fmt.Errorf("read the answer: %w", err)
	}
	return result.ExitCode, printJSON(s.out, raw)
}

// maxInput bounds what csbctl reads into memory; csbd's own limits are lower.
const maxInput = 256 << 20

func readAll(f io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, maxInput+1))
	if err == nil && len(data) > maxInput {
		err = fmt.Errorf("more than %d bytes", maxInput)
	}
	return data, err
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

// content is data as JSON text if that keeps it exactly, else in base64.
func content(data []byte) (text, exact *string) {
	if utf8.Valid(data) {
		s := string(data)
		return &s, nil
	}
	s := base64.StdEncoding.EncodeToString(data)
	return nil, &s
}

// addFile is the flag --file PATH[=LOCAL].
func (o *options) addFile(s string) error {
	path, local, ok := strings.Cut(s, "=")
	if !ok {
		local = path
		path = filepath.ToSlash(filepath.Base(path))
	}
	data, err := readFile(local)
	if err != nil {
		return err
	}
	f := rpc.File{Path: path}
	f.Content, f.ContentBase64 = content(data)
	if info, err := os.Stat(local); err == nil {
		f.Mode = fmt.Sprintf("%04o", info.Mode().Perm())
	}
	o.Files = append(o.Files, f)
	return nil
}

// printRaw copies the program's output through. What else there is to say goes
// to stderr.
func printRaw(r rpc.Result, s streams) error {
	stdout, err := exact(r.Stdout, r.StdoutBase64)
	if err != nil {
		return err
	}
	stderr, err := exact(r.Stderr, r.StderrBase64)
	if err != nil {
		return err
	}
	if _, err := s.out.Write(stdout); err != nil {
		return err
	}
	if _, err := s.err.Write(stderr); err != nil {
		return err
	}
	if t := r.Truncated; t != nil {
		for name, c := range map[string]*rpc.Cut{"stdout": t.Stdout, "stderr": t.Stderr} {
			if c != nil {
				fmt.Fprintf(s.err, "csbctl: %s: %d bytes were dropped at byte %d\n", name, c.Dropped, c.Offset)
			}
		}
	}
	// An exception or exit status speaks for itself.
	if r.Error != nil && r.Status != "error" {
		fmt.Fprintf(s.err, "csbctl: %s\n", r.Error.Message)
	}
	return nil
}

func exact(text, encoded string) ([]byte, error) {
	if encoded == "" {
		return []byte(text), nil
	}
	return base64.StdEncoding.DecodeString(encoded)
}
