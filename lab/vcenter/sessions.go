// Sessions: who is logged in, by cookie or by basic authentication, and when a
// session ends (logout, idle timeout, forced). The simulator's own table only
// mirrors this one. It knows nothing of what a session is used for.
package vcenter

import (
	"crypto/subtle"
	"net/http"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

type session struct {
	key  string
	user string
	// inner is the simulator's view of the session: views and filters created by
	// the session are kept there.
	inner *simulator.Session
	// ended is closed when the session ends, so that waiting calls return.
	ended chan struct{}

	mu         sync.Mutex
	collectors map[string]*collector
	pages      map[string]*propertyPage
}

type account struct{ user, password string }

type sessionTable struct {
	accounts []account // set before the server answers

	mu   sync.Mutex
	idle time.Duration // 0 = never
	open map[string]*openSession
	drop func(*session) // called without the lock for each session that ended
	all  []string       // every key ever given out, oldest first
}

type openSession struct {
	*session
	last time.Time
	busy int // calls under way keep a session from idling out
}

func newSessionTable(user, password string, idle time.Duration, drop func(*session)) *sessionTable {
	return &sessionTable{accounts: []account{{user, password}}, idle: idle, open: map[string]*openSession{}, drop: drop}
}

func (t *sessionTable) valid(user, password string) bool {
	valid := 0
	for _, a := range t.accounts {
		sameUser := subtle.ConstantTimeCompare([]byte(user), []byte(a.user))
		samePassword := subtle.ConstantTimeCompare([]byte(password), []byte(a.password))
		valid |= sameUser & samePassword
	}
	return valid == 1
}

func (t *sessionTable) knows(user string) bool {
	for _, a := range t.accounts {
		if a.user == user {
			return true
		}
	}
	return false
}

// find gives an open session by its key, which is its cookie's value too.
func (t *sessionTable) find(key string) *session {
	t.prune()
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.open[key]; o != nil {
		return o.session
	}
	return nil
}

func (t *sessionTable) add(key, user string) *session {
	s := &session{key: key, user: user, ended: make(chan struct{}),
		collectors: map[string]*collector{}, pages: map[string]*propertyPage{}}
	t.mu.Lock()
	t.open[key] = &openSession{session: s, last: time.Now()}
	t.all = append(t.all, key)
	t.mu.Unlock()
	return s
}

// given lists every cookie value ever given out, without the quotes around it:
// a test searches for them where no secret may be.
func (t *sessionTable) given() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string{}, t.all...)
}

// enter finds the caller's session and marks it busy until leave is called.
func (t *sessionTable) enter(r *http.Request) (s *session, leave func()) {
	cookie, err := r.Cookie(soap.SessionCookieName)
	if err != nil {
		return nil, func() {}
	}
	return t.use(cookie.Value)
}

// use marks an open session busy until leave is called; nil when it has ended.
func (t *sessionTable) use(key string) (s *session, leave func()) {
	t.prune()
	t.mu.Lock()
	defer t.mu.Unlock()
	o := t.open[key]
	if o == nil {
		return nil, func() {}
	}
	o.busy++
	o.last = time.Now()
	return o.session, func() {
		t.mu.Lock()
		o.busy--
		o.last = time.Now()
		t.mu.Unlock()
	}
}

func (t *sessionTable) alive(key string) bool {
	t.prune()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open[key] != nil
}

// prune ends the sessions that were idle for too long. They are out of the table
// with the look at them: a call that comes meanwhile must not begin in one.
func (t *sessionTable) prune() {
	t.mu.Lock()
	var dead []*openSession
	for key, o := range t.open {
		if t.idle > 0 && o.busy == 0 && time.Since(o.last) > t.idle {
			delete(t.open, key)
			dead = append(dead, o)
		}
	}
	t.mu.Unlock()
	for _, o := range dead {
		t.over(o)
	}
}

// over tells who waits in a session that is out of the table.
func (t *sessionTable) over(o *openSession) {
	close(o.ended)
	t.drop(o.session)
}

func (t *sessionTable) setIdle(idle time.Duration) {
	t.mu.Lock()
	t.idle = idle
	t.mu.Unlock()
}

// end ends one session; it reports whether there was one.
func (t *sessionTable) end(key string) bool {
	t.mu.Lock()
	o := t.open[key]
	delete(t.open, key)
	t.mu.Unlock()
	if o == nil {
		return false
	}
	t.over(o)
	return true
}

// endAll ends every session and says how many there were.
func (t *sessionTable) endAll() int {
	t.mu.Lock()
	keys := make([]string, 0, len(t.open))
	for key := range t.open {
		keys = append(keys, key)
	}
	t.mu.Unlock()
	count := 0
	for _, key := range keys {
		if t.end(key) {
			count++
		}
	}
	return count
}

// attach notes the simulator's object for a session; the first one stays.
func (t *sessionTable) attach(inner *simulator.Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.open[inner.Key]; o != nil && o.inner == nil {
		o.inner = inner
	}
}

// dropInner forgets the simulator's mirror of a session.
func dropInner(s *session) {
	ctx := simulator.SpoofContext()
	simulator.Map.SessionManager().TerminateSession(ctx, &types.TerminateSession{SessionId: []string{s.key}})
}
