// Package replay answers from a recording that `vmferry --record DIR` made: one
// JSON file for each exchange, without secrets. It knows the files' form and
// how calls are told apart, but neither vSphere nor OpenStack beyond what it
// must rewrite for a client to find its way.
package replay

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"
)

// The services that a recording holds.
const (
	VSphere   = "vsphere"
	OpenStack = "openstack"
	Metadata  = "metadata"
)

// mask stands where a secret was.
const mask = "***"

// Header is one line of a header.
type Header struct{ Name, Value string }

// Exchange is one recorded request with its answer.
type Exchange struct {
	Service, Method string
	Path            string // with its query; without a host
	RequestBody     string
	Status          int
	Headers         []Header
	Body            string
	Failure         string // instead of an answer: what broke

	file string
	used bool
}

// text is a JSON string, or {"base64": "..."} for bytes that are no UTF-8.
type text string

func (t *text) UnmarshalJSON(raw []byte) error {
	var plain string
	if json.Unmarshal(raw, &plain) == nil {
		*t = text(plain)
		return nil
	}
	var encoded struct {
		Base64 *string `json:"base64"`
	}
	if err := json.Unmarshal(raw, &encoded); err != nil {
		return err
	}
	if encoded.Base64 == nil {
		return errors.New("neither a text nor {\"base64\":...}")
	}
	decoded, err := base64.StdEncoding.DecodeString(*encoded.Base64)
	*t = text(decoded)
	return err
}

type exchangeFile struct {
	Service string `json:"service"`
	Method  string `json:"method"`
	Path    text   `json:"path"`
	Request *struct {
		Body text `json:"body"`
	} `json:"request"`
	Response *struct {
		Status  int       `json:"status"`
		Headers [][2]text `json:"headers"`
		Body    text      `json:"body"`
	} `json:"response"`
	Failure *struct {
		Message text `json:"message"`
	} `json:"failure"`
}

var numbered = regexp.MustCompile(`^([0-9]+).*\.json$`)

// Load reads a recording in the order of its numbers.
func Load(dir string) ([]*Exchange, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("there is no recording in %s: %w", dir, err)
	}
	type item struct {
		number int
		name   string
	}
	var items []item
	for _, entry := range entries {
		if match := numbered.FindStringSubmatch(entry.Name()); match != nil {
			number, err := strconv.Atoi(match[1])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", entry.Name(), err)
			}
			items = append(items, item{number, entry.Name()})
		}
	}
	if len(items) == 0 {
		return nil, fmt.Errorf("there is no recording in %s: make one with `vmferry ... --record DIR`", dir)
	}
	sort.Slice(items, func(i, j int) bool {
		if items[i].number != items[j].number {
			return items[i].number < items[j].number
		}
		return items[i].name < items[j].name
	})
	var exchanges []*Exchange
	for _, item := range items {
		x, err := readExchange(filepath.Join(dir, item.name))
		if err != nil {
			return nil, fmt.Errorf("%s is not a recorded exchange: %w", filepath.Join(dir, item.name), err)
		}
		exchanges = append(exchanges, x)
	}
	return exchanges, nil
}

func readExchange(path string) (*Exchange, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var file exchangeFile
	if err := json.Unmarshal(raw, &file); err != nil {
		return nil, err
	}
	if file.Service == "" || file.Method == "" || file.Path == "" || file.Request == nil || (file.Response == nil) == (file.Failure == nil) {
		return nil, errors.New("it needs service, method, path, request, and either response or failure")
	}
	x := &Exchange{Service: file.Service, Method: file.Method, Path: string(file.Path), RequestBody: string(file.Request.Body), file: filepath.Base(path)}
	if file.Failure != nil {
		x.Failure = string(file.Failure.Message)
		if x.Failure == "" {
			x.Failure = "the connection broke"
		}
		return x, nil
	}
	x.Status, x.Body = file.Response.Status, string(file.Response.Body)
	if x.Status < 200 || x.Status > 599 {
		return nil, fmt.Errorf("status %d", x.Status)
	}
	for _, pair := range file.Response.Headers {
		x.Headers = append(x.Headers, Header{string(pair[0]), string(pair[1])})
	}
	return x, nil
}

// matches: "***" in the recorded text stands for any bytes.
func matches(recorded, actual string) bool {
	pieces := strings.Split(recorded, mask)
	if len(pieces) == 1 {
		return recorded == actual
	}
	if !strings.HasPrefix(actual, pieces[0]) {
		return false
	}
	actual = actual[len(pieces[0]):]
	last := pieces[len(pieces)-1]
	for _, piece := range pieces[1 : len(pieces)-1] {
		at := strings.Index(actual, piece)
		if at < 0 {
			return false
		}
		actual = actual[at+len(piece):]
	}
	return strings.HasSuffix(actual, last)
}

// own finds what a client makes up anew in each run: identifiers, and the host
// and process that it writes into a snapshot's description.
var own = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\bhost=[^\s<>&"]+ pid=[0-9]+`)

// Book answers requests from a recording. An answer is used once, in the order
// of the recording, among those to the same request; the last one is repeated.
type Book struct {
	mu        sync.Mutex
	exchanges []*Exchange
	// fresh are the values of own that came from the recorded client and not
	// from a server: a replayed client has others in their place.
	fresh map[string]bool
	// now tells which ones, once they have been seen.
	now map[string]string
}

// NewBook takes a recording.
func NewBook(exchanges []*Exchange) *Book {
	b := &Book{exchanges: exchanges, fresh: map[string]bool{}, now: map[string]string{}}
	served := map[string]bool{}
	for _, x := range exchanges {
		for _, value := range own.FindAllString(x.Path+"\n"+x.RequestBody, -1) {
			if !served[value] {
				b.fresh[value] = true
			}
		}
		for _, value := range own.FindAllString(x.Body, -1) {
			served[value] = true
		}
		for _, header := range x.Headers {
			for _, value := range own.FindAllString(header.Value, -1) {
				served[value] = true
			}
		}
	}
	return b
}

// Answer gives the answer to a request, or nil when the recording has none. It
// is a copy that belongs to the caller.
func (b *Book) Answer(service, method, path, body string) *Exchange {
	b.mu.Lock()
	defer b.mu.Unlock()
	var last *Exchange
	var lastBound map[string]string
	for _, x := range b.exchanges {
		if x.Service != service || x.Method != method {
			continue
		}
		bound, fits := b.fits(x, path, body)
		if !fits {
			continue
		}
		if !x.used {
			x.used = true
			return b.give(x, bound)
		}
		// What broke once is not repeated for ever.
		if x.Failure == "" {
			last, lastBound = x, bound
		}
	}
	if last == nil {
		return nil
	}
	return b.give(last, lastBound)
}

// fits compares a request with a recorded one. bound are values of the client's
// own that this request is the first to show.
func (b *Book) fits(x *Exchange, path, body string) (bound map[string]string, ok bool) {
	wanted, given := x.Path+"\n"+x.RequestBody, path+"\n"+body
	if matches(wanted, given) {
		return nil, true
	}
	before := own.FindAllStringIndex(wanted, -1)
	now := own.FindAllString(given, -1)
	if len(before) != len(now) {
		return nil, false
	}
	bound = map[string]string{}
	var translated bytes.Buffer
	at := 0
	for i, span := range before {
		value := wanted[span[0]:span[1]]
		translated.WriteString(wanted[at:span[0]])
		at = span[1]
		known, seen := b.now[value]
		if !seen {
			known, seen = bound[value]
		}
		switch {
		case !b.fresh[value]:
			known = value
		case !seen:
			known = now[i]
			bound[value] = known
		}
		translated.WriteString(known)
	}
	translated.WriteString(wanted[at:])
	return bound, matches(translated.String(), given)
}

// give copies an exchange and puts the client's present values where its
// recorded ones were.
func (b *Book) give(x *Exchange, bound map[string]string) *Exchange {
	for before, now := range bound {
		b.now[before] = now
	}
	answer := *x
	answer.Headers = append([]Header(nil), x.Headers...)
	translate := func(s string) string {
		return own.ReplaceAllStringFunc(s, func(value string) string {
			if now, known := b.now[value]; known {
				return now
			}
			return value
		})
	}
	answer.Body = translate(answer.Body)
	for i := range answer.Headers {
		answer.Headers[i].Value = translate(answer.Headers[i].Value)
	}
	return &answer
}

// Count tells how many exchanges there are of a service.
func (b *Book) Count(service string) int {
	count := 0
	for _, x := range b.exchanges {
		if x.Service == service {
			count++
		}
	}
	return count
}
