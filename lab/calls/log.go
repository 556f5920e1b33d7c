// Package calls holds what both servers of the lab share: a log of the calls
// that arrived, faults by script, and the control socket that shows the one and
// takes the other. It knows nothing of SOAP or of OpenStack.
package calls

import (
	"sync"
	"time"
)

// Call is one line of the log.
type Call struct {
	N       int64     `json:"n"`
	At      time.Time `json:"at"`
	Service string    `json:"service"` // vsphere folder identity volume compute network image
	Method  string    `json:"method"`  // SOAP method or HTTP method
	Object  string    `json:"path_or_object"`
	Status  int       `json:"status"`          // HTTP status; 0 when the connection was cut without an answer
	Fault   string    `json:"fault,omitempty"` // SOAP fault or what a script did: reset, lost-reply, ...

	Details map[string]string `json:"details,omitempty"` // what one service knows more of its calls
}

// Log is a list of calls, safe for several goroutines. It keeps the newest
// keepCalls entries; N goes on counting.
type Log struct {
	mu    sync.Mutex
	next  int64
	calls []Call
}

const keepCalls = 100000

// Add appends a call; N and At are filled in.
func (l *Log) Add(c Call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	c.N, c.At = l.next, time.Now().UTC()
	l.calls = append(l.calls, c)
	if len(l.calls) > keepCalls+keepCalls/10 {
		l.calls = append([]Call(nil), l.calls[len(l.calls)-keepCalls:]...)
	}
}

// All gives a copy of the log, oldest first; never nil.
func (l *Log) All() []Call {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append(make([]Call, 0, len(l.calls)), l.calls...)
}

// Clear empties the log and starts again at 1.
func (l *Log) Clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next, l.calls = 0, nil
}
