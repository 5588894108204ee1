package boot

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// A VM is a Debian that QEMU has booted with a kernel of Debian's, on a processor
// that it emulates: nothing of this machine's kernel shows. It has no network, and
// what is written to its disk goes when it stops.
type VM struct {
	qemu    *exec.Cmd
	exited  chan struct{}
	console lines
	dir     string // temporary
	conn    net.Conn
	last    int         // command
	heard   chan string // lines that the agent says
}

// machineRoot boots in a virtual machine.
var machineRoot = Root{
	Packages: []string{"linux-image-amd64", "initramfs-tools", "zstd", "udev", "kmod", "procps", "libpam-systemd"},
	// Only what the machine has, or the initrd would take a minute to unpack.
	Before: `mkdir -p "$1/etc/initramfs-tools/conf.d"
printf 'MODULES=list\nCOMPRESS=zstd\n' >"$1/etc/initramfs-tools/conf.d/machine"
printf 'virtio_pci\nvirtio_blk\next4\n' >"$1/etc/initramfs-tools/modules"`,
	// The agent does what comes down a serial port, a shell command in base64 on
	// each line, and says how that ended. A machine without a network needs no
	// other way in.
	After: `cat >"$1/usr/local/sbin/agent" <<'END'
#!/bin/bash
exec 3<>/dev/virtio-ports/agent
echo "booted $(cat /proc/sys/kernel/random/boot_id)" >&3
while read -r number command <&3; do
	out=$(bash -c "$(base64 -d <<<"$command")" 2>&1 </dev/null | base64 -w0; exit ${PIPESTATUS[0]})
	echo "$number $? $out" >&3
done
END
chmod 755 "$1/usr/local/sbin/agent"
cat >"$1/etc/systemd/system/agent.service" <<'END'
[Unit]
After=multi-user.target
[Service]
Type=idle
ExecStart=/usr/local/sbin/agent
Environment=HOME=/root DEBIAN_FRONTEND=noninteractive
[Install]
WantedBy=default.target
END
mkdir -p "$1/etc/systemd/system/default.target.wants" "$1/packages"
ln -s ../agent.service "$1/etc/systemd/system/default.target.wants/"
echo machine >"$1/etc/hostname"
printf '/dev/vda / ext4 rw 0 0\n/dev/vdb /packages ext4 ro 0 0\n' >"$1/etc/fstab"`,
}

// diskSize is sparse on the host.
const diskSize = "6G"

// StartVM boots a machine with two processors and 3 GiB of memory, and returns
// when it takes commands. The given files are in its /packages. cache is where
// its disk is kept; to make it, the first time, takes a minute or two.
func StartVM(ctx context.Context, cache string, files []string) (_ *VM, err error) {
	tree, err := machineRoot.Make(ctx, cache)
	if err != nil {
		return nil, err
	}
	disk := tree + ".ext4"
	err = once(disk, func(unfinished string) error { return makeDisk(ctx, tree, unfinished, diskSize) })
	if err != nil {
		return nil, err
	}
	v := &VM{exited: make(chan struct{}), heard: make(chan string, 16)}
	defer func() {
		if err != nil {
			v.Stop()
			err = fmt.Errorf("boot a virtual machine: %w; console:\n%s", err, v.Console())
		}
	}()
	if v.dir, err = os.MkdirTemp(cache, "vm-"); err != nil {
		return nil, err
	}
	second, err := v.packages(ctx, files)
	if err != nil {
		return nil, err
	}
	kernel, err := only(tree, "boot/vmlinuz-*")
	if err != nil {
		return nil, err
	}
	initrd, err := only(tree, "boot/initrd.img-*")
	if err != nil {
		return nil, err
	}
	ours, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	v.conn = ours
	v.qemu = exec.Command("qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none",
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072", "-nic", "none",
		"-kernel", kernel, "-initrd", initrd, "-append", "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0 systemd.journald.forward_to_console=1",
		// What is written stays in a temporary file until QEMU ends, over reboots.
		"-drive", "file="+disk+",format=raw,if=none,id=root,cache=unsafe,snapshot=on", "-device", "virtio-blk-pci,drive=root",
		"-drive", "file="+second+",format=raw,if=none,id=packages,read-only=on", "-device", "virtio-blk-pci,drive=packages",
		"-device", "virtio-rng-pci", "-serial", "stdio",
		"-device", "virtio-serial-pci", "-chardev", "socket,fd=3,id=agent", "-device", "virtserialport,chardev=agent,name=agent")
	v.qemu.Env = append(os.Environ(), "TMPDIR="+v.dir)
	v.qemu.ExtraFiles = []*os.File{theirs}
	v.qemu.Stdout, v.qemu.Stderr = &v.console, &v.console
	v.qemu.SysProcAttr = diesWithUs
	err = v.qemu.Start()
	_ = theirs.Close()
	if err != nil {
		v.qemu = nil
		return nil, err
	}
	go func() {
		_ = v.qemu.Wait() // how it ends says nothing
		close(v.exited)
	}()
	go v.listen()
	return v, v.WaitUntilUp(ctx)
}

// packages makes the second disk.
func (v *VM) packages(ctx context.Context, files []string) (string, error) {
	tree, disk := filepath.Join(v.dir, "packages"), filepath.Join(v.dir, "packages.ext4")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return "", err
	}
	for _, f := range files {
		if out, err := exec.CommandContext(ctx, "cp", f, tree).CombinedOutput(); err != nil {
			return "", fmt.Errorf("copy %s: %w: %s", f, err, out)
		}
	}
	return disk, makeDisk(ctx, tree, disk, "1G")
}

// makeDisk makes a file with an ext4 filesystem of what is in a directory.
func makeDisk(ctx context.Context, tree, disk, size string) error {
	out, err := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-d", tree, disk, size).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, lastLines(out))
	}
	return nil
}

// only is the one file of a tree that matches.
func only(tree, pattern string) (string, error) {
	files, err := filepath.Glob(filepath.Join(tree, pattern))
	if err == nil && len(files) != 1 {
		err = fmt.Errorf("want one %s, got %q", pattern, files)
	}
	if err != nil {
		return "", err
	}
	return files[0], nil
}

// listen passes on what the agent says.
func (v *VM) listen() {
	defer close(v.heard)
	r := bufio.NewReader(v.conn)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		v.heard <- strings.TrimSpace(line)
	}
}

// hear returns the next line of the agent's that begins with a word.
func (v *VM) hear(ctx context.Context, word string) (string, error) {
	for {
		select {
		case line, ok := <-v.heard:
			if !ok {
				return "", errors.New("the machine is gone")
			}
			if rest, ok := strings.CutPrefix(line, word+" "); ok {
				return rest, nil
			}
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// WaitUntilUp waits for the agent: after the start, or after a reboot.
func (v *VM) WaitUntilUp(ctx context.Context) error {
	if _, err := v.hear(ctx, "booted"); err != nil {
		return fmt.Errorf("wait for the agent: %w", err)
	}
	return nil
}

// Run has root's shell execute a command inside, one at a time, and returns what
// it wrote to both outputs, and its exit status.
func (v *VM) Run(ctx context.Context, command string) (out string, status int, err error) {
	v.last++
	if _, err := fmt.Fprintf(v.conn, "%d %s\n", v.last, base64.StdEncoding.EncodeToString([]byte(command))); err != nil {
		return "", 0, err
	}
	line, err := v.hear(ctx, strconv.Itoa(v.last))
	if err != nil {
		return "", 0, fmt.Errorf("%s: %w", command, err)
	}
	code, data, _ := strings.Cut(line, " ")
	if status, err = strconv.Atoi(code); err != nil {
		return "", 0, fmt.Errorf("%s: the agent says %q", command, line)
	}
	text, err := base64.StdEncoding.DecodeString(data)
	return strings.TrimSpace(string(text)), status, err
}

// Console is what was written to the machine's serial console.
func (v *VM) Console() string { return v.console.String() }

// Stop switches the machine off. Nothing is left of it.
func (v *VM) Stop() {
	if v.qemu != nil {
		_ = v.qemu.Process.Kill()
		<-v.exited
	}
	if v.conn != nil {
		_ = v.conn.Close()
	}
	_ = os.RemoveAll(v.dir)
}
