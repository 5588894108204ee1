package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/fcarli/codesandbox/packaging/boot"
	"github.com/fcarli/codesandbox/rpc"
)

// A machine is where the checks look. Its users are root, ann, who may use
// csbd, and bob, who may not.
type machine struct {
	vm  *boot.VM
	ctx context.Context
}

// commandTimeout is for one command; csbd may take six minutes to start.
const commandTimeout = 7 * time.Minute

func (m *machine) run(format string, args ...any) (out string, status int, err error) {
	ctx, cancel := context.WithTimeout(m.ctx, commandTimeout)
	defer cancel()
	return m.vm.Run(ctx, fmt.Sprintf(format, args...))
}

// sh runs a command that has to work.
func (m *machine) sh(format string, args ...any) (string, error) {
	out, status, err := m.run(format, args...)
	if err == nil && status != 0 {
		err = fmt.Errorf("%s: exit status %d", oneLine(fmt.Sprintf(format, args...)), status)
	}
	return out, err
}

// show is a property of csbd.service.
func (m *machine) show(property string) string {
	out, _ := m.sh("systemctl show --value --property=%s csbd.service", property)
	return out
}

// as is a command that a user's login would run.
func as(user, command string) string {
	return fmt.Sprintf("runuser -u %s -- %s", user, command)
}

// python is csbctl with some code. The code is without single quotes.
func python(options, code string) string {
	return fmt.Sprintf("csbctl %s -c '%s' </dev/null", options, code)
}

// execute runs csbctl as ann. The result has to have the given exit code.
func (m *machine) execute(options, code string, exit int) (rpc.Result, error) {
	return m.result(as("ann", python(options, code)), exit)
}

func (m *machine) result(command string, exit int) (rpc.Result, error) {
	var r rpc.Result
	out, status, err := m.run("%s", command)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return r, fmt.Errorf("csbctl says %q", oneLine(out))
	}
	if status != exit || r.ExitCode != exit {
		return r, fmt.Errorf("exit status %d, exit code %d, %s; want %d", status, r.ExitCode, r.Status, exit)
	}
	return r, nil
}

// eventually repeats a command until its output has the text.
func (m *machine) eventually(text, format string, args ...any) (string, error) {
	end := time.Now().Add(2 * time.Minute)
	for {
		out, _, err := m.run(format, args...)
		if err != nil || strings.Contains(out, text) {
			return out, err
		}
		if time.Now().After(end) {
			return out, fmt.Errorf("waited in vain for %q", text)
		}
		time.Sleep(time.Second)
	}
}

// oneLine is a text's first line, and whether there is more.
func oneLine(text string) string {
	first, _, more := strings.Cut(strings.TrimSpace(text), "\n")
	if more {
		first += " …"
	}
	return first
}
