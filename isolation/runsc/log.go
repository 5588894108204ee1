package runsc

import (
	"time"

	gvisorlog "gvisor.dev/gvisor/pkg/log"
)

// gVisor's packages have one log for the whole process. All that they would
// say here also comes back as an error.
func init() { gvisorlog.SetTarget(silence{}) }

type silence struct{}

// Emit implements gVisor's log.Emitter.
func (silence) Emit(int, gvisorlog.Level, time.Time, string, ...any) {}
