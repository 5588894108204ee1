package main

import (
	"fmt"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/fcarli/codesandbox/policy"
	"github.com/fcarli/codesandbox/rpc/server"
)

// Descriptors that csbd needs, generously: for itself, and for each sandbox
// (pipes, its process, control socket and cgroup files).
const (
	ownFiles     = 128
	sandboxFiles = 16
)

// boundMemory makes the garbage collector keep csbd below the most that it
// needs under the policy.
func boundMemory(c config, p *policy.Policy) error {
	bound, err := server.CheckMemory(p, int64(c.Memory))
	if err != nil {
		return fmt.Errorf("environment: CSBD_MEMORY=%d is too little: %w", c.Memory, err)
	}
	debug.SetMemoryLimit(bound)
	return nil
}

// connectionsFor is how many connections csbd can have without ever lacking the
// descriptors for its sandboxes. The limit on them is the hard one: the Go
// runtime raises the soft limit to it.
func connectionsFor(c config, p *policy.Policy) (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("limit on open files: %w", err)
	}
	// Those that run, wait, are being started and are being removed.
	sandboxes := 2*int(c.Executions) + int(c.Launches)
	for _, pool := range p.Pools {
		sandboxes += pool.Max
	}
	reserved := ownFiles + sandboxFiles*sandboxes
	if limit.Cur <= uint64(reserved) {
		return 0, fmt.Errorf("csbd may open %d files, which is too few: %d sandboxes at a time need %d; raise the limit (LimitNOFILE=), or lower CSBD_EXECUTIONS", limit.Cur, sandboxes, reserved)
	}
	return int(min(uint64(c.Connections), limit.Cur-uint64(reserved))), nil
}
