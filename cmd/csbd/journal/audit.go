package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// auditID marks the lines of the audit among those of the log: MESSAGE_ID, made
// once and for all.
const auditID = "4b8e2f0c6d1a4f7e9c35a1d07e6b9f42"

// An Audit writes lines of the audit, each a JSON object, to the journal: whole
// as CSBD_AUDIT, and each member as CSBD_NAME, those of an object within it as
// CSBD_NAME_MEMBER.
type Audit struct{ *Conn }

// Write sends one line.
func (a Audit) Write(line []byte) (int, error) {
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber() // as it stands there
	var members map[string]any
	if err := d.Decode(&members); err != nil {
		return 0, fmt.Errorf("audit line: %w", err)
	}
	own := flatten(nil, nil, members)
	slices.SortFunc(own, func(a, b field) int { return strings.Compare(a.name, b.name) })
	fields := append([]field{
		{"PRIORITY", priorityInfo},
		{"SYSLOG_IDENTIFIER", "csbd"},
		{"MESSAGE", sentence(members)},
		{"MESSAGE_ID", auditID},
		{fieldName("audit"), strings.TrimSuffix(string(line), "\n")},
	}, own...)
	if err := a.send(fields); err != nil {
		return 0, err
	}
	return len(line), nil
}

func flatten(fields []field, outer []string, members map[string]any) []field {
	for name, value := range members {
		path := append(slices.Clip(outer), name)
		switch v := value.(type) {
		case map[string]any:
			fields = flatten(fields, path, v)
		case []any:
			text, err := json.Marshal(v)
			if err == nil {
				fields = append(fields, field{fieldName(path...), string(text)})
			}
		case nil:
		default:
			fields = append(fields, field{fieldName(path...), fmt.Sprint(v)})
		}
	}
	return fields
}

// sentence is an audit line in a few words.
func sentence(m map[string]any) string {
	text := func(name string) string {
		if m[name] == nil {
			return "?"
		}
		return fmt.Sprint(m[name])
	}
	if m["event"] == "execution" {
		return fmt.Sprintf("execution %s of uid %s ended: %s", text("id"), text("uid"), text("status"))
	}
	return fmt.Sprintf("%s to uid %s: %s", text("event"), text("uid"), text("kind"))
}
