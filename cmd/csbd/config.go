package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/kelseyhightower/envconfig"

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
	Audit              string        `desc:"absolute path of a file that gets a line for each execution and refusal; none when empty"`
	AuditSize          byteSize      `split_words:"true" default:"100MiB" desc:"size at which that file becomes FILE.1"`
	AuditKeep          count         `split_words:"true" default:"5" desc:"how many older files are kept"`
	StopTimeout        time.Duration `split_words:"true" default:"20s" desc:"how long running executions may go on after SIGTERM"`
	LogLevel           slog.Level    `split_words:"true" default:"info" desc:"debug, info, warn or error"`
	LogFormat          logFormat     `split_words:"true" default:"text" desc:"text or json"`

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

// Decode implements envconfig.Decoder.
func (f *logFormat) Decode(s string) error {
	if s != "text" && s != "json" {
		return errors.New(`want "text" or "json"`)
	}
	*f = logFormat(s)
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
	if c.Audit != "" && !filepath.IsAbs(c.Audit) {
		return c, fmt.Errorf("environment: CSBD_AUDIT=%q: want an absolute path", c.Audit)
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

func (c config) logger(w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

const usage = `csbd runs Python programs for local callers, each in a gVisor sandbox of its own.

  csbd [serve]            serve until SIGTERM; SIGHUP reads the policy again
  csbd check FILE         say whether a policy file is right
  csbd doctor [--json]    say whether isolation works here, and how to mend it
  csbd image build DIR    build the image that DIR/pyproject.toml describes
  csbd image list         list the images
  csbd image remove NAME  remove an image
  csbd version            print versions

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
