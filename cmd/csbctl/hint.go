package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"github.com/fcarli/codesandbox/rpc"
)

// hint says what to do about an error, or "".
func hint(ctx context.Context, socket string, err error) string {
	var refused *rpc.Error
	switch {
	case errors.As(err, &refused):
		return hintAnswer(ctx, socket, refused)
	case errors.Is(err, rpc.ErrDisconnected):
		return "csbd may have stopped or crashed; its log says more (journalctl -u csbd)"
	case !isDial(err):
		return ""
	case errors.Is(err, syscall.ENOENT):
		return fmt.Sprintf("there is no socket %s. Is csbd installed and running? Try `systemctl start csbd.socket`, "+
			"or name another socket with --socket or CSBD_SOCKET", socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("csbd is not running: nobody listens on %s. Try `systemctl start csbd`", socket)
	case errors.Is(err, syscall.EACCES):
		return "you may not use the socket" + groupHint(socket)
	case errors.Is(err, syscall.ENOTSOCK), errors.Is(err, syscall.EPROTOTYPE):
		return fmt.Sprintf("%s is not csbd's socket", socket)
	}
	return ""
}

// isDial says that connecting failed: an error of reading a script file also
// wraps ENOENT and EACCES.
func isDial(err error) bool {
	var op interface{ Timeout() bool }
	var path *fs.PathError
	return errors.As(err, &op) && !errors.As(err, &path)
}

func groupHint(socket string) string {
	info, err := os.Stat(socket)
	if err != nil {
		return ""
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	name := strconv.FormatUint(uint64(stat.Gid), 10)
	if g, err := user.LookupGroupId(name); err == nil {
		name = g.Name
	}
	return fmt.Sprintf("; members of group %s may: `usermod -aG %s USER` as root, then log in again", name, name)
}

// hintAnswer knows the errors that csbd answers with.
func hintAnswer(ctx context.Context, socket string, e *rpc.Error) string {
	switch e.Code {
	case rpc.CodeDenied:
		if e.Data.Field == "" {
			return "the administrator's policy has no rule for you"
		}
		return "`csbctl policy show` prints what you may ask for"
	case rpc.CodeBusy:
		return fmt.Sprintf("try again in %.1f s", e.Data.RetryAfter)
	case rpc.CodeUnknownImage:
		return "`csbctl images` lists those that there are; `csbd image build DIR` builds one"
	case rpc.CodeInternal:
		return "the administrator finds the reason in csbd's log (journalctl -u csbd)"
	case rpc.CodeMethodNotFound, rpc.CodeInvalidParams:
		return versionHint(ctx, socket)
	}
	return ""
}

// versionHint explains a misunderstanding by different protocol versions.
func versionHint(ctx context.Context, socket string) string {
	o := options{socket: socket}
	_, csbd, err := ask[rpc.Version](ctx, &o, rpc.MethodVersion, nil)
	if err != nil || csbd.Protocol == rpc.ProtocolVersion {
		return ""
	}
	return fmt.Sprintf("csbctl %s speaks protocol version %d and csbd %s version %d: install the same version of both",
		version, rpc.ProtocolVersion, csbd.Version, csbd.Protocol)
}
