// What a fault does to an HTTP connection, and the middleware that applies
// rules and keeps the log for servers whose calls are plain HTTP requests.
package calls

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Reset closes the connection of a request without an answer, with a TCP reset
// where that is possible. The servers speak HTTP/1.1 only (see Server), so the
// connection can always be taken over; nothing may be written to w afterwards.
func Reset(w http.ResponseWriter) {
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		panic(http.ErrAbortHandler)
	}
	conn, _, err := hijacker.Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	raw := conn
	if secure, ok := conn.(*tls.Conn); ok {
		raw = secure.NetConn()
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	// The bare connection: closing the TLS one would say goodbye properly.
	raw.Close()
}

// Recorder is a ResponseWriter that keeps the answer.
type Recorder struct {
	Status  int
	Body    bytes.Buffer
	header  http.Header
	started bool
}

// NewRecorder makes an empty recorder.
func NewRecorder() *Recorder {
	return &Recorder{Status: http.StatusOK, header: http.Header{}}
}

// Header is the header of the answer.
func (r *Recorder) Header() http.Header { return r.header }

// WriteHeader keeps the first final status.
func (r *Recorder) WriteHeader(status int) {
	if !r.started && status >= 200 {
		r.Status, r.started = status, true
	}
}

// Write keeps the body.
func (r *Recorder) Write(p []byte) (int, error) {
	r.started = true
	return r.Body.Write(p)
}

// Flush does nothing: everything is kept.
func (r *Recorder) Flush() {}

// CopyTo sends the kept answer on.
func (r *Recorder) CopyTo(w http.ResponseWriter) {
	for name, values := range r.header {
		w.Header()[name] = values
	}
	w.WriteHeader(r.Status)
	w.Write(r.Body.Bytes())
}

// Middleware applies the rules to plain HTTP calls and logs every call once.
type Middleware struct {
	Log    *Log
	Faults *Faults
	// Name gives the service, method and object of a request; an empty service
	// leaves the request out of log and rules.
	Name func(r *http.Request) (service, method, object string)
	// Details gives what the log tells beside that; nil: nothing.
	Details func(r *http.Request) map[string]string
	// Expire ends the caller's session or token; the call then goes on to Next,
	// which refuses it.
	Expire func(r *http.Request)
	// Answer writes the error that rule asks for (kinds fault and http) in the
	// form that the service's clients know; nil writes AnswerPlain.
	Answer func(w http.ResponseWriter, r *http.Request, rule Rule)
	Next   http.Handler
}

func (m *Middleware) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	service, method, object := m.Name(r)
	if service == "" {
		m.Next.ServeHTTP(w, r)
		return
	}
	call := Call{Service: service, Method: method, Object: object}
	if m.Details != nil {
		call.Details = m.Details(r)
	}
	watched := &statusWriter{ResponseWriter: w}
	logged := false
	watched.note = func() {
		if !logged {
			logged = true
			call.Status = watched.status
			m.Log.Add(call)
		}
	}
	// Logged also when the handler ends by a panic: a cut connection.
	defer watched.note()
	rule, struck := m.Faults.Match(service, method, object)
	if !struck {
		m.serve(watched, r)
		return
	}
	call.Fault = rule.Kind
	switch rule.Kind {
	case KindReset:
		watched.note()
		Reset(w)
	case KindLostReply:
		m.Next.ServeHTTP(NewRecorder(), r)
		if rule.Status == 0 {
			watched.note()
			Reset(w)
			return
		}
		m.answer(watched, r, rule)
	case KindFault, KindHTTP:
		if rule.Kind == KindFault {
			call.Fault = rule.Fault
		}
		if rule.DelayMS > 0 && !wait(r, rule.Delay()) {
			return
		}
		m.answer(watched, r, rule)
	case KindDelay:
		if !wait(r, rule.Delay()) {
			return
		}
		m.serve(watched, r)
	case KindExpire:
		if m.Expire != nil {
			m.Expire(r)
		}
		m.serve(watched, r)
	}
}

func (m *Middleware) answer(w http.ResponseWriter, r *http.Request, rule Rule) {
	if m.Answer != nil {
		m.Answer(w, r, rule)
	} else {
		AnswerPlain(w, r, rule)
	}
}

func (m *Middleware) serve(w *statusWriter, r *http.Request) {
	m.Next.ServeHTTP(w, r)
	if w.status == 0 && !w.hijacked {
		w.status = http.StatusOK // what net/http sends for a handler that wrote nothing
	}
}

// wait sleeps for a scripted delay; false when the caller has gone meanwhile.
func wait(r *http.Request, delay time.Duration) bool {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// AnswerPlain answers a scripted error as {"error":{"code","message"}} with
// Retry-After when the rule has one.
func AnswerPlain(w http.ResponseWriter, _ *http.Request, rule Rule) {
	status := rule.Status
	if status == 0 {
		status = http.StatusInternalServerError
	}
	message := rule.Message
	if message == "" {
		message = http.StatusText(status) + " (scripted)"
	}
	if rule.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(rule.RetryAfter))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]interface{}{
		"error": map[string]interface{}{"code": status, "message": message},
	})
}

// statusWriter remembers the status on the way out.
type statusWriter struct {
	http.ResponseWriter
	status   int
	hijacked bool
	note     func()
}

// Note puts the call into the log now, with the status that was written: before
// its caller can have the whole of a large answer, act on it, and look into the
// log. A small answer is not sent before the call was logged.
func Note(w http.ResponseWriter) {
	if watched, ok := w.(*statusWriter); ok {
		watched.note()
	}
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

func (w *statusWriter) Flush() {
	if flusher, ok := w.ResponseWriter.(http.Flusher); ok {
		flusher.Flush()
	}
}

func (w *statusWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	hijacker, ok := w.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, errors.New("this connection cannot be taken over")
	}
	w.hijacked = true
	return hijacker.Hijack()
}

// Server makes an HTTP server that speaks HTTP/1.1 only, so that Reset can take
// a connection over.
func Server(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 30 * time.Second,
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
}
