package server

import (
	"math"
	"strings"
	"time"

	"github.com/fcarli/codesandbox/rpc"
)

// An Observer is told what happens, for metrics. Its methods are called
// concurrently, before the answer goes out: they must not wait.
type Observer interface {
	// Executed says that a program ran and is about to be answered for.
	Executed(e Execution)
	// Refused says that a request, or a connection, was answered with an error.
	Refused(r Refusal)
	// PolicySet says whose requests there can be from now on: it is called with
	// each policy, before the first request.
	PolicySet(profiles []ProfileImages)
}

// An Execution is a program that ran, as an Observer sees it.
type Execution struct {
	Profile, Image string
	// Status is the Result's.
	Status string
	// Warm says that the sandbox waited for the program.
	Warm bool
	// Queue is the wait for admission, Start the wait for a sandbox, Run the
	// program's own time, Total everything from the last byte of the request on.
	Queue, Start, Run, Total time.Duration
	// CPU and PeakMemory, in bytes, are the sandbox's; 0 where the kernel does
	// not tell.
	CPU        time.Duration
	PeakMemory int64
	// Bytes that came with the request, and that the program wrote; Dropped are
	// those of them that were not kept.
	Code, Stdin, Files      int64
	Stdout, Stderr, Dropped int64
}

// A Refusal is an error that a client was answered with.
type Refusal struct {
	// Kind is the error's.
	Kind string
	// Bound is what was reached, of a Kind that is "busy": "queue", "rate",
	// "memory" or "connections".
	Bound string
	// Profile of the caller, "" where it is not known or there is none.
	Profile string
}

// ProfileImages are a profile and the images that it allows.
type ProfileImages struct {
	Profile string
	Images  []string
}

// A State is what csbd does at the moment: what callers are told, and more.
type State struct {
	rpc.Status // its Caller is nobody
	// ExecutionsMax is how many run at a time, ConnectionsMax how many there can
	// be.
	ExecutionsMax, ConnectionsMax int
	// What requests and results hold of the memory that there is for each, in
	// bytes.
	RequestMemory, ResultMemory, MemoryMax int64
	// Proved is when the last self-test passed; zero for never.
	Proved time.Time
}

// State is for the host's administrator: it tells of all callers.
func (s *Server) State() State {
	s.prover.mu.Lock()
	proved := s.prover.passed
	s.prover.mu.Unlock()
	status := s.status(peer{})
	status.Caller = rpc.Caller{}
	return State{
		Status: status, Proved: proved,
		ExecutionsMax: s.Executions, ConnectionsMax: s.Connections,
		RequestMemory: s.requests.held(), ResultMemory: s.results.held(), MemoryMax: s.Memory / 2,
	}
}

// refused counts an answer that is an error.
func (s *Server) refused(profile string, e *rpc.Error) {
	s.counters.refused(e)
	if s.Observer == nil {
		return
	}
	r := Refusal{Kind: e.Data.Kind, Profile: profile}
	if e.Code == rpc.CodeBusy {
		// "profile NAME: BOUND" or the bound alone.
		r.Bound = e.Data.Rule[strings.LastIndexByte(e.Data.Rule, ' ')+1:]
	}
	s.Observer.Refused(r)
}

// executed tells the Observer of a program that ran.
func (s *Server) executed(line *record, e *executed) {
	if s.Observer == nil {
		return
	}
	x := Execution{
		Profile: line.Profile, Image: e.Image.Name, Status: e.Status, Warm: e.Usage.Warm,
		Queue: seconds(e.Usage.QueueTime), Start: seconds(e.Usage.StartTime), Run: seconds(e.ExecutionTime), Total: time.Since(line.received),
		CPU: seconds(e.Usage.CPUTime), PeakMemory: e.Usage.PeakMemory,
		Code: line.sizes.Code, Stdin: line.sizes.Stdin, Files: line.sizes.Files, Stdout: line.Stdout, Stderr: line.Stderr,
	}
	if t := e.Truncated; t != nil {
		for _, cut := range []*rpc.Cut{t.Stdout, t.Stderr} {
			if cut != nil {
				x.Dropped += cut.Dropped
			}
		}
	}
	s.Observer.Executed(x)
}

func seconds(s float64) time.Duration { return time.Duration(math.Round(s * float64(time.Second))) }
