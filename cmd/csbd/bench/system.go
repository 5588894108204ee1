package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A System is what the figures were measured on.
type System struct {
	Time   string `json:"time"`
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Kernel string `json:"kernel"`
	// Load is the host's load average when the run began.
	Load string `json:"load_average"`
	// Go built csbd, from Commit; Runsc is what it runs.
	Go     string `json:"go"`
	Runsc  string `json:"runsc"`
	Commit string `json:"commit"`
	// Image is the digest of the default image.
	Image string `json:"image"`
	// Settings of the measured daemons.
	Settings string `json:"csbd_settings"`
}

func (s System) String() string {
	return fmt.Sprintf("%s\n%s, %d cores, Linux %s, load %s\ncsbd %s, %s, runsc %s\nimage %s\n%s\n",
		s.Time, s.CPU, s.Cores, s.Kernel, s.Load, s.Commit, s.Go, s.Runsc, s.Image, s.Settings)
}

// readSystem describes the host, and what it can of csbd; describeVersion adds
// the rest.
func readSystem() System {
	s := System{
		Time:   time.Now().UTC().Format(time.RFC3339),
		CPU:    processorModel(),
		Cores:  runtime.NumCPU(),
		Kernel: "unknown",
		Settings: fmt.Sprintf("pools of %d sandboxes (ready = max), concurrency 8, else defaults; "+
			"its sandboxes in %s", keptReady, cgroupBase),
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		s.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		s.Load = strings.Join(strings.Fields(string(data))[:3], " ")
	}
	return s
}

// processorModel is the first model name of /proc/cpuinfo, or the architecture.
func processorModel() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// describeVersion fills in what csbd says of itself.
func (s *System) describeVersion(ctx context.Context, d *daemon) error {
	status, err := d.status(ctx)
	if err != nil {
		return err
	}
	v := status.Version
	s.Go, s.Runsc, s.Commit = v.Go, v.Runtime, v.Version
	if v.Commit != "" {
		s.Commit = v.Version + " (" + v.Commit + ")"
	}
	return nil
}
