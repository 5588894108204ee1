// Package isolation says what it means to run a program: what is asked for
// (Spec), within which bounds (Limits), who can do it (Launcher, Sandbox) and
// how it ended (Result).
//
// It is the leaf that everything else imports; it imports only the standard
// library and knows neither gVisor nor JSON.
package isolation

import (
	"context"
	"errors"
	"io"
	"time"
)

// A Launcher starts sandboxes of one image and class. It is safe for
// concurrent use.
type Launcher interface {
	// Launch starts a sandbox and returns it once its interpreter waits for a
	// program. An error means that nothing was left behind: no process, cgroup,
	// mount or directory.
	Launch(ctx context.Context) (Sandbox, error)
}

// A Sandbox is one started, waiting interpreter. It runs one program and is
// then thrown away.
type Sandbox interface {
	// Run hands the program over and waits for its end. It is called at most
	// once, and never after Close.
	//
	// The error is nil whenever the program ran, however badly it ended: exit
	// codes, exceptions, timeouts and cancellation of ctx are Results. An error
	// means that we failed, and that nothing may be concluded about the
	// program. With ErrNotTaken it has not begun, or was ended as it began.
	//
	// Run returns without waiting for the sandbox to be gone; that is Close.
	Run(ctx context.Context, s Spec, out Output) (Result, error)

	// Close ends the sandbox and removes every trace of it. It is always
	// called, also after a failed Run, and may be called more than once. Its
	// error names what could not be removed.
	Close() error
}

// ErrNotTaken says that a sandbox was dead or did not answer when it was to be
// given a program. The program can be given to another.
var ErrNotTaken = errors.New("the sandbox has not taken the program")

// A Class is what a sandbox has to be started with: what cannot be changed any
// more when a program is handed over.
type Class struct {
	// Image is the path of the root filesystem image, and Digest its content
	// digest ("sha256:…").
	Image, Digest string
	// Preload lists, separated by spaces, the modules that a sandbox which is
	// kept ready has imported.
	Preload string
	// Warmup is Python that such a sandbox executes once before it is given a
	// program, to have the memory that programs need first in place.
	Warmup string
	// Seccomp is the OCI seccomp profile, as OCI runtime-spec JSON, that the
	// guest kernel applies to the program. It is empty only where the policy
	// says "unconfined".
	Seccomp string
	// Ceiling is the most that a Run may ask for.
	Ceiling Limits
}

// Limits bound one execution. All are enforced; the zero value of a field is
// not "unlimited" but invalid, save where the field says otherwise.
type Limits struct {
	// Timeout is the wall-clock time from hand-over of the program to its end.
	Timeout time.Duration
	// CPUTime is what all processes of the sandbox, the guest kernel included,
	// may use of the host's processors.
	CPUTime time.Duration
	// Memory in bytes that the program may use on top of the waiting
	// interpreter: as address space by each process (MemoryError first), and by
	// the sandbox as a whole together with Disk and a headroom (the cgroup).
	Memory int64
	// Disk is the size in bytes of the one writable filesystem (/tmp, which
	// holds the working directory). It is kept in memory. It is fixed when the
	// sandbox is started: a Spec asks for exactly what its Class says.
	Disk int64
	// Output is how many bytes of stdout and of stderr, each, are kept.
	Output int64
	// Processes is how many processes and threads the program may have, itself
	// included.
	Processes int
	// OpenFiles is the highest number of file descriptors in one process.
	OpenFiles int
	// CPUs is how many processors' worth of time the sandbox may use at a
	// time; fractions are allowed.
	CPUs float64
	// KillOnOutput ends the program when it exceeds Output, with
	// StatusOutputLimit. Otherwise the excess is dropped and counted.
	KillOnOutput bool
}

// A Spec is one program and what it is given.
type Spec struct {
	// ID names the execution in logs, results and on the host's filesystem:
	// 1 to 64 of [a-z0-9-].
	ID string
	// Code is Python source in exact bytes, as the contents of main.py.
	Code []byte
	// Args are sys.argv[1:].
	Args []string
	// Stdin is what the program reads from descriptor 0, then end of file.
	Stdin []byte
	// Environment is added to the sandbox's own environment.
	Environment map[string]string
	// Files are created in the working directory before the program starts.
	Files []File
	// Limits in force, each at most the Class's ceiling.
	Limits Limits
}

// A File is placed in the working directory before the program starts.
type File struct {
	// Path is relative to the working directory, slash-separated, clean and
	// without "..".
	Path string
	// Mode holds permission bits, 0 to 0777. Zero means 0644.
	Mode    uint32
	Content []byte
}

// Output receives what the program writes, as it writes it. Both writers may
// be called concurrently with each other, must not block for long, and must
// accept everything (a short write or an error is a failure of Run). They are
// not called after Run has returned.
type Output struct {
	Stdout, Stderr io.Writer
}

// Status is the one word for how a program ended.
type Status string

// The ways a program can end. They are also the wire's words.
const (
	StatusOK          Status = "ok"           // exit status 0
	StatusError       Status = "error"        // non-zero exit status, or an exception
	StatusTimeout     Status = "timeout"      // Limits.Timeout passed
	StatusCPULimit    Status = "cpu_limit"    // Limits.CPUTime used up
	StatusMemoryLimit Status = "memory_limit" // killed for memory, or an uncaught MemoryError
	StatusOutputLimit Status = "output_limit" // Limits.Output exceeded and KillOnOutput set
	StatusKilled      Status = "killed"       // a signal that we did not send
	StatusCancelled   Status = "cancelled"    // the caller went away or said so
)

// Exit codes of programs that did not choose their own.
const (
	ExitTimeout   = 124 // as timeout(1)
	ExitCPULimit  = 152 // 128+SIGXCPU
	ExitOutput    = 153 // 128+SIGXFSZ
	ExitMemory    = 137 // 128+SIGKILL
	ExitCancelled = 143 // 128+SIGTERM
)

// A Result is how a program ended.
type Result struct {
	Status Status
	// ExitCode is the program's own, 128+N for signal N, or one of the Exit
	// constants.
	ExitCode int
	// Signal that ended the program, or 0.
	Signal int
	// Exception is the uncaught exception, or nil.
	Exception *Exception
	// Duration from hand-over to end, as the caller would time it.
	Duration time.Duration
	Usage    Usage
}

// An Exception is the uncaught Python exception that ended a program. All of
// it was written by the program and is bounded, not trusted.
type Exception struct {
	// Type is the class's qualified name, "ValueError" or "decimal.Overflow".
	Type    string
	Message string
	// Line of the program's own file that was executing, or 0.
	Line int
	// Traceback as Python prints it.
	Traceback string
}

// Usage is what an execution cost. A negative number means that it could not
// be read.
type Usage struct {
	// CPU time of the sandbox as a whole, during Run.
	CPU time.Duration
	// PeakMemory is the sandbox's largest memory use in bytes since its start,
	// guest kernel and waiting interpreter included.
	PeakMemory int64
}
