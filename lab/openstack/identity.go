// Keystone v3: tokens, the catalogue, application credentials.
package openstack

import (
	"crypto/subtle"
	"net/http"
	"strings"
	"time"
)

type token struct {
	id                string
	methods           []string
	audit             []string
	issued, expires   time.Time
	projectID, userID string // no project: an unscoped token
	appCred           *appCredential
	admin             bool
}

type appCredential struct {
	id, name, secret string
	description      interface{}
	expires          time.Time
	unrestricted     bool
}

var domain = obj{"id": "default", "name": "Default"}

func identityVersion(q *request) obj {
	return obj{
		"id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z",
		"links":       []obj{{"rel": "self", "href": q.base + "/identity/v3/"}},
		"media-types": []obj{{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}},
	}
}

func identityVersions(q *request) reply {
	return answered(http.StatusMultipleChoices, obj{"versions": obj{"values": []obj{identityVersion(q)}}}).
		with("Location", q.base+"/identity/v3/")
}

func identityVersionThree(q *request) reply { return ok(obj{"version": identityVersion(q)}) }

// authorize finds the caller's token.
func (q *request) authorize() *reply {
	q.cloud.mu.Lock()
	defer q.cloud.mu.Unlock()
	q.token = q.cloud.validToken(q.http.Header.Get("X-Auth-Token"))
	if q.token == nil || q.service != "identity" && q.token.projectID == "" {
		bad := unauthorized(q.base)
		return &bad
	}
	return nil
}

// validToken gives a token that has neither expired nor been revoked.
func (c *Cloud) validToken(id string) *token {
	t := c.tokens[id]
	if t == nil || !time.Now().Before(t.expires) {
		return nil
	}
	return t
}

// expire ends the token of a request, for the script kind of that name.
func (c *Cloud) expire(r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.tokens, r.Header.Get("X-Auth-Token"))
}

func authenticate(q *request) reply {
	c := q.cloud
	auth := object(q.body["auth"])
	identity := object(auth["identity"])
	methods := stringList(identity["methods"])
	if auth == nil || identity == nil || len(methods) == 0 {
		return q.badRequest("Expecting to find identity in auth. The server could not comply with the request " +
			"since it is either malformed or otherwise incorrect. The client is assumed to be in error.")
	}
	made := &token{methods: methods, issued: time.Now().UTC(), userID: c.ids.user}
	made.expires = made.issued.Add(time.Duration(c.settings.TokenTTLS) * time.Second)
	made.audit = []string{random(11)}
	for _, method := range methods {
		switch method {
		case "password":
			user := object(object(identity["password"])["user"])
			made.admin = c.isAdmin(user)
			if made.admin {
				made.userID = c.ids.admin
			}
			if !made.admin && !c.userFits(user) || !c.passwordFits(user) {
				return unauthorized(q.base)
			}
		case "application_credential":
			given := object(identity["application_credential"])
			if id := text(given["id"]); id != "" && !c.hasAppCredential(id) {
				return q.missing("Could not find Application Credential: " + id + ".")
			}
			made.appCred = c.findAppCredential(given)
			if made.appCred == nil {
				return unauthorized(q.base)
			}
		case "token":
			known := c.validToken(text(object(identity["token"])["id"]))
			if known == nil {
				return unauthorized(q.base)
			}
			if known.appCred != nil {
				return q.fail(http.StatusForbidden, "You are not authorized to perform the requested action: "+
					"Using a delegated token to create another token is not allowed.")
			}
			made.expires, made.userID, made.admin = known.expires, known.userID, known.admin
			made.audit = append(made.audit, known.audit[len(known.audit)-1])
			made.methods = union(methods, known.methods)
		default:
			bad := unauthorized(q.base)
			bad.body = obj{"error": obj{"code": 401, "title": "Unauthorized",
				"message": "Attempted to authenticate with an unsupported method."}}
			return bad
		}
	}
	if bad := c.scope(q, made, auth["scope"]); bad != nil {
		return *bad
	}
	made.id = "gAAAAAB" + random(60)
	c.tokens[made.id] = made
	c.issued = append(c.issued, made.id)
	_, bare := q.query["nocatalog"]
	return answered(http.StatusCreated, c.tokenBody(q, made, !bare)).with("X-Subject-Token", made.id)
}

// scope sets the project of a new token.
func (c *Cloud) scope(q *request, made *token, asked interface{}) *reply {
	if made.appCred != nil {
		if asked != nil {
			bad := unauthorized(q.base)
			bad.body = obj{"error": obj{"code": 401, "title": "Unauthorized", "message": "Error authenticating with " +
				"application credential: Application credentials cannot request a scope."}}
			return &bad
		}
		made.projectID = c.ids.project
		return nil
	}
	if asked == nil || text(asked) == "unscoped" {
		return nil
	}
	project := object(object(asked)["project"])
	if project == nil {
		bad := q.badRequest("Expecting to find project in scope. The server could not comply with the request since " +
			"it is either malformed or otherwise incorrect. The client is assumed to be in error.")
		return &bad
	}
	named := text(project["id"]) == c.ids.project ||
		text(project["name"]) == projectName && domainFits(object(project["domain"]))
	if !named {
		bad := unauthorized(q.base)
		return &bad
	}
	made.projectID = c.ids.project
	return nil
}

func domainFits(d obj) bool { return text(d["id"]) == "default" || text(d["name"]) == "Default" }

func (c *Cloud) userFits(user obj) bool {
	return text(user["id"]) == c.ids.user || text(user["name"]) == userName && domainFits(object(user["domain"]))
}

// isAdmin: the user admin of the same project, as the real lab has one too. Here it has the lab's password.
func (c *Cloud) isAdmin(user obj) bool {
	return text(user["id"]) == c.ids.admin || text(user["name"]) == adminName && domainFits(object(user["domain"]))
}

func (c *Cloud) passwordFits(user obj) bool {
	given := text(user["password"])
	return subtle.ConstantTimeCompare([]byte(given), []byte(c.password)) == 1
}

func (c *Cloud) hasAppCredential(id string) bool {
	for _, known := range c.appCreds {
		if known.id == id {
			return true
		}
	}
	return false
}

func (c *Cloud) findAppCredential(given obj) *appCredential {
	for _, known := range c.appCreds {
		byID := text(given["id"]) == known.id
		byName := text(given["name"]) == known.name && c.userFits(object(given["user"]))
		if !byID && !byName || !known.expires.IsZero() && time.Now().After(known.expires) {
			continue
		}
		if subtle.ConstantTimeCompare([]byte(text(given["secret"])), []byte(known.secret)) == 1 {
			return known
		}
	}
	return nil
}

func (c *Cloud) tokenBody(q *request, t *token, catalog bool) obj {
	name, role := userName, "member"
	if t.admin {
		name, role = adminName, "admin"
	}
	body := obj{
		"methods":    t.methods,
		"user":       obj{"domain": domain, "id": t.userID, "name": name, "password_expires_at": nil},
		"audit_ids":  t.audit,
		"expires_at": keystoneTime(t.expires),
		"issued_at":  keystoneTime(t.issued),
	}
	if t.projectID != "" {
		body["project"] = c.projectView()
		body["is_domain"] = false
		body["roles"] = []obj{{"id": c.ids.role, "name": role}}
		if catalog {
			body["catalog"] = c.catalog(q)
		}
	}
	if t.appCred != nil {
		body["application_credential"] = obj{
			"id": t.appCred.id, "name": t.appCred.name, "restricted": !t.appCred.unrestricted}
	}
	return obj{"token": body}
}

func (c *Cloud) projectView() obj {
	return obj{"domain": domain, "id": c.ids.project, "name": projectName}
}

// catalog lists the services as devstack names them.
func (c *Cloud) catalog(q *request) []obj {
	entries := []struct{ kind, name, path string }{
		{"identity", "keystone", "/identity"},
		{"volumev3", "cinderv3", "/volume/v3/" + c.ids.project},
		{"block-storage", "cinder", "/volume/v3/" + c.ids.project},
		{"compute", "nova", "/compute/v2.1"},
		{"network", "neutron", "/network"},
		{"image", "glance", "/image"},
	}
	catalog := []obj{}
	for i, entry := range entries {
		endpoints := []obj{}
		for j, side := range []string{"public", "internal", "admin"} {
			endpoints = append(endpoints, obj{
				"id": stableID(i*3 + j), "interface": side, "region": regionName, "region_id": regionName,
				"url": q.base + entry.path,
			})
		}
		catalog = append(catalog, obj{"id": stableID(100 + i), "type": entry.kind, "name": entry.name, "endpoints": endpoints})
	}
	return catalog
}

// stableID is an id for things that have no life of their own.
func stableID(n int) string {
	const digits = "0123456789abcdef"
	return strings.Repeat("0", 28) + string([]byte{digits[n>>12&15], digits[n>>8&15], digits[n>>4&15], digits[n&15]})
}

func showCatalog(q *request) reply {
	if q.token.projectID == "" {
		return q.fail(http.StatusForbidden, "You are not authorized to perform the requested action.")
	}
	return ok(obj{"catalog": q.cloud.catalog(q), "links": obj{"self": q.base + "/identity/v3/auth/catalog"}})
}

func authProjects(q *request) reply {
	return listReply(q, "projects", []obj{q.cloud.fullProject(q)})
}

func (c *Cloud) fullProject(q *request) obj {
	return obj{
		"id": c.ids.project, "name": projectName, "domain_id": "default", "parent_id": "default", "enabled": true,
		"is_domain": false, "description": "", "tags": []string{}, "options": obj{},
		"links": obj{"self": q.base + "/identity/v3/projects/" + c.ids.project},
	}
}

func listReply(q *request, name string, items []obj) reply {
	return ok(obj{name: items, "links": obj{"self": q.base + q.http.URL.Path, "next": nil, "previous": nil}})
}

// subject is the token a call is about.
func (q *request) subject() (*token, *reply) {
	id := q.http.Header.Get("X-Subject-Token")
	if t := q.cloud.validToken(id); t != nil {
		return t, nil
	}
	bad := q.missing("Could not find token: " + id + ".")
	return nil, &bad
}

func showToken(q *request) reply {
	t, bad := q.subject()
	if bad != nil {
		return *bad
	}
	_, bare := q.query["nocatalog"]
	return ok(q.cloud.tokenBody(q, t, !bare)).with("X-Subject-Token", t.id)
}

func revokeToken(q *request) reply {
	t, bad := q.subject()
	if bad != nil {
		return *bad
	}
	delete(q.cloud.tokens, t.id)
	return answered(http.StatusNoContent, nil)
}

func showProject(q *request) reply {
	if q.vars["project"] != q.cloud.ids.project {
		return q.fail(http.StatusForbidden, "You are not authorized to perform the requested action: identity:get_project.")
	}
	return ok(obj{"project": q.cloud.fullProject(q)})
}

// ownUser refuses calls about somebody else.
func (q *request) ownUser() *reply {
	if q.vars["user"] == q.cloud.ids.user {
		return nil
	}
	bad := q.fail(http.StatusForbidden, "You are not authorized to perform the requested action.")
	return &bad
}

func showUser(q *request) reply {
	if bad := q.ownUser(); bad != nil {
		return *bad
	}
	return ok(obj{"user": obj{
		"id": q.cloud.ids.user, "name": userName, "domain_id": "default", "enabled": true,
		"password_expires_at": nil, "options": obj{}, "links": obj{"self": q.base + q.http.URL.Path}}})
}

func (c *Cloud) appCredentialView(q *request, a *appCredential) obj {
	return obj{
		"id": a.id, "name": a.name, "description": a.description, "unrestricted": a.unrestricted,
		"expires_at": stamp(a.expires, "2006-01-02T15:04:05.000000"),
		"project_id": c.ids.project, "user_id": c.ids.user, "system": nil,
		"roles": []obj{{"id": c.ids.role, "name": "member", "domain_id": nil, "description": nil, "options": obj{}}},
		"links": obj{"self": q.base + "/identity/v3/users/" + c.ids.user + "/application_credentials/" + a.id},
	}
}

func listAppCredentials(q *request) reply {
	if bad := q.ownUser(); bad != nil {
		return *bad
	}
	found := []obj{}
	for _, a := range q.cloud.appCreds {
		if name := q.query.Get("name"); name == "" || name == a.name {
			found = append(found, q.cloud.appCredentialView(q, a))
		}
	}
	return listReply(q, "application_credentials", found)
}

func showAppCredential(q *request) reply {
	if bad := q.ownUser(); bad != nil {
		return *bad
	}
	for _, a := range q.cloud.appCreds {
		if a.id == q.vars["credential"] {
			return ok(obj{"application_credential": q.cloud.appCredentialView(q, a)})
		}
	}
	return q.missing("Could not find Application Credential: " + q.vars["credential"] + ".")
}

func createAppCredential(q *request) reply {
	if bad := q.ownUser(); bad != nil {
		return *bad
	}
	if q.token.appCred != nil && !q.token.appCred.unrestricted {
		return q.fail(http.StatusForbidden,
			"You are not authorized to perform the requested action: identity:create_application_credential.")
	}
	asked := object(q.body["application_credential"])
	made := &appCredential{id: random(16), name: text(asked["name"]), secret: text(asked["secret"]),
		description: asked["description"]}
	if made.name == "" {
		return q.badRequest("'name' is a required property")
	}
	made.unrestricted, _ = asked["unrestricted"].(bool)
	if made.secret == "" {
		made.secret = random(32)
	}
	if when := text(asked["expires_at"]); when != "" {
		var err error
		if made.expires, err = time.Parse("2006-01-02T15:04:05", strings.TrimSuffix(when, "Z")); err != nil {
			return q.badRequest("Invalid expiration date %s", when)
		}
	}
	for _, a := range q.cloud.appCreds {
		if a.name == made.name {
			return q.fail(http.StatusConflict, "Conflict occurred attempting to store application_credential - "+
				"Duplicate entry found with name "+made.name+".")
		}
	}
	q.cloud.appCreds = append(q.cloud.appCreds, made)
	view := q.cloud.appCredentialView(q, made)
	view["secret"] = made.secret
	return answered(http.StatusCreated, obj{"application_credential": view})
}

func deleteAppCredential(q *request) reply {
	if bad := q.ownUser(); bad != nil {
		return *bad
	}
	for i, a := range q.cloud.appCreds {
		if a.id != q.vars["credential"] {
			continue
		}
		q.cloud.appCreds = append(q.cloud.appCreds[:i:i], q.cloud.appCreds[i+1:]...)
		for id, t := range q.cloud.tokens {
			if t.appCred == a {
				delete(q.cloud.tokens, id)
			}
		}
		return answered(http.StatusNoContent, nil)
	}
	return q.missing("Could not find Application Credential: " + q.vars["credential"] + ".")
}
