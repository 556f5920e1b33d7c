// The property collector: paging of RetrievePropertiesEx, filters, and
// WaitForUpdatesEx with real versions. The simulator collects the values; which
// of them are news is decided here by comparing with what a version had shown.
package vcenter

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log"
	"reflect"
	"sort"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// changeSignal is a listener of the simulator's registry that wakes waiting
// collectors. It has a managed object's shape because the registry wants one.
type changeSignal struct {
	mo.PropertyFilter
	mu    sync.Mutex
	woken chan struct{}
}

func newChangeSignal() *changeSignal {
	c := &changeSignal{woken: make(chan struct{})}
	c.Self = types.ManagedObjectReference{Type: "PropertyFilter", Value: "change-signal"}
	return c
}

func (c *changeSignal) wake() {
	c.mu.Lock()
	close(c.woken)
	c.woken = make(chan struct{})
	c.mu.Unlock()
}

// next is closed at the next change of any object.
func (c *changeSignal) next() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.woken
}

func (c *changeSignal) PutObject(mo.Reference)                                        { c.wake() }
func (c *changeSignal) UpdateObject(mo.Reference, []types.PropertyChange)             { c.wake() }
func (c *changeSignal) RemoveObject(*simulator.Context, types.ManagedObjectReference) { c.wake() }
func (c *changeSignal) Lock()                                                         {}
func (c *changeSignal) Unlock()                                                       {}

// collector is one PropertyCollector of one session.
type collector struct {
	ref types.ManagedObjectReference

	mu      sync.Mutex
	filters []*filter
	version int
	shown   []shownState // what the last versions showed, oldest first
	waiting map[chan struct{}]bool
}

type filter struct {
	ref  types.ManagedObjectReference
	spec types.PropertyFilterSpec
}

type shownState struct {
	version int
	objects map[objectKey]map[string]value
}

type objectKey struct {
	filter types.ManagedObjectReference
	object types.ManagedObjectReference
}

type value struct {
	print [sha256.Size]byte
	val   types.AnyType
}

// keptVersions: a client whose reply was lost asks again with the version before.
const keptVersions = 8

type propertyPage struct {
	size    int
	objects []types.ObjectContent
}

func (s *Server) registerCollector() {
	s.methods["RetrievePropertiesEx"] = s.retrieveProperties
	s.methods["Fetch"] = s.fetch
	s.methods["ContinueRetrievePropertiesEx"] = s.continueRetrieve
	s.methods["CancelRetrievePropertiesEx"] = s.cancelRetrieve
	s.methods["CreatePropertyCollector"] = s.createCollector
	s.methods["DestroyPropertyCollector"] = s.destroyCollector
	s.methods["CreateFilter"] = s.createFilter
	s.methods["DestroyPropertyFilter"] = s.destroyFilter
	s.methods["CancelWaitForUpdates"] = s.cancelWait
	s.methods["WaitForUpdatesEx"] = func(c *soapCall) (interface{}, *fault, bool) {
		req := c.body.(*types.WaitForUpdatesEx)
		options := types.WaitOptions{}
		if req.Options != nil {
			options = *req.Options
		}
		set, f := s.waitForUpdates(c, req.Version, options)
		return &types.WaitForUpdatesExResponse{Returnval: set}, f, true
	}
	s.methods["CheckForUpdates"] = func(c *soapCall) (interface{}, *fault, bool) {
		none := int32(0)
		set, f := s.waitForUpdates(c, c.body.(*types.CheckForUpdates).Version, types.WaitOptions{MaxWaitSeconds: &none})
		return &types.CheckForUpdatesResponse{Returnval: set}, f, true
	}
	s.methods["WaitForUpdates"] = func(c *soapCall) (interface{}, *fault, bool) {
		set, f := s.waitForUpdates(c, c.body.(*types.WaitForUpdates).Version, types.WaitOptions{})
		if f != nil || set == nil {
			return nil, f, true
		}
		return &types.WaitForUpdatesResponse{Returnval: *set}, nil, true
	}
}

// collect lets the simulator gather what a spec selects.
func (s *Server) collect(sess *session, specs []types.PropertyFilterSpec) ([]types.ObjectContent, *fault) {
	ctx := &simulator.Context{Context: context.Background(), Session: sess.inner, Map: simulator.Map}
	root, ok := simulator.Map.Get(simulator.Map.Get(serviceInstance).(*simulator.ServiceInstance).Content.PropertyCollector).(*simulator.PropertyCollector)
	if !ok {
		return nil, newFault(&types.SystemError{}, "the simulator has no property collector")
	}
	body := root.RetrievePropertiesEx(ctx, &types.RetrievePropertiesEx{This: root.Self, SpecSet: specs})
	if soapFault := body.Fault(); soapFault != nil {
		detail, ok := soapFault.VimFault().(types.BaseMethodFault)
		if !ok {
			return nil, newFault(&types.SystemError{}, "%s", soapFault.String)
		}
		return nil, &fault{detail: detail, message: soapFault.String}
	}
	found := reflect.ValueOf(body).Elem().FieldByName("Res").Interface().(*types.RetrievePropertiesExResponse)
	for _, object := range found.Returnval.Objects {
		for _, missing := range object.MissingSet {
			// A real server refuses the whole call for a path that the type does not have.
			if wrong, ok := missing.Fault.Fault.(*types.InvalidProperty); ok {
				return nil, &fault{detail: wrong, message: "A specified parameter was not correct: " + missing.Path}
			}
		}
	}
	return s.hide(sess.user, found.Returnval.Objects), nil
}

func (s *Server) retrieveProperties(c *soapCall) (interface{}, *fault, bool) {
	req := c.body.(*types.RetrievePropertiesEx)
	if f := s.knownCollector(c); f != nil {
		return nil, f, true
	}
	objects, f := s.collect(c.session, req.SpecSet)
	if f != nil {
		return nil, f, true
	}
	if len(objects) == 0 {
		return &types.RetrievePropertiesExResponse{}, nil, true
	}
	page := &propertyPage{size: int(req.Options.MaxObjects), objects: objects}
	return &types.RetrievePropertiesExResponse{Returnval: c.session.nextPage(page)}, nil, true
}

func (s *Server) continueRetrieve(c *soapCall) (interface{}, *fault, bool) {
	token := c.body.(*types.ContinueRetrievePropertiesEx).Token
	c.session.mu.Lock()
	page := c.session.pages[token]
	delete(c.session.pages, token)
	c.session.mu.Unlock()
	if page == nil {
		return nil, invalidArgument("token"), true
	}
	return &types.ContinueRetrievePropertiesExResponse{Returnval: *c.session.nextPage(page)}, nil, true
}

func (s *Server) cancelRetrieve(c *soapCall) (interface{}, *fault, bool) {
	token := c.body.(*types.CancelRetrievePropertiesEx).Token
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	if c.session.pages[token] == nil {
		return nil, invalidArgument("token"), true
	}
	delete(c.session.pages, token)
	return &types.CancelRetrievePropertiesExResponse{}, nil, true
}

// FetchResponse answers pyvmomi's own way to read one property. The simulator's
// answer for an unset property is one that pyvmomi does not understand.
type FetchResponse struct {
	Returnval types.AnyType `xml:"returnval,omitempty,typeattr"`
}

func (s *Server) fetch(c *soapCall) (interface{}, *fault, bool) {
	// The request's type is internal to the simulator.
	field := reflect.ValueOf(c.body).Elem().FieldByName("Prop")
	if !field.IsValid() || field.Kind() != reflect.String {
		return nil, nil, false
	}
	objects, f := s.collect(c.session, []types.PropertyFilterSpec{{
		PropSet:   []types.PropertySpec{{Type: c.this.Type, PathSet: []string{field.String()}}},
		ObjectSet: []types.ObjectSpec{{Obj: c.this}},
	}})
	if f != nil {
		return nil, f, true
	}
	reply := &FetchResponse{}
	if len(objects) == 1 && len(objects[0].PropSet) == 1 {
		reply.Returnval = objects[0].PropSet[0].Val
	}
	return reply, nil, true
}

// nextPage cuts the next page off; the rest is kept under a token.
func (sess *session) nextPage(page *propertyPage) *types.RetrieveResult {
	if page.size <= 0 || len(page.objects) <= page.size {
		return &types.RetrieveResult{Objects: page.objects}
	}
	token := uuid.NewString()
	rest := &propertyPage{size: page.size, objects: page.objects[page.size:]}
	sess.mu.Lock()
	sess.pages[token] = rest
	sess.mu.Unlock()
	return &types.RetrieveResult{Token: token, Objects: page.objects[:page.size]}
}

func (s *Server) rootCollector() types.ManagedObjectReference {
	return simulator.Map.Get(serviceInstance).(*simulator.ServiceInstance).Content.PropertyCollector
}

// knownCollector refuses calls to a collector that the session does not have.
func (s *Server) knownCollector(c *soapCall) *fault {
	_, f := s.findCollector(c)
	return f
}

func (s *Server) findCollector(c *soapCall) (*collector, *fault) {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	found := c.session.collectors[c.this.Value]
	if found == nil && c.this == s.rootCollector() {
		found = newCollector(c.this)
		c.session.collectors[c.this.Value] = found
	}
	if found == nil {
		return nil, notFound(c.this)
	}
	return found, nil
}

func newCollector(ref types.ManagedObjectReference) *collector {
	return &collector{ref: ref, waiting: map[chan struct{}]bool{}}
}

func (s *Server) createCollector(c *soapCall) (interface{}, *fault, bool) {
	if f := s.knownCollector(c); f != nil {
		return nil, f, true
	}
	ref := types.ManagedObjectReference{Type: "PropertyCollector", Value: sessionScoped(c.session)}
	c.session.mu.Lock()
	c.session.collectors[ref.Value] = newCollector(ref)
	c.session.mu.Unlock()
	return &types.CreatePropertyCollectorResponse{Returnval: ref}, nil, true
}

// sessionScoped is a moref value as a real server gives it to objects of a session.
func sessionScoped(sess *session) string {
	return fmt.Sprintf("session[%s]%s", sess.key, uuid.NewString())
}

func (s *Server) destroyCollector(c *soapCall) (interface{}, *fault, bool) {
	found, f := s.findCollector(c)
	if f != nil {
		return nil, f, true
	}
	found.cancel()
	c.session.mu.Lock()
	delete(c.session.collectors, c.this.Value)
	c.session.mu.Unlock()
	return &types.DestroyPropertyCollectorResponse{}, nil, true
}

func (s *Server) createFilter(c *soapCall) (interface{}, *fault, bool) {
	req := c.body.(*types.CreateFilter)
	found, f := s.findCollector(c)
	if f != nil {
		return nil, f, true
	}
	// Collected once for its faults: an object that is gone, a wrong path.
	if _, f := s.collect(c.session, []types.PropertyFilterSpec{req.Spec}); f != nil {
		return nil, f, true
	}
	created := &filter{
		ref:  types.ManagedObjectReference{Type: "PropertyFilter", Value: sessionScoped(c.session)},
		spec: req.Spec,
	}
	// From now on an object that goes away is news, not an error.
	report := true
	created.spec.ReportMissingObjectsInResults = &report
	found.mu.Lock()
	found.filters = append(found.filters, created)
	found.mu.Unlock()
	s.changes.wake()
	return &types.CreateFilterResponse{Returnval: created.ref}, nil, true
}

func (s *Server) destroyFilter(c *soapCall) (interface{}, *fault, bool) {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	for _, owner := range c.session.collectors {
		if owner.remove(c.this) {
			return &types.DestroyPropertyFilterResponse{}, nil, true
		}
	}
	return nil, notFound(c.this), true
}

func (col *collector) remove(ref types.ManagedObjectReference) bool {
	col.mu.Lock()
	defer col.mu.Unlock()
	for i, f := range col.filters {
		if f.ref != ref {
			continue
		}
		col.filters = append(col.filters[:i:i], col.filters[i+1:]...)
		for _, state := range col.shown {
			for key := range state.objects {
				if key.filter == ref {
					delete(state.objects, key)
				}
			}
		}
		return true
	}
	return false
}

func (s *Server) cancelWait(c *soapCall) (interface{}, *fault, bool) {
	found, f := s.findCollector(c)
	if f != nil {
		return nil, f, true
	}
	found.cancel()
	return &types.CancelWaitForUpdatesResponse{}, nil, true
}

func (col *collector) cancel() {
	col.mu.Lock()
	defer col.mu.Unlock()
	for waiter := range col.waiting {
		close(waiter)
		delete(col.waiting, waiter)
	}
}

func (s *Server) waitForUpdates(c *soapCall, version string, options types.WaitOptions) (*types.UpdateSet, *fault) {
	col, f := s.findCollector(c)
	if f != nil {
		return nil, f
	}
	known, f := col.state(version)
	if f != nil {
		return nil, f
	}
	canceled := make(chan struct{})
	col.mu.Lock()
	col.waiting[canceled] = true
	col.mu.Unlock()
	defer func() {
		col.mu.Lock()
		delete(col.waiting, canceled)
		col.mu.Unlock()
	}()

	var deadline <-chan time.Time
	once := false
	if options.MaxWaitSeconds != nil {
		once = *options.MaxWaitSeconds <= 0
		timer := time.NewTimer(time.Duration(*options.MaxWaitSeconds) * time.Second)
		defer timer.Stop()
		deadline = timer.C
	}
	for {
		changed := s.changes.next() // taken before looking, so that no change is missed
		set, f := s.news(c.session, col, known, int(options.MaxObjectUpdates))
		if f != nil || set != nil || once {
			return set, f
		}
		select {
		case <-changed:
		case <-canceled:
			return nil, newFault(&types.RequestCanceled{}, "%s", wellKnown["RequestCanceled"])
		case <-c.session.ended:
			return nil, notAuthenticated(c.this)
		case <-c.http.Context().Done():
			return nil, newFault(&types.RequestCanceled{}, "the caller has gone")
		case <-deadline:
			return nil, nil
		}
		// Let changes that belong together arrive together.
		time.Sleep(5 * time.Millisecond)
	}
}

// state finds what a version had shown; "" starts anew.
func (col *collector) state(version string) (shownState, *fault) {
	if version == "" {
		return shownState{objects: map[objectKey]map[string]value{}}, nil
	}
	col.mu.Lock()
	defer col.mu.Unlock()
	if number, err := strconv.Atoi(version); err == nil {
		for _, state := range col.shown {
			if state.version == number {
				return state, nil
			}
		}
	}
	return shownState{}, newFault(&types.InvalidCollectorVersion{}, "The collector version %q is not known", version)
}

// news compares the present with what a version had shown; nil when nothing is new.
func (s *Server) news(sess *session, col *collector, known shownState, max int) (*types.UpdateSet, *fault) {
	col.mu.Lock()
	filters := append([]*filter(nil), col.filters...)
	before := map[objectKey]map[string]value{}
	for key, props := range known.objects {
		before[key] = props
	}
	col.mu.Unlock()

	set := &types.UpdateSet{}
	truncated := false
	count := 0
	for _, f := range filters {
		objects, flt := s.collect(sess, []types.PropertyFilterSpec{f.spec})
		if flt != nil {
			return nil, flt
		}
		update := types.PropertyFilterUpdate{Filter: f.ref}
		add := func(u types.ObjectUpdate, key objectKey, now map[string]value) {
			if max > 0 && count >= max {
				truncated = true
				return
			}
			count++
			update.ObjectSet = append(update.ObjectSet, u)
			if now == nil {
				delete(before, key)
			} else {
				before[key] = now
			}
		}
		present := map[objectKey]bool{}
		for _, object := range objects {
			key := objectKey{f.ref, object.Obj}
			present[key] = true
			now := fingerprint(object.PropSet)
			old, seen := before[key]
			if !seen {
				add(types.ObjectUpdate{Kind: types.ObjectUpdateKindEnter, Obj: object.Obj, ChangeSet: difference(nil, now)}, key, now)
			} else if changed := difference(old, now); len(changed) > 0 {
				add(types.ObjectUpdate{Kind: types.ObjectUpdateKindModify, Obj: object.Obj, ChangeSet: changed}, key, now)
			}
		}
		for _, key := range sortedKeys(before) {
			if key.filter == f.ref && !present[key] {
				add(types.ObjectUpdate{Kind: types.ObjectUpdateKindLeave, Obj: key.object}, key, nil)
			}
		}
		if len(update.ObjectSet) > 0 {
			set.FilterSet = append(set.FilterSet, update)
		}
	}
	if len(set.FilterSet) == 0 {
		return nil, nil
	}
	if truncated {
		set.Truncated = &truncated
	}
	col.mu.Lock()
	col.version++
	set.Version = strconv.Itoa(col.version)
	col.shown = append(col.shown, shownState{version: col.version, objects: before})
	if len(col.shown) > keptVersions {
		col.shown = col.shown[len(col.shown)-keptVersions:]
	}
	col.mu.Unlock()
	return set, nil
}

func sortedKeys(of map[objectKey]map[string]value) []objectKey {
	keys := make([]objectKey, 0, len(of))
	for key := range of {
		keys = append(keys, key)
	}
	sort.Slice(keys, func(i, j int) bool { return keys[i].object.Value < keys[j].object.Value })
	return keys
}

type printed struct {
	XMLName xml.Name      `xml:"printed"`
	Val     types.AnyType `xml:"val,typeattr"`
}

// fingerprint notes the wire form of each value: the objects behind them are
// shared with the simulator and may change under us.
func fingerprint(props []types.DynamicProperty) map[string]value {
	now := map[string]value{}
	for _, p := range props {
		raw, err := xml.Marshal(printed{Val: p.Val})
		if err != nil {
			log.Printf("vcenter: property %s: %v", p.Name, err)
		}
		now[p.Name] = value{print: sha256.Sum256(raw), val: p.Val}
	}
	return now
}

func difference(old, now map[string]value) []types.PropertyChange {
	var changes []types.PropertyChange
	for name, v := range now {
		if was, ok := old[name]; !ok || was.print != v.print {
			changes = append(changes, types.PropertyChange{Name: name, Op: types.PropertyChangeOpAssign, Val: v.val})
		}
	}
	for name := range old {
		if _, ok := now[name]; !ok {
			// Unset: an assignment without a value.
			changes = append(changes, types.PropertyChange{Name: name, Op: types.PropertyChangeOpAssign})
		}
	}
	sort.Slice(changes, func(i, j int) bool { return changes[i].Name < changes[j].Name })
	return changes
}
