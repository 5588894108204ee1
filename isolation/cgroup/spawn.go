package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// spawner runs the functions of r.spawn on one thread that lives as long as
// the Root. It has to be one thread: on version 1 a child starts in the
// cgroups of the thread that forks it, and the parent-death signal comes when
// that thread ends, not the process.
func (r *Root) spawner() {
	runtime.LockOSThread()
	for f := range r.spawn {
		f()
	}
}

// Start starts cmd inside the group and has it killed should this process die.
func (g *Group) Start(cmd *exec.Cmd) error {
	done := make(chan error, 1)
	g.root.spawn <- func() { done <- g.start(cmd) }
	return <-done
}

func (g *Group) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if g.root.v2 {
		dir, err := os.Open(g.dirs[""])
		if err != nil {
			return fmt.Errorf("open cgroup: %w", err)
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(dir.Fd())
		return cmd.Start()
	}
	tid := strconv.Itoa(unix.Gettid())
	defer func() {
		for _, home := range g.root.homes {
			if err := os.WriteFile(filepath.Join(home, "tasks"), []byte(tid), 0); err != nil {
				// Staying would put the next child into this group.
				panic(fmt.Sprintf("return to cgroup %s: %v", home, err))
			}
		}
	}()
	for _, dir := range g.dirs {
		if err := os.WriteFile(filepath.Join(dir, "tasks"), []byte(tid), 0); err != nil {
			return fmt.Errorf("enter cgroup: %w", err)
		}
	}
	return cmd.Start()
}

// Homes are the files to which a thread ID is written to move a thread into
// this process's own cgroups, on version 1.
func (r *Root) Homes() []string {
	var files []string
	for _, home := range r.homes {
		files = append(files, filepath.Join(home, "tasks"))
	}
	return files
}

// Files opens what another process needs to start something inside the group:
// on version 1 the files to which a thread ID is written, on version 2 the
// directory. The caller closes them.
func (g *Group) Files() (files []*os.File, v2 bool, err error) {
	if g.root.v2 {
		dir, err := os.Open(g.dirs[""])
		return []*os.File{dir}, true, err
	}
	for _, dir := range g.dirs {
		f, err := os.OpenFile(filepath.Join(dir, "tasks"), os.O_WRONLY, 0)
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, false, fmt.Errorf("open cgroup: %w", err)
		}
		files = append(files, f)
	}
	return files, false, nil
}
