package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// A Group is the control group of one sandbox.
type Group struct {
	root *Root
	dirs map[string]string // controller → directory; "" on v2
}

// New creates a control group. The name must not exist.
func (r *Root) New(name string) (*Group, error) {
	g := &Group{root: r, dirs: map[string]string{}}
	made := map[string]bool{}
	for controller, parent := range r.dirs {
		dir := filepath.Join(parent, name)
		if !made[dir] {
			err := os.Mkdir(dir, 0o755)
			if errors.Is(err, fs.ErrNotExist) {
				if err = r.makeAgain(parent); err == nil {
					err = os.Mkdir(dir, 0o755)
				}
			}
			if err != nil {
				_ = g.Remove()
				return nil, fmt.Errorf("create cgroup: %w", err)
			}
			made[dir] = true
		}
		g.dirs[controller] = dir
	}
	if r.v2 && !slices.Contains(r.missing, Memory) {
		if err := errors.Join(g.set("", "memory.oom.group", "1"), g.optional("", "memory.swap.max", "0")); err != nil {
			_ = g.Remove()
			return nil, err
		}
	}
	return g, nil
}

func (g *Group) set(controller, file, value string) error {
	if err := writeFile(filepath.Join(g.dirs[controller], file), value); err != nil {
		return fmt.Errorf("set %s to %s: %w", file, value, err)
	}
	return nil
}

// optional is set for files that not every kernel has.
func (g *Group) optional(controller, file, value string) error {
	err := g.set(controller, file, value)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (g *Group) lacks(limit string) bool { return slices.Contains(g.root.missing, limit) }

// SetMemory bounds memory, page cache and swap in bytes together.
func (g *Group) SetMemory(bytes int64) error {
	if g.lacks(Memory) {
		return nil
	}
	v := strconv.FormatInt(bytes, 10)
	if g.root.v2 {
		return g.set("", "memory.max", v)
	}
	// memsw must never be below the limit: which one goes first depends on
	// whether the limit shrinks, as it mostly does, or grows.
	first := g.set("memory", "memory.limit_in_bytes", v)
	if err := g.optional("memory", "memory.memsw.limit_in_bytes", v); err != nil {
		return err
	}
	if first != nil {
		return g.set("memory", "memory.limit_in_bytes", v)
	}
	return nil
}

// SetPids bounds the number of host tasks.
func (g *Group) SetPids(n int) error {
	if g.lacks(Processes) {
		return nil
	}
	controller := "pids"
	if g.root.v2 {
		controller = ""
	}
	return g.set(controller, "pids.max", strconv.Itoa(n))
}

// SetCPUs bounds the processor time per wall-clock time.
func (g *Group) SetCPUs(cpus float64) error {
	if g.lacks(CPUs) {
		return nil
	}
	const period = 100_000 // microseconds; version 1 groups are made with it
	quota := max(int64(cpus*period), 1000)
	if g.root.v2 {
		return g.set("", "cpu.max", fmt.Sprintf("%d %d", quota, period))
	}
	return g.set("cpu", "cpu.cfs_quota_us", strconv.FormatInt(quota, 10))
}

// CPU is the processor time that the group has used.
func (g *Group) CPU() (time.Duration, error) {
	if g.root.v2 {
		n, err := readKey(filepath.Join(g.dirs[""], "cpu.stat"), "usage_usec")
		return time.Duration(n) * time.Microsecond, err
	}
	if g.lacks(CPUTime) {
		return 0, nil
	}
	n, err := readInt(filepath.Join(g.dirs["cpuacct"], "cpuacct.usage"))
	return time.Duration(n), err
}

// MemoryUse is what the group holds now, in bytes.
func (g *Group) MemoryUse() (int64, error) {
	if g.lacks(Memory) {
		return 0, nil
	}
	if g.root.v2 {
		return readInt(filepath.Join(g.dirs[""], "memory.current"))
	}
	return readInt(filepath.Join(g.dirs["memory"], "memory.usage_in_bytes"))
}

// MemoryPeak is the most that the group has held, in bytes, or -1 where the
// kernel does not tell.
func (g *Group) MemoryPeak() int64 {
	if g.lacks(Memory) {
		return -1
	}
	file := filepath.Join(g.dirs["memory"], "memory.max_usage_in_bytes")
	if g.root.v2 {
		file = filepath.Join(g.dirs[""], "memory.peak")
	}
	n, err := readInt(file)
	if err != nil {
		return -1
	}
	return n
}

// OOMKills counts the processes of the group that the kernel killed for
// memory.
func (g *Group) OOMKills() (int64, error) {
	if g.lacks(Memory) {
		return 0, nil
	}
	if g.root.v2 {
		return readKey(filepath.Join(g.dirs[""], "memory.events"), "oom_kill")
	}
	return readKey(filepath.Join(g.dirs["memory"], "memory.oom_control"), "oom_kill")
}

// Pids lists the processes of the group.
func (g *Group) Pids() ([]int, error) {
	var all []int
	for _, d := range g.dirs {
		pids, err := readPids(filepath.Join(d, "cgroup.procs"))
		if err != nil {
			return nil, err
		}
		all = append(all, pids...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// Kill kills every process of the group, also those that it forks meanwhile,
// and returns when none is left alive.
func (g *Group) Kill() error {
	dirs := make([]string, 0, len(g.dirs))
	for _, d := range g.dirs {
		dirs = append(dirs, d)
	}
	return killAll(dirs)
}

// Remove removes the group, which must have been killed.
func (g *Group) Remove() error {
	var errs []error
	for _, d := range g.dirs {
		errs = append(errs, removeDir(d))
	}
	return errors.Join(errs...)
}
