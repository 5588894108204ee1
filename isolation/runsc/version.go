package runsc

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"runtime/debug"
	"time"
)

// BuiltFor is the version of gVisor's module that this program was built with,
// or empty if it does not know.
func BuiltFor() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == "gvisor.dev/gvisor" && m.Replace == nil {
			return m.Version
		}
	}
	return ""
}

var versionLine = regexp.MustCompile(`(?m)^runsc version (\S+)$`)

// BinaryVersion asks a runsc, or a csbd-sentry, for its version. Nobody needs
// privileges for that.
func BinaryVersion(ctx context.Context, binary string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "--version")
	cmd.Env = []string{}
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run %s --version: %w", binary, err)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("run %s --version: unexpected output %q", binary, bounded(out, 200))
	}
	return string(m[1]), nil
}
