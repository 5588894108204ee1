package isolation

import (
	"fmt"
	"path"
	"strings"
)

// Validate reports the first field of l that is not a usable limit.
func (l Limits) Validate() error {
	for _, f := range []struct {
		name string
		ok   bool
	}{
		{"timeout", l.Timeout > 0},
		{"cpu_time", l.CPUTime > 0},
		{"memory", l.Memory > 0},
		{"disk", l.Disk > 0},
		{"output", l.Output > 0},
		{"processes", l.Processes > 0},
		{"open_files", l.OpenFiles > 0},
		{"cpus", l.CPUs > 0},
	} {
		if !f.ok {
			return fmt.Errorf("limit %s: must be positive", f.name)
		}
	}
	return nil
}

// Exceeds names the first limit of l that is above the ceiling's, or "".
func (l Limits) Exceeds(ceiling Limits) string {
	switch {
	case l.Timeout > ceiling.Timeout:
		return "timeout"
	case l.CPUTime > ceiling.CPUTime:
		return "cpu_time"
	case l.Memory > ceiling.Memory:
		return "memory"
	case l.Disk > ceiling.Disk:
		return "disk"
	case l.Output > ceiling.Output:
		return "output"
	case l.Processes > ceiling.Processes:
		return "processes"
	case l.OpenFiles > ceiling.OpenFiles:
		return "open_files"
	case l.CPUs > ceiling.CPUs:
		return "cpus"
	}
	return ""
}

// CheckFilePath reports why p cannot be the path of a File, or nil.
func CheckFilePath(p string) error {
	switch {
	case p == "":
		return fmt.Errorf("path is empty")
	case len(p) > 1024:
		return fmt.Errorf("path is longer than 1024 bytes")
	case strings.ContainsRune(p, 0):
		return fmt.Errorf("path %q holds a NUL", p)
	case path.IsAbs(p):
		return fmt.Errorf("path %q is absolute; it has to be relative to the working directory", p)
	case path.Clean(p) != p || p == "." || p == ".." || strings.HasPrefix(p, "../"):
		return fmt.Errorf("path %q is not a clean relative path", p)
	}
	for _, element := range strings.Split(p, "/") {
		if len(element) > 255 {
			return fmt.Errorf("path %q has an element longer than 255 bytes", p)
		}
	}
	return nil
}

// Ended is the Result of a program that left with an exit status by itself.
func Ended(exitCode int, exception *Exception) Result {
	r := Result{Status: StatusOK, ExitCode: exitCode, Exception: exception}
	switch {
	case exception != nil && exception.Type == "MemoryError":
		r.Status = StatusMemoryLimit
	case exitCode != 0 || exception != nil:
		r.Status = StatusError
	}
	return r
}

// Signalled is the Result of a program that died from signal n.
func Signalled(n int) Result {
	return Result{Status: StatusKilled, ExitCode: 128 + n, Signal: n}
}

// Forced is the Result of a program that we ended for the given reason.
func Forced(s Status) Result {
	code := map[Status]int{
		StatusTimeout:     ExitTimeout,
		StatusCPULimit:    ExitCPULimit,
		StatusMemoryLimit: ExitMemory,
		StatusOutputLimit: ExitOutput,
		StatusCancelled:   ExitCancelled,
	}[s]
	return Result{Status: s, ExitCode: code}
}

// A SetupError is Run's answer when the program could not be given what the
// Spec says: its code and files do not fit its disk, or one of them cannot be
// created. The program did not run.
type SetupError struct{ Reason string }

func (e *SetupError) Error() string { return "set the program up: " + e.Reason }
