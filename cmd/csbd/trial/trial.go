// Package trial is what the programs that try csbd out, bench and soak, have in
// common: how they end, how they print what they have found, and how they start
// csbd.
package trial

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
)

// Exit statuses.
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitUsage  = 2
)

// Main calls run, whose context SIGINT and SIGTERM end, and exits with the
// status that it returns.
func Main(run func(ctx context.Context, args []string, stdout, stderr io.Writer, getenv func(string) string) int) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr, os.Getenv))
}

// Misused is the exit status for what became of parsing the command line, and
// whether the program ends with it.
func Misused(err error, stderr io.Writer, program string) (status int, ends bool) {
	switch {
	case errors.Is(err, flag.ErrHelp):
		return ExitOK, true
	case err != nil:
		fmt.Fprintf(stderr, "%s: %v\n", program, err)
		return ExitUsage, true
	}
	return 0, false
}

// ImageDir is where the images of `make image` are, as an absolute path.
func ImageDir(getenv func(string) string) (string, error) {
	dir := getenv("CSBD_IMAGE_DIR")
	if dir == "" {
		dir = "run/images"
	}
	return filepath.Abs(dir)
}

// A Report is what a program has found; in JSON it is what its fields say.
type Report interface {
	// WriteTable writes it for people.
	WriteTable(io.Writer) error
}

// Print writes the report as a table, or as one JSON document.
func Print(w io.Writer, r Report, asJSON bool) error {
	var err error
	if asJSON {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		err = e.Encode(r)
	} else {
		err = r.WriteTable(w)
	}
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// A Csbd is one process.
type Csbd struct {
	*exec.Cmd
	// Exited is closed when the process has ended.
	Exited chan struct{}
	log    string
}

// Start starts csbd in a directory, with its log in a file and an environment
// that has nothing of ours but PATH.
func Start(binary, dir, log string, env ...string) (*Csbd, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(binary)
	cmd.Dir = dir
	cmd.Stderr = out
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	// ^C is for us: csbd is stopped when everything is put away.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start csbd: %w", err)
	}
	c := &Csbd{Cmd: cmd, Exited: make(chan struct{}), log: log}
	go func() {
		_ = cmd.Wait()
		close(c.Exited)
	}()
	return c, nil
}

// Failure is an error of csbd's with the last words of its log.
func (c *Csbd) Failure(what string) error {
	data, _ := os.ReadFile(c.log)
	return fmt.Errorf("csbd %s; its log ends %q", what, data[max(len(data)-3000, 0):])
}
