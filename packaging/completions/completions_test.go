// Package completions_test presses the tab key in bash, zsh and fish.
package completions_test

import (
	"context"
	_ "embed"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"gotest.tools/v3/assert"

	"github.com/fcarli/codesandbox/images/imagetest"
	"github.com/fcarli/codesandbox/rpc/server/servertest"
)

//go:embed testdata/capture.bash
var captureBash string

//go:embed testdata/capture.zsh
var captureZsh string

// A shell says what it offers for the last of some words.
type shell func(t *testing.T, env []string, dir string, words ...string) []string

var shells = map[string]shell{"bash": bash, "zsh": zsh, "fish": fish}

// run runs a shell and returns its lines, sorted.
func run(t *testing.T, env []string, dir string, command ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir, cmd.Env = dir, append([]string{"HOME=" + t.TempDir(), "TERM=xterm", "LC_ALL=C.UTF-8"}, env...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	assert.NilError(t, err, "%s: %s", command[0], &errs)
	assert.Check(t, errs.String() == "", "%s says %s", command[0], &errs)
	var offers []string
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "" {
			offers = append(offers, line)
		}
	}
	slices.Sort(offers)
	return slices.Compact(offers)
}

func here(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(name)
	assert.NilError(t, err)
	return path
}

// bash takes words apart at "=", as it does on the command line.
func bash(t *testing.T, env []string, dir string, words ...string) []string {
	t.Helper()
	args := []string{"bash", "--norc", "-c", captureBash, "bash", here(t, words[0]+".bash")}
	for _, word := range words {
		if name, value, ok := strings.Cut(word, "="); ok {
			args = append(args, name, "=", value)
			continue
		}
		args = append(args, word)
	}
	return run(t, env, dir, args...)
}

func zsh(t *testing.T, env []string, dir string, words ...string) []string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "offers")
	offers := run(t, env, dir, "zsh", "-f", "-c", captureZsh, "zsh", here(t, "."), out, strings.Join(words, " "))
	for i, offer := range offers {
		offers[i] = strings.ReplaceAll(offer, `\ `, " ")
	}
	return offers
}

func fish(t *testing.T, env []string, dir string, words ...string) []string {
	t.Helper()
	offers := run(t, env, dir, "fish", "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", here(t, words[0]+".fish"), strings.Join(words, " "))
	for i, offer := range offers {
		offer, _, _ = strings.Cut(offer, "\t")
		// It offers whole words, and directories with a slash.
		if _, value, ok := strings.Cut(offer, "="); ok {
			offer = value
		}
		offers[i] = strings.TrimSuffix(offer, "/")
	}
	return offers
}

// environment has csbctl and csbd in its PATH.
func environment(t *testing.T, socket string, more ...string) []string {
	t.Helper()
	dir := filepath.Dir(servertest.Binary(t, "csbctl"))
	servertest.Binary(t, "csbd")
	return append([]string{"PATH=" + dir + ":" + os.Getenv("PATH"), "CSBD_SOCKET=" + socket}, more...)
}

// inEach runs a test in each shell.
func inEach(t *testing.T, test func(t *testing.T, complete shell)) {
	for name, complete := range shells {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, complete)
		})
	}
}

// somewhere is a directory with files.
func somewhere(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"script.py", "a file", "top.py"} {
		assert.NilError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	assert.NilError(t, os.Mkdir(filepath.Join(dir, "images.d"), 0o700))
	return dir
}

func TestCsbctl(t *testing.T) {
	t.Parallel()
	dir := somewhere(t)
	env := environment(t, "/nonexistent")
	all := []string{"a file", "images.d", "script.py", "top.py"}
	type row struct {
		words []string
		want  []string
	}
	inEach(t, func(t *testing.T, complete shell) {
		for _, test := range []row{
			{[]string{"csbctl", "st"}, []string{"status"}},
			{[]string{"csbctl", "p"}, []string{"policy"}},
			// A command, and the file that begins likewise.
			{[]string{"csbctl", "to"}, []string{"top", "top.py"}},
			{[]string{"csbctl", "sc"}, []string{"script.py"}},
			{[]string{"csbctl", "--timeout", "2s", "st"}, []string{"status"}},
			{[]string{"csbctl", "--timeout=2s", "st"}, []string{"status"}},
			{[]string{"csbctl", "--raw", "st"}, []string{"status"}},
			{[]string{"csbctl", "--tim"}, []string{"--timeout"}},
			{[]string{"csbctl", "--timeout", "s"}, nil},
			{[]string{"csbctl", "--file", "sc"}, []string{"script.py"}},
			{[]string{"csbctl", "--socket", ""}, all},
			{[]string{"csbctl", "status", "sc"}, nil},
			{[]string{"csbctl", "top", "--c"}, []string{"--count"}},
			{[]string{"csbctl", "policy", ""}, []string{"check", "show"}},
			{[]string{"csbctl", "policy", "check", ""}, all},
			{[]string{"csbctl", "policy", "show", "sc"}, nil},
			// With code, what follows is the program's.
			{[]string{"csbctl", "-c", "1", "ver"}, nil},
			{[]string{"csbctl", "-c", "1", "sc"}, []string{"script.py"}},
			{[]string{"csbctl", "-c", "1", "--ra"}, []string{"--raw"}},
			{[]string{"csbctl", "script.py", "ver"}, nil},
			{[]string{"csbctl", "script.py", "--ra"}, nil},
			{[]string{"csbctl", "script.py", ""}, all},
			// Nobody is there to ask.
			{[]string{"csbctl", "--image", ""}, nil},
		} {
			got := complete(t, env, dir, test.words...)
			assert.Check(t, slices.Equal(got, test.want), "%q: got %q, want %q", test.words, got, test.want)
		}
	})
}

func TestCsbd(t *testing.T) {
	t.Parallel()
	dir := somewhere(t)
	store := imagetest.Store().Dir
	imagetest.Python(t)
	env := environment(t, "/nonexistent", "CSBD_IMAGE_DIR="+store)
	inEach(t, func(t *testing.T, complete shell) {
		for _, test := range []struct{ words, want []string }{
			{[]string{"csbd", ""}, commands(t, env)},
			{[]string{"csbd", "do"}, []string{"doctor"}},
			{[]string{"csbd", "doctor", "-"}, []string{"--json"}},
			{[]string{"csbd", "check", "sc"}, []string{"script.py"}},
			{[]string{"csbd", "image", ""}, []string{"build", "list", "remove"}},
			{[]string{"csbd", "image", "build", ""}, []string{"images.d"}},
			{[]string{"csbd", "image", "remove", "py"}, []string{"python"}},
			{[]string{"csbd", "version", ""}, nil},
		} {
			got := complete(t, env, dir, test.words...)
			assert.Check(t, slices.Equal(got, test.want), "%q: got %q, want %q", test.words, got, test.want)
		}
	})
}

// commands are those that `csbd --help` lists.
func commands(t *testing.T, env []string) []string {
	t.Helper()
	found := []string{"help"}
	for _, m := range regexp.MustCompile(`(?m)^  csbd \[?([a-z]+)`).FindAllStringSubmatch(output(t, env, "csbd", "--help"), -1) {
		found = append(found, m[1])
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func output(t *testing.T, env []string, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(servertest.Binary(t, program), args...)
	cmd.Env = env
	out, err := cmd.Output()
	assert.NilError(t, err)
	return string(out)
}

// TestFlags compares what the shells offer with what csbctl knows.
func TestFlags(t *testing.T) {
	t.Parallel()
	env := environment(t, "/nonexistent")
	dir := t.TempDir()
	flag := regexp.MustCompile(`(?m)^  -([a-z-]+)`)
	inEach(t, func(t *testing.T, complete shell) {
		for _, verb := range []string{"", "status", "top", "images", "policy", "doctor", "version"} {
			words := strings.Fields("csbctl " + verb)
			want := []string{"--help"}
			for _, m := range flag.FindAllStringSubmatch(output(t, env, "csbctl", append(words[1:], "--help")...), -1) {
				if len(m[1]) == 1 {
					want = append(want, "-"+m[1])
				} else {
					want = append(want, "--"+m[1])
				}
			}
			slices.Sort(want)
			assert.Check(t, len(want) >= 3, "%q", want)
			got := complete(t, env, dir, append(words, "-")...)
			assert.Check(t, slices.Equal(got, want), "%q: got %q, want %q", words, got, want)
		}
		// And its commands are those of its help.
		var want []string
		for _, m := range regexp.MustCompile(`(?m)^  csbctl ([a-z]+) `).FindAllStringSubmatch(output(t, env, "csbctl", "--help"), -1) {
			want = append(want, m[1])
		}
		slices.Sort(want)
		want = slices.Compact(want)
		assert.Check(t, len(want) > 3, "%q", want)
		got := complete(t, env, dir, "csbctl", "")
		assert.Check(t, slices.Equal(got, want), "got %q, want %q", got, want)
	})
}

// TestImages asks a real csbd for the names of images.
func TestImages(t *testing.T) {
	t.Parallel()
	d := servertest.Start(t, servertest.Options{})
	env, dir := environment(t, d.Socket), t.TempDir()
	elsewhere := environment(t, "/nonexistent")
	inEach(t, func(t *testing.T, complete shell) {
		for _, words := range [][]string{{"csbctl", "--image", ""}, {"csbctl", "--image=py"}, {"csbctl", "--raw", "--image", "py"}} {
			got := complete(t, env, dir, words...)
			assert.Check(t, slices.Equal(got, []string{"python"}), "%q: %q", words, got)
		}
		// Of the csbd that the line names.
		for _, words := range [][]string{{"csbctl", "--socket", d.Socket, "--image", ""}, {"csbctl", "--socket=" + d.Socket, "--image", "p"}} {
			got := complete(t, elsewhere, dir, words...)
			assert.Check(t, slices.Equal(got, []string{"python"}), "%q: %q", words, got)
		}
	})
}

// TestKeys types at a bash on a terminal: what is offered also has to come out
// right, as a name that needs quotes.
func TestKeys(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("bash", "--norc", "--noprofile", "-i")
	cmd.Dir = somewhere(t)
	cmd.Env = environment(t, "/nonexistent", "HOME="+t.TempDir(), "TERM=dumb", "PS1=", "HISTFILE=")
	terminal, err := pty.Start(cmd)
	assert.NilError(t, err)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		terminal.Close()
	})
	var mu sync.Mutex
	var seen strings.Builder
	go func() {
		for buf := make([]byte, 4096); ; {
			n, err := terminal.Read(buf)
			mu.Lock()
			seen.Write(buf[:n])
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	soFar := func() string {
		mu.Lock()
		defer mu.Unlock()
		return seen.String()
	}
	enter := func(keys, want string) {
		t.Helper()
		_, err := terminal.WriteString(keys + "\n")
		assert.NilError(t, err)
		for deadline := time.Now().Add(30 * time.Second); !strings.Contains(soFar(), want); time.Sleep(10 * time.Millisecond) {
			assert.Assert(t, time.Now().Before(deadline), "%q: no %q in %q", keys, want, soFar())
		}
	}
	enter("source "+here(t, "csbctl.bash")+"; echo sour''ced", "sourced")
	// Ctrl-A goes back to the beginning, to print the line instead of executing it.
	enter("csbctl stat\t\x01printf '<%s>' ", "<csbctl><status>")
	enter("csbctl a\t\x01printf '<%s>' ", "<csbctl><a file>")
	enter("csbctl policy check imag\t\x01printf '<%s>' ", "<csbctl><policy><check><images.d/>")
	enter("csbctl --file=scr\t\x01printf '<%s>' ", "<csbctl><--file=script.py>")
}

// A csbd that does not answer holds nobody up.
func TestSilence(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(servertest.Dir(t), "csbd.sock")
	l, err := net.Listen("unix", socket)
	assert.NilError(t, err)
	t.Cleanup(func() { l.Close() })
	env, dir := environment(t, socket), t.TempDir()
	inEach(t, func(t *testing.T, complete shell) {
		before := time.Now()
		got := complete(t, env, dir, "csbctl", "--image", "p")
		assert.Check(t, len(got) == 0, "%q", got)
		assert.Check(t, time.Since(before) < 30*time.Second, "%v", time.Since(before))
	})
}
