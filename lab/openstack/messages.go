// Cinder v3: user messages, the only place where it says why what it had accepted failed
// afterwards (cinder/message/message_field.py, cinder/api/v3/messages.py).
package openstack

import (
	"fmt"
	"net/http"
	"time"
)

// message is one of them. As with Cinder it outlives the volume that it is about.
type message struct {
	id, volume     string
	request        string
	action, detail numbered
	created        time.Time
}

// numbered is a text that Cinder keeps by its number.
type numbered struct{ number, text string }

var (
	allocating   = numbered{"001", "schedule allocate volume"}
	noBackEnd    = numbered{"003", "Could not find any available weighted backend."}
	messageQuery = []string{"resource_uuid@3.5", "resource_type@3.5", "event_id@3.5", "request_id@3.5", "message_level@3.5",
		"limit@3.5", "marker@3.5", "offset@3.5"}
)

// messageLife is the default of message_ttl.
const messageLife = 30 * 24 * time.Hour

func messageRoutes() []route {
	const s = "volume"
	all, one := "/v3/messages", "/v3/messages/{message}"
	return []route{
		{service: s, method: "GET", path: all, query: messageQuery, about: "why volumes failed, newest first (3.3)", act: listMessages},
		{service: s, method: "GET", path: one, about: "show a message (3.3)", act: showMessage},
		{service: s, method: "DELETE", path: one, about: "delete a message (3.3)", act: deleteMessage},
	}
}

// tell writes a message about a volume. The scheduler does before it calls the volume failed, so
// whoever sees the status finds the reason. The lab does not keep the ids of requests: this one is nobody's.
func (c *Cloud) tell(v *volume, action, detail numbered) {
	c.messages = append([]*message{{id: newUUID(), volume: v.id, request: "req-" + newUUID(), action: action, detail: detail,
		created: time.Now().UTC()}}, c.messages...)
}

func (m *message) fields() map[string]string {
	return map[string]string{
		"resource_uuid": m.volume, "resource_type": "VOLUME", "request_id": m.request, "message_level": "ERROR",
		"event_id": fmt.Sprintf("VOLUME_VOLUME_%s_%s", m.action.number, m.detail.number),
	}
}

func (q *request) messageView(m *message) obj {
	path := q.cloud.ids.project + "/messages/" + m.id
	view := obj{
		"id": m.id, "user_message": m.action.text + ":" + m.detail.text, "created_at": cinderTime(m.created),
		"guaranteed_until": cinderTime(m.created.Add(messageLife)),
		"links": []obj{{"rel": "self", "href": q.base + "/volume/v3/" + path},
			{"rel": "bookmark", "href": q.base + "/volume/" + path}},
	}
	for name, value := range m.fields() {
		view[name] = value
	}
	return view
}

func listMessages(q *request) reply {
	if bad := q.tooOld(3); bad != nil {
		return *bad
	}
	found := []*message{}
	for _, m := range q.cloud.messages {
		fits := true
		for name, value := range m.fields() {
			fits = fits && (!q.query.Has(name) || q.query.Get(name) == value)
		}
		if fits {
			found = append(found, m)
		}
	}
	start, end, full, bad := q.page(len(found), func(i int) string { return found[i].id },
		func(marker string) reply { return q.missing("Message " + marker + " could not be found.") })
	if bad != nil {
		return *bad
	}
	views := []obj{}
	for _, m := range found[start:end] {
		views = append(views, q.messageView(m))
	}
	body := obj{"messages": views}
	if full {
		body["messages_links"] = q.nextLink("/volume/v3/"+q.cloud.ids.project+"/messages", found[end-1].id)
	}
	return ok(body)
}

// thisMessage finds the message of the path.
func (q *request) thisMessage() (int, *reply) {
	if bad := q.tooOld(3); bad != nil {
		return 0, bad
	}
	for i, m := range q.cloud.messages {
		if m.id == q.vars["message"] {
			return i, nil
		}
	}
	bad := q.missing("Message " + q.vars["message"] + " could not be found.")
	return 0, &bad
}

func showMessage(q *request) reply {
	i, bad := q.thisMessage()
	if bad != nil {
		return *bad
	}
	return ok(obj{"message": q.messageView(q.cloud.messages[i])})
}

func deleteMessage(q *request) reply {
	i, bad := q.thisMessage()
	if bad != nil {
		return *bad
	}
	q.cloud.messages = append(q.cloud.messages[:i:i], q.cloud.messages[i+1:]...)
	return answered(http.StatusNoContent, nil)
}
