// The server in front of the simulator: every request passes the call log, the
// fault scripts and the session check here, then goes to one of our own methods
// or on to the simulator. It knows no virtual machine.
package vcenter

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"vmferry.dev/lab/calls"
	"vmferry.dev/lab/esxissh"
)

const (
	serviceSOAP   = "vsphere"
	serviceFolder = "folder"
)

// Server is a vCenter or a bare ESXi host.
type Server struct {
	config     Config
	model      *simulator.Model
	log        *calls.Log
	faults     *calls.Faults
	sessions   *sessionTable
	settings   *settings
	privileges *privileges
	changes    *changeSignal
	exports    *exports
	address    string // of the TLS port
	thumbprint string // SHA-1 of its certificate
	tasks      *taskBook
	methods    map[string]method
	rest       http.Handler    // nil: an ESXi host
	ssh        *esxissh.Server // nil: none

	host       hostSystem
	datacenter string // name in paths and in dcPath
	datastores map[string]*datastore

	snapshotNumber int64 // the last one given
	vddkDisks      vddkDisks

	mu       sync.Mutex
	machines map[string]*machine // by moref value
}

// method is one of our own SOAP methods. handled is false when the call is the
// simulator's after all (another object than ours).
type method func(c *soapCall) (reply interface{}, f *fault, handled bool)

func (s *Server) registerMethods() {
	s.methods = map[string]method{}
	s.registerCollector()
	s.registerMachine()
	s.registerSession()
	s.registerPrivileges()
	s.registerExport()
	s.methods["FindAllByUuid"] = s.findAllByUuid
}

// ServeHTTP takes every request of the TLS port.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/sdk" || r.URL.Path == "/sdk/" || r.URL.Path == "/sdk/vimService":
		s.serveSOAP(w, r)
	case r.URL.Path == "/sdk/vimServiceVersions.xml" && r.Method == http.MethodGet:
		s.model.Service.ServiceVersions(w, r)
	case r.URL.Path == "/folder" || strings.HasPrefix(r.URL.Path, "/folder/"):
		s.serveFolder(w, r)
	case strings.HasPrefix(r.URL.Path, "/vddk/"):
		s.serveVDDK(w, r)
	case strings.HasPrefix(r.URL.Path, "/nfc/"):
		s.serveExport(w, r)
	case s.rest != nil && strings.HasPrefix(r.URL.Path, "/rest/"):
		s.serveREST(w, r)
	default:
		s.log.Add(calls.Call{Service: serviceSOAP, Method: r.Method, Object: r.URL.Path, Status: http.StatusNotFound})
		http.Error(w, "this lab does not model "+r.URL.Path, http.StatusNotFound)
	}
}

func (s *Server) serveSOAP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "SOAP requests are POSTed", http.StatusMethodNotAllowed)
		return
	}
	c, err := decodeCall(r)
	if err != nil {
		s.log.Add(calls.Call{Service: serviceSOAP, Method: "?", Object: r.URL.Path, Status: http.StatusInternalServerError, Fault: "InvalidRequest"})
		s.answer(w, nil, newFault(&types.InvalidRequest{}, "%v", err))
		return
	}
	entry := calls.Call{Service: serviceSOAP, Method: c.method, Object: c.this.Value}
	logged := false
	note := func() {
		if !logged {
			logged = true
			s.log.Add(entry)
		}
	}
	defer note()
	// Logged before the caller can have the answer, act on it, and look into the log.
	execute := func() {
		kept, faultName := calls.NewRecorder(), ""
		entry.Status, faultName = s.execute(kept, c)
		if entry.Fault == "" {
			entry.Fault = faultName
		}
		note()
		kept.CopyTo(w)
	}

	rule, struck := s.faults.Match(serviceSOAP, c.method, c.this.Value)
	if !struck {
		execute()
		return
	}
	entry.Fault = rule.Kind
	switch rule.Kind {
	case calls.KindReset:
		note()
		calls.Reset(w)
	case calls.KindLostReply:
		s.execute(calls.NewRecorder(), c)
		note()
		calls.Reset(w)
	case calls.KindHTTP:
		entry.Status = rule.Status
		s.pause(r, rule.Delay())
		calls.AnswerPlain(w, r, rule)
	case calls.KindFault:
		s.pause(r, rule.Delay())
		f, err := faultByName(rule.Fault, rule.Message, c.this)
		if err != nil {
			f = newFault(&types.InvalidRequest{}, "fault script: %v", err)
		}
		entry.Fault = f.name()
		entry.Status, _ = s.answer(w, nil, f)
	case calls.KindDelay:
		if s.pause(r, rule.Delay()) {
			execute()
		}
	case calls.KindExpire:
		s.expireCaller(r)
		execute()
	}
}

// pause sleeps for a scripted delay; false when the caller has gone meanwhile.
func (s *Server) pause(r *http.Request, delay time.Duration) bool {
	if delay <= 0 {
		return true
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

func (s *Server) expireCaller(r *http.Request) {
	if cookie, err := r.Cookie(soap.SessionCookieName); err == nil {
		s.sessions.end(cookie.Value)
	}
}

// execute runs one call and answers it; it gives what the call log notes.
func (s *Server) execute(w http.ResponseWriter, c *soapCall) (status int, faultName string) {
	var leave func()
	c.session, leave = s.sessions.enter(c.http)
	defer leave()
	if c.session == nil && c.method != "RetrieveServiceContent" && c.method != "Login" {
		return s.answer(w, nil, notAuthenticated(c.this))
	}
	if f := s.permit(c); f != nil {
		return s.answer(w, nil, f)
	}
	if own := s.methods[c.method]; own != nil {
		if reply, f, handled := own(c); handled {
			if w2, ok := reply.(*rawReply); ok && f == nil {
				return w2.writeTo(w)
			}
			return s.answer(w, reply, f)
		}
	}
	if f := s.guard(c); f != nil {
		return s.answer(w, nil, f)
	}
	return s.forward(c).writeTo(w)
}

func (s *Server) answer(w http.ResponseWriter, reply interface{}, f *fault) (int, string) {
	status, out, err := encodeReply(reply, f)
	if err != nil {
		log.Printf("encoding a reply: %v", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return http.StatusInternalServerError, "encoding"
	}
	return (&rawReply{status: status, body: out}).writeTo(w)
}

// rawReply is an encoded answer, ours or the simulator's.
type rawReply struct {
	status int
	header http.Header
	body   []byte
}

func (r *rawReply) writeTo(w http.ResponseWriter) (int, string) {
	for name, values := range r.header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", "text/xml; charset=utf-8")
	w.Header().Set("Content-Length", fmt.Sprint(len(r.body)))
	w.WriteHeader(r.status)
	w.Write(r.body)
	if r.status == http.StatusOK {
		return r.status, ""
	}
	return r.status, faultIn(r.body)
}

// forward lets the simulator answer a call.
func (s *Server) forward(c *soapCall) *rawReply {
	inner := c.http.Clone(c.http.Context())
	inner.URL.Path = simulator.Map.Path
	inner.Body = io.NopCloser(bytes.NewReader(c.raw))
	kept := calls.NewRecorder()
	s.model.Service.ServeSDK(kept, inner)
	return &rawReply{status: kept.Status, header: kept.Header(), body: kept.Body.Bytes()}
}

// registerSession adds login and the calls about sessions.
func (s *Server) registerSession() {
	s.methods["Login"] = s.login
	s.methods["Logout"] = func(c *soapCall) (interface{}, *fault, bool) {
		reply := s.forward(c)
		if reply.status == http.StatusOK {
			s.sessions.end(c.session.key)
		}
		return reply, nil, true
	}
	s.methods["SessionIsActive"] = func(c *soapCall) (interface{}, *fault, bool) {
		s.sessions.prune() // the simulator's table then has no idle ones left
		return nil, nil, false
	}
	s.methods["TerminateSession"] = func(c *soapCall) (interface{}, *fault, bool) {
		req := c.body.(*types.TerminateSession)
		for _, key := range req.SessionId {
			if key == c.session.key {
				return nil, invalidArgument("sessionId"), true
			}
			if !s.sessions.alive(key) {
				return nil, newFault(&types.NotFound{}, "The session %s does not exist", key), true
			}
			s.sessions.end(key)
		}
		return &types.TerminateSessionResponse{}, nil, true
	}
	// Other ways in would bypass the password check.
	for _, name := range []string{"LoginByToken", "LoginExtensionByCertificate", "LoginBySSPI", "CloneSession", "AcquireCloneTicket", "ImpersonateUser"} {
		name := name
		s.methods[name] = func(c *soapCall) (interface{}, *fault, bool) {
			return nil, newFault(&types.NotSupported{}, "%s is not modelled", name), true
		}
	}
}

func (s *Server) login(c *soapCall) (interface{}, *fault, bool) {
	req := c.body.(*types.Login)
	if !s.sessions.valid(req.UserName, req.Password) {
		return nil, newFault(&types.InvalidLogin{}, "%s", wellKnown["InvalidLogin"]), true
	}
	reply := s.forward(c)
	if reply.status != http.StatusOK {
		return reply, nil, true // logged in already: InvalidLogin as the real one
	}
	response := http.Response{Header: reply.header}
	for _, cookie := range response.Cookies() {
		if cookie.Name != soap.SessionCookieName {
			continue
		}
		opened := s.sessions.add(cookie.Value, req.UserName)
		// A real server puts the value in quotes; a client has to send back what it got.
		reply.header.Set("Set-Cookie", fmt.Sprintf(`%s="%s"; Path=/; HttpOnly; Secure; `, cookie.Name, cookie.Value))
		s.bind(opened)
		return reply, nil, true
	}
	return nil, newFault(&types.SystemError{}, "the simulator opened no session"), true
}

// bind learns the simulator's object for a new session: its Handler hook is the
// one place that shows it.
func (s *Server) bind(opened *session) {
	body := `<?xml version="1.0"?><E:Envelope xmlns:E="http://schemas.xmlsoap.org/soap/envelope/"><E:Body>` +
		`<CurrentTime xmlns="urn:vim25"><_this type="ServiceInstance">ServiceInstance</_this></CurrentTime></E:Body></E:Envelope>`
	r, err := http.NewRequest(http.MethodPost, "https://lab/sdk", strings.NewReader(body))
	if err != nil {
		panic(err) // constant arguments
	}
	r.AddCookie(&http.Cookie{Name: soap.SessionCookieName, Value: opened.key})
	r.RemoteAddr = "127.0.0.1:0"
	s.model.Service.ServeSDK(calls.NewRecorder(), r)
}

// watchSessions is the simulator's hook before each call; it answers nothing itself.
func (s *Server) watchSessions(ctx *simulator.Context, _ *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	if ctx.Session != nil {
		s.sessions.attach(ctx.Session)
	}
	return nil, nil
}
