// Answers and the error shapes of each service, as OpenStack Zed has them.
package openstack

import (
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"strconv"
	"strings"

	"vmferry.dev/lab/calls"
)

// reply is an answer before it is written. A nil body sends none.
type reply struct {
	status int
	header map[string]string
	body   interface{}
	file   string // whose bytes are the body
}

func ok(body interface{}) reply                 { return reply{status: http.StatusOK, body: body} }
func answered(status int, b interface{}) reply  { return reply{status: status, body: b} }
func (p reply) with(name, value string) reply   { p.header = merged(p.header, name, value); return p }
func (q *request) missing(message string) reply { return q.fail(http.StatusNotFound, message) }
func (q *request) badRequest(format string, a ...interface{}) reply {
	return q.fail(http.StatusBadRequest, fmt.Sprintf(format, a...))
}

func merged(header map[string]string, name, value string) map[string]string {
	all := map[string]string{name: value}
	for n, v := range header {
		if n != name {
			all[n] = v
		}
	}
	return all
}

// faultNames are the keys Nova and Cinder wrap an error in; others are
// "computeFault" (cinder/api/openstack/wsgi.py, nova/api/openstack/wsgi.py).
var faultNames = map[int]string{
	400: "badRequest", 401: "unauthorized", 403: "forbidden", 404: "itemNotFound", 405: "badMethod",
	409: "conflictingRequest", 413: "overLimit", 415: "badMediaType", 501: "notImplemented", 503: "serviceUnavailable",
}

// neutronTypes are the exception classes Neutron names where the lab has no
// better one.
var neutronTypes = map[int]string{
	400: "BadRequest", 401: "HTTPUnauthorized", 403: "HTTPForbidden", 404: "HTTPNotFound", 409: "Conflict",
	500: "HTTPInternalServerError", 501: "NotImplementedError", 503: "ServiceUnavailable",
}

func (q *request) fail(status int, message string) reply {
	return shape(q.service, status, message, 0)
}

// shape builds the error of a service.
func shape(service string, status int, message string, retryAfter int) reply {
	p := reply{status: status}
	switch service {
	case "volume", "compute":
		name := faultNames[status]
		if name == "" {
			name = "computeFault"
		}
		if status == 429 && service == "compute" {
			name = "overLimit"
		}
		detail := obj{"code": status, "message": message}
		if status == 413 || status == 429 && service == "compute" {
			detail["retryAfter"] = strconv.Itoa(retryAfter)
			p = p.with("Retry-After", strconv.Itoa(retryAfter))
		}
		p.body = obj{name: detail}
	case "network":
		kind := neutronTypes[status]
		if kind == "" {
			kind = "NeutronException"
		}
		p.body = neutronBody(kind, message)
	case "image":
		// WebOb's form of an HTTPException for a client that accepts JSON.
		p.body = obj{"message": message + "<br /><br />\n\n\n", "code": fmt.Sprintf("%d %s", status, http.StatusText(status)),
			"title": http.StatusText(status)}
	default:
		p.body = obj{"error": obj{"code": status, "title": http.StatusText(status), "message": message}}
	}
	if retryAfter > 0 {
		p = p.with("Retry-After", strconv.Itoa(retryAfter))
	}
	return p
}

func neutronBody(kind, message string) obj {
	return obj{"NeutronError": obj{"type": kind, "message": message, "detail": ""}}
}

// neutron is an error that names the exception class.
func neutron(status int, kind, format string, a ...interface{}) reply {
	return reply{status: status, body: neutronBody(kind, fmt.Sprintf(format, a...))}
}

// unauthorized is what both Keystone and the token check in front of the other
// services answer.
func unauthorized(base string) reply {
	return reply{
		status: http.StatusUnauthorized,
		header: map[string]string{"WWW-Authenticate": `Keystone uri="` + base + `/identity"`},
		body: obj{"error": obj{"code": 401, "title": "Unauthorized",
			"message": "The request you have made requires authentication."}},
	}
}

// unmodelled refuses what this stand-in does not know, in the answer and on
// standard error.
func (c *Cloud) unmodelled(r *http.Request, service string, status int, what string) reply {
	message := "lab/openstack does not model " + what
	log.Print(message)
	return shape(service, status, message, 0)
}

// answer writes a reply with the headers that every answer of the service has.
func (c *Cloud) answer(w http.ResponseWriter, r *http.Request, p reply) {
	service, path := splitService(r.URL.Path)
	id := "req-" + newUUID()
	w.Header().Set("x-openstack-request-id", id)
	if service == "identity" {
		w.Header().Set("Vary", "X-Auth-Token")
	}
	if service == "compute" {
		w.Header().Set("x-compute-request-id", id)
	}
	q := &request{service: service, http: r}
	if q.readVersion(path) == nil && !q.version.zero() {
		switch service {
		case "compute":
			w.Header().Set("OpenStack-API-Version", "compute "+q.version.String())
			w.Header().Set("X-OpenStack-Nova-API-Version", q.version.String())
			w.Header().Set("Vary", "OpenStack-API-Version, X-OpenStack-Nova-API-Version")
		case "volume":
			w.Header().Set("OpenStack-API-Version", "volume "+q.version.String())
			w.Header().Set("Vary", "OpenStack-API-Version")
		}
	}
	for name, value := range p.header {
		w.Header().Set(name, value)
	}
	if p.file != "" {
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeFile(w, r, p.file)
		return
	}
	if p.body == nil {
		w.WriteHeader(p.status)
		return
	}
	raw, err := json.Marshal(p.body)
	if err != nil {
		log.Printf("an answer to %s %s cannot be written as JSON: %v", r.Method, r.URL.Path, err)
		http.Error(w, "lab/openstack: "+err.Error(), http.StatusInternalServerError)
		return
	}
	// The request id stands in the text of some errors.
	raw = []byte(strings.ReplaceAll(string(raw), requestIDMark, id))
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	w.WriteHeader(p.status)
	calls.Note(w)
	if r.Method != http.MethodHead {
		w.Write(raw)
	}
}

// requestIDMark stands for the request's id in an error's text.
const requestIDMark = "%REQUEST-ID%"

// scripted answers the kinds "http" and "fault" of a script: "http" is an error
// in the service's own shape, "fault" lets the call be accepted and the act fail
// afterwards, as most of OpenStack's failures come.
func (c *Cloud) scripted(w http.ResponseWriter, r *http.Request, rule calls.Rule) {
	if rule.Kind == calls.KindFault {
		message := rule.Message
		if message == "" {
			message = rule.Fault
		}
		c.ServeHTTP(w, r.WithContext(withFate(r.Context(), &fate{message: message})))
		return
	}
	Scripted(w, r, rule)
}

// Scripted answers the kind "http" of a script in the own shape of the service
// whose prefix the path has.
func Scripted(w http.ResponseWriter, r *http.Request, rule calls.Rule) {
	service, _ := splitService(r.URL.Path)
	message := rule.Message
	if message == "" {
		message = http.StatusText(rule.Status)
	}
	(*Cloud)(nil).answer(w, r, shape(service, rule.Status, message, rule.RetryAfter))
}
