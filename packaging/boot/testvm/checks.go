package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/fcarli/codesandbox/rpc"
)

// A check looks at something and says what it saw, and what is wrong with that.
type check struct {
	name string
	// needed: without it, the others cannot be right.
	needed bool
	look   func(*machine) (seen string, err error)
}

var checks = []check{
	{"system", true, system},
	{"apt-get install csbd, csbd-image-python", true, install},
	{"first client starts csbd", true, firstClient},
	{"pandas, warm", false, pandas},
	{"no sandbox waits", false, cold},
	{"root, member of csb, stranger", false, callers},
	{"csbctl doctor", false, doctor},
	{"a control group for each sandbox", false, groups},
	{"memory: the kernel's limit", false, memory},
	{"memory: MemoryError", false, memoryError},
	{"processes", false, processes},
	{"cpu_time", false, cpuTime},
	{"cpus: 1", false, func(m *machine) (string, error) { return quota(m, 1) }},
	{"reload, cpus: 0.5", false, func(m *machine) (string, error) {
		if out, err := m.sh("cp /etc/csbd/policy.yaml /run && sed -i 's/^    cpus: 1/    cpus: 0.5/' /etc/csbd/policy.yaml && systemctl reload csbd"); err != nil {
			return out, err
		}
		return quota(m, 0.5)
	}},
	{"reload of a bad policy", false, badPolicy},
	{"the unit after all this", false, undisturbed},
	{"systemd-analyze security", false, security},
	{"journal", false, journal},
	{"restart, with a client", false, restart},
	{"watchdog", false, watchdog},
	{"csbd of a user", false, userMode},
	{"reboot", true, reboot},
	{"after the reboot", false, afterReboot},
	{"stop", false, stop},
	{"purge", false, purge},
}

func system(m *machine) (string, error) {
	out, err := m.sh(`. /etc/os-release; echo "$PRETTY_NAME, Linux $(uname -r), $(systemctl --version | head -n 1), $(nproc) processors, $(stat -fc %%T /sys/fs/cgroup): $(cat /sys/fs/cgroup/cgroup.controllers)"`)
	if err == nil && !regexp.MustCompile(`GNU/Linux 12 .* systemd 252 .* cgroup2fs: .*\bcpu\b.*\bmemory\b.*\bpids\b`).MatchString(out) {
		err = errors.New("want Debian 12 with systemd 252 and control groups of version 2")
	}
	if err == nil {
		_, err = m.sh("groupadd --system csb; useradd --create-home --groups csb ann; useradd bob")
	}
	return out, err
}

func install(m *machine) (string, error) {
	out, err := m.sh("apt-get install --yes --no-install-recommends /packages/*.deb")
	if err != nil {
		return out, err
	}
	out, err = m.sh("csbd version | head -n 1; systemctl is-enabled csbd.socket; systemctl is-active csbd.socket; systemctl is-active csbd.service || true")
	if err == nil && !strings.HasSuffix(out, "enabled\nactive\ninactive") {
		err = errors.New("want a socket that is enabled and active, and no csbd")
	}
	return strings.ReplaceAll(out, "\n", ", "), err
}

func firstClient(m *machine) (string, error) {
	before := time.Now()
	r, err := m.execute("", "print(6*7)", 0)
	if err == nil && (r.Stdout != "42\n" || len(r.Unenforced) > 0) {
		err = fmt.Errorf("%q, unenforced %v", r.Stdout, r.Unenforced)
	}
	return fmt.Sprintf("answered %s after %v, snapshot and self-test included", strings.TrimSpace(r.Stdout), time.Since(before).Round(time.Second)), err
}

func pandas(m *machine) (string, error) {
	if out, err := m.eventually(`"ready":2`, "csbctl status --json"); err != nil {
		return out, err
	}
	r, err := m.execute("", "import pandas; print(pandas.DataFrame({0: [1, 2]}).sum()[0])", 0)
	if err == nil && (r.Stdout != "3\n" || !r.Usage.Warm) {
		err = errors.New("want a sum of 3, and a sandbox that had waited")
	}
	return fmt.Sprintf("%s in %.0f ms, warm: %v", strings.TrimSpace(r.Stdout), 1000*r.ExecutionTime, r.Usage.Warm), err
}

// cold asks for more programs at once than sandboxes wait.
func cold(m *machine) (string, error) {
	out, err := m.sh(`for n in 1 2 3 4; do %s & done; wait`, as("ann", python("", "print(6*7)")))
	if err != nil {
		return out, err
	}
	warm, longest := 0, 0.0
	results := json.NewDecoder(strings.NewReader(out))
	for range 4 {
		var r rpc.Result
		if err := results.Decode(&r); err != nil || r.Stdout != "42\n" {
			return out, errors.Join(errors.New("want four answers"), err)
		}
		if r.Usage.Warm {
			warm++
		}
		longest = max(longest, r.Usage.StartTime)
	}
	if warm == 4 {
		err = errors.New("want one for which no sandbox was ready")
	}
	return fmt.Sprintf("four programs at once: %d warm, the others waited up to %.1f s for a sandbox", warm, longest), err
}

// callers: root and members of the group are served, a stranger does not get
// as far as csbd.
func callers(m *machine) (string, error) {
	for _, user := range []string{"root", "ann"} {
		if out, err := m.sh("%s", as(user, python("--raw", "print(6*7)"))); err != nil || out != "42" {
			return out, errors.Join(fmt.Errorf("as %s: want 42", user), err)
		}
	}
	out, status, err := m.run("%s", as("bob", python("", "print(1)")))
	if err == nil && (status != 125 || !strings.Contains(out, "connect: permission denied")) {
		err = errors.New("want the kernel to refuse the connection")
	}
	return "42; 42; " + oneLine(out), err
}

func doctor(m *machine) (string, error) {
	out, status, err := m.run("csbctl doctor")
	if err == nil && status != 0 {
		err = errors.New(out)
	}
	return fmt.Sprintf("exit status %d", status), err
}

// Where csbd's control groups are, and those of its sandboxes below it.
const (
	unitGroup     = "/sys/fs/cgroup/system.slice/csbd.service"
	sandboxGroups = unitGroup + "/csbd-*/sb-*"
)

// groups looks at the kernel's files of a sandbox while a program runs, and has
// processes of root's meet its pids.max.
func groups(m *machine) (string, error) {
	_, err := m.sh("systemd-run --quiet --collect --unit=long --uid=ann csbctl --memory 100MiB --disk 64MiB --processes 10 --timeout 60s -c 'import time; time.sleep(50)'")
	if err != nil {
		return "", err
	}
	// Four tasks for each process, and those of the sentry.
	const pids = 128 + 4*10
	find := fmt.Sprintf("grep -slx %d %s/pids.max", pids, sandboxGroups)
	if out, err := m.eventually("pids.max", "%s", find); err != nil {
		return out, err
	}
	out, err := m.sh(`cd %s
echo "in the unit: $(wc -l <cgroup.procs), in its leaf csbd: $(wc -l <csbd/cgroup.procs)"
cd "$(dirname "$(%s)")" || exit
echo "memory.max $(cat memory.max), memory.swap.max $(cat memory.swap.max), memory.oom.group $(cat memory.oom.group), cpu.max $(cat cpu.max), pids.max $(cat pids.max)"
perl -e '
	open my $procs, ">", "cgroup.procs"; print $procs $$; close $procs;
	my @children;
	while (@children < 1000) { my $pid = fork; last unless defined $pid; if (!$pid) { sleep 60; exit } push @children, $pid }
	printf "%%d more processes, then %%s; ", scalar @children, $!;
	kill "KILL", @children; waitpid $_, 0 for @children'
echo "pids.events: $(cat pids.events)"`, unitGroup, find)
	_, stopped := m.sh("systemctl stop long.service")
	if err = errors.Join(err, stopped); err != nil {
		return out, err
	}
	unit, files, _ := strings.Cut(out, "\n")
	files, refused, _ := strings.Cut(files, "\n")
	if unit != "in the unit: 0, in its leaf csbd: 2" {
		err = errors.New("want csbd and its spawner in the leaf and nobody in the unit's own group")
	}
	// What the program and its disk may have, the room of the guest's kernel, and
	// what the sandbox held before, which is not known here.
	const least, most = (100 + 64 + 64) << 20, (100 + 64 + 64 + 256) << 20
	var memory int64
	if _, e := fmt.Sscanf(files, "memory.max %d, memory.swap.max 0, memory.oom.group 1, cpu.max 100000 100000, pids.max 168", &memory); e != nil || memory < least || memory > most {
		err = errors.Join(err, errors.New("limits are not what was asked for"), e)
	}
	var more, events int
	if _, e := fmt.Sscanf(refused, "%d more processes, then Resource temporarily unavailable; pids.events: max %d", &more, &events); e != nil || more >= pids || events == 0 {
		err = errors.Join(err, errors.New("want the kernel to refuse a process"), e)
	}
	return strings.ReplaceAll(out, "\n", "; "), err
}

// hog has processes that together use more than one may.
const hog = `
import os, time
for i in range(6):
    if os.fork() == 0:
        b = bytearray(60 << 20)
        time.sleep(30)
time.sleep(30)`

// memory: the kernel kills in the sandbox's group, counts it there and above, and
// the unit does not notice.
func memory(m *machine) (string, error) {
	pid := m.show("MainPID")
	const kills = "sed -n 's/^oom_kill //p' " + unitGroup + "/memory.events"
	before, err := m.sh(kills)
	if err != nil {
		return before, err
	}
	r, err := m.execute("--memory 64MiB --timeout 50s --cpu-time 50s", hog, 137)
	if err == nil && r.Status != "memory_limit" {
		err = fmt.Errorf("status %s", r.Status)
	}
	after, e := m.sh(kills)
	if err = errors.Join(err, e); err == nil && after == before {
		err = errors.New("the control group has counted nothing")
	}
	where, e := m.sh("dmesg | grep -o 'oom_memcg=[^,]*' | tail -n 1")
	if err = errors.Join(err, e); err == nil && !regexp.MustCompile(`^oom_memcg=/system\.slice/csbd\.service/csbd-[^/]+/sb-[^/]+$`).MatchString(where) {
		err = errors.New("the kernel's log does not name the sandbox's control group")
	}
	if err == nil && m.show("MainPID") != pid {
		err = errors.New("csbd is another one now")
	}
	return fmt.Sprintf("%s, %d; oom_kill of the unit's memory.events: %s, then %s; %s; csbd went on", r.Status, r.ExitCode, before, after, where), err
}

func memoryError(m *machine) (string, error) {
	r, err := m.execute("--memory 64MiB", "b = bytearray(200 << 20)", 1)
	if err == nil && (r.Status != "memory_limit" || r.Error == nil || r.Error.Type != "MemoryError") {
		err = fmt.Errorf("%s, %+v", r.Status, r.Error)
	}
	return fmt.Sprintf("%s, %d", r.Status, r.ExitCode), err
}

func processes(m *machine) (string, error) {
	r, err := m.execute("--processes 8 --timeout 50s --cpu-time 50s", `
import os, time
n = 1
try:
    while n < 30:
        if os.fork() == 0:
            time.sleep(30)
        n += 1
except OSError as e:
    print(n, type(e).__name__)
os._exit(0)`, 0)
	if err == nil && r.Stdout != "8 BlockingIOError\n" {
		err = errors.New("want the ninth to be refused")
	}
	return strings.TrimSpace(r.Stdout), err
}

func cpuTime(m *machine) (string, error) {
	r, err := m.execute("--cpu-time 2s --timeout 50s", "while True: pass", 152)
	if err == nil && (r.Usage.CPUTime < 1.8 || r.Usage.CPUTime > 3) {
		err = errors.New("want about two seconds")
	}
	return fmt.Sprintf("%s, %d after %.2f s of processor time", r.Status, r.ExitCode, r.Usage.CPUTime), err
}

// quota has two processes want all of two processors for eight seconds, and
// looks once a second at what the kernel says of their control group.
func quota(m *machine, cpus float64) (string, error) {
	out, err := m.sh(`%s >/run/quota.json & client=$!
while kill -0 $client; do
	for g in %s; do
		read -r throttled < <(sed -n 's/^nr_throttled //p' $g/cpu.stat) && [ "$throttled" != 0 ] &&
			echo "$(cut -d ' ' -f 1 /proc/uptime) $(sed -n 's/^usage_usec //p' $g/cpu.stat) $throttled"
	done
	sleep 1
done 2>/dev/null
wait $client`, as("ann", python("--cpu-time 50s --timeout 50s", `
import os, time
end = time.monotonic() + 8
child = os.fork()
while time.monotonic() < end: pass
if child: os.wait()`)), sandboxGroups)
	if err != nil {
		return out, err
	}
	r, err := m.result("cat /run/quota.json", 0)
	if err != nil {
		return out, err
	}
	var looks [][3]float64
	for line := range strings.Lines(out) {
		var l [3]float64 // uptime, processor time in microseconds, how often it had to wait
		if n, _ := fmt.Sscan(line, &l[0], &l[1], &l[2]); n == 3 {
			looks = append(looks, l)
		}
	}
	if len(looks) < 3 {
		return out, errors.New("want a control group that the kernel has throttled, seen for some seconds")
	}
	first, last := looks[0], looks[len(looks)-1]
	wall := last[0] - first[0]
	used := (last[1] - first[1]) / 1e6 / wall
	if used > 1.1*cpus || used < 0.6*cpus || last[2] <= first[2] {
		err = fmt.Errorf("want %.1f processors", cpus)
	}
	return fmt.Sprintf("two busy processes used %.2f processors over %.1f s of wall time, throttled %.0f times (cpu.stat); csbd says %.1f s in %.1f s",
		used, wall, last[2], r.Usage.CPUTime, r.ExecutionTime), err
}

func badPolicy(m *machine) (string, error) {
	out, status, err := m.run("sed -i 's/^    cpus: 0.5/    cpsu: 1/' /etc/csbd/policy.yaml && systemctl reload csbd")
	if err != nil {
		return out, err
	}
	if status == 0 {
		return out, errors.New("the reload went well")
	}
	text := m.show("StatusText")
	if !strings.Contains(text, "cpsu") {
		return text, errors.New("the status text does not say why")
	}
	if r, err := m.execute("", "print(1)", 0); err != nil || r.Limits.CPUs != 0.5 {
		return text, fmt.Errorf("the old policy does not stay: %v, %v", r.Limits, err)
	}
	if out, err := m.sh("cp /run/policy.yaml /etc/csbd && systemctl reload csbd"); err != nil {
		return out, err
	}
	return text, nil
}

func undisturbed(m *machine) (string, error) {
	out, err := m.sh("systemctl show --property=ActiveState,SubState,Result,NRestarts csbd.service; systemctl --failed --quiet --plain")
	out = strings.ReplaceAll(out, "\n", ", ")
	if err == nil && out != "Result=success, NRestarts=0, ActiveState=active, SubState=running" {
		err = errors.New("want it to run, for the first time, and no failed unit")
	}
	return out, err
}

// exposure is the worst score that is all right: what remains is justified in
// csbd.service.
const exposure = 4.0

func security(m *machine) (string, error) {
	out, err := m.sh("systemd-analyze security --no-pager csbd.service | tail -n 1")
	score := regexp.MustCompile(`csbd\.service: ([0-9.]+)`).FindStringSubmatch(out)
	if err == nil && score == nil {
		err = errors.New("no score")
	}
	if err == nil {
		n, _ := strconv.ParseFloat(score[1], 64)
		if n > exposure {
			err = fmt.Errorf("want %v at most", exposure)
		}
	}
	return strings.TrimLeft(out, "→ "), err
}

func journal(m *machine) (string, error) {
	r, err := m.execute("--timeout 1s", "while True: pass", 124)
	if err != nil {
		return "", err
	}
	out, err := m.sh("journalctl --quiet --output=cat CSBD_ID=%s CSBD_UID=$(id -u ann) CSBD_STATUS=timeout", r.ID)
	if err == nil && out == "" {
		err = errors.New("nothing under CSBD_ID, CSBD_UID and CSBD_STATUS")
	}
	other, _ := m.sh("journalctl --quiet --output=cat CSBD_ID=%s CSBD_STATUS=ok", r.ID)
	if err == nil && other != "" {
		err = fmt.Errorf("CSBD_STATUS=ok finds %s", other)
	}
	return fmt.Sprintf("CSBD_ID=%s CSBD_UID= CSBD_STATUS=timeout: %s", r.ID, oneLine(out)), err
}

// restart has a client come while csbd is not there.
func restart(m *machine) (string, error) {
	out, err := m.sh(`before=$(systemctl show --value --property=MainPID csbd)
systemctl restart csbd & sleep 0.5
%s; code=$?
wait; echo "exit status $code, csbd $before became $(systemctl show --value --property=MainPID csbd)"`, as("ann", python("--raw", "print(1)")))
	if err == nil && !regexp.MustCompile(`^1\nexit status 0, csbd [0-9]+ became [0-9]+$`).MatchString(out) {
		err = errors.New("want the client to be answered by the next csbd")
	}
	return strings.ReplaceAll(out, "\n", ", "), err
}

func watchdog(m *machine) (string, error) {
	if out, err := m.sh(`mkdir -p /run/systemd/system/csbd.service.d && printf '[Service]\nWatchdogSec=30s\n' >/run/systemd/system/csbd.service.d/soon.conf &&
systemctl daemon-reload && systemctl restart csbd && kill -STOP $(systemctl show --value --property=MainPID csbd)`); err != nil {
		return out, err
	}
	before := time.Now()
	out, status, err := m.run("%s", as("ann", python("--raw", "print(2)")))
	if restarts := m.show("NRestarts"); err == nil && (out != "2" || status != 0 || restarts != "1") {
		err = fmt.Errorf("want the client to be answered by the next csbd, the first that systemd starts: %q, exit status %d; NRestarts=%s", out, status, restarts)
	}
	if found, e := m.sh("journalctl --quiet --unit=csbd.service --grep='Watchdog timeout'"); err == nil && (e != nil || found == "") {
		err = errors.New("the journal does not say why")
	}
	seen := fmt.Sprintf("kill -STOP, WatchdogSec=30s: a client was answered by the next csbd after %v", time.Since(before).Round(time.Second))
	if out, e := m.sh("rm -r /run/systemd/system/csbd.service.d && systemctl daemon-reload && systemctl restart csbd"); e != nil {
		return out, e
	}
	return seen, err
}

// userMode is bob's: who may not use the system's csbd has one of his own.
func userMode(m *machine) (string, error) {
	out, err := m.sh("mkdir -p /home/bob && chown bob: /home/bob && loginctl enable-linger bob && systemctl start user@$(id -u bob).service")
	if err != nil {
		return out, err
	}
	bob := func(command string) string {
		return fmt.Sprintf("XDG_RUNTIME_DIR=/run/user/$(id -u bob) HOME=/home/bob CSBD_SOCKET=/run/user/$(id -u bob)/csbd/csbd.sock runuser -u bob -- %s", command)
	}
	if out, err := m.sh("%s", bob("systemctl --user enable --now csbd.socket")); err != nil {
		return out, err
	}
	r, err := m.result(bob(python("", "import os; print(os.getuid(), 6*7)")), 0)
	if err == nil && (r.Stdout != "1000 42\n" || len(r.Unenforced) > 0) {
		err = fmt.Errorf("%q, unenforced %v", r.Stdout, r.Unenforced)
	}
	if err != nil {
		log, _ := m.sh("journalctl --no-pager --lines=20 _UID=$(id -u bob)")
		return log, err
	}
	killed, err := m.result(bob(python("--memory 64MiB --timeout 50s --cpu-time 50s", hog)), 137)
	if err != nil {
		return killed.Status, err
	}
	slow, err := m.result(bob(python("--cpu-time 1s --timeout 50s", "while True: pass")), 152)
	if err != nil {
		return slow.Status, err
	}
	owner, err := m.sh("ps --no-headers -o user= -C csbd | sort | uniq -c ; systemctl stop user@$(id -u bob).service; loginctl disable-linger bob")
	return fmt.Sprintf("%s, %s, %s; processes named csbd:%s", strings.TrimSpace(r.Stdout), killed.Status, slow.Status, owner), err
}

// reboot comes while a program runs.
func reboot(m *machine) (string, error) {
	boot, err := m.sh("cat /proc/sys/kernel/random/boot_id; systemd-run --quiet --collect --unit=long --uid=ann csbctl --timeout 60s -c 'import time; time.sleep(50)'")
	if err != nil {
		return boot, err
	}
	if out, err := m.eventually(`"running":1`, "csbctl status --json"); err != nil {
		return out, err
	}
	if out, err := m.sh("systemctl reboot"); err != nil {
		return out, err
	}
	if err := m.vm.WaitUntilUp(m.ctx); err != nil {
		return "", err
	}
	again, err := m.sh("cat /proc/sys/kernel/random/boot_id")
	if err == nil && again == boot {
		err = errors.New("it is the same boot")
	}
	return fmt.Sprintf("boot %.8s became %.8s", boot, again), err
}

// afterReboot: the socket is there, csbd is not, nor anything that it left. It
// ended in good order when the machine went down.
func afterReboot(m *machine) (string, error) {
	out, err := m.sh(`systemctl is-enabled csbd.socket; systemctl is-active csbd.socket; systemctl is-active csbd.service || true
stat -c '%%a %%U %%G' /run/csbd/csbd.sock; ls /var/lib/csbd/sandboxes | wc -l; pgrep -c 'csbd|runsc'
find /sys/fs/cgroup -path '*csbd.service/*' | wc -l; journalctl --boot=-1 --quiet --output=cat --unit=csbd.service --lines=3 | grep Deactivated; systemctl --failed --quiet --plain`)
	out = strings.ReplaceAll(out, "\n", ", ")
	if err == nil && out != "enabled, active, inactive, 660 root csb, 0, 0, 0, csbd.service: Deactivated successfully." {
		return out, errors.New("want the socket, no csbd, no sandboxes, processes or control groups, a clean end, no failed unit")
	}
	if err != nil {
		return out, err
	}
	r, err := m.execute("", "print(6*7)", 0)
	if err == nil && r.Stdout != "42\n" {
		err = fmt.Errorf("%q", r.Stdout)
	}
	made, _ := m.sh("journalctl --boot --quiet --unit=csbd.service --grep='snapshot made' --output=cat | wc -l")
	if err == nil && made != "0" {
		err = errors.New("the snapshot was made anew")
	}
	return out + "; the first client was answered, from the old snapshot", err
}

func stop(m *machine) (string, error) {
	out, err := m.sh(`systemctl stop csbd.socket csbd.service && systemctl show --value --property=Result csbd.service
pgrep -c 'csbd|runsc' || true; find /sys/fs/cgroup -name 'csbd*' | wc -l`)
	out = strings.ReplaceAll(out, "\n", ", ")
	if err == nil && out != "success, 0, 0" {
		err = errors.New("want no processes and no control groups")
	}
	return out, err
}

func purge(m *machine) (string, error) {
	if out, err := m.sh("apt-get purge --yes csbd csbd-image-python"); err != nil {
		return out, err
	}
	out, err := m.sh("find / -xdev -path /var/lib/dpkg -prune -o -path /home -prune -o -path /var/log/journal -prune -o -name '*csbd*' -print")
	if err == nil && out != "" {
		err = errors.New("something is left")
	}
	return "left: " + strings.ReplaceAll(out, "\n", " "), err
}
