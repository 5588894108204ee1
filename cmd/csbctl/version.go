package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/fcarli/codesandbox/rpc"
)

// Set by the linker; see the Makefile.
var (
	version = "devel"
	commit  = ""
)

// version is `csbctl version`. csbctl's own is printed even when csbd's cannot
// be had.
func (o *options) version(ctx context.Context, args []string, s streams) (int, error) {
	if err := o.noArguments("version", args, nil); err != nil {
		return 0, err
	}
	own := rpc.Built(version, commit)
	page := versionLine("csbctl", own)
	csbd, theirs, err := ask[rpc.Version](ctx, o, rpc.MethodVersion, nil)
	if err == nil {
		page += versionLine("csbd", theirs)
	}
	both, encodeErr := json.Marshal(struct {
		Csbctl builtClient     `json:"csbctl"`
		Csbd   json.RawMessage `json:"csbd,omitempty"`
	}{builtClient{own.Version, own.Commit, own.Protocol, own.Go}, csbd})
	if encodeErr != nil {
		return 0, encodeErr
	}
	if printErr := o.print(s.out, both, page); printErr != nil {
		return 0, printErr
	}
	return exitOK, err
}

// A builtClient is an rpc.Version without a runtime, which csbctl has not.
type builtClient struct {
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Protocol int    `json:"protocol"`
	Go       string `json:"go"`
}

func versionLine(program string, v rpc.Version) string {
	if v.Commit == "" {
		v.Commit = "unknown"
	}
	line := fmt.Sprintf("%s %s, commit %s, protocol %d, %s", program, v.Version, v.Commit, v.Protocol, v.Go)
	if v.Runtime != "" {
		line += ", runsc " + v.Runtime
	}
	return line + "\n"
}
