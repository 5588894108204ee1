package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/kelseyhightower/envconfig"

	"github.com/fcarli/codesandbox/images"
	"github.com/fcarli/codesandbox/policy"
)

const prefix = "csbd"

// A config is csbd's environment.
type config struct {
	Socket             string        `default:"/run/csbd/csbd.sock" desc:"path of the socket, unless systemd passes one"`
	SocketMode         fileMode      `split_words:"true" default:"0660" desc:"permissions of the socket, in octal"`
	SocketGroup        string        `split_words:"true" desc:"group of the socket; csbd's own when empty"`
	Policy             string        `default:"/etc/csbd/policy.yaml" desc:"policy file; SIGHUP reads it again"`
	StateDir           string        `split_words:"true" default:"/var/lib/csbd" desc:"directory of csbd's own, for sandboxes while they live"`
	ImageDir           string        `split_words:"true" desc:"directory of images; STATE_DIR/images when empty"`
	ShippedImages      string        `split_words:"true" default:"/usr/lib/csbd/images" desc:"directory of images that packages bring; for names that IMAGE_DIR does not have"`
	Launcher           launcher      `default:"direct" desc:"direct, or stock: start sandboxes by csbd-sentry, or by runsc's command line"`
	Sentry             string        `desc:"path of csbd-sentry; beside csbd, or in /usr/lib/csbd, when empty"`
	Runsc              string        `desc:"path of runsc; beside csbd, or in /usr/lib/csbd, when empty"`
	Platform           platform      `default:"systrap" desc:"gVisor's platform: systrap, or kvm"`
	Cgroup             string        `desc:"cgroup below which sandboxes live, as /csbd; csbd's own when empty"`
	Executions         count         `desc:"executions at a time, of all callers together; 4 for each processor when empty"`
	Launches           count         `desc:"sandboxes started at a time; one for each processor when empty"`
	Memory             byteSize      `default:"2GiB" desc:"most that all requests and results may hold together"`
	Connections        count         `default:"4096" desc:"connections at a time; fewer if csbd may not open that many files"`
	ConnectionsPerUser count         `split_words:"true" default:"1024" desc:"connections of one user at a time"`
	PoolMemory         byteSize      `split_words:"true" default:"4GiB" desc:"most that all waiting sandboxes may hold together"`
	SandboxAge         time.Duration `split_words:"true" default:"1h" desc:"how long a sandbox waits before it is replaced; 0 is forever"`
	SnapshotAge        time.Duration `split_words:"true" default:"24h" desc:"how old a snapshot gets before it is made anew; 0 is forever"`
	ProofEvery         time.Duration `split_words:"true" default:"10m" desc:"how often csbd looks at its sandboxes from inside; 0 is at the start only"`
	Audit              string        `desc:"absolute path of a file that gets a line for each execution and refusal, or journal; none when empty"`
	AuditSize          byteSize      `split_words:"true" default:"100MiB" desc:"size at which that file becomes FILE.1"`
	AuditKeep          count         `split_words:"true" default:"5" desc:"how many older files are kept"`
	Metrics            address       `desc:"where Prometheus may ask: unix:/PATH, or a loopback address as 127.0.0.1:9464; nowhere when empty"`
	MetricsGroup       string        `split_words:"true" desc:"group of the metrics' Unix socket; csbd's own when empty"`
	Pprof              string        `desc:"absolute path of a socket on which root may profile csbd; none when empty"`
	StopTimeout        time.Duration `split_words:"true" default:"20s" desc:"how long running executions may go on after SIGTERM"`
	LogLevel           slog.Level    `split_words:"true" default:"info" desc:"debug, info, warn or error"`
	LogFormat          logFormat     `split_words:"true" default:"auto" desc:"text, json, journal, or auto: journal where stderr is the journal, else text"`

	ownPolicy bool // nobody said which: see loadPolicy
}

type fileMode fs.FileMode

// Decode implements envconfig.Decoder.
func (m *fileMode) Decode(s string) error {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o777 {
		return errors.New("want permissions in octal, as 0660")
	}
	*m = fileMode(n)
	return nil
}

type byteSize int64

// Decode implements envconfig.Decoder.
func (b *byteSize) Decode(s string) error {
	n, err := policy.ParseSize(s)
	*b = byteSize(n)
	return err
}

type count int

// Decode implements envconfig.Decoder.
func (n *count) Decode(s string) error {
	if s == "" {
		return nil
	}
	v, err := strconv.Atoi(s)
	if err != nil {
		return errors.New("want a positive number")
	}
	*n = count(v)
	return nil
}

type launcher string

const direct, stock launcher = "direct", "stock"

// Decode implements envconfig.Decoder.
func (l *launcher) Decode(s string) error {
	if *l = launcher(s); *l != direct && *l != stock {
		return errors.New(`want "direct" or "stock"`)
	}
	return nil
}

type platform string

// Decode implements envconfig.Decoder.
func (p *platform) Decode(s string) error {
	if s != "systrap" && s != "kvm" {
		return errors.New(`want "systrap" or "kvm"`)
	}
	*p = platform(s)
	return nil
}

type logFormat string

// toJournal is the word for the systemd journal, of the log and of the audit.
const toJournal = "journal"

// Decode implements envconfig.Decoder.
func (f *logFormat) Decode(s string) error {
	if !slices.Contains([]string{"auto", "text", "json", toJournal}, s) {
		return errors.New(`want "auto", "text", "json" or "journal"`)
	}
	*f = logFormat(s)
	return nil
}

// An address is a Unix socket's path or a loopback address; its zero value is
// nowhere.
type address struct {
	path string
	ip   netip.AddrPort
}

// Decode implements envconfig.Decoder.
func (a *address) Decode(s string) error {
	if s == "" {
		return nil
	}
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if !filepath.IsAbs(path) {
			return errors.New("want an absolute path, as unix:/run/csbd/metrics.sock")
		}
		a.path = path
		return nil
	}
	ip, err := netip.ParseAddrPort(s)
	if err != nil {
		return errors.New("want unix:/PATH, or an address and a port, as 127.0.0.1:9464 or [::1]:9464")
	}
	if !ip.Addr().IsLoopback() {
		return errors.New("not a loopback address: who needs it from elsewhere puts something in front that knows whom to let in")
	}
	a.ip = ip
	return nil
}

// readConfig reads the environment. Unknown CSBD_ variables are errors.
func readConfig() (config, error) {
	var c config
	if err := envconfig.CheckDisallowed(prefix, &c); err != nil {
		return c, fmt.Errorf("environment: %w (csbd --help lists the known ones)", err)
	}
	if err := envconfig.Process(prefix, &c); err != nil {
		var bad *envconfig.ParseError
		if errors.As(err, &bad) {
			return c, fmt.Errorf("environment: %s=%q: %w", bad.KeyName, bad.Value, bad.Err)
		}
		return c, fmt.Errorf("environment: %w", err)
	}
	if uid := os.Geteuid(); uid != 0 {
		if err := c.ofUser(uid, os.LookupEnv); err != nil {
			return c, fmt.Errorf("environment: %w", err)
		}
	}
	for _, v := range []struct{ name, value string }{{"SOCKET", c.Socket}, {"POLICY", c.Policy}, {"STATE_DIR", c.StateDir}} {
		if v.value == "" {
			return c, fmt.Errorf("environment: CSBD_%s is empty", v.name)
		}
	}
	if c.Cgroup != "" && (!filepath.IsAbs(c.Cgroup) || filepath.Clean(c.Cgroup) != c.Cgroup) {
		return c, fmt.Errorf("environment: CSBD_CGROUP=%q: want an absolute, clean path below the hierarchy's root", c.Cgroup)
	}
	if c.ImageDir == "" {
		c.ImageDir = filepath.Join(c.StateDir, "images")
	}
	if c.Executions == 0 {
		c.Executions = count(4 * runtime.NumCPU())
	}
	if c.Executions < 0 {
		return c, fmt.Errorf("environment: CSBD_EXECUTIONS=%d: want a positive number", c.Executions)
	}
	for name, n := range map[string]count{"CONNECTIONS": c.Connections, "CONNECTIONS_PER_USER": c.ConnectionsPerUser} {
		if n <= 0 {
			return c, fmt.Errorf("environment: CSBD_%s=%d: want a positive number", name, n)
		}
	}
	for name, d := range map[string]time.Duration{
		"STOP_TIMEOUT": c.StopTimeout, "SANDBOX_AGE": c.SandboxAge, "SNAPSHOT_AGE": c.SnapshotAge, "PROOF_EVERY": c.ProofEvery} {
		if d < 0 {
			return c, fmt.Errorf("environment: CSBD_%s=%v: want a positive duration", name, d)
		}
	}
	if c.Audit != "" && c.Audit != toJournal && !filepath.IsAbs(c.Audit) {
		return c, fmt.Errorf("environment: CSBD_AUDIT=%q: want an absolute path, or journal", c.Audit)
	}
	if c.Pprof != "" && !filepath.IsAbs(c.Pprof) {
		return c, fmt.Errorf("environment: CSBD_PPROF=%q: want an absolute path", c.Pprof)
	}
	if c.MetricsGroup != "" && c.Metrics.path == "" {
		return c, fmt.Errorf("environment: CSBD_METRICS_GROUP=%q: there is no socket that could have a group: CSBD_METRICS is not unix:/PATH", c.MetricsGroup)
	}
	if c.AuditSize < 4096 || c.AuditKeep < 1 {
		return c, errors.New("environment: CSBD_AUDIT_SIZE has to be at least 4KiB and CSBD_AUDIT_KEEP at least 1")
	}
	if c.Launches == 0 {
		c.Launches = count(runtime.NumCPU())
	}
	if c.Launches < 0 {
		return c, fmt.Errorf("environment: CSBD_LAUNCHES=%d: want a positive number", c.Launches)
	}
	return c, nil
}

// images are those of this host.
func (c config) images() images.Store { return images.Store{Dir: c.ImageDir, Shipped: c.ShippedImages} }

// binary is the program that sandboxes are started with.
func (c config) binary() string {
	name, path := "csbd-sentry", c.Sentry
	if c.Launcher == stock {
		name, path = "runsc", c.Runsc
	}
	if path != "" {
		return path
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if _, err := os.Stat(beside); err == nil {
			return beside
		}
	}
	return filepath.Join("/usr/lib/csbd", name)
}

const usage = `csbd runs Python programs for local callers, each in a gVisor sandbox of its own.

  csbd [serve]            serve until SIGTERM; SIGHUP reads the policy again
  csbd check FILE         say whether a policy file is right
  csbd reload PID         have a running csbd read its policy again; what changed
  csbd doctor [--json]    say whether isolation works here, and how to mend it
  csbd image build DIR    build the image that DIR/pyproject.toml describes
  csbd image list         list the images
  csbd image remove NAME  remove an image
  csbd version            print versions: csbd, commit, runsc, protocol, Go, csbd-sentry

It is configured by its environment. Run by an ordinary user it has other
defaults: $XDG_RUNTIME_DIR/csbd/csbd.sock (mode 0600), ~/.local/state/csbd, and
~/.config/csbd/policy.yaml if that exists; see docs/operations.md.

`

func help(w io.Writer) error {
	if _, err := io.WriteString(w, usage); err != nil {
		return err
	}
	tabs := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	const row = "{{range .}}  {{usage_key .}}\t{{usage_description .}}{{if usage_default .}} (default {{usage_default .}}){{end}}\n{{end}}"
	if err := envconfig.Usagef(prefix, &config{}, tabs, row); err != nil {
		return err
	}
	return tabs.Flush()
}
