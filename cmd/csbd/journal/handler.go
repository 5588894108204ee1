package journal

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Handler is an slog.Handler whose lines go to the journal. MESSAGE is the
// message with the attributes, for who reads; CSBD_MSG is the message alone and
// CSBD_NAME the attribute name, for who filters. A line that the journal does
// not take is written to stderr as text.
type Handler struct {
	conn  *Conn
	level slog.Leveler
	// stderr gets what the journal does not take; short writes the attributes
	// into text.
	stderr, short slog.Handler
	text          *buffer

	fields []field  // of With
	groups []string // that are open
}

// A buffer is where one line is written at a time.
type buffer struct {
	mu sync.Mutex
	bytes.Buffer
}

// NewHandler returns a Handler for lines of the level and above.
func NewHandler(conn *Conn, stderr io.Writer, level slog.Leveler) *Handler {
	text := &buffer{}
	attributes := &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && slices.Contains([]string{slog.TimeKey, slog.LevelKey, slog.MessageKey}, a.Key) {
			return slog.Attr{}
		}
		return a
	}}
	return &Handler{
		conn: conn, level: level, text: text,
		stderr: slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}),
		short:  slog.NewTextHandler(&text.Buffer, attributes),
	}
}

// Enabled implements slog.Handler.
func (h *Handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

// Handle implements slog.Handler.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	fields := []field{
		{"PRIORITY", priority(r.Level)},
		{"SYSLOG_IDENTIFIER", "csbd"},
		{"MESSAGE", h.message(ctx, r)},
		{fieldName("msg"), r.Message},
	}
	fields = append(fields, h.fields...)
	r.Attrs(func(a slog.Attr) bool {
		fields = appendAttr(fields, h.groups, a)
		return true
	})
	if h.conn.send(fields) == nil {
		return nil
	}
	return h.stderr.Handle(ctx, r)
}

// message is the line for people, without what the journal knows.
func (h *Handler) message(ctx context.Context, r slog.Record) string {
	h.text.mu.Lock()
	defer h.text.mu.Unlock()
	h.text.Reset()
	_ = h.short.Handle(ctx, r) // to memory: it cannot fail
	return strings.TrimSpace(r.Message + " " + h.text.String())
}

// WithAttrs implements slog.Handler.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.stderr, next.short = h.stderr.WithAttrs(attrs), h.short.WithAttrs(attrs)
	next.fields = slices.Clip(h.fields)
	for _, a := range attrs {
		next.fields = appendAttr(next.fields, h.groups, a)
	}
	return &next
}

// WithGroup implements slog.Handler.
func (h *Handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	next := *h
	next.stderr, next.short = h.stderr.WithGroup(name), h.short.WithGroup(name)
	next.groups = append(slices.Clip(h.groups), name)
	return &next
}

// appendAttr adds the fields of an attribute: those of a group have its name in
// theirs.
func appendAttr(fields []field, groups []string, a slog.Attr) []field {
	v := a.Value.Resolve()
	if a.Key != "" {
		groups = append(slices.Clip(groups), a.Key)
	}
	switch v.Kind() {
	case slog.KindGroup:
		for _, member := range v.Group() {
			fields = appendAttr(fields, groups, member)
		}
		return fields
	case slog.KindTime:
		return append(fields, field{fieldName(groups...), v.Time().Format(time.RFC3339Nano)})
	case slog.KindAny:
		if v.Any() == nil && a.Key == "" {
			return fields // an empty attribute is none
		}
		return append(fields, field{fieldName(groups...), fmt.Sprint(v.Any())})
	}
	return append(fields, field{fieldName(groups...), v.String()})
}

func priority(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return priorityError
	case l >= slog.LevelWarn:
		return priorityWarning
	case l >= slog.LevelInfo:
		return priorityInfo
	}
	return priorityDebug
}
