package spawner

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ids are the users and groups of the spawner's namespace: root's csbd has its
// own and one for each sandbox, an ordinary user's has that user alone, which
// is all that the kernel lets one map (user_namespaces(7)). Such a user also
// has to give up, for what is started, the right to leave groups.
func ids() (users, groups []syscall.SysProcIDMap, setgroups bool) {
	if uid := os.Geteuid(); uid != 0 {
		return []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}},
			[]syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}, false
	}
	all := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}, {ContainerID: 1, HostID: BaseUID, Size: MaxUsers}}
	return all, all, true
}

// TryNamespaces executes a program, which has to end at once, in namespaces as
// a spawner's and does a thing there that only the owner of namespaces can do.
// The error says which setting of the host is in the way, as far as it can be
// told, and how to change it.
func TryNamespaces(program string, args ...string) error {
	cmd := exec.Command(program, args...)
	users, groups, setgroups := ids()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		// Go makes all mounts private after that.
		Unshareflags: unix.CLONE_NEWNS,
		UidMappings:  users, GidMappings: groups, GidMappingsEnableSetgroups: setgroups,
	}
	return explain(cmd.Run())
}

// explain adds to an error of making namespaces what is in the way.
func explain(err error) error {
	if err == nil {
		return nil
	}
	if o := obstacle("/proc/sys", os.Geteuid() == 0); o != "" {
		return fmt.Errorf("%w: %s", err, o)
	}
	return err
}

// obstacle finds the setting below dir, which is /proc/sys, that keeps a process
// from making the namespaces, and says how to change it; "" if there is none.
func obstacle(dir string, root bool) string {
	is := func(name, value string) bool {
		data, err := os.ReadFile(filepath.Join(dir, name))
		return err == nil && strings.TrimSpace(string(data)) == value
	}
	switch {
	case is("user/max_user_namespaces", "0"):
		return "user.max_user_namespaces is 0: `sysctl user.max_user_namespaces=10000`"
	case !root && is("kernel/unprivileged_userns_clone", "0"):
		return "kernel.unprivileged_userns_clone is 0, so that only root makes user namespaces: `sysctl kernel.unprivileged_userns_clone=1`"
	case !root && is("kernel/apparmor_restrict_unprivileged_userns", "1"):
		return "kernel.apparmor_restrict_unprivileged_userns is 1: give csbd an AppArmor profile with `userns,`, or `sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
	}
	return ""
}
