// The control socket: the same paths as the stand-in's, answered by an
// administrator of the real cloud. What has no meaning here is refused with 501.
package realcloud

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"

	"vmferry.dev/lab/calls"
)

const knownPaths = "the control socket knows /calls /faults /secrets /tokens/revoke /quota /state /flavors /services /services/NAME/restart /volumes/ID/metadata /subnets/ID/pool"

func (s *supervisor) control(callLog *calls.Log, faults *calls.Faults) http.Handler {
	shared := http.NewServeMux()
	calls.Register(shared, callLog, faults)
	mux := http.NewServeMux()
	mux.Handle("/calls", shared)
	mux.HandleFunc("/faults", func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err != nil {
			calls.Refuse(w, http.StatusBadRequest, err.Error())
			return
		}
		if failsLater.Match(raw) {
			calls.Refuse(w, http.StatusNotImplemented, `the services are real: kind "fault", an act that is accepted and fails afterwards, cannot be scripted`)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(raw))
		shared.ServeHTTP(w, r)
	})
	on := func(method, path string, act http.HandlerFunc) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != method {
				calls.Refuse(w, http.StatusMethodNotAllowed, r.URL.Path+" knows "+method)
				return
			}
			act(w, r)
		})
	}
	on(http.MethodPost, "/tokens/revoke", func(w http.ResponseWriter, r *http.Request) {
		calls.Reply(w, http.StatusOK, obj{"revoked": s.endTokens(r.Context(), s.secrets.takeTokens())})
	})
	on(http.MethodGet, "/secrets", func(w http.ResponseWriter, r *http.Request) { calls.Reply(w, http.StatusOK, s.secrets.list()) })
	on(http.MethodGet, "/services", func(w http.ResponseWriter, r *http.Request) { calls.Reply(w, http.StatusOK, s.children.list()) })
	on(http.MethodPost, "/services/", func(w http.ResponseWriter, r *http.Request) {
		words := strings.Split(strings.TrimPrefix(r.URL.Path, "/services/"), "/")
		if len(words) != 2 || words[1] != "restart" {
			calls.Refuse(w, http.StatusNotFound, "of a service the control socket knows POST /services/NAME/restart")
			return
		}
		if err := s.children.restart(words[0]); err != nil {
			calls.Refuse(w, http.StatusNotFound, err.Error())
			return
		}
		calls.Reply(w, http.StatusOK, s.children.list())
	})
	on(http.MethodPost, "/settings", func(w http.ResponseWriter, r *http.Request) {
		calls.Refuse(w, http.StatusNotImplemented, "the services are real: delays, the life of tokens and what a user may see are not set from here")
	})
	on(http.MethodPost, "/quota", s.controlQuota)
	on(http.MethodPost, "/flavors", s.controlFlavor)
	on(http.MethodPost, "/volumes/", s.controlVolume)
	on(http.MethodPost, "/subnets/", s.controlSubnet)
	on(http.MethodGet, "/state", func(w http.ResponseWriter, r *http.Request) {
		state, err := s.state(r.Context())
		answer(w, state, err)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { calls.Refuse(w, http.StatusNotFound, knownPaths) })
	return mux
}

var failsLater = regexp.MustCompile(`"kind"\s*:\s*"fault"`)

// answer passes a service's refusal on.
func answer(w http.ResponseWriter, value interface{}, err error) {
	if said, refused := err.(*refusal); refused {
		calls.Refuse(w, said.status, said.said)
		return
	}
	if err != nil {
		calls.Refuse(w, http.StatusBadGateway, err.Error())
		return
	}
	calls.Reply(w, http.StatusOK, value)
}

// controlFlavor makes one more flavor, that everybody may use.
func (s *supervisor) controlFlavor(w http.ResponseWriter, r *http.Request) {
	var ask obj // Nova says what is wrong with it
	if err := calls.Decode(r, &ask); err != nil {
		calls.Refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	var now struct{ Flavor obj }
	err := s.admin.call(r.Context(), http.MethodPost, s.nova("/flavors"), obj{"flavor": ask}, &now, "OpenStack-API-Version", flavorsVersion)
	answer(w, now.Flavor, err)
}

// controlVolume writes a volume's metadata anew.
func (s *supervisor) controlVolume(w http.ResponseWriter, r *http.Request) {
	words := strings.Split(strings.TrimPrefix(r.URL.Path, "/volumes/"), "/")
	if len(words) != 2 || words[1] != "metadata" {
		calls.Refuse(w, http.StatusNotFound, "of a volume the control socket knows POST /volumes/ID/metadata")
		return
	}
	var given map[string]string
	if err := calls.Decode(r, &given); err != nil || given == nil {
		calls.Refuse(w, http.StatusBadRequest, "needs the new metadata as a JSON object, {} for none")
		return
	}
	var now struct{ Metadata map[string]string }
	err := s.admin.call(r.Context(), http.MethodPut, s.cinder("/volumes/"+words[0]+"/metadata"), obj{"metadata": given}, &now)
	answer(w, now.Metadata, err)
}

// controlSubnet gives a subnet another allocation pool.
func (s *supervisor) controlSubnet(w http.ResponseWriter, r *http.Request) {
	words := strings.Split(strings.TrimPrefix(r.URL.Path, "/subnets/"), "/")
	if len(words) != 2 || words[1] != "pool" {
		calls.Refuse(w, http.StatusNotFound, "of a subnet the control socket knows POST /subnets/ID/pool")
		return
	}
	var pool struct {
		Start string `json:"start"`
		End   string `json:"end"`
	}
	if err := calls.Decode(r, &pool); err != nil {
		calls.Refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	var now struct{ Subnet obj }
	err := s.admin.call(r.Context(), http.MethodPut, s.neutron("/subnets/"+words[0]),
		obj{"subnet": obj{"allocation_pools": []obj{{"start": pool.Start, "end": pool.End}}}}, &now)
	answer(w, now.Subnet, err)
}

// quotaOf says which service keeps which limit, and what it calls it.
var quotaOf = map[string]struct{ keeper, name string }{"gigabytes": {"cinder", "gigabytes"}, "volumes": {"cinder", "volumes"},
	"instances": {"nova", "instances"}, "cores": {"nova", "cores"}, "ram": {"nova", "ram"}, "ports": {"neutron", "port"},
	"security_groups": {"neutron", "security_group"}, "security_group_rules": {"neutron", "security_group_rule"},
	"floating_ips": {"neutron", "floatingip"}}

func (s *supervisor) controlQuota(w http.ResponseWriter, r *http.Request) {
	given := map[string]int{}
	decoder := json.NewDecoder(io.LimitReader(r.Body, 1<<20))
	if err := decoder.Decode(&given); err != nil && err != io.EOF {
		calls.Refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	changes := map[string]obj{}
	for name, limit := range given {
		keeper, known := quotaOf[name].keeper, quotaOf[name].name
		if keeper == "" {
			calls.Refuse(w, http.StatusBadRequest, name+" is no limit that the control socket knows")
			return
		}
		if changes[keeper] == nil {
			changes[keeper] = obj{}
		}
		changes[keeper][known] = limit
	}
	for keeper, limits := range changes {
		if err := s.setQuota(r, keeper, limits); err != nil {
			answer(w, nil, err)
			return
		}
	}
	now, err := s.quota(r.Context())
	answer(w, now, err)
}

func (s *supervisor) setQuota(r *http.Request, keeper string, limits obj) error {
	switch keeper {
	case "cinder":
		return s.admin.call(r.Context(), http.MethodPut, s.cinder("/os-quota-sets/"+s.project), obj{"quota_set": limits}, nil)
	case "nova":
		limits["force"] = true // also below what is in use
		return s.admin.call(r.Context(), http.MethodPut, s.nova("/os-quota-sets/"+s.project), obj{"quota_set": limits}, nil)
	}
	return s.admin.call(r.Context(), http.MethodPut, s.neutron("/quotas/"+s.project), obj{"quota": limits}, nil)
}
