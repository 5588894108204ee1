package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/fcarli/codesandbox/rpc"
)

// A screen shows `csbctl top` on a terminal, on its alternate screen, so that
// what was there comes back.
type screen struct {
	ctx     context.Context // ends with Ctrl-C
	out     *os.File
	in      *os.File
	cooked  *unix.Termios // of in; nil if it is not our terminal
	signals chan os.Signal
	quit    chan struct{} // closed by the key q
	page    string
	last    *view // what page shows, nil before the first
}

// What an ECMA-48 terminal understands (console_codes(4), xterm's
// ctlseqs): any that is in use, so terminfo is not asked.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // the alternate screen, without cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	home        = "\x1b[H"
	clearLine   = "\x1b[K" // from the cursor on
	clearBelow  = "\x1b[J"
)

func openScreen(ctx context.Context, in, out *os.File) *screen {
	s := &screen{ctx: ctx, in: in, out: out, signals: make(chan os.Signal, 1), quit: make(chan struct{})}
	if isTerminal(in) {
		s.cooked, _ = unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS)
		go s.readKeys()
	}
	signal.Notify(s.signals, syscall.SIGWINCH, syscall.SIGTSTP)
	s.enter()
	return s
}

// readKeys waits for a q. It goes on until csbctl ends.
func (s *screen) readKeys() {
	for key := make([]byte, 1); ; {
		if n, err := s.in.Read(key); n == 0 || err != nil {
			return
		}
		if key[0] == 'q' || key[0] == 'Q' {
			close(s.quit)
			return
		}
	}
}

// enter takes the terminal over: keys are neither echoed nor held back until
// the end of a line.
func (s *screen) enter() {
	if s.cooked != nil {
		keys := *s.cooked
		keys.Lflag &^= unix.ECHO | unix.ICANON
		_ = unix.IoctlSetTermios(int(s.in.Fd()), unix.TCSETS, &keys)
	}
	_, _ = io.WriteString(s.out, enterScreen)
}

// leave puts back what enter has changed.
func (s *screen) leave() {
	_, _ = io.WriteString(s.out, leaveScreen)
	if s.cooked != nil {
		_ = unix.IoctlSetTermios(int(s.in.Fd()), unix.TCSETS, s.cooked)
	}
}

func (s *screen) close() {
	signal.Stop(s.signals)
	s.leave()
}

func (s *screen) first(v view) error { return s.show(v) }

func (s *screen) show(v view) error {
	s.last = &v
	s.page = topPage(v)
	return s.draw()
}

// absent keeps what was there last, which is often why one looks.
func (s *screen) absent(at time.Time, why error) error {
	s.page = fmt.Sprintf("%s  csbd is not there: %s; waiting for it\n", at.Format(time.TimeOnly), reason(why))
	if s.last != nil {
		s.page += "\nwhat it said last:\n\n" + topPage(*s.last)
	}
	return s.draw()
}

// draw paints over what is there, without clearing first: nothing flickers.
func (s *screen) draw() error {
	width, height := 80, 24
	if size, err := unix.IoctlGetWinsize(int(s.out.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 && size.Row > 0 {
		width, height = int(size.Col), int(size.Row)
	}
	rows := strings.Split(strings.TrimSuffix(s.page, "\n"), "\n")
	rows = rows[:min(len(rows), height)]
	for i, row := range rows {
		rows[i] = cut(row, width)
	}
	_, err := io.WriteString(s.out, home+strings.Join(rows, clearLine+"\r\n")+clearLine+clearBelow)
	return err
}

// cut shortens a line to the width of the window. Control characters, which
// would move the cursor, become "?".
func cut(row string, width int) string {
	row = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, row)
	for i := range row {
		if width == 0 {
			return row[:i]
		}
		width--
	}
	return row
}

func (s *screen) wait(tick <-chan time.Time) (done bool) {
	for {
		select {
		case <-tick:
			return false
		case <-s.ctx.Done():
			return true
		case <-s.quit:
			return true
		case what := <-s.signals:
			if what == syscall.SIGTSTP {
				s.pause()
			}
			if err := s.draw(); err != nil {
				return true
			}
		}
	}
}

// pause is Ctrl-Z: it returns when the shell continues us.
func (s *screen) pause() {
	resumed := make(chan os.Signal, 1)
	signal.Notify(resumed, syscall.SIGCONT)
	defer signal.Stop(resumed)
	s.leave()
	defer s.enter()
	if err := unix.Kill(os.Getpid(), unix.SIGSTOP); err != nil {
		return
	}
	// The kernel may stop us a moment later only.
	select {
	case <-resumed:
	case <-s.ctx.Done():
	}
}

// topPage is what a screen shows.
func topPage(v view) string {
	s := v.status
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s\n", v.at.Format(time.TimeOnly), readiness(s))
	fmt.Fprintf(&b, "csbd %s, up %s, policy generation %d, every %v; q quits\n\n", s.Version.Version, seconds(s.Uptime, time.Second), s.PolicyGeneration, v.every)
	fmt.Fprintf(&b, "running %d, queued %d, connections %d\n\n", s.Running, s.Queued, s.Connections)

	row := func(name string, counter func(rpc.Status) int64) {
		fmt.Fprintf(&b, "%-18s%10s%12d\n", name, v.perSecond(counter), counter(s))
	}
	fmt.Fprintf(&b, "%-18s%10s%12s\n", "", "PER SECOND", "TOTAL")
	row("executions", allExecutions)
	for _, status := range byCount(s.Executions) {
		row("  "+status, executions(status))
	}
	row("refused", allRefusals)
	for _, kind := range byCount(s.Refused) {
		row("  "+kind, refusals(kind))
	}
	b.WriteByte('\n')
	tabs := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tabs, "IMAGE\tPROFILE\tREADY\tWANT\tMAX\tSTARTING\tHITS/S\tMISSES/S\tHIT RATE\tSINCE START\tMEMORY")
	for _, p := range s.Pools {
		this := func(q rpc.Pool) bool { return q.Image == p.Image && q.Profile == p.Profile }
		fmt.Fprintf(tabs, "%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", p.Image, p.Profile, p.Ready, p.Want, p.Max, p.Starting,
			v.perSecond(pools(this, hits)), v.perSecond(pools(this, misses)), v.hitRate(this),
			hitRate(float64(p.Hits), float64(p.Misses)), size(p.Memory))
	}
	tabs.Flush()
	return b.String()
}
