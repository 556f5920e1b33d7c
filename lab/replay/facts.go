// What a recording tells about the two sides, so that a client can be pointed at
// the replay: who logged in, how the services' addresses begin, which volumes
// were attached to this machine.
package replay

import (
	"encoding/json"
	"encoding/xml"
	"net/url"
	"regexp"
	"strings"
)

// Facts are what a client needs to know to repeat what was recorded. What the
// recording does not show stays empty.
type Facts struct {
	ESXi           bool
	VMwareUser     string
	VMPath         string
	IdentityPath   string // of the auth URL, for example /identity/v3
	Auth           map[string]string
	AuthType       string
	InstanceID     string
	Volumes        []Volume // attached while recording
	catalogueHosts map[string]bool
}

// Volume is one that was attached, by its id and size.
type Volume struct {
	ID  string
	GiB int64
}

var (
	userElement  = regexp.MustCompile(`<userName>([^<]*)</userName>`)
	pathElement  = regexp.MustCompile(`<inventoryPath>([^<]*)</inventoryPath>`)
	addressStart = regexp.MustCompile(`https?://[^/\s"'\\<>?#]+`)
)

const authTail = "/auth/tokens"

// Learn reads the facts out of a recording.
func Learn(exchanges []*Exchange) Facts {
	f := Facts{Auth: map[string]string{}, catalogueHosts: map[string]bool{}}
	sizes := map[string]int64{}
	var attached []string
	for _, x := range exchanges {
		switch x.Service {
		case VSphere:
			f.learnVSphere(x)
		case Metadata:
			var host struct {
				UUID string `json:"uuid"`
			}
			if json.Unmarshal([]byte(x.Body), &host) == nil && host.UUID != "" {
				f.InstanceID = host.UUID
			}
		case OpenStack:
			if strings.HasSuffix(x.Path, authTail) && x.Method == "POST" && x.Status == 201 {
				f.learnLogin(x)
			}
			learnSizes(x, sizes)
			var attach struct {
				Attachment struct {
					VolumeID string `json:"volumeId"`
				} `json:"volumeAttachment"`
			}
			if x.Method == "POST" && json.Unmarshal([]byte(x.RequestBody), &attach) == nil && attach.Attachment.VolumeID != "" {
				attached = append(attached, attach.Attachment.VolumeID)
			}
		}
	}
	seen := map[string]bool{}
	for _, id := range attached {
		if sizes[id] > 0 && !seen[id] {
			seen[id] = true
			f.Volumes = append(f.Volumes, Volume{id, sizes[id]})
		}
	}
	return f
}

func (f *Facts) learnVSphere(x *Exchange) {
	if strings.Contains(x.Body, "<apiType>HostAgent</apiType>") {
		f.ESXi = true
	}
	if match := userElement.FindStringSubmatch(x.RequestBody); match != nil && strings.Contains(x.RequestBody, "<Login ") {
		f.VMwareUser = unescaped(match[1])
	}
	if match := pathElement.FindStringSubmatch(x.RequestBody); match != nil && f.VMPath == "" {
		f.VMPath = "/" + strings.TrimPrefix(unescaped(match[1]), "/")
	}
}

func unescaped(raw string) string {
	var value struct {
		Text string `xml:",chardata"`
	}
	if xml.Unmarshal([]byte("<v>"+raw+"</v>"), &value) != nil {
		return raw
	}
	return value.Text
}

type named struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Domain struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	} `json:"domain"`
}

func (f *Facts) learnLogin(x *Exchange) {
	f.IdentityPath = strings.TrimSuffix(x.Path, authTail)
	var ask struct {
		Auth struct {
			Identity struct {
				Password *struct {
					User named `json:"user"`
				} `json:"password"`
				Credential *struct {
					ID   string `json:"id"`
					Name string `json:"name"`
					User named  `json:"user"`
				} `json:"application_credential"`
				Token *struct{} `json:"token"`
			} `json:"identity"`
			Scope json.RawMessage `json:"scope"`
		} `json:"auth"`
	}
	if json.Unmarshal([]byte(x.RequestBody), &ask) != nil {
		return
	}
	put := func(name, value string) {
		if value != "" {
			f.Auth[name] = value
		}
	}
	user := func(u named) {
		put("user_id", u.ID)
		put("username", u.Name)
		put("user_domain_id", u.Domain.ID)
		put("user_domain_name", u.Domain.Name)
	}
	identity := ask.Auth.Identity
	switch {
	case identity.Password != nil:
		f.AuthType = "password"
		user(identity.Password.User)
	case identity.Credential != nil:
		f.AuthType = "v3applicationcredential"
		put("application_credential_id", identity.Credential.ID)
		put("application_credential_name", identity.Credential.Name)
		user(identity.Credential.User)
	case identity.Token != nil:
		f.AuthType = "token"
	}
	var scope struct {
		Project named `json:"project"`
	}
	if len(ask.Auth.Scope) > 0 && json.Unmarshal(ask.Auth.Scope, &scope) == nil {
		put("project_id", scope.Project.ID)
		put("project_name", scope.Project.Name)
		put("project_domain_id", scope.Project.Domain.ID)
		put("project_domain_name", scope.Project.Domain.Name)
	}
	var reply struct {
		Token struct {
			Catalog []struct {
				Endpoints []struct {
					URL string `json:"url"`
				} `json:"endpoints"`
			} `json:"catalog"`
		} `json:"token"`
	}
	if json.Unmarshal([]byte(x.Body), &reply) != nil {
		return
	}
	for _, service := range reply.Token.Catalog {
		for _, endpoint := range service.Endpoints {
			if at, err := url.Parse(endpoint.URL); err == nil && at.Hostname() != "" {
				f.catalogueHosts[strings.ToLower(at.Hostname())] = true
			}
		}
	}
}

// learnSizes notes the sizes of the volumes that an answer shows.
func learnSizes(x *Exchange, sizes map[string]int64) {
	type volume struct {
		ID   string `json:"id"`
		Size int64  `json:"size"`
	}
	var answer struct {
		Volume  volume   `json:"volume"`
		Volumes []volume `json:"volumes"`
	}
	if json.Unmarshal([]byte(x.Body), &answer) != nil {
		return
	}
	for _, v := range append(answer.Volumes, answer.Volume) {
		if v.ID != "" && v.Size > 0 {
			sizes[v.ID] = v.Size
		}
	}
}

// readdressed puts base where the address of one of the catalogue's hosts was,
// whatever its scheme and port: links in answers name other ports, too.
func (f *Facts) readdressed(s, base string) string {
	return addressStart.ReplaceAllStringFunc(s, func(start string) string {
		at, err := url.Parse(start)
		if err != nil || !f.catalogueHosts[strings.ToLower(at.Hostname())] {
			return start
		}
		return base
	})
}
