// Package rpc is the protocol between csbd and its clients.
//
// # Transport
//
// A client connects to csbd's Unix stream socket. Each message is one JSON-RPC
// 2.0 object on a line of its own, UTF-8, ended by a newline. Requests of one
// connection run concurrently and are answered in the order in which they end.
// An id is a string or a whole number from 0 to 2^53; a request without one is
// a notification: it is carried out and not answered. Batches are refused with
// CodeInvalidRequest. A message that is not JSON, not a request, or larger than
// the caller's policy allows is answered with an error whose id is null, and
// the connection goes on with the next line.
//
// Closing the connection cancels its executions. Closing only its sending
// direction (shutdown(SHUT_WR)) does not: every request is still answered, and
// then csbd closes.
//
// There are no credentials in the protocol. The kernel tells csbd the uid of
// the peer and its groups, once, when it connects.
//
// # Methods
//
//	execute        ExecuteParams       Result        run one program
//	cancel         CancelParams        CancelResult  end one of one's own executions
//	status         none                Status        what csbd is doing
//	version        none                Version       what csbd is
//	policy.show    none                Profile       what the caller may do
//	policy.check   PolicyCheckParams   PolicyCheck   whether a policy file is right
//	images.list    none                ImageList     the images the caller may use
//	doctor         none                Doctor        whether isolation works
//
// Parameters are objects; unknown members are errors. "none" takes no
// parameters, or an empty object. Callers that no rule of the policy matches
// get CodeDenied for every method except version.
//
// execute answers with a Result whenever the program ran, however it ended, and
// with an error when it did not run. docs/protocol.md has examples.
package rpc

import (
	"encoding/json"
	"fmt"
	"strings"
)

// ProtocolVersion is raised when a client of the version before would
// misunderstand an answer.
const ProtocolVersion = 1

// Methods.
const (
	MethodExecute     = "execute"
	MethodCancel      = "cancel"
	MethodStatus      = "status"
	MethodVersion     = "version"
	MethodPolicyShow  = "policy.show"
	MethodPolicyCheck = "policy.check"
	MethodImagesList  = "images.list"
	MethodDoctor      = "doctor"
)

// ExecuteParams ask for the execution of one program. Everything but the code
// is optional.
type ExecuteParams struct {
	// Code is Python source. CodeBase64 is the same in exact bytes (standard
	// base64); one of the two has to be there.
	Code       *string `json:"code,omitempty"`
	CodeBase64 *string `json:"code_base64,omitempty"`
	// Args are sys.argv[1:]. No NUL.
	Args []string `json:"args,omitempty"`
	// Stdin is what the program reads, then end of file; or in exact bytes.
	Stdin       *string `json:"stdin,omitempty"`
	StdinBase64 *string `json:"stdin_base64,omitempty"`
	// Environment holds variables to set; the policy lists the names.
	Environment map[string]string `json:"environment,omitempty"`
	// Files to create in the working directory, at most 1000.
	Files []File `json:"files,omitempty"`
	// Image name; default from the policy.
	Image string `json:"image,omitempty"`
	// Limits below the policy's maximum.
	Limits *LimitParams `json:"limits,omitempty"`
}

// A File to create before the program starts.
type File struct {
	// Path relative to the working directory, without "..".
	Path string `json:"path"`
	// Content as text, or in exact bytes. Neither means an empty file.
	Content       *string `json:"content,omitempty"`
	ContentBase64 *string `json:"content_base64,omitempty"`
	// Mode in octal, "0755"; default "0644".
	Mode string `json:"mode,omitempty"`
}

// LimitParams ask for tighter limits. Durations are strings as "2s" or numbers
// of seconds; sizes are strings as "64MiB" or numbers of bytes. Above the
// policy's maximum a request is refused with CodeDenied.
type LimitParams struct {
	Timeout   *Quantity `json:"timeout,omitempty"`
	CPUTime   *Quantity `json:"cpu_time,omitempty"`
	Memory    *Quantity `json:"memory,omitempty"`
	Disk      *Quantity `json:"disk,omitempty"`
	Output    *Quantity `json:"output,omitempty"`
	Processes *int      `json:"processes,omitempty"`
	OpenFiles *int      `json:"open_files,omitempty"`
}

// A Quantity is a JSON string with a unit, or a JSON number; it holds the text.
type Quantity string

// UnmarshalJSON implements json.Unmarshaler.
func (q *Quantity) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		var s string
		err := json.Unmarshal(data, &s)
		*q = Quantity(s)
		return err
	}
	var n json.Number
	err := json.Unmarshal(data, &n)
	*q = Quantity(n)
	return err
}

// A Result is the answer to execute: the program ran.
type Result struct {
	// ID of the execution, also in csbd's log.
	ID string `json:"id"`
	// Status is "ok" (exit status 0), "error" (another exit status, or an
	// exception), "timeout", "cpu_limit", "memory_limit", "output_limit",
	// "killed" (by a signal of its own) or "cancelled".
	Status string `json:"status"`
	// Stdout and Stderr as text, up to the output limit each. Bytes that are not
	// UTF-8 are U+FFFD here, and the exact bytes are in the Base64 fields.
	Stdout       string `json:"stdout"`
	Stderr       string `json:"stderr"`
	StdoutBase64 string `json:"stdout_base64,omitempty"`
	StderrBase64 string `json:"stderr_base64,omitempty"`
	// Truncated is present when output was dropped from the middle of a stream.
	Truncated *Truncated `json:"truncated,omitempty"`
	// ExitCode is the program's own, 128+N for signal N, 124 after a timeout,
	// 137 when killed for memory, 152 for CPU time, 153 for output, 143 when
	// cancelled.
	ExitCode int `json:"exit_code"`
	// ExecutionTime is how long the program ran, in seconds; queueing and
	// start-up are in Usage.
	ExecutionTime float64 `json:"execution_time"`
	// Error is present unless Status is "ok".
	Error *ResultError `json:"error,omitempty"`
	Usage Usage        `json:"usage"`
	// Image that the program ran in.
	Image ImageRef `json:"image"`
	// Isolation that it ran with.
	Isolation Isolation `json:"isolation"`
	// Limits that were in force.
	Limits Limits `json:"limits"`
	// Unenforced names limits that the policy allows this host not to enforce.
	Unenforced []string `json:"unenforced,omitempty"`
}

// A ResultError says for people and programs why Status is not "ok".
type ResultError struct {
	// Kind is the Result's status.
	Kind    string `json:"kind"`
	Message string `json:"message"`
	// Type, Line and Traceback of the uncaught exception, if one ended the
	// program.
	Type      string `json:"type,omitempty"`
	Line      int    `json:"line,omitempty"`
	Traceback string `json:"traceback,omitempty"`
	// Signal that killed the program, "SIGSEGV".
	Signal string `json:"signal,omitempty"`
}

// Truncated says which streams were cut.
type Truncated struct {
	Stdout *Cut `json:"stdout,omitempty"`
	Stderr *Cut `json:"stderr,omitempty"`
}

// A Cut is where bytes are missing in a stream: its head and tail are kept.
type Cut struct {
	// Dropped is how many bytes are missing.
	Dropped int64 `json:"dropped"`
	// Offset in bytes, into what was kept, at which they are missing.
	Offset int64 `json:"offset"`
}

// Usage is what an execution cost.
type Usage struct {
	// CPUTime of the whole sandbox while the program ran, in seconds.
	CPUTime float64 `json:"cpu_time"`
	// PeakMemory of the whole sandbox since it started, in bytes, guest kernel
	// included. 0 where the kernel does not tell.
	PeakMemory int64 `json:"peak_memory"`
	// QueueTime is the wait for admission, StartTime the wait for a sandbox, in
	// seconds.
	QueueTime float64 `json:"queue_time"`
	StartTime float64 `json:"start_time"`
	// Warm says that the sandbox was ready before the request came.
	Warm bool `json:"warm"`
}

// An ImageRef names an image exactly.
type ImageRef struct {
	Name string `json:"name"`
	// Digest of the root filesystem, "sha256:HEX".
	Digest string `json:"digest"`
}

// Isolation is what separated the program from the host.
type Isolation struct {
	// Driver is "runsc".
	Driver string `json:"driver"`
	// Version of the runtime.
	Version string `json:"version"`
}

// Limits in numbers: seconds, bytes, counts.
type Limits struct {
	Timeout   float64 `json:"timeout"`
	CPUTime   float64 `json:"cpu_time"`
	Memory    int64   `json:"memory"`
	Disk      int64   `json:"disk"`
	Output    int64   `json:"output"`
	Processes int     `json:"processes"`
	OpenFiles int     `json:"open_files"`
	CPUs      float64 `json:"cpus"`
}

// CancelParams name an execution of the caller's.
type CancelParams struct {
	// ID is the JSON-RPC id (string or number) of an execute request of the same
	// connection, or a Result's id of any execution of the same uid.
	ID json.RawMessage `json:"id"`
}

// CancelResult says whether there was something to cancel. The execution is
// answered on its own, with status "cancelled" and what output there was.
type CancelResult struct {
	Cancelled bool `json:"cancelled"`
}

// Status is what csbd is doing.
type Status struct {
	Version Version `json:"version"`
	// Uptime in seconds.
	Uptime float64 `json:"uptime"`
	// Ready says that executions can be expected to succeed: the last start of
	// a sandbox did, and the last self-test.
	Ready bool `json:"ready"`
	// Problem is why Ready is false.
	Problem string `json:"problem,omitempty"`
	// Running and Queued count all callers' executions.
	Running int `json:"running"`
	Queued  int `json:"queued"`
	// Connections that are open.
	Connections int `json:"connections"`
	// Executions since the start, by status.
	Executions map[string]int64 `json:"executions"`
	// Refused requests since the start, by error kind.
	Refused map[string]int64 `json:"refused"`
	// PolicyGeneration is 1 after the start and grows with every reload.
	PolicyGeneration int64 `json:"policy_generation"`
	// PolicyProblem is there while the policy file is not the policy in force:
	// csbd was told to read it again and found a mistake.
	PolicyProblem string `json:"policy_problem,omitempty"`
	// Pools of sandboxes that are kept ready.
	Pools []Pool `json:"pools"`
	// Audit counts lines of the audit; nil if there is none.
	Audit *Audit `json:"audit,omitempty"`
	// Caller is who csbd takes the client for.
	Caller Caller `json:"caller"`
}

// A Pool is the sandboxes that are kept ready for one image and profile.
type Pool struct {
	Image   string `json:"image"`
	Profile string `json:"profile"`
	// Want is how many are to be ready, Max how many at most when demand is high.
	Want int `json:"want"`
	Max  int `json:"max"`
	// Ready wait now, Starting are being made.
	Ready    int `json:"ready"`
	Starting int `json:"starting"`
	// Hits were handed out at once, Misses after a wait.
	Hits   int64 `json:"hits"`
	Misses int64 `json:"misses"`
	// Launched and Failed count starts; Died those that ended while they waited.
	Launched int64 `json:"launched"`
	Failed   int64 `json:"failed"`
	Died     int64 `json:"died"`
	// RefillTime of the last start, and Age of the one that has waited longest,
	// in seconds.
	RefillTime float64 `json:"refill_time"`
	Age        float64 `json:"age"`
	// Memory that those waiting hold, in bytes.
	Memory int64 `json:"memory"`
	// Snapshot is what sandboxes are restored from: SnapshotReady, or
	// SnapshotMaking, during which a start takes seconds, or SnapshotNone.
	Snapshot string `json:"snapshot"`
	// SnapshotAge is how long ago it was made, or its making began, in seconds.
	SnapshotAge float64 `json:"snapshot_age"`
	// Problem says that the last start failed.
	Problem string `json:"problem,omitempty"`
}

// What Pool.Snapshot can be.
const (
	SnapshotNone   = "none"
	SnapshotMaking = "making"
	SnapshotReady  = "ready"
)

// Audit counts the lines of csbd's audit since the start.
type Audit struct {
	Written int64 `json:"written"`
	// Lost could not be written: the disk was full, or too many came at once.
	Lost int64 `json:"lost"`
}

// A Caller is a peer as the kernel and the group database describe it.
type Caller struct {
	UID    uint32   `json:"uid"`
	Groups []uint32 `json:"groups"`
	// Running and Queued executions of this uid.
	Running int `json:"running"`
	Queued  int `json:"queued"`
	// Executions are their ids, for cancel.
	Executions []string `json:"executions"`
}

// Version is what csbd is.
type Version struct {
	// Version of csbd.
	Version string `json:"version"`
	// Commit that it was built from.
	Commit string `json:"commit,omitempty"`
	// Protocol is ProtocolVersion.
	Protocol int `json:"protocol"`
	// Runtime is the version of runsc.
	Runtime string `json:"runtime"`
	// Go that built csbd.
	Go string `json:"go"`
}

// A Profile is the effective policy for the caller.
type Profile struct {
	Name string `json:"name"`
	// Rule that gave the caller this profile.
	Rule    string   `json:"rule"`
	Images  []string `json:"images"`
	Default Limits   `json:"default"`
	Max     Limits   `json:"max"`
	// OutputExceeded is "truncate" or "kill".
	OutputExceeded string `json:"output_exceeded"`
	// Request sizes in bytes.
	Request RequestSizes `json:"request"`
	// MaxMessage is the largest message in bytes, its newline not counted.
	MaxMessage  int64    `json:"max_message"`
	Network     string   `json:"network"`
	Seccomp     string   `json:"seccomp"`
	Environment []string `json:"environment"`
	Concurrency int      `json:"concurrency"`
	Queue       int      `json:"queue"`
	// Rate as "6000/min".
	Rate string `json:"rate"`
	// Unenforced names limits that the policy allows this host not to enforce.
	Unenforced []string `json:"unenforced,omitempty"`
}

// RequestSizes bound the parts of an execute request, in bytes after decoding.
type RequestSizes struct {
	Code  int64 `json:"code"`
	Stdin int64 `json:"stdin"`
	Files int64 `json:"files"`
}

// PolicyCheckParams hold a policy file's text. Files that it names are not
// opened.
type PolicyCheckParams struct {
	Policy string `json:"policy"`
	// Name stands in front of errors; default "policy".
	Name string `json:"name,omitempty"`
}

// A PolicyCheck is what csbd thinks of a policy.
type PolicyCheck struct {
	Valid bool `json:"valid"`
	// Errors and Warnings as "NAME:LINE: path: what is wrong".
	Errors   []string `json:"errors"`
	Warnings []string `json:"warnings"`
}

// An ImageList is the answer to images.list.
type ImageList struct {
	Images []Image `json:"images"`
}

// An Image that the caller may use.
type Image struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
	// Size of the root filesystem in bytes.
	Size int64 `json:"size"`
	// Created, RFC 3339.
	Created string `json:"created"`
	Base    string `json:"base"`
	Python  string `json:"python"`
	// Packages with their versions.
	Packages map[string]string `json:"packages"`
	Preload  []string          `json:"preload"`
	// Default says that execute without an image uses this one.
	Default bool `json:"default"`
}

// Doctor says what csbd found when it looked at its own sandboxes from inside.
// csbd makes the checks anew unless it has just done so.
type Doctor struct {
	// OK says that no check failed.
	OK bool `json:"ok"`
	// Duration of the checks, and their Age, in seconds.
	Duration float64       `json:"duration"`
	Age      float64       `json:"age"`
	Checks   []DoctorCheck `json:"checks"`
}

// String is the report for people.
func (d Doctor) String() string {
	var b strings.Builder
	failed := 0
	for _, c := range d.Checks {
		where := c.Name
		if c.Profile != "" {
			where = c.Profile + ": " + c.Name
		}
		fmt.Fprintf(&b, "%-8s%s: %s\n", c.Status, where, c.Proves)
		if c.Cause != "" {
			fmt.Fprintf(&b, "        cause: %s\n", c.Cause)
		}
		if c.Fix != "" {
			fmt.Fprintf(&b, "        fix: %s\n", c.Fix)
		}
		if c.Status == CheckFailed {
			failed++
		}
	}
	fmt.Fprintf(&b, "%d checks, %d failed\n", len(d.Checks), failed)
	return b.String()
}

// A DoctorCheck is one thing that was looked at.
type DoctorCheck struct {
	// Profile under which it was, "" for the host.
	Profile string `json:"profile,omitempty"`
	Name    string `json:"name"`
	// Proves is what is shown if it passes, for people.
	Proves string `json:"proves"`
	// Status is CheckOK, CheckFailed or CheckSkipped.
	Status string `json:"status"`
	// Cause is why it failed or was skipped, Fix what to do about a failure.
	Cause string `json:"cause,omitempty"`
	Fix   string `json:"fix,omitempty"`
}

// What DoctorCheck.Status can be.
const (
	CheckOK      = "ok"
	CheckFailed  = "failed"
	CheckSkipped = "skipped"
)
