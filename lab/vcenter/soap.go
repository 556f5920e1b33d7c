// SOAP on the wire: decoding a request into method, object and govmomi type,
// encoding a reply or a fault the way a vCenter does. It knows no method by
// name and nothing of virtual machines.
package vcenter

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"regexp"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// maxRequest bounds a SOAP request; the largest real ones (ReconfigVM with many
// devices) are some hundred KiB.
const maxRequest = 8 << 20

// soapCall is one decoded request.
type soapCall struct {
	method  string
	this    types.ManagedObjectReference
	body    interface{} // pointer to the request type of types, such as *types.CreateSnapshot_Task
	raw     []byte
	session *session // nil before Login
	http    *http.Request
}

// fault is a typed SOAP fault on its way to the caller, or into a task's error.
type fault struct {
	detail  types.BaseMethodFault
	message string
}

func (f *fault) Error() string { return f.name() + ": " + f.message }

func (f *fault) name() string { return reflect.TypeOf(f.detail).Elem().Name() }

func newFault(detail types.BaseMethodFault, format string, args ...interface{}) *fault {
	return &fault{detail: detail, message: fmt.Sprintf(format, args...)}
}

func invalidArgument(property string) *fault {
	return newFault(&types.InvalidArgument{InvalidProperty: property},
		"A specified parameter was not correct: %s", property)
}

func notFound(ref types.ManagedObjectReference) *fault {
	return newFault(&types.ManagedObjectNotFound{Obj: ref},
		"The object '%s:%s' has already been deleted or has not been completely created", vimType(ref.Type), ref.Value)
}

// vimType is the type name as it stands in a server's messages.
func vimType(name string) string {
	if name == "VirtualMachineSnapshot" {
		return "vim.vm.Snapshot"
	}
	return "vim." + name
}

func notAuthenticated(this types.ManagedObjectReference) *fault {
	return newFault(&types.NotAuthenticated{
		NoPermission: types.NoPermission{Object: &this, PrivilegeId: "System.View"},
	}, "The session is not authenticated.")
}

// wellKnown are the sentences that a real server sends with a fault; clients
// match on some of them.
var wellKnown = map[string]string{
	"RestrictedVersion":               "Current license or ESXi version prohibits execution of the requested operation.",
	"TaskInProgress":                  "The operation is not allowed in the current state: another task is already in progress.",
	"ToolsUnavailable":                "Cannot complete operation because VMware Tools is not running in this virtual machine.",
	"ApplicationQuiesceFault":         "An error occurred while quiescing the virtual machine. See the virtual machine's event log for details.",
	"InvalidPowerState":               "The attempted operation cannot be performed in the current state.",
	"InvalidLogin":                    "Cannot complete login due to an incorrect user name or password.",
	"NotAuthenticated":                "The session is not authenticated.",
	"NoPermission":                    "Permission to perform this operation was denied.",
	"InvalidState":                    "The operation is not allowed in the current state.",
	"ConcurrentAccess":                "The configuration of the virtual machine was changed by another operation.",
	"HostCommunication":               "Unable to communicate with the remote host, since it is disconnected.",
	"InsufficientResources":           "The available resources are insufficient.",
	"TooManySnapshotLevels":           "The virtual machine has reached the maximum number of snapshot levels.",
	"SnapshotFault":                   "An error occurred while taking a snapshot.",
	"FileLocked":                      "Unable to access file since it is locked",
	"NoDiskSpace":                     "Insufficient disk space on datastore.",
	"NotSupported":                    "The operation is not supported on the object.",
	"NotImplemented":                  "The requested operation is not implemented by the server.",
	"SystemError":                     "A general system error occurred.",
	"RequestCanceled":                 "The operation was canceled.",
	"MemorySnapshotOnIndependentDisk": "Cannot take a memory snapshot, since the virtual machine is configured with independent disks.",
}

// faultByName makes a fault for a fault script. The object is filled in where the
// type has a place for it.
func faultByName(name, message string, this types.ManagedObjectReference) (*fault, error) {
	kind, ok := types.TypeFunc()(name)
	if !ok {
		return nil, fmt.Errorf("no fault type %q in the vSphere API", name)
	}
	value := reflect.New(kind)
	detail, ok := value.Interface().(types.BaseMethodFault)
	if !ok {
		return nil, fmt.Errorf("%q is a type of the vSphere API, but not a fault", name)
	}
	switch f := detail.(type) {
	case *types.ManagedObjectNotFound:
		f.Obj = this
	case *types.NotAuthenticated:
		f.Object, f.PrivilegeId = &this, "System.View"
	case *types.NoPermission:
		f.Object, f.PrivilegeId = &this, "System.View"
	case *types.InvalidArgument:
		f.InvalidProperty = "changeId"
	case *types.FileFault:
		f.File = "[LocalDS_0]"
	}
	if message == "" {
		message = wellKnown[name]
	}
	if message == "" {
		message = name
	}
	return &fault{detail: detail, message: message}, nil
}

func vimTypes(name string) (reflect.Type, bool) {
	find := types.TypeFunc()
	if kind, ok := find(name); ok {
		return kind, true
	}
	// A prefix that the XML decoder did not resolve: "vim25:TraversalSpec".
	if colon := strings.IndexByte(name, ':'); colon >= 0 {
		return find(name[colon+1:])
	}
	return nil, false
}

func decodeCall(r *http.Request) (*soapCall, error) {
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxRequest+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxRequest {
		return nil, fmt.Errorf("the request is larger than %d bytes", maxRequest)
	}
	m, err := simulator.UnmarshalBody(vimTypes, raw)
	if err != nil {
		return nil, err
	}
	return &soapCall{method: m.Name, this: m.This, body: m.Body, raw: raw, http: r}, nil
}

type envelope struct {
	XMLName xml.Name    `xml:"soapenv:Envelope"`
	Enc     string      `xml:"xmlns:soapenc,attr"`
	Env     string      `xml:"xmlns:soapenv,attr"`
	XSD     string      `xml:"xmlns:xsd,attr"`
	XSI     string      `xml:"xmlns:xsi,attr"`
	Body    interface{} `xml:"soapenv:Body"`
}

// wireReply names the reply element after its Go type, in vSphere's namespace.
type wireReply struct{ value interface{} }

func (r *wireReply) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	inner := xml.StartElement{Name: xml.Name{
		Space: "urn:" + vim25.Namespace,
		Local: reflect.TypeOf(r.value).Elem().Name(),
	}}
	if err := e.EncodeToken(start); err != nil {
		return err
	}
	if err := e.EncodeElement(r.value, inner); err != nil {
		return err
	}
	return e.EncodeToken(start.End())
}

// wireFault is the detail element: <XFault xsi:type="X">, which is what clients
// take the fault's type from.
type wireFault struct{ detail types.BaseMethodFault }

func (f *wireFault) MarshalXML(e *xml.Encoder, start xml.StartElement) error {
	kind := reflect.TypeOf(f.detail).Elem().Name()
	start.Name.Local = kind + "Fault"
	start.Attr = append(start.Attr,
		xml.Attr{Name: xml.Name{Local: "xmlns"}, Value: "urn:" + vim25.Namespace},
		xml.Attr{Name: xml.Name{Local: "xsi:type"}, Value: kind})
	return e.EncodeElement(f.detail, start)
}

type faultBody struct {
	Fault struct {
		XMLName xml.Name `xml:"soapenv:Fault"`
		Code    string   `xml:"faultcode"`
		String  string   `xml:"faultstring"`
		Detail  struct {
			Fault *wireFault
		} `xml:"detail"`
	}
}

// encodeReply gives status and bytes for a reply or, when f is set, a fault.
func encodeReply(reply interface{}, f *fault) (int, []byte, error) {
	status := http.StatusOK
	var body interface{}
	if f != nil {
		status = http.StatusInternalServerError
		b := &faultBody{}
		b.Fault.Code = "ServerFaultCode"
		b.Fault.String = f.message
		b.Fault.Detail.Fault = &wireFault{f.detail}
		body = b
	} else {
		body = &wireReply{reply}
	}
	var out bytes.Buffer
	out.WriteString(xml.Header)
	e := xml.NewEncoder(&out)
	err := e.Encode(&envelope{
		Enc:  "http://schemas.xmlsoap.org/soap/encoding/",
		Env:  "http://schemas.xmlsoap.org/soap/envelope/",
		XSD:  "http://www.w3.org/2001/XMLSchema",
		XSI:  "http://www.w3.org/2001/XMLSchema-instance",
		Body: body,
	})
	if err == nil {
		err = e.Flush()
	}
	return status, out.Bytes(), err
}

var faultType = regexp.MustCompile(`xsi:type="([A-Za-z]+)"`)

// faultIn finds the fault's name in an encoded reply, for the call log.
func faultIn(reply []byte) string {
	at := bytes.Index(reply, []byte("<detail>"))
	if at < 0 {
		return "fault"
	}
	if m := faultType.FindSubmatch(reply[at:]); m != nil {
		return string(m[1])
	}
	return "fault"
}
