package server

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sourcegraph/jsonrpc2"

	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/policy"
	"github.com/fcarli/codesandbox/rpc"
)

// cancel ends one of the caller's executions.
func (c *connection) cancel(raw json.RawMessage) (any, *rpc.Error) {
	var p rpc.CancelParams
	if failed := decodeParams(raw, &p); failed != nil {
		return nil, failed
	}
	if len(p.ID) == 0 || p.ID[0] != '"' && !usableID(p.ID) {
		return nil, rpc.InvalidParams("id", "id has to be a request's id or an execution's")
	}
	var id jsonrpc2.ID
	if err := json.Unmarshal(p.ID, &id); err != nil {
		return nil, rpc.InvalidParams("id", "id: %v", err)
	}
	c.mu.Lock()
	end, ok := c.requests[id]
	c.mu.Unlock()
	if !ok && id.IsString {
		c.server.mu.Lock()
		e, found := c.server.executions[id.Str]
		c.server.mu.Unlock()
		// Somebody else's execution is as unknown as none.
		end, ok = e.cancel, found && e.uid == c.peer.uid
	}
	if ok {
		end(errCancelled)
	}
	return rpc.CancelResult{Cancelled: ok}, nil
}

// Status is what a caller without executions would be told.
func (s *Server) Status() rpc.Status { return s.status(peer{}) }

func (s *Server) status(p peer) rpc.Status {
	var caller rpc.Caller
	var out rpc.Status
	out.Running, out.Queued, caller.Running, caller.Queued = s.queue.Load(p.uid)
	caller.UID, caller.Groups = p.uid, p.groups
	out.Caller = caller
	out.Version = s.Version
	out.Uptime = time.Since(s.started).Seconds()
	out.Ready, out.Problem = s.health.read()
	if why, _ := s.prover.unproven(); why != "" {
		out.Ready, out.Problem = false, why
	}
	out.PolicyGeneration = s.generation.Load()
	if s.stale.Load() {
		// Where the mistake is, is the administrator's business.
		out.PolicyProblem = "the policy file has a mistake, so that the last good policy stays in force; csbd's log says which"
	}
	out.Executions, out.Refused = s.counters.read()
	if s.Audit != nil {
		out.Audit = &rpc.Audit{}
		out.Audit.Written, out.Audit.Lost = s.Audit.Counts()
	}
	out.Pools = []rpc.Pool{}
	if s.Pools != nil {
		out.Pools = append(out.Pools, s.Pools()...)
	}
	s.mu.Lock()
	out.Connections = len(s.connections)
	out.Caller.Executions = []string{}
	for id, e := range s.executions {
		if e.uid == p.uid {
			out.Caller.Executions = append(out.Caller.Executions, id)
		}
	}
	slices.Sort(out.Caller.Executions)
	s.mu.Unlock()
	return out
}

func (s *Server) show(p *policy.Profile, rule string) rpc.Profile {
	exceeded := "truncate"
	if p.Max.KillOnOutput {
		exceeded = "kill"
	}
	seccomp := p.SeccompName
	if strings.Contains(seccomp, "/") {
		seccomp = filepath.Base(seccomp) // where it is kept is nobody's business
	}
	return rpc.Profile{
		Name: p.Name, Rule: rule, Images: p.Images,
		Default: wireLimits(p.Default), Max: wireLimits(p.Max),
		OutputExceeded: exceeded,
		Request:        rpc.RequestSizes{Code: p.Request.Code, Stdin: p.Request.Stdin, Files: p.Request.Files},
		MaxMessage:     maxMessage(p),
		Network:        "none",
		Seccomp:        seccomp,
		Environment:    p.Environment,
		Concurrency:    p.Concurrency, Queue: p.Queue, Rate: p.Rate.String(),
		Unenforced: s.Unenforced,
	}
}

func wireLimits(l isolation.Limits) rpc.Limits {
	return rpc.Limits{
		Timeout: l.Timeout.Seconds(), CPUTime: l.CPUTime.Seconds(),
		Memory: l.Memory, Disk: l.Disk, Output: l.Output,
		Processes: l.Processes, OpenFiles: l.OpenFiles, CPUs: l.CPUs,
	}
}

const (
	maxPolicy   = 1 << 20 // bytes of a policy to check
	checkMemory = 8 << 20 // what parsing one, and its answer, may need
)

// check parses a policy that a client sent. Nothing that it names is opened.
func check(raw json.RawMessage) (any, *rpc.Error) {
	var p rpc.PolicyCheckParams
	if failed := decodeParams(raw, &p); failed != nil {
		return nil, failed
	}
	if p.Name == "" {
		p.Name = "policy"
	}
	if len(p.Name) > 1024 {
		return nil, rpc.InvalidParams("name", "name is longer than 1024 bytes") // it stands in every error
	}
	if len(p.Policy) > maxPolicy {
		return nil, rpc.InvalidParams("policy", "policy is longer than %d bytes", maxPolicy)
	}
	answer := rpc.PolicyCheck{Errors: []string{}, Warnings: []string{}}
	parsed, err := policy.Parse(policy.Source{Name: p.Name, Data: []byte(p.Policy)})
	if err != nil {
		answer.Errors = strings.Split(err.Error(), "\n")
		return answer, nil
	}
	answer.Valid = true
	answer.Warnings = append(answer.Warnings, parsed.Warnings...)
	return answer, nil
}

// images lists those of the profile that exist.
func (s *Server) images(p *policy.Profile) rpc.ImageList {
	list := rpc.ImageList{Images: []rpc.Image{}}
	for i, name := range p.Images {
		image, err := s.Images.Resolve(name)
		if err != nil {
			continue
		}
		list.Images = append(list.Images, rpc.Image{
			Name: name, Digest: image.Digest, Size: image.Size, Created: image.Created.Format(time.RFC3339),
			Base: image.Base, Python: image.Python, Packages: image.Packages, Preload: image.Preload, Default: i == 0,
		})
	}
	return list
}

// health remembers whether the last attempt to get a sandbox succeeded, and
// when a program last ran in one to its own end.
type health struct {
	mu      sync.Mutex
	tried   bool
	problem error
	success time.Time // zero for never
}

func (h *health) failed(err error) { h.set(err) }
func (h *health) worked()          { h.set(nil) }

func (h *health) set(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tried, h.problem = true, err
}

// succeeded notes an execution that came to its own end just now.
func (h *health) succeeded() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.success = time.Now()
}

func (h *health) lastSuccess() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.success
}

func (h *health) read() (ready bool, problem string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !h.tried:
		return false, "no sandbox has been started yet"
	case h.problem != nil:
		return false, "the last sandbox could not be started; csbd's log says why"
	}
	return true, ""
}

// counters of what happened since the start.
type counters struct {
	mu         sync.Mutex
	executions map[string]int64
	refusals   map[string]int64
}

func (c *counters) executed(status string) { c.add(&c.executions, status) }

func (c *counters) refused(e *rpc.Error) { c.add(&c.refusals, e.Data.Kind) }

func (c *counters) add(m *map[string]int64, key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *m == nil {
		*m = map[string]int64{}
	}
	(*m)[key]++
}

func (c *counters) read() (executions, refusals map[string]int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	executions, refusals = map[string]int64{}, map[string]int64{}
	maps.Copy(executions, c.executions)
	maps.Copy(refusals, c.refusals)
	return executions, refusals
}
