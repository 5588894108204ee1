package main

import (
	"io"
	"log/slog"
	"time"

	systemd "github.com/coreos/go-systemd/v22/journal"

	"github.com/fcarli/codesandbox/cmd/csbd/journal"
	"github.com/fcarli/codesandbox/rpc/server/audit"
)

const (
	// logPatience is how long what is being done may wait for a journal that is
	// busy, once a second at most.
	logPatience = 50 * time.Millisecond
	// auditPatience is the same for the writer of the audit, for which nobody
	// waits while its queue has room.
	auditPatience = 2 * time.Second
)

func (c config) logger(stderr io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.LogLevel}
	format := c.LogFormat
	if format == "auto" {
		format = "text"
		// An error is a JOURNAL_STREAM that makes no sense: not the journal.
		if is, err := systemd.StderrIsJournalStream(); err == nil && is {
			format = toJournal
		}
	}
	switch format {
	case toJournal:
		return slog.New(journal.NewHandler(journal.Dial(journal.Socket, logPatience), stderr, c.LogLevel))
	case "json":
		return slog.New(slog.NewJSONHandler(stderr, options))
	}
	return slog.New(slog.NewTextHandler(stderr, options))
}

// audit opens what the configuration says, nil for none. Close it.
func (c config) audit(log *slog.Logger) (*audit.Log, error) {
	switch c.Audit {
	case "":
		return nil, nil
	case toJournal:
		return audit.New(journal.Audit{Conn: journal.Dial(journal.Socket, auditPatience)}, log), nil
	}
	file, err := audit.Open(c.Audit, int64(c.AuditSize), int(c.AuditKeep))
	if err != nil {
		return nil, err
	}
	return audit.New(file, log), nil
}
