// Who may do what: an administrator who may everything, and a restricted user
// with one role on the datacenter, from which a test takes privileges away. It
// answers the AuthorizationManager and refuses calls with NoPermission.
//
// What each method asks for stands in its page of the API reference under
// "Required privileges":
// https://developer.broadcom.com/xapis/virtual-infrastructure-json-api/8.0.2.0/sdk/vim25/release/
// with VirtualMachine/moId/CreateSnapshot_Task/post and so on behind it.
package vcenter

import (
	"fmt"
	"net/http"
	"sort"
	"strings"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/simulator/esx"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"vmferry.dev/lab/calls"
)

// restrictedRole is what `vmferry check --print-role` asks for; a test compares
// the two.
var restrictedRole = []string{
	"VirtualMachine.Config.ChangeTracking",
	"VirtualMachine.State.CreateSnapshot",
	"VirtualMachine.State.RemoveSnapshot",
	"VirtualMachine.Provisioning.DiskRandomRead",
	"VirtualMachine.Interact.PowerOff",
	"Datastore.Browse",
	"Datastore.FileManagement",
}

// hotaddRole is what the same asks for beside it with --transport hotadd.
var hotaddRole = []string{
	"VirtualMachine.Config.AdvancedConfig",
	"VirtualMachine.Config.AddExistingDisk",
	"VirtualMachine.Config.RemoveDisk",
	"VirtualMachine.Config.AddRemoveDevice",
}

// wholeRole is what the restricted user has.
func wholeRole() []string { return append(append([]string{}, restrictedRole...), hotaddRole...) }

// Every role that a person makes has these three by itself; whoever may see an
// object sees the folders above it with the role View, which has the first two
// (https://docs.vmware.com/en/VMware-vSphere/8.0/vsphere-web-services-programming-guide/GUID-2BAC57EF-7623-4F42-A4EF-A4884F26AC4A.html).
var (
	systemRole = []string{"System.Anonymous", "System.View", "System.Read"}
	viewRole   = []string{"System.Anonymous", "System.View"}
)

// kinds that a privilege can be taken away on.
var kinds = []string{"VirtualMachine", "Datacenter", "Datastore", "Network"}

// privileges of the restricted user; without a user of that kind its name is "".
type privileges struct {
	user string

	mu    sync.Mutex
	taken []takenPrivilege
}

type takenPrivilege struct {
	Privilege string `json:"privilege"`
	Kind      string `json:"kind"` // "" = on every object
}

// restricted tells whether a user is the one with limits.
func (p *privileges) restricted(user string) bool { return p.user != "" && user == p.user }

// kindOf folds the types of the API into the kinds of the settings.
func kindOf(ref types.ManagedObjectReference) string {
	switch ref.Type {
	case "DistributedVirtualPortgroup", "OpaqueNetwork":
		return "Network"
	}
	return ref.Type
}

// held lists what a user may on an object.
func (p *privileges) held(user string, ref types.ManagedObjectReference) []string {
	if !p.restricted(user) {
		return allPrivileges()
	}
	if ref == rootFolder() {
		return viewRole // the role is given on the datacenter
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []string
	for _, privilege := range append(append([]string{}, systemRole...), wholeRole()...) {
		kept := true
		for _, t := range p.taken {
			kept = kept && (t.Privilege != privilege || t.Kind != "" && t.Kind != kindOf(ref))
		}
		if kept {
			list = append(list, privilege)
		}
	}
	return list
}

func (p *privileges) has(user string, ref types.ManagedObjectReference, privilege string) bool {
	for _, held := range p.held(user, ref) {
		if held == privilege {
			return true
		}
	}
	return false
}

func allPrivileges() []string {
	for _, role := range esx.RoleList {
		if role.Name == "Admin" {
			return role.Privilege
		}
	}
	return nil
}

func rootFolder() types.ManagedObjectReference {
	return simulator.Map.Get(serviceInstance).(*simulator.ServiceInstance).Content.RootFolder
}

// noPermission fills in the old fields and the new one, as 8.0 does
// (https://developer.broadcom.com/xapis/virtual-infrastructure-json-api/8.0.2.0/data-structures/NoPermission).
func noPermission(ref types.ManagedObjectReference, privilege string) *fault {
	return newFault(&types.NoPermission{Object: &ref, PrivilegeId: privilege,
		MissingPrivileges: []types.NoPermissionEntityPrivileges{{Entity: ref, PrivilegeIds: []string{privilege}}}},
		"%s", wellKnown["NoPermission"])
}

// required is what a method on a virtual machine or its snapshot asks for, on the
// machine.
var required = map[string]string{
	"CreateSnapshot_Task":     "VirtualMachine.State.CreateSnapshot",
	"RemoveSnapshot_Task":     "VirtualMachine.State.RemoveSnapshot",
	"RemoveAllSnapshots_Task": "VirtualMachine.State.RemoveSnapshot",
	"ConsolidateVMDisks_Task": "VirtualMachine.State.RemoveSnapshot",
	"QueryChangedDiskAreas":   "VirtualMachine.Provisioning.DiskRandomRead",
	"PowerOnVM_Task":          "VirtualMachine.Interact.PowerOn",
	"PowerOffVM_Task":         "VirtualMachine.Interact.PowerOff",
	"ShutdownGuest":           "VirtualMachine.Interact.PowerOff",
	"ExportVm":                "VApp.Export",
	"ExportSnapshot":          "VApp.Export",
}

// unrestricted are the methods that need no more than System.Anonymous, View or
// Read, which the user has wherever it sees anything.
var unrestricted = map[string]bool{
	"RetrieveServiceContent": true, "Login": true, "Logout": true, "CurrentTime": true,
	"RetrieveProperties": true, "RetrievePropertiesEx": true, "ContinueRetrievePropertiesEx": true, "CancelRetrievePropertiesEx": true,
	"Fetch": true, "CreatePropertyCollector": true, "DestroyPropertyCollector": true, "CreateFilter": true, "DestroyPropertyFilter": true,
	"WaitForUpdates": true, "WaitForUpdatesEx": true, "CheckForUpdates": true, "CancelWaitForUpdates": true,
	"CreateContainerView": true, "CreateListView": true, "DestroyView": true,
	"FindByInventoryPath": true, "FindByUuid": true, "FindAllByUuid": true, "FindByDatastorePath": true, "FindByIp": true,
	"FindByDnsName": true, "FindChild": true,
	// Of a lease, which only its holder knows.
	"HttpNfcLeaseProgress": true, "HttpNfcLeaseComplete": true, "HttpNfcLeaseAbort": true, "HttpNfcLeaseGetManifest": true,
	"HasPrivilegeOnEntities": true, "HasPrivilegeOnEntity": true, "HasUserPrivilegeOnEntities": true, "FetchUserPrivilegeOnEntities": true,
}

// permit refuses a call that the caller lacks a privilege for. What a method
// needs that stands nowhere above is not known here, so it is refused by name.
func (s *Server) permit(c *soapCall) *fault {
	if c.session == nil || !s.privileges.restricted(c.session.user) || unrestricted[c.method] {
		return nil
	}
	on := c.this
	if owner, _ := s.snapshotOwner(c.this); owner != nil {
		on = owner.ref
	}
	needed := []string{required[c.method]}
	if req, is := c.body.(*types.ReconfigVM_Task); is {
		needed = reconfigureNeeds(&req.Spec)
	}
	for _, privilege := range needed {
		if privilege == "" {
			return newFault(&types.NotSupported{}, "This lab does not model %s for %s: the privilege it needs is not known here",
				c.method, c.session.user)
		}
		if !s.privileges.has(c.session.user, on, privilege) {
			return noPermission(on, privilege)
		}
	}
	return nil
}

// reconfigureNeeds follows the line "Reconfigure privilege" of each field
// (https://vijava.sourceforge.net/vSphereAPIDoc/ver51/ReferenceGuide/vim.vm.ConfigSpec.html).
// "" stands for a field whose privilege is not known here.
func reconfigureNeeds(spec *types.VirtualMachineConfigSpec) []string {
	var needed []string
	if spec.ChangeTrackingEnabled != nil {
		needed = append(needed, "VirtualMachine.Config.ChangeTracking")
	}
	if len(spec.ExtraConfig) > 0 {
		needed = append(needed, "VirtualMachine.Config.AdvancedConfig")
	}
	if spec.NumCPUs != 0 {
		needed = append(needed, "VirtualMachine.Config.CPUCount")
	}
	if spec.MemoryMB != 0 {
		needed = append(needed, "VirtualMachine.Config.Memory")
	}
	for _, change := range spec.DeviceChange {
		needed = append(needed, deviceChangeNeeds(change.GetVirtualDeviceConfigSpec()))
	}
	if spec.Annotation != "" {
		needed = append(needed, "")
	}
	return needed
}

// deviceChangeNeeds follows the list at ReconfigVM_Task: "VirtualMachine.Config.AddExistingDisk
// if adding a virtual disk that is backed by an existing disk file", "RemoveDisk when
// removing a virtual disk", "AddRemoveDevice when adding or removing any other device"
// (https://vijava.sourceforge.net/vSphereAPIDoc/ver51/ReferenceGuide/vim.VirtualMachine.html#reconfigure).
func deviceChangeNeeds(change *types.VirtualDeviceConfigSpec) string {
	_, isDisk := change.Device.(*types.VirtualDisk)
	switch {
	case attaches(change):
		return "VirtualMachine.Config.AddExistingDisk"
	case isDisk && change.Operation == types.VirtualDeviceConfigSpecOperationRemove:
		return "VirtualMachine.Config.RemoveDisk"
	case isDisk:
		return ""
	}
	return "VirtualMachine.Config.AddRemoveDevice"
}

// HasPrivilegeOnEntityResponse is govmomi's without omitempty, which would leave
// out every false.
type HasPrivilegeOnEntityResponse struct {
	Returnval []bool `xml:"returnval"`
}

// registerPrivileges adds the questions to the AuthorizationManager. A bare host
// has none of them: "This API is implemented only by vCenter Server"
// (https://developer.broadcom.com/xapis/virtual-infrastructure-json-api/8.0.2.0/sdk/vim25/release/AuthorizationManager/moId/HasPrivilegeOnEntities/post).
func (s *Server) registerPrivileges() {
	questions := map[string]method{
		"HasPrivilegeOnEntities": func(c *soapCall) (interface{}, *fault, bool) {
			req := c.body.(*types.HasPrivilegeOnEntities)
			found, f := s.availability(c, req.Entity, s.sessionUser(req.SessionId), req.PrivId, "System.Read")
			return &types.HasPrivilegeOnEntitiesResponse{Returnval: found}, f, true
		},
		"HasPrivilegeOnEntity": func(c *soapCall) (interface{}, *fault, bool) {
			req := c.body.(*types.HasPrivilegeOnEntity)
			found, f := s.availability(c, []types.ManagedObjectReference{req.Entity}, s.sessionUser(req.SessionId), req.PrivId, "System.Read")
			reply := &HasPrivilegeOnEntityResponse{}
			for _, entity := range found {
				for _, privilege := range entity.PrivAvailability {
					reply.Returnval = append(reply.Returnval, privilege.IsGranted)
				}
			}
			return reply, f, true
		},
		"HasUserPrivilegeOnEntities": func(c *soapCall) (interface{}, *fault, bool) {
			req := c.body.(*types.HasUserPrivilegeOnEntities)
			found, f := s.availability(c, req.Entities, s.knownUser(req.UserName), req.PrivId, "System.View")
			return &types.HasUserPrivilegeOnEntitiesResponse{Returnval: found}, f, true
		},
		"FetchUserPrivilegeOnEntities": func(c *soapCall) (interface{}, *fault, bool) {
			req := c.body.(*types.FetchUserPrivilegeOnEntities)
			reply := &types.FetchUserPrivilegeOnEntitiesResponse{}
			if f := s.visible(c, req.Entities, "System.View"); f != nil {
				return nil, f, true
			}
			for _, entity := range req.Entities {
				result := types.UserPrivilegeResult{Entity: entity}
				if user := s.knownUser(req.UserName); user != "" {
					result.Privileges = s.privileges.held(user, entity)
				}
				reply.Returnval = append(reply.Returnval, result)
			}
			return reply, nil, true
		},
	}
	for name, ask := range questions {
		name, ask := name, ask
		s.methods[name] = func(c *soapCall) (interface{}, *fault, bool) {
			if s.config.ESXi {
				return nil, newFault(&types.NotImplemented{}, "%s", wellKnown["NotImplemented"]), true
			}
			return ask(c)
		}
	}
}

// sessionUser is who a session belongs to, "" when there is none: "If the session
// does not exist, false is returned for all privileges of all the entities."
func (s *Server) sessionUser(key string) string {
	if found := s.sessions.find(key); found != nil {
		return found.user
	}
	return ""
}

func (s *Server) knownUser(name string) string {
	if s.sessions.knows(name) {
		return name
	}
	return ""
}

// visible refuses a question about objects that are not there, or on which the
// caller lacks what the question itself needs.
func (s *Server) visible(c *soapCall, entities []types.ManagedObjectReference, needed string) *fault {
	for _, entity := range entities {
		if _, is := simulator.Map.Get(entity).(mo.Entity); !is {
			return notFound(entity)
		}
		if !s.privileges.has(c.session.user, entity, needed) {
			return noPermission(entity, needed)
		}
	}
	return nil
}

func (s *Server) availability(c *soapCall, entities []types.ManagedObjectReference, user string, asked []string,
	needed string) ([]types.EntityPrivilege, *fault) {
	if f := s.visible(c, entities, needed); f != nil {
		return nil, f
	}
	var found []types.EntityPrivilege
	for _, entity := range entities {
		answer := types.EntityPrivilege{Entity: entity}
		for _, privilege := range asked {
			answer.PrivAvailability = append(answer.PrivAvailability, types.PrivilegeAvailability{
				PrivId: privilege, IsGranted: user != "" && s.privileges.has(user, entity, privilege)})
		}
		found = append(found, answer)
	}
	return found, nil
}

// seenWithView are the properties of a folder that are taken to need System.View
// only: without them nobody could look an object up by its path. All others need
// System.Read.
var seenWithView = map[string]bool{"name": true, "parent": true, "childEntity": true, "childType": true}

// hide takes out of an answer what the caller may not read; the server names it
// in missingSet, with the fault.
func (s *Server) hide(user string, objects []types.ObjectContent) []types.ObjectContent {
	if !s.privileges.restricted(user) {
		return objects
	}
	for i, object := range objects {
		if s.privileges.has(user, object.Obj, "System.Read") {
			continue
		}
		shown := object
		shown.PropSet = nil
		for _, property := range object.PropSet {
			if seenWithView[strings.SplitN(property.Name, ".", 2)[0]] {
				shown.PropSet = append(shown.PropSet, property)
				continue
			}
			f := noPermission(object.Obj, "System.Read")
			shown.MissingSet = append(shown.MissingSet, types.MissingProperty{Path: property.Name,
				Fault: types.LocalizedMethodFault{Fault: f.detail, LocalizedMessage: f.message}})
		}
		objects[i] = shown
	}
	return objects
}

// mayRead tells whether a user may read a file over /folder: both privileges, on
// the datastore and on the datacenter ("Privilege Requirements for HTTP Access",
// https://vdc-download.vmware.com/vmwb-repository/dcr-public/5c1c7b8c-0d1b-4037-af84-5f43787eb378/fab98b61-56a7-4608-992f-818d3b40e4ae/GUID-D8AF2F09-09B8-47AD-9F10-BA80F8A2BA6A.html).
func (s *Server) mayRead(user string, store *datastore) bool {
	if !s.privileges.restricted(user) {
		return true
	}
	for _, privilege := range []string{"Datastore.Browse", "Datastore.FileManagement"} {
		for _, on := range []types.ManagedObjectReference{store.ref, simulator.Map.Any("Datacenter").Reference()} {
			if !s.privileges.has(user, on, privilege) {
				return false
			}
		}
	}
	return true
}

// controlPrivileges is /privileges of the control socket.
func (s *Server) controlPrivileges(w http.ResponseWriter, r *http.Request) {
	p := s.privileges
	if p.user == "" {
		calls.Refuse(w, http.StatusNotFound, "this server has no restricted user")
		return
	}
	switch r.Method {
	case http.MethodGet:
	case http.MethodPost:
		var ask struct {
			Take []string `json:"take"`
			Kind string   `json:"kind"`
		}
		err := calls.Decode(r, &ask)
		if err == nil {
			err = p.take(ask.Take, ask.Kind)
		}
		if err != nil {
			calls.Refuse(w, http.StatusBadRequest, err.Error())
			return
		}
	case http.MethodDelete:
		p.mu.Lock()
		p.taken = nil
		p.mu.Unlock()
	default:
		calls.Refuse(w, http.StatusMethodNotAllowed, "/privileges knows GET, POST and DELETE")
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	calls.Reply(w, http.StatusOK, map[string]interface{}{"user": p.user, "role": restrictedRole, "hotadd_role": hotaddRole,
		"taken": append([]takenPrivilege{}, p.taken...)})
}

func (p *privileges) take(list []string, kind string) error {
	if len(list) == 0 {
		return fmt.Errorf(`needs {"take": ["NAME", ...]}, with "kind" on objects of that kind only`)
	}
	known := kind == ""
	for _, k := range kinds {
		known = known || k == kind
	}
	if !known {
		return fmt.Errorf("kind %q: %s, or none for all", kind, strings.Join(kinds, ", "))
	}
	role := wholeRole()
	sort.Strings(role)
	for _, privilege := range list {
		if at := sort.SearchStrings(role, privilege); at == len(role) || role[at] != privilege {
			return fmt.Errorf("%q is not in the role: %s", privilege, strings.Join(role, ", "))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, privilege := range list {
		p.taken = append(p.taken, takenPrivilege{privilege, kind})
	}
	return nil
}
