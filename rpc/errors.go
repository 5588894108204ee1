package rpc

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sourcegraph/jsonrpc2"
)

// Error codes. Those of JSON-RPC 2.0 have its meaning; the others are csbd's.
const (
	CodeParseError     = jsonrpc2.CodeParseError     // -32700: not JSON
	CodeInvalidRequest = jsonrpc2.CodeInvalidRequest // -32600: not a request, or too large
	CodeMethodNotFound = jsonrpc2.CodeMethodNotFound // -32601
	CodeInvalidParams  = jsonrpc2.CodeInvalidParams  // -32602: Data.Field says which
	CodeInternal       = jsonrpc2.CodeInternalError  // -32603: csbd failed; the log has more under Data.ID
	CodeDenied         = -32001                      // the policy refuses; Data.Rule and Data.Field say why
	CodeBusy           = -32002                      // try again after Data.RetryAfter seconds
	CodeUnknownImage   = -32003                      // the policy allows the image, but it is not there
	CodeShuttingDown   = -32004                      // csbd is about to stop, nothing ran: try again on a new connection
	CodeCancelled      = -32005                      // cancelled before the program ran
)

// kinds are the words for the codes, in ErrorData.Kind.
var kinds = map[int64]string{
	CodeParseError:     "parse_error",
	CodeInvalidRequest: "invalid_request",
	CodeMethodNotFound: "method_not_found",
	CodeInvalidParams:  "invalid_params",
	CodeInternal:       "internal",
	CodeDenied:         "denied",
	CodeBusy:           "busy",
	CodeUnknownImage:   "unknown_image",
	CodeShuttingDown:   "shutting_down",
	CodeCancelled:      "cancelled",
}

// Kinds are all that ErrorData.Kind can be, sorted.
func Kinds() []string { return slices.Sorted(maps.Values(kinds)) }

// An Error is why a request was not carried out. It is the same on both sides
// of the wire.
type Error struct {
	Code    int64
	Message string
	Data    ErrorData
}

// ErrorData is an error's "data" member.
type ErrorData struct {
	// Kind is the code as a word.
	Kind string `json:"kind"`
	// Field of the request, as "limits.memory".
	Field string `json:"field,omitempty"`
	// Rule of the policy that decided.
	Rule string `json:"rule,omitempty"`
	// RetryAfter in seconds, for "busy" and "shutting_down".
	RetryAfter float64 `json:"retry_after,omitempty"`
	// ID under which csbd's log tells more, for "internal".
	ID string `json:"id,omitempty"`
}

func (e *Error) Error() string { return e.Message }

// Errorf makes an Error of the given code.
func Errorf(code int64, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Data: ErrorData{Kind: kinds[code]}}
}

// InvalidParams is an Error that names the parameter.
func InvalidParams(field, format string, args ...any) *Error {
	e := Errorf(CodeInvalidParams, format, args...)
	e.Data.Field = field
	return e
}

// Busy is an Error with a hint when to try again.
func Busy(retryAfter time.Duration, format string, args ...any) *Error {
	e := Errorf(CodeBusy, format, args...)
	e.Data.RetryAfter = retryAfter.Seconds()
	return e
}

// ShuttingDown is the Error of a csbd that is about to stop and has not begun
// with the request. Where systemd keeps the socket, a new connection waits for
// the next csbd by itself.
func ShuttingDown() *Error {
	e := Errorf(CodeShuttingDown, "csbd is about to stop")
	e.Data.RetryAfter = 0.1
	return e
}

// Wire is the error as JSON-RPC writes it.
func (e *Error) Wire() *jsonrpc2.Error {
	w := &jsonrpc2.Error{Code: e.Code, Message: e.Message}
	w.SetError(e.Data)
	return w
}

// fromWire turns a JSON-RPC error into an Error.
func fromWire(w *jsonrpc2.Error) *Error {
	e := &Error{Code: w.Code, Message: w.Message}
	if w.Data != nil {
		_ = json.Unmarshal(*w.Data, &e.Data)
	}
	if e.Data.Kind == "" {
		e.Data.Kind = kinds[e.Code]
	}
	return e
}
