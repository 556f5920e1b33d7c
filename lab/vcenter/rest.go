// The REST API of tags, as govmomi's simulator has it, for our users; an ESXi host has none.
package vcenter

import (
	"net/http"
	"net/url"

	"github.com/vmware/govmomi/simulator"
	vapi "github.com/vmware/govmomi/vapi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"vmferry.dev/lab/calls"
)

// raiseREST makes the handler of /rest/.
func (s *Server) raiseREST() {
	if s.config.ESXi {
		return
	}
	simulator.Map.SessionManager().ValidLogin = func(login *types.Login) bool {
		return s.sessions.valid(login.UserName, login.Password)
	}
	// Without a user in the address the simulator would let anybody in.
	_, s.rest = vapi.New(&url.URL{Scheme: "https", Host: "lab", User: url.User("lab")}, simulator.Map)
}

func (s *Server) serveREST(w http.ResponseWriter, r *http.Request) {
	entry := calls.Call{Service: "rest", Method: r.Method, Object: r.URL.Path}
	kept := calls.NewRecorder()
	s.rest.ServeHTTP(kept, r)
	entry.Status = kept.Status
	s.log.Add(entry)
	for name, values := range kept.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(kept.Status)
	w.Write(kept.Body.Bytes())
}
