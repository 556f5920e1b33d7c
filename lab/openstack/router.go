// The router: a table of modelled calls. A path, method, query parameter, body
// field or action that is not in the table is refused loudly, never ignored. It
// must not know what any call does.
package openstack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"sort"
	"strings"
)

// obj is a JSON object.
type obj = map[string]interface{}

// route is one modelled call. Query and fields name everything a caller may
// send; "name@2.52" is known from that microversion on, "name.*" takes any keys
// below it, "name[]" is a list.
type route struct {
	service string
	method  string
	path    string // below the service's prefix; {name} matches one segment
	action  string // for POST .../action: the one key of the body
	query   []string
	fields  []string
	open    bool // answered without a token
	about   string
	act     func(*request) reply
	stream  bool // act reads the body itself, and takes the lock when it needs it
}

// request is one call after the router has checked its form.
type request struct {
	cloud   *Cloud
	route   *route
	service string
	http    *http.Request
	vars    map[string]string
	query   url.Values
	body    obj
	token   *token
	version microversion // what the call runs at; zero where the service has none
	fate    *fate        // set when a script lets the act fail after it was accepted
	base    string       // https://host:port of this server as the caller named it
}

// fate is what a script has decided about an act that is answered first and
// fails later.
type fate struct{ message string }

type fateKey struct{}

// services in the order of the documentation.
var services = []string{"identity", "volume", "compute", "network", "image"}

// ServeHTTP answers one call of any service.
func (c *Cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.answer(w, r, c.dispatch(r))
}

// splitService gives the service a path belongs to and the path below it.
func splitService(path string) (service, rest string) {
	for _, name := range services {
		if path == "/"+name || strings.HasPrefix(path, "/"+name+"/") {
			rest = strings.TrimRight(strings.TrimPrefix(path, "/"+name), "/")
			if rest == "" {
				rest = "/"
			}
			return name, rest
		}
	}
	return "", path
}

func (c *Cloud) dispatch(r *http.Request) reply {
	service, path := splitService(r.URL.Path)
	if service == "" {
		return c.unmodelled(r, "", http.StatusNotFound, "path "+r.URL.Path)
	}
	q := &request{cloud: c, service: service, http: r, base: "https://" + r.Host, body: obj{}}
	q.fate, _ = r.Context().Value(fateKey{}).(*fate)
	if bad := q.readVersion(path); bad != nil {
		return *bad
	}
	project := ""
	if service == "volume" {
		path, project = splitProject(path)
	}
	candidates := find(service, r.Method, path)
	if len(candidates) == 0 {
		return c.unmodelled(r, service, http.StatusNotImplemented, r.Method+" "+r.URL.Path)
	}
	if !candidates[0].open {
		if bad := q.authorize(); bad != nil {
			return *bad
		}
		if project != "" && project != q.token.projectID {
			return q.fail(http.StatusBadRequest, "Malformed request url")
		}
	}
	if candidates[0].stream {
		q.route, q.vars = candidates[0], match(candidates[0].path, path)
		if bad := q.checkForm(r); bad != nil {
			return *bad
		}
		return q.route.act(q)
	}
	raw, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err != nil {
		return q.fail(http.StatusBadRequest, "The request body could not be read.")
	}
	if bad := q.readBody(raw); bad != nil {
		return *bad
	}
	q.route = choose(candidates, q.body)
	if q.route == nil {
		return c.unmodelled(r, service, http.StatusNotImplemented,
			fmt.Sprintf("action %s of %s %s", strings.Join(keys(q.body), ", "), r.Method, r.URL.Path))
	}
	q.vars = match(q.route.path, path)
	if bad := q.checkForm(r); bad != nil {
		return *bad
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return q.route.act(q)
}

var projectSegment = regexp.MustCompile(`^/v3/([0-9a-f]{32})(/.*)$`)

// splitProject takes the project out of Cinder's /v3/PROJECT/..., which is
// optional there.
func splitProject(path string) (rest, project string) {
	if m := projectSegment.FindStringSubmatch(path); m != nil {
		return "/v3" + m[2], m[1]
	}
	return path, ""
}

// find gives the routes of a method and path: several only for actions. A path
// spelt out wins over one with a variable (volumes/detail over volumes/{id}).
func find(service, method, path string) []*route {
	var found []*route
	least := 0
	for i := range table {
		candidate := &table[i]
		if candidate.service != service || candidate.method != method || match(candidate.path, path) == nil {
			continue
		}
		variables := strings.Count(candidate.path, "{")
		if len(found) == 0 || variables < least {
			found, least = nil, variables
		}
		if variables == least {
			found = append(found, candidate)
		}
	}
	return found
}

func choose(candidates []*route, body obj) *route {
	for _, candidate := range candidates {
		if candidate.action == "" {
			return candidate
		}
		if _, named := body[candidate.action]; named && len(body) == 1 {
			return candidate
		}
	}
	return nil
}

// match gives the variables of a path, nil when it does not fit the pattern.
func match(pattern, path string) map[string]string {
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(want) != len(have) {
		return nil
	}
	vars := map[string]string{}
	for i, segment := range want {
		if strings.HasPrefix(segment, "{") && have[i] != "" {
			vars[strings.Trim(segment, "{}")] = have[i]
		} else if segment != have[i] {
			return nil
		}
	}
	return vars
}

func (q *request) readBody(raw []byte) *reply {
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if err := decoder.Decode(&q.body); err != nil || q.body == nil {
		q.body = obj{}
		bad := q.fail(http.StatusBadRequest, "Malformed request body")
		return &bad
	}
	return nil
}

// checkForm refuses query parameters and body fields that the route does not
// know, and, as the real services do, fields of a later microversion.
func (q *request) checkForm(r *http.Request) *reply {
	var err error
	if q.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
		bad := q.fail(http.StatusBadRequest, "The query string is malformed.")
		return &bad
	}
	known := newFields(q.route.query)
	for _, name := range sortedKeys(q.query) {
		if !known.has(name) {
			bad := q.cloud.unmodelled(r, q.service, http.StatusNotImplemented,
				fmt.Sprintf("query parameter %q of %s %s", name, r.Method, r.URL.Path))
			return &bad
		}
		if since := known.since(name); q.version.less(since) {
			bad := q.cloud.unmodelled(r, q.service, http.StatusNotImplemented,
				fmt.Sprintf("query parameter %q below microversion %s", name, since))
			return &bad
		}
	}
	fields := newFields(q.route.fields)
	var used []string
	if q.route.action != "" {
		walk(q.body[q.route.action], q.route.action, &used)
	} else {
		for _, name := range keys(q.body) {
			walk(q.body[name], name, &used)
		}
	}
	for _, name := range used {
		if name == q.route.action {
			continue
		}
		if !fields.has(name) {
			bad := q.cloud.unmodelled(r, q.service, http.StatusNotImplemented,
				fmt.Sprintf("body field %q of %s %s", name, r.Method, r.URL.Path))
			return &bad
		}
		if since := fields.since(name); q.version.less(since) {
			last := name[strings.LastIndex(name, ".")+1:]
			bad := q.fail(http.StatusBadRequest, fmt.Sprintf("Invalid input for field/attribute %s. "+
				"Additional properties are not allowed ('%s' was unexpected)", strings.SplitN(name, ".", 2)[0], last))
			return &bad
		}
	}
	return nil
}

// walk lists the paths of a JSON value: "server.networks[].port".
func walk(value interface{}, path string, into *[]string) {
	*into = append(*into, path)
	switch v := value.(type) {
	case obj:
		for _, name := range keys(v) {
			walk(v[name], path+"."+name, into)
		}
	case []interface{}:
		for _, element := range v {
			switch element.(type) {
			case obj, []interface{}:
				walk(element, path+"[]", into)
			}
		}
	}
}

// fields is a set of names as route.fields and route.query spell them.
type fields map[string]microversion

func newFields(names []string) fields {
	f := fields{}
	for _, name := range names {
		since := microversion{}
		if at := strings.IndexByte(name, '@'); at >= 0 {
			since, _ = parseMicroversion(name[at+1:])
			name = name[:at]
		}
		f[name] = since
	}
	return f
}

func (f fields) has(name string) bool {
	if _, exact := f[name]; exact {
		return true
	}
	if _, any := f["*"]; any {
		return true
	}
	for known := range f {
		if strings.HasPrefix(known, name+".") || strings.HasPrefix(known, name+"[]") {
			return true
		}
		if strings.HasSuffix(known, ".*") && strings.HasPrefix(name, strings.TrimSuffix(known, "*")) {
			return true
		}
	}
	return false
}

// since is the microversion that brought a name; a list may be written "name[]".
func (f fields) since(name string) microversion {
	if since, exact := f[name]; exact {
		return since
	}
	return f[name+"[]"]
}

func keys(o obj) []string {
	names := make([]string, 0, len(o))
	for name := range o {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func sortedKeys(v url.Values) []string {
	names := make([]string, 0, len(v))
	for name := range v {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
