package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// groupCPU is the processor time that a control group has used, its children
// that are gone included.
func groupCPU(dirs []string) (time.Duration, error) {
	for _, dir := range dirs {
		if n, err := readInt(filepath.Join(dir, "cpuacct.usage")); err == nil {
			return time.Duration(n), nil
		}
		data, err := os.ReadFile(filepath.Join(dir, "cpu.stat"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
				n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
				return time.Duration(n) * time.Microsecond, err
			}
		}
	}
	return 0, fmt.Errorf("no processor time in the control group %q", dirs)
}

// sandboxMemory is what each sandbox in a control group holds, in bytes.
func sandboxMemory(dirs []string) ([]int64, error) {
	for _, dir := range dirs {
		var held []int64
		for _, name := range []string{"memory.usage_in_bytes", "memory.current"} {
			files, err := filepath.Glob(filepath.Join(dir, "sb-*", name))
			if err != nil {
				return nil, err
			}
			for _, file := range files {
				n, err := readInt(file)
				if err != nil {
					return nil, err
				}
				held = append(held, n)
			}
		}
		if len(held) > 0 {
			return held, nil
		}
	}
	return nil, fmt.Errorf("no sandbox with memory accounting in the control group %q", dirs)
}

func readInt(file string) (int64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}

// tick is the unit of processor time in /proc on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// processCPU is the processor time of a process without its children.
func processCPU(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseProcessCPU(string(data))
}

// parseProcessCPU reads utime and stime, the 12th and 13th fields behind the
// command, which is in parentheses and may hold anything.
func parseProcessCPU(stat string) (time.Duration, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("unexpected /proc/PID/stat %.200q", stat)
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * tick, errors.Join(err, err2)
}

// processRSS is the resident memory of a process in bytes.
func processRSS(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0, fmt.Errorf("unexpected /proc/PID/statm %.200q", data)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
