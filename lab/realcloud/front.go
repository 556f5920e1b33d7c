// The front: what users of the cloud talk to. One TLS port with a path prefix for
// each service, the log of calls and the scripted faults. It changes neither
// requests nor answers; it remembers tokens and networks that pass through it.
package realcloud

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"vmferry.dev/lab/calls"
	"vmferry.dev/lab/openstack"
)

// tokenBelieved is how long a service believes a token that it has checked. Real
// clouds take minutes, which is how long a revoked token lives on there; with none
// at all every call costs Keystone a tenth of a second.
const tokenBelieved = 2 * time.Second

// prefixes of the front, as the stand-in has them, and whose they are.
var prefixes = map[string]string{"identity": "keystone", "volume": "cinder", "compute": "nova", "network": "neutron", "image": "glance", "placement": "placement",
	"orchestration": "heat"}

// secrets are what may stand in no file of a client.
type secrets struct {
	mu     sync.Mutex
	all    []string // oldest first
	tokens []string // not revoked yet
}

func (s *secrets) add(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, secret)
}

func (s *secrets) addToken(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all, s.tokens = append(s.all, token), append(s.tokens, token)
}

func (s *secrets) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.all...)
}

func (s *secrets) takeTokens() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.tokens
	s.tokens = nil
	return taken
}

// service gives the prefix of a path and the path below it.
func service(path string) (prefix, rest string) {
	words := strings.SplitN(strings.TrimPrefix(path, "/"), "/", 2)
	if prefixes[words[0]] == "" {
		return "", path
	}
	if len(words) == 1 {
		return words[0], "/"
	}
	return words[0], "/" + words[1]
}

// front is the handler of the TLS port.
func (s *supervisor) front(callLog *calls.Log, faults *calls.Faults) http.Handler {
	// A service that refuses an image does so before its bytes. Without the wait they are sent on at once, and its
	// connection ends in the middle of them: what it said is lost.
	proxy := &httputil.ReverseProxy{Director: s.direct, ModifyResponse: s.notice, FlushInterval: -1,
		Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true, ExpectContinueTimeout: 30 * time.Second},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			log.Printf("%s %s: the service does not answer: %v", r.Method, r.URL.Path, err)
			calls.Refuse(w, http.StatusBadGateway, "the service behind "+r.URL.Path+" does not answer: "+err.Error())
		}}
	return &calls.Middleware{
		Log: callLog, Faults: faults, Answer: openstack.Scripted,
		Expire: func(r *http.Request) {
			if token := r.Header.Get("X-Auth-Token"); token != "" {
				s.endTokens(r.Context(), []string{token})
			}
		},
		Name: func(r *http.Request) (name, method, object string) {
			if name, _ = service(r.URL.Path); name == "" {
				name = "unknown"
			}
			object = r.URL.Path
			if r.URL.RawQuery != "" {
				object += "?" + r.URL.RawQuery
			}
			return name, r.Method, object
		},
		Next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if name, _ := service(r.URL.Path); name == "" {
				calls.Refuse(w, http.StatusNotFound, "no service has the path "+r.URL.Path)
				return
			}
			proxy.ServeHTTP(w, r)
		}),
	}
}

type prefixKey struct{}

// direct sends a request to its service.
func (s *supervisor) direct(r *http.Request) {
	prefix, rest := service(r.URL.Path)
	// The service sees the path without its prefix; notice must know it.
	*r = *r.WithContext(context.WithValue(r.Context(), prefixKey{}, prefix))
	_, raw := service(r.URL.RawPath)
	target, _ := url.Parse(s.layout.URL(prefixes[prefix]))
	r.URL.Scheme, r.URL.Host, r.URL.Path = target.Scheme, target.Host, rest
	if r.URL.RawPath != "" {
		r.URL.RawPath = raw
	}
	r.Header.Set("X-Forwarded-Proto", "https")
	r.Header.Set("X-Forwarded-Host", r.Host)
	if prefix == "placement" || prefix == "orchestration" {
		// They have no setting for the address they are known by.
		r.Header.Set("X-Forwarded-Prefix", "/"+prefix)
	}
}

// notice remembers what later must be revoked or removed.
func (s *supervisor) notice(answer *http.Response) error {
	request := answer.Request
	if request.Method != http.MethodPost || answer.StatusCode != http.StatusCreated {
		return nil
	}
	prefix, _ := request.Context().Value(prefixKey{}).(string)
	switch {
	case prefix == "identity":
		if token := answer.Header.Get("X-Subject-Token"); token != "" {
			s.secrets.addToken(token)
		}
	case prefix == "network" && strings.TrimSuffix(strings.TrimSuffix(request.URL.Path, ".json"), "/") == "/v2.0/networks":
		raw, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		answer.Body = io.NopCloser(bytes.NewReader(raw))
		if err != nil {
			return err
		}
		var made struct {
			Network  identified
			Networks []identified
		}
		if err := json.Unmarshal(raw, &made); err != nil {
			return err
		}
		for _, network := range append(made.Networks, made.Network) {
			if err := s.noteBridge(network.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// endTokens revokes tokens and waits until no service believes them any more.
func (s *supervisor) endTokens(ctx context.Context, tokens []string) (revoked int) {
	for _, token := range tokens {
		err := s.revoke(ctx, token)
		if said, refused := err.(*refusal); refused && said.status == http.StatusNotFound {
			continue // it has ended already
		}
		if err != nil {
			log.Printf("a token was not revoked: %v", err)
			continue
		}
		revoked++
	}
	if revoked > 0 {
		time.Sleep(tokenBelieved + time.Second)
	}
	return revoked
}
