package server

import (
	"errors"
	"fmt"
	"net"
	"os/user"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A peer is the process at the other end of a connection, as the kernel knew
// it when it connected.
type peer struct {
	uid    uint32
	gid    uint32
	pid    int32
	groups []uint32
}

// identify asks the kernel who connected (SO_PEERCRED and SO_PEERGROUPS,
// socket(7), unix(7)) and adds the groups that the group database gives that
// user. A process that was given a group without the database knowing
// (SupplementaryGroups= in a unit, --group-add of a container) is a member as
// much as a user who was added after logging in.
func identify(c *net.UnixConn) (peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	cred, err := credentialsOf(c)
	if err != nil {
		return peer{}, err
	}
	p := peer{uid: cred.Uid, gid: cred.Gid, pid: cred.Pid, groups: []uint32{cred.Gid}}
	var inner error
	err = raw.Control(func(fd uintptr) {
		var more []uint32
		if more, inner = peerGroups(fd); inner == nil {
			p.groups = append(p.groups, more...)
		}
	})
	if err == nil {
		err = inner
	}
	if err != nil {
		return peer{}, fmt.Errorf("identify peer: %w", err)
	}
	p.groups = append(p.groups, databaseGroups(p.uid)...)
	slices.Sort(p.groups)
	p.groups = slices.Compact(p.groups)
	return p, nil
}

// PeerUID is the user at the other end of a connection, as the kernel knew it
// when it connected.
func PeerUID(c *net.UnixConn) (uint32, error) {
	cred, err := credentialsOf(c)
	if err != nil {
		return 0, err
	}
	return cred.Uid, nil
}

// credentialsOf are uid, gid and pid of the peer.
func credentialsOf(c *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, inner); err != nil {
		return nil, fmt.Errorf("identify peer: %w", err)
	}
	return cred, nil
}

// peerGroups reads SO_PEERGROUPS, which golang.org/x/sys does not wrap.
func peerGroups(fd uintptr) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(4 * len(groups))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(unsafe.SliceData(groups))), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno == unix.ERANGE && len(groups) < 1<<17: // NGROUPS_MAX is 65536
			groups = make([]uint32, 2*len(groups))
		default:
			return nil, errno
		}
	}
}

// databaseGroups looks the user's groups up. Users that the database does not
// know have none.
func databaseGroups(uid uint32) []uint32 {
	u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	if err != nil {
		return nil
	}
	ids, err := u.GroupIds()
	if err != nil {
		return nil
	}
	var groups []uint32
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil {
			groups = append(groups, uint32(n))
		}
	}
	return groups
}
