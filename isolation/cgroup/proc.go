package cgroup

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A hierarchy is one mounted cgroup filesystem.
type hierarchy struct {
	mount string // where it is mounted
	own   string // our cgroup, relative to mount
}

type hierarchies struct {
	v1 map[string]*hierarchy // by controller
	v2 *hierarchy
}

// readHierarchies finds the mounted hierarchies and our place in each, from
// /proc/self/mountinfo and /proc/self/cgroup (proc(5), cgroups(7)).
func readHierarchies() (hierarchies, error) {
	h := hierarchies{v1: map[string]*hierarchy{}}
	own, err := readOwn("/proc/self/cgroup")
	if err != nil {
		return h, err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return h, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		root, mount := left[3], left[4]
		switch right[0] {
		case "cgroup2":
			if h.v2 == nil {
				h.v2 = &hierarchy{mount, below(own[""], root)}
			}
		case "cgroup":
			for _, option := range strings.Split(right[2], ",") {
				if path, ok := own[option]; ok && h.v1[option] == nil {
					h.v1[option] = &hierarchy{mount, below(path, root)}
				}
			}
		}
	}
	if h.v2 == nil && len(h.v1) == 0 {
		return h, fmt.Errorf("no cgroup filesystem is mounted: mount cgroup2 on /sys/fs/cgroup")
	}
	return h, nil
}

// below is path relative to a mount whose root is root.
func below(path, root string) string {
	root = strings.TrimSuffix(root, "/")
	if rest, ok := strings.CutPrefix(path, root); ok && (rest == "" || rest[0] == '/') {
		path = rest
	}
	return "/" + strings.TrimPrefix(path, "/")
}

// readOwn maps each version 1 controller, and "" for version 2, to our cgroup.
func readOwn(file string) (map[string]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	own := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 {
			return nil, fmt.Errorf("%s: unexpected line %q", file, line)
		}
		for _, controller := range strings.Split(parts[1], ",") {
			own[controller] = parts[2]
		}
	}
	return own, nil
}

// readFile and writeFile are for the small files of a cgroup, a dozen of which
// stand between a program and its result. os.ReadFile and os.WriteFile take
// twice as long: they try to have the files polled, and look for more.

func readFile(file string) (string, error) {
	fd, err := open(file, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var buf [4096]byte
	n, err := retry(func() (int, error) { return unix.Read(fd, buf[:]) })
	if err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	return string(buf[:n]), nil
}

func writeFile(file, value string) error {
	fd, err := open(file, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := retry(func() (int, error) { return unix.Write(fd, []byte(value)) }); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

func open(file string, mode int) (int, error) {
	fd, err := retry(func() (int, error) { return unix.Open(file, mode|unix.O_CLOEXEC, 0) })
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", file, err)
	}
	return fd, nil
}

// retry repeats a system call that a signal has interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

func readInt(file string) (int64, error) {
	text, err := readFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(text), 10, 64)
}

// readKey reads the number behind key in a file of "key number" lines.
func readKey(file, key string) (int64, error) {
	text, err := readFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, " "); ok && k == key {
			return strconv.ParseInt(strings.TrimSpace(v), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s: no %s", file, key)
}

func readPids(file string) ([]int, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, field := range strings.Fields(string(data)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
