// The supervisor as a client of its own cloud: an account that signs in, and
// calls with JSON.
package realcloud

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"sync"
	"time"
)

type obj = map[string]interface{}

// plain talks to the services, each call on a connection of its own: they close
// idle ones without a word.
var plain = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// account signs in at Keystone, by the plain port, and keeps its token.
type account struct {
	keystone string // http://127.0.0.1:PORT
	user     string
	password string
	project  string // name; of the Default domain

	mu        sync.Mutex
	token     string
	userID    string
	projectID string
}

// refusal is an answer that is an error.
type refusal struct {
	method, url string
	status      int
	said        string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("%s %s: %d %s", r.method, r.url, r.status, r.said)
}

// signIn gets a token if there is none.
func (a *account) signIn(ctx context.Context) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.token != "" {
		return a.token, nil
	}
	body := obj{"auth": obj{
		"identity": obj{"methods": []string{"password"}, "password": obj{"user": obj{"name": a.user, "password": a.password, "domain": obj{"id": "default"}}}},
		"scope":    obj{"project": obj{"name": a.project, "domain": obj{"id": "default"}}}}}
	var answer struct {
		Token struct {
			User    struct{ ID string }
			Project struct{ ID string }
		}
	}
	header, err := exchange(ctx, http.MethodPost, a.keystone+"/v3/auth/tokens?nocatalog", "", body, &answer, nil)
	if err != nil {
		return "", fmt.Errorf("%s cannot sign in: %w", a.user, err)
	}
	a.token, a.userID, a.projectID = header.Get("X-Subject-Token"), answer.Token.User.ID, answer.Token.Project.ID
	return a.token, nil
}

// call does one call; into may be nil. Headers are pairs.
func (a *account) call(ctx context.Context, method, url string, body, into interface{}, headers ...string) error {
	for attempt := 0; ; attempt++ {
		token, err := a.signIn(ctx)
		if err != nil {
			return err
		}
		_, err = exchange(ctx, method, url, token, body, into, headers)
		// A test may have revoked every token there is.
		if said, refused := err.(*refusal); refused && said.status == http.StatusUnauthorized && attempt == 0 {
			a.mu.Lock()
			a.token = ""
			a.mu.Unlock()
			continue
		}
		return err
	}
}

func exchange(ctx context.Context, method, url, token string, body, into interface{}, headers []string) (http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var sent io.Reader
	kind := "application/json"
	switch b := body.(type) {
	case nil:
	case []byte:
		sent, kind = bytes.NewReader(b), "application/octet-stream"
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		sent = bytes.NewReader(raw)
	}
	request, err := http.NewRequestWithContext(ctx, method, url, sent)
	if err != nil {
		return nil, err
	}
	if sent != nil {
		request.Header.Set("Content-Type", kind)
	}
	if token != "" {
		request.Header.Set("X-Auth-Token", token)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	answer, err := plain.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode >= 300 {
		return nil, &refusal{method, url, answer.StatusCode, string(raw)}
	}
	if into != nil {
		if err := json.Unmarshal(raw, into); err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, url, err)
		}
	}
	return answer.Header, nil
}

// identified is what every list and every creation answers: things with ids.
type identified struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// create makes one thing, {"one": fields}, and gives its id.
func (a *account) create(ctx context.Context, url, one string, fields obj, headers ...string) (string, error) {
	var answer map[string]identified
	err := a.call(ctx, http.MethodPost, url, obj{one: fields}, &answer, headers...)
	return answer[one].ID, err
}

// hopeless is an error that trying again does not mend.
type hopeless struct{ error }

// until tries again and again until try succeeds, is hopeless, or ctx ends.
func until(ctx context.Context, what string, try func() error) error {
	for said := time.Now(); ; {
		err := try()
		if err == nil {
			return nil
		}
		if _, lost := err.(hopeless); lost {
			return fmt.Errorf("%s: %w", what, err)
		}
		if time.Since(said) > 20*time.Second {
			said = time.Now()
			log.Printf("still waiting for %s: %v", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
