package runsc

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/fcarli/codesandbox/isolation"
	"github.com/fcarli/codesandbox/isolation/runner"
)

// User and group of the program in the guest.
const guestUser = 1000

// environment of every program. MALLOC_ARENA_MAX is taken out by the runner
// before the program starts: glibc has read it by then, and does not reserve
// 64 MiB of address space for each thread.
//
// One OpenBLAS thread: the guest sees every processor of the host while the
// cgroup gives it a share of them.
var environment = []string{
	"PATH=/usr/local/bin:/usr/bin:/bin",
	"HOME=/tmp/work",
	"USER=sandbox",
	"LOGNAME=sandbox",
	"LANG=C.UTF-8",
	"OPENBLAS_NUM_THREADS=1",
	"OMP_NUM_THREADS=1",
	"MALLOC_ARENA_MAX=1",
}

// spec is the OCI configuration of one sandbox.
func spec(c isolation.Class, modules []string) (*specs.Spec, error) {
	var seccomp *specs.LinuxSeccomp
	if c.Seccomp != "" {
		seccomp = &specs.LinuxSeccomp{}
		if err := json.Unmarshal([]byte(c.Seccomp), seccomp); err != nil {
			return nil, fmt.Errorf("seccomp profile: %w", err)
		}
	}
	size := strconv.FormatInt(c.Ceiling.Disk, 10)
	limit := func(name string, n uint64) specs.POSIXRlimit {
		return specs.POSIXRlimit{Type: name, Soft: n, Hard: n}
	}
	return &specs.Spec{
		Version: "1.1.0",
		Root:    &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{
			User:            specs.User{UID: guestUser, GID: guestUser},
			Args:            runner.Preload(modules),
			Env:             environment,
			Cwd:             "/",
			Capabilities:    &specs.LinuxCapabilities{},
			NoNewPrivileges: true,
			Rlimits: []specs.POSIXRlimit{
				// The runner keeps two descriptors from 1000 up.
				limit("RLIMIT_NOFILE", uint64(max(c.Ceiling.OpenFiles, 1100))),
				limit("RLIMIT_NPROC", uint64(c.Ceiling.Processes)+1),
				limit("RLIMIT_CORE", 0),
				limit("RLIMIT_STACK", 8<<20),
			},
		},
		Hostname: "sandbox",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs",
				Options: []string{"nosuid", "nodev", "mode=1777", "size=" + size}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "tmpfs",
				Options: []string{"nosuid", "nodev", "noexec", "mode=1777", "size=" + size}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace},
			},
			Seccomp: seccomp,
		},
		Annotations: map[string]string{
			"dev.gvisor.spec.rootfs.source": c.Image,
			"dev.gvisor.spec.rootfs.type":   "erofs",
		},
	}, nil
}

// configuration is the OCI configuration of one sandbox, as JSON.
func configuration(c isolation.Class, modules []string) ([]byte, error) {
	s, err := spec(c, modules)
	if err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// flags of every runsc. What each is for and costs stands in
// docs/decisions/0003-runsc-flags.md.
func (r *Runtime) flags(root string) []string {
	return []string{
		"--root=" + root,
		"--platform=" + r.platform,
		"--network=none",
		"--ignore-cgroups",
		"--oci-seccomp",
		"--directfs=false",
		"--host-uds=none",
		"--host-fifo=none",
		"--host-settings=ignore",
		"--net-raw=false",
		"--allow-suid=false",
		"--character-device-policy=emulated-only",
		"--watchdog-action=panic",
		"--sidecar-usage-policy=LEGACY_DEPRECATED_SLOW_EMBEDDED_FALLBACK",
	}
}

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:6])
}
