// Faults by script: rules that match calls and say how they go wrong.
package calls

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"regexp"
	"sync"
	"time"
)

// Kinds of fault.
const (
	KindFault     = "fault"      // a SOAP fault named by Rule.Fault
	KindHTTP      = "http"       // an HTTP answer with Rule.Status
	KindReset     = "reset"      // the connection is closed before the act
	KindLostReply = "lost-reply" // the act is done, then the connection is closed, or a gateway answers Rule.Status
	KindDelay     = "delay"      // the act is done after Rule.DelayMS
	KindExpire    = "expire"     // the caller's session or token ends, then the call goes on
)

// Rule says which calls go wrong and how. Fields left out match everything;
// count left out is 1, count -1 is without end; probability left out is 1.
type Rule struct {
	ID          int64   `json:"id"` // given by Faults.Add
	Service     string  `json:"service,omitempty"`
	Method      string  `json:"method,omitempty"`
	PathRegex   string  `json:"path_regex,omitempty"`
	Skip        int     `json:"skip"`  // matching calls that still pass
	Count       int     `json:"count"` // how often the rule strikes after that
	Probability float64 `json:"probability"`
	Kind        string  `json:"kind"`
	Fault       string  `json:"fault,omitempty"`
	Status      int     `json:"status,omitempty"`
	RetryAfter  int     `json:"retry_after,omitempty"`
	Message     string  `json:"message,omitempty"`
	DelayMS     int     `json:"delay_ms,omitempty"`
	Hits        int     `json:"hits"` // how often it struck so far
}

// Delay is DelayMS as a duration.
func (r Rule) Delay() time.Duration { return time.Duration(r.DelayMS) * time.Millisecond }

// UnmarshalJSON fills the defaults in and refuses fields it does not know, so
// that a misspelt script is not silently without effect.
func (r *Rule) UnmarshalJSON(raw []byte) error {
	type plain Rule
	read := plain{Count: 1, Probability: 1}
	if err := strict(raw, &read); err != nil {
		return err
	}
	*r = Rule(read)
	return nil
}

type armed struct {
	Rule
	path *regexp.Regexp
	seen int
}

// Faults is the list of rules in force, safe for several goroutines.
type Faults struct {
	mu     sync.Mutex
	next   int64
	rules  []*armed
	random *rand.Rand
}

// NewFaults makes an empty list whose probabilities repeat for the same seed.
func NewFaults(seed int64) *Faults {
	return &Faults{random: rand.New(rand.NewSource(seed))}
}

// Seed starts the sequence of probabilities again.
func (f *Faults) Seed(seed int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.random = rand.New(rand.NewSource(seed))
}

// Add puts a rule in force and gives its id.
func (f *Faults) Add(r Rule) (int64, error) {
	a, err := arm(r)
	if err != nil {
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	a.ID = f.next
	f.rules = append(f.rules, a)
	return a.ID, nil
}

func arm(r Rule) (*armed, error) {
	a := &armed{Rule: r}
	a.Hits = 0
	var err error
	if a.path, err = regexp.Compile(r.PathRegex); err != nil {
		return nil, fmt.Errorf("path_regex: %w", err)
	}
	if r.Count == 0 || r.Count < -1 {
		return nil, errors.New("count must be positive, or -1 for a rule without end")
	}
	if r.Skip < 0 || r.DelayMS < 0 || r.RetryAfter < 0 {
		return nil, errors.New("skip, delay_ms and retry_after cannot be negative")
	}
	if r.Probability <= 0 || r.Probability > 1 {
		return nil, errors.New("probability must be above 0 and at most 1")
	}
	switch r.Kind {
	case KindFault:
		if r.Fault == "" {
			return nil, errors.New(`kind "fault" needs the name of a fault`)
		}
	case KindHTTP:
		if r.Status < 200 || r.Status > 599 {
			return nil, errors.New(`kind "http" needs a status from 200 to 599`)
		}
	case KindDelay:
		if r.DelayMS == 0 {
			return nil, errors.New(`kind "delay" needs delay_ms`)
		}
	case KindReset, KindLostReply, KindExpire:
	default:
		return nil, fmt.Errorf("unknown kind %q: fault, http, reset, lost-reply, delay or expire", r.Kind)
	}
	return a, nil
}

// Match tells whether a call goes wrong. The first rule that strikes decides;
// every rule that the call matches before that counts it towards its skip.
func (f *Faults) Match(service, method, object string) (Rule, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.rules {
		if a.Service != "" && a.Service != service || a.Method != "" && a.Method != method {
			continue
		}
		if a.Count >= 0 && a.Hits >= a.Count || !a.path.MatchString(object) {
			continue
		}
		a.seen++
		if a.seen <= a.Skip {
			continue
		}
		if a.Probability < 1 && f.random.Float64() >= a.Probability {
			continue
		}
		a.Hits++
		return a.Rule, true
	}
	return Rule{}, false
}

// All gives the rules with their hits, spent ones too; never nil.
func (f *Faults) All() []Rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]Rule, 0, len(f.rules))
	for _, a := range f.rules {
		all = append(all, a.Rule)
	}
	return all
}

// Clear takes all rules out of force.
func (f *Faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = nil
}

var _ json.Unmarshaler = (*Rule)(nil)
