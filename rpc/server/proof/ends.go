package proof

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fcarli/codesandbox/isolation"
)

// Memory that no address space counts: only the host's cgroup does.
const devour = `
import os, sys
try:
    fd = os.memfd_create('csbd-proof')
except OSError:
    sys.exit(99)
block = bytes(1 << 20)
for _ in range(int(sys.argv[1]) >> 20):
    os.write(fd, block)
`

const spin = "while True: pass\n"

const sleep = "import time\nwhile True: time.sleep(60)\n"

// memory lets the cgroup kill a program.
func (s Subject) memory(ctx context.Context) Check {
	c := Check{Name: "memory kill", Proves: "the host ends a sandbox that uses too much memory, however it gets it"}
	if s.allowed("memory", &c) {
		return c
	}
	l := s.limits()
	l.Memory = min(l.Memory, 16<<20)
	// The cgroup has room for the files, too, and for the guest's kernel.
	devoured := l.Memory + l.Disk + 512<<20
	o := s.run(ctx, program{"memory", devour, []string{fmt.Sprint(devoured)}, isolation.StatusMemoryLimit}, l)
	if o.err == nil && o.Status == isolation.StatusError && o.ExitCode == 99 {
		c.Skipped = "the seccomp profile denies memfd_create"
		return c
	}
	return c.ended(o, isolation.StatusMemoryLimit, "see that the memory controller of csbd's cgroup works (memory.max or memory.limit_in_bytes can be written), and that there is no swap for it")
}

func (s Subject) cpuTime(ctx context.Context) Check {
	c := Check{Name: "cpu_time", Proves: "a program that uses up its processor time is ended"}
	if s.allowed("cpu_time", &c) {
		return c
	}
	l := s.limits()
	// On a busy machine the timeout must not come first.
	l.CPUTime = min(l.CPUTime, 100*time.Millisecond, l.Timeout/10)
	return c.ended(s.run(ctx, program{"cpu", spin, nil, isolation.StatusCPULimit}, l), isolation.StatusCPULimit, "see that csbd's cgroup has the cpu controller (version 2) or cpuacct (version 1)")
}

func (s Subject) timeout(ctx context.Context) Check {
	c := Check{Name: "timeout", Proves: "a program that does not end is ended"}
	l := s.limits()
	l.Timeout = min(l.Timeout, 100*time.Millisecond)
	return c.ended(s.run(ctx, program{"timeout", sleep, nil, isolation.StatusTimeout}, l), isolation.StatusTimeout, ask)
}

// allowed says that the host need not enforce the limit.
func (s Subject) allowed(limit string, c *Check) bool {
	if slices.Contains(s.Unenforced, limit) {
		c.Skipped = "the policy allows this host not to enforce " + limit
	}
	return c.Skipped != ""
}

// ended is the check of a program that had to end in one way.
func (c Check) ended(o outcome, want isolation.Status, fix string) Check {
	switch {
	case o.err != nil:
		c = c.broken(o.err)
	case o.Status != want:
		c.Cause = strings.TrimSuffix(fmt.Sprintf("the program ended with %s instead of %s: %s", o.Status, want, o.says()), ": ")
		c.Fix = fix
	}
	return c
}
