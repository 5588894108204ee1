package rpc

import (
	"runtime"
	"runtime/debug"
)

// Built is the Version of the program that calls it. version and commit are
// what the linker was told; a commit that it was not told is the one that the
// go command has noted, if it has.
func Built(version, commit string) Version {
	if info, ok := debug.ReadBuildInfo(); ok && commit == "" {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				commit = s.Value
			}
		}
	}
	return Version{Version: version, Commit: commit, Protocol: ProtocolVersion, Go: runtime.Version()}
}
