// What Keystone must know before the services can start: their users, where they
// are, and the lab's own project and user.
package realcloud

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

const (
	userName, projectName = "lab", "lab"
	regionName            = "RegionOne"
	zoneName              = "nova"
	hostName              = "conversion-host"
)

// seedIdentity fills Keystone. bootstrap is the password that its admin has yet.
func (s *supervisor) seedIdentity(ctx context.Context, bootstrap, labPassword string) error {
	l := s.layout
	keystone := l.URL("keystone") + "/v3"
	first := &account{keystone: l.URL("keystone"), user: "admin", password: bootstrap, project: "admin"}
	if _, err := first.signIn(ctx); err != nil {
		return err
	}
	// The only password that another lab could know goes first; it ends this token.
	if err := first.call(ctx, http.MethodPost, keystone+"/users/"+first.userID+"/password",
		obj{"user": obj{"password": l.password, "original_password": bootstrap}}, nil); err != nil {
		return err
	}
	admin := &account{keystone: l.URL("keystone"), user: "admin", password: l.password, project: "admin"}
	if _, err := admin.signIn(ctx); err != nil {
		return err
	}
	// A changed password ends every token of that second, those that come after it too.
	var roles map[string]string
	err := until(ctx, "Keystone's admin", func() (err error) {
		roles, err = s.roles(ctx, admin)
		return err
	})
	if err != nil {
		return err
	}
	serviceProject, err := admin.create(ctx, keystone+"/projects", "project", obj{"name": "service", "domain_id": "default"})
	if err != nil {
		return err
	}
	grant := func(project, user string, names ...string) error {
		for _, name := range names {
			if err := admin.call(ctx, http.MethodPut, keystone+"/projects/"+project+"/users/"+user+"/roles/"+roles[name], nil, nil); err != nil {
				return err
			}
		}
		return nil
	}
	users := []string{"glance", "cinder", "nova", "placement", "neutron"}
	if s.config.Heat {
		users = append(users, "heat")
	}
	for _, name := range users {
		user, err := admin.create(ctx, keystone+"/users", "user", obj{"name": name, "password": l.password, "domain_id": "default"})
		if err != nil {
			return err
		}
		if err := grant(serviceProject, user, "admin", "service"); err != nil {
			return err
		}
	}
	if s.project, err = admin.create(ctx, keystone+"/projects", "project", obj{"name": projectName, "domain_id": "default"}); err != nil {
		return err
	}
	if s.user, err = admin.create(ctx, keystone+"/users", "user", obj{"name": userName, "password": labPassword, "domain_id": "default", "default_project_id": s.project}); err != nil {
		return err
	}
	if err := grant(s.project, s.user, "member", "reader"); err != nil {
		return err
	}
	// Signed in for the lab's project, the admin sees its things only and makes them for it.
	if err := grant(s.project, admin.userID, "admin"); err != nil {
		return err
	}
	s.admin = &account{keystone: l.URL("keystone"), user: "admin", password: l.password, project: projectName}
	s.owner = &account{keystone: l.URL("keystone"), user: userName, password: labPassword, project: projectName}
	s.provider = admin
	return s.catalogue(ctx, admin)
}

// roles gives the roles by name.
func (s *supervisor) roles(ctx context.Context, admin *account) (map[string]string, error) {
	keystone := s.layout.URL("keystone") + "/v3"
	var answer struct{ Roles []identified }
	if err := admin.call(ctx, http.MethodGet, keystone+"/roles", nil, &answer); err != nil {
		return nil, err
	}
	roles := map[string]string{}
	for _, role := range answer.Roles {
		roles[role.Name] = role.ID
	}
	if roles["service"] == "" {
		id, err := admin.create(ctx, keystone+"/roles", "role", obj{"name": "service"})
		if err != nil {
			return nil, err
		}
		roles["service"] = id
	}
	return roles, nil
}

// catalogue registers the services: for users through the front, for each other
// at their plain ports.
func (s *supervisor) catalogue(ctx context.Context, admin *account) error {
	l := s.layout
	keystone := l.URL("keystone") + "/v3"
	var known struct {
		Endpoints []struct{ ID, Interface string }
	}
	if err := admin.call(ctx, http.MethodGet, keystone+"/endpoints", nil, &known); err != nil {
		return err
	}
	// Those that bootstrap made, of Keystone itself.
	for _, endpoint := range known.Endpoints {
		at := l.URL("keystone") + "/v3"
		if endpoint.Interface == "public" {
			at = l.Front + "/identity"
		}
		if err := admin.call(ctx, http.MethodPatch, keystone+"/endpoints/"+endpoint.ID, obj{"endpoint": obj{"url": at}}, nil); err != nil {
			return err
		}
	}
	type entry struct{ kind, name, service, prefix, path string }
	entries := []entry{
		{"volumev3", "cinderv3", "cinder", "/volume", "/v3/%(project_id)s"},
		{"block-storage", "cinder", "cinder", "/volume", "/v3/%(project_id)s"},
		{"compute", "nova", "nova", "/compute", "/v2.1"},
		{"network", "neutron", "neutron", "/network", ""},
		{"image", "glance", "glance", "/image", ""},
		{"placement", "placement", "placement", "/placement", ""},
	}
	if s.config.Heat {
		entries = append(entries, entry{"orchestration", "heat", "heat", "/orchestration", "/v1/%(project_id)s"})
	}
	for _, entry := range entries {
		id, err := admin.create(ctx, keystone+"/services", "service", obj{"type": entry.kind, "name": entry.name})
		if err != nil {
			return err
		}
		for _, side := range []string{"public", "internal", "admin"} {
			at := l.URL(entry.service) + entry.path
			if side == "public" {
				at = l.Front + entry.prefix + entry.path
			}
			if _, err := admin.create(ctx, keystone+"/endpoints", "endpoint",
				obj{"service_id": id, "interface": side, "url": at, "region_id": regionName}); err != nil {
				return err
			}
		}
	}
	return nil
}

// revoke ends a token as its owner's administrator.
func (s *supervisor) revoke(ctx context.Context, token string) error {
	return s.provider.call(ctx, http.MethodDelete, s.layout.URL("keystone")+"/v3/auth/tokens", nil, nil, "X-Subject-Token", token)
}

// query writes a query string.
func query(pairs ...string) string {
	var words []string
	for i := 0; i+1 < len(pairs); i += 2 {
		words = append(words, url.QueryEscape(pairs[i])+"="+url.QueryEscape(pairs[i+1]))
	}
	return "?" + strings.Join(words, "&")
}

// cinder, nova and neutron give addresses for the supervisor's own calls.
func (s *supervisor) cinder(path string) string {
	return fmt.Sprintf("%s/v3/%s%s", s.layout.URL("cinder"), s.project, path)
}
func (s *supervisor) nova(path string) string    { return s.layout.URL("nova") + "/v2.1" + path }
func (s *supervisor) neutron(path string) string { return s.layout.URL("neutron") + "/v2.0" + path }
