package boot_test

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// TestUpgrade takes one machine from an older version to the one that is built,
// and then away from both.
func TestUpgrade(t *testing.T) {
	deb := built(t)
	m := start(t, withImage(t, map[string]string{"/csbd.deb": deb, "/old.deb": older(t, deb)}))
	m.install("/old.deb")
	for _, step := range []struct {
		name string
		run  func(*machine)
	}{
		{"what the administrator switched off stays off", upgradeSwitchedOff},
		{"upgrade under load", upgradeUnderLoad},
		{"remove", remove},
		{"purge", purge},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(&machine{m.Container, t}) }) {
			return
		}
	}
}

func upgradeSwitchedOff(m *machine) {
	m.sh("systemctl disable --now csbd.socket")
	m.install("/csbd.deb")
	assert.Equal(m.t, m.try("systemctl is-enabled csbd.socket").stdout, "disabled")
	assert.Equal(m.t, m.show("csbd.socket", "ActiveState"), "inactive")
	m.install("/old.deb", "--allow-downgrades")
	m.sh("systemctl enable --now csbd.socket")
}

func upgradeUnderLoad(m *machine) {
	m.sh("echo '# by the administrator' >>/etc/csbd/policy.yaml")
	assert.Equal(m.t, m.sh("cat /etc/default/csbd"), "# of version 0.0.1")
	l := m.startLoad()
	assert.Equal(m.t, m.status().Version.Version, "0.0.1")
	socket := m.show("csbd.socket", "ActiveEnterTimestampMonotonic")
	m.install("/csbd.deb")
	assert.Check(m.t, m.status().Version.Version != "0.0.1", "csbd is still the old one")
	l.end(m.t)
	assert.Equal(m.t, m.show("csbd.socket", "ActiveEnterTimestampMonotonic"), socket)
	assert.Equal(m.t, m.sh("tail -n 1 /etc/csbd/policy.yaml"), "# by the administrator")
	assert.Check(m.t, !strings.Contains(m.sh("cat /etc/default/csbd"), "0.0.1"), "a file that nobody has changed is the new version's")
	assert.Equal(m.t, m.sh("find /etc -name '*.dpkg-*'"), "")
	assert.Equal(m.t, m.sh("systemctl --failed --quiet --plain"), "")
}

// remove leaves configuration and state, and nothing that runs or would.
func remove(m *machine) {
	m.sh("touch /var/lib/csbd/mine /etc/csbd/mine.json; mkdir /home/ann; touch /home/ann/csbd.txt")
	running := m.inBackground("ann", "csbctl", "--timeout=60s", "-c", "import time; time.sleep(2); print('came to its end')")
	m.eventually("it to run", func() bool { return m.status().Running == 1 })
	m.sh("apt-get remove --yes csbd")
	r := executed(m.t, <-running)
	assert.Check(m.t, r.Stdout == "came to its end\n", "%+v", r)
	m.noneLeft()
	// That the socket is enabled stays until purge, as other configuration does:
	// a link to nothing.
	assert.Equal(m.t, m.sh("systemctl list-units --all --quiet --plain csbd.socket csbd.service | grep -v not-found || true"), "")
	assert.Equal(m.t, m.try("systemctl cat csbd.socket").code, 1)
	assert.Equal(m.t, m.sh("find /usr/sbin/csbd /usr/bin/csbctl /run/csbd /usr/share/doc/csbd /usr/lib/systemd 2>/dev/null | grep csb || true"), "")
	assert.Equal(m.t, m.sh("tail -n 1 /etc/csbd/policy.yaml"), "# by the administrator")
	assert.Check(m.t, m.try("test -d /var/lib/csbd/snapshots").code == 0)
	assert.Check(m.t, is.Contains(m.sh("dpkg --status csbd"), "config-files"))
	assert.Equal(m.t, m.sh("systemctl --failed --quiet --plain"), "")
}

// purge leaves what is not the package's own.
func purge(m *machine) {
	m.sh("apt-get purge --yes csbd")
	left := m.sh("find / -xdev -path /usr/lib/csbd/images -prune -o -path /var/lib/dpkg -prune -o -name '*csbd*' -print -o -path '*csbd*' -print | sort | tr '\\n' ' '")
	// The image in /usr/lib/csbd is the test's.
	assert.Equal(m.t, left, "/csbd.deb /etc/csbd /etc/csbd/mine.json /home/ann/csbd.txt /usr/lib/csbd /var/lib/csbd /var/lib/csbd/mine")
	assert.Check(m.t, m.try("dpkg --status csbd").code != 0)
	// Groups are not removed: files may belong to them.
	assert.Check(m.t, is.Contains(m.sh("getent group csb"), "ann"))
}
