// Cinder v3: how volumes, types, quotas and limits are shown, filtered and paged.
package openstack

import (
	"fmt"
	"net/http"
	"sort"
	"strconv"
	"strings"
)

func (c *Cloud) volumeView(q *request, v *volume) obj {
	attachments := []obj{}
	if a := v.attachment; a != nil && a.attached {
		attachments = append(attachments, obj{
			"id": v.id, "attachment_id": a.id, "volume_id": v.id, "server_id": a.instance(), "host_name": nil,
			"device": a.device, "attached_at": cinderTime(a.at),
		})
	}
	view := obj{
		"id": v.id, "name": v.name, "description": v.description, "status": v.status, "size": v.size,
		"availability_zone": v.zone, "created_at": cinderTime(v.created), "updated_at": cinderTime(v.updated),
		"volume_type": v.volumeType.name, "snapshot_id": nil, "source_volid": nil, "metadata": copied(v.metadata),
		"links": q.volumeLinks(v), "user_id": c.ids.user, "bootable": strconv.FormatBool(v.bootable), "encrypted": v.volumeType.encrypted,
		"replication_status": nil, "consistencygroup_id": nil, "multiattach": v.volumeType.shared, "attachments": attachments,
		"os-vol-tenant-attr:tenant_id": c.ids.project,
	}
	if len(v.imageMetadata) > 0 {
		view["volume_image_metadata"] = copied(v.imageMetadata)
	}
	if q.at(13) {
		view["group_id"] = nil
	}
	if q.at(48) {
		view["shared_targets"] = false
		view["service_uuid"] = nil
	}
	if q.at(63) {
		view["volume_type_id"] = v.volumeType.id
	}
	if q.at(65) {
		view["consumes_quota"] = true
	}
	return view
}

func (q *request) volumeLinks(v *volume) []obj {
	project := q.cloud.ids.project
	return []obj{
		{"rel": "self", "href": q.base + "/volume/v3/" + project + "/volumes/" + v.id},
		{"rel": "bookmark", "href": q.base + "/volume/" + project + "/volumes/" + v.id},
	}
}

var volumeQuery = []string{"name", "status", "metadata", "bootable", "size", "availability_zone", "all_tenants",
	"limit", "marker", "offset", "sort", "sort_key", "sort_dir"}

func listVolumes(q *request) reply {
	return q.cloud.volumeList(q, "/volumes", func(v *volume) obj {
		return obj{"id": v.id, "name": v.name, "links": q.volumeLinks(v)}
	})
}

func detailVolumes(q *request) reply {
	return q.cloud.volumeList(q, "/volumes/detail", func(v *volume) obj { return q.cloud.volumeView(q, v) })
}

func (c *Cloud) volumeList(q *request, path string, view func(*volume) obj) reply {
	found := []*volume{}
	for _, v := range c.volumes {
		fits, bad := q.volumeFits(v)
		if bad != nil {
			return *bad
		}
		if fits {
			found = append(found, v)
		}
	}
	if bad := q.sortVolumes(found); bad != nil {
		return *bad
	}
	start, end, full, bad := q.page(len(found), func(i int) string { return found[i].id }, func(marker string) reply {
		return q.missing("Volume " + marker + " could not be found.")
	})
	if bad != nil {
		return *bad
	}
	views := []obj{}
	for _, v := range found[start:end] {
		views = append(views, view(v))
	}
	body := obj{"volumes": views}
	if full {
		body["volumes_links"] = q.nextLink("/volume/v3/"+c.ids.project+path, found[end-1].id)
	}
	return ok(body)
}

// volumeFits applies the filters. As in Cinder, metadata is a Python or JSON
// dictionary, and anything else in its place fits no volume.
func (q *request) volumeFits(v *volume) (bool, *reply) {
	for name := range q.query {
		want := q.query.Get(name)
		fits := true
		switch name {
		case "name":
			fits = v.name == want
		case "status":
			fits = v.status == unquoted(want)
		case "availability_zone":
			fits = v.zone == unquoted(want)
		case "size":
			fits = strconv.Itoa(v.size) == want
		case "bootable":
			value, valid := boolean(want)
			if !valid && q.at(2) {
				bad := q.badRequest("Invalid input received: 'bootable = %s'", want)
				return false, &bad
			}
			fits = v.bootable == (value || !valid)
		case "metadata":
			wanted, is := parseDict(want)
			fits = is
			for key, value := range wanted {
				fits = fits && v.metadata[key] == value
			}
		}
		if !fits {
			return false, nil
		}
	}
	return true, nil
}

func unquoted(s string) string {
	if len(s) >= 2 && (s[0] == '\'' || s[0] == '"') && s[len(s)-1] == s[0] {
		return s[1 : len(s)-1]
	}
	return s
}

// parseDict reads a flat dictionary of strings as Python's ast.literal_eval
// would; JSON of that form is a special case of it.
func parseDict(source string) (map[string]string, bool) {
	p := &dictReader{rest: strings.TrimSpace(source)}
	read := map[string]string{}
	if !p.take("{") {
		return nil, false
	}
	for !p.take("}") {
		key, isKey := p.word()
		if !isKey || !p.take(":") {
			return nil, false
		}
		value, isValue := p.word()
		if !isValue {
			return nil, false
		}
		read[key] = value
		if !p.take(",") && !strings.HasPrefix(p.rest, "}") {
			return nil, false
		}
	}
	return read, p.rest == ""
}

type dictReader struct{ rest string }

func (p *dictReader) take(mark string) bool {
	if !strings.HasPrefix(p.rest, mark) {
		return false
	}
	p.rest = strings.TrimSpace(p.rest[len(mark):])
	return true
}

// word reads a quoted string or a number.
func (p *dictReader) word() (string, bool) {
	if len(p.rest) > 1 && p.rest[0] == 'u' && (p.rest[1] == '\'' || p.rest[1] == '"') {
		p.rest = p.rest[1:]
	}
	if p.rest == "" {
		return "", false
	}
	quote := p.rest[0]
	if quote != '\'' && quote != '"' {
		digits := 0
		for digits < len(p.rest) && p.rest[digits] >= '0' && p.rest[digits] <= '9' {
			digits++
		}
		word := p.rest[:digits]
		p.rest = strings.TrimSpace(p.rest[digits:])
		return word, digits > 0
	}
	var word strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch {
		case p.rest[i] == '\\' && i+1 < len(p.rest):
			i++
			switch p.rest[i] {
			case 'n':
				word.WriteByte('\n')
			case 't':
				word.WriteByte('\t')
			case '\\', '\'', '"', '/':
				word.WriteByte(p.rest[i])
			default:
				return "", false
			}
		case p.rest[i] == quote:
			p.rest = strings.TrimSpace(p.rest[i+1:])
			return word.String(), true
		default:
			word.WriteByte(p.rest[i])
		}
	}
	return "", false
}

// sortVolumes orders a list: newest first when nothing is asked.
func (q *request) sortVolumes(found []*volume) *reply {
	key, direction := "created_at", "desc"
	if sorted := q.query.Get("sort"); sorted != "" {
		parts := strings.SplitN(sorted, ":", 2)
		key = parts[0]
		if len(parts) == 2 {
			direction = parts[1]
		}
	} else if q.query.Get("sort_key") != "" {
		key = q.query.Get("sort_key")
	}
	if d := q.query.Get("sort_dir"); d != "" {
		direction = d
	}
	values := map[string]func(v *volume) string{
		"created_at": func(v *volume) string { return v.created.Format("20060102150405.000000000") },
		"name":       func(v *volume) string { return v.name },
		"id":         func(v *volume) string { return v.id },
		"status":     func(v *volume) string { return v.status },
		"size":       func(v *volume) string { return fmt.Sprintf("%012d", v.size) },
	}
	value := values[key]
	if value == nil || direction != "asc" && direction != "desc" {
		bad := q.cloud.unmodelled(q.http, q.service, http.StatusNotImplemented, "sorting volumes by "+key+" "+direction)
		return &bad
	}
	sort.SliceStable(found, func(i, j int) bool {
		if direction == "desc" {
			i, j = j, i
		}
		return value(found[i])+found[i].id < value(found[j])+found[j].id
	})
	return nil
}

// page cuts a list by offset, marker and limit. full tells that the page is as
// long as the limit, when the services add a link to the next.
func (q *request) page(n int, id func(int) string, noMarker func(string) reply) (start, end int, full bool, bad *reply) {
	number := func(name string, fallback int) int {
		given := q.query.Get(name)
		if given == "" {
			return fallback
		}
		value, err := strconv.Atoi(given)
		if (err != nil || value < 0) && bad == nil {
			refused := q.badRequest("%s param must be an integer", name)
			if err == nil {
				refused = q.badRequest("%s param must be positive", name)
			}
			bad = &refused
		}
		return value
	}
	const most = 1000
	limit := number("limit", most)
	offset := number("offset", 0)
	if bad != nil {
		return 0, 0, false, bad
	}
	if limit > most {
		limit = most
	}
	if marker := q.query.Get("marker"); marker != "" {
		start = -1
		for i := 0; i < n; i++ {
			if id(i) == marker {
				start = i + 1
			}
		}
		if start < 0 {
			refused := noMarker(marker)
			return 0, 0, false, &refused
		}
	}
	start += offset
	if start > n {
		start = n
	}
	end = start + limit
	if end > n {
		end = n
	}
	return start, end, limit > 0 && end-start == limit, nil
}

func (q *request) nextLink(path, marker string) []obj {
	query := map[string][]string{}
	for name, values := range q.query {
		query[name] = values
	}
	query["marker"] = []string{marker}
	return []obj{{"rel": "next", "href": q.base + path + "?" + encodeQuery(query)}}
}

// nowhere is what a volume type and a flavor are called that no back end and no
// host can serve: a way to see Cinder and Nova fail.
const nowhere = "nowhere"

var volumeTypes = []volumeType{
	{id: stableUUID(0x51), name: "lab", description: "sparse files on this machine"},
	{id: stableUUID(0x52), name: "fast", description: "the same files under another name"},
	{id: stableUUID(0x53), name: "__DEFAULT__", description: "Default Volume Type"},
	{id: stableUUID(0x54), name: nowhere, description: "no back end has it"},
	{id: stableUUID(0x55), name: "vault", description: "encrypted: what was never written is not zero", encrypted: true},
	{id: stableUUID(0x56), name: "shared", description: "several servers may have it at once", shared: true},
}

func (c *Cloud) volumeTypeNamed(q *request, name string) (volumeType, *reply) {
	if name == "" {
		return volumeTypes[0], nil
	}
	for _, t := range volumeTypes {
		if t.name == name || t.id == name {
			return t, nil
		}
	}
	text := "Volume type with name " + name + " could not be found."
	if looksLikeUUID(name) {
		text = "Volume type " + name + " could not be found."
	}
	bad := q.missing(text)
	return volumeType{}, &bad
}

func volumeTypeView(t volumeType) obj {
	return obj{"id": t.id, "name": t.name, "is_public": true, "description": t.description, "extra_specs": obj{},
		"qos_specs_id": nil, "os-volume-type-access:is_public": true}
}

func listVolumeTypes(q *request) reply {
	views := []obj{}
	for i := len(volumeTypes) - 1; i >= 0; i-- {
		views = append(views, volumeTypeView(volumeTypes[i]))
	}
	return ok(obj{"volume_types": views})
}

func showVolumeType(q *request) reply {
	for _, t := range volumeTypes {
		if t.id == q.vars["type"] {
			return ok(obj{"volume_type": volumeTypeView(t)})
		}
	}
	return q.missing("Volume type " + q.vars["type"] + " could not be found.")
}

func defaultVolumeType(q *request) reply {
	return ok(obj{"volume_type": volumeTypeView(volumeTypes[0])})
}

func volumeLimits(q *request) reply {
	c := q.cloud
	volumes, gigabytes := c.volumeUse()
	return ok(obj{"limits": obj{"rate": []obj{}, "absolute": obj{
		"maxTotalVolumes": c.quota.Volumes, "maxTotalVolumeGigabytes": c.quota.Gigabytes, "maxTotalSnapshots": 10,
		"maxTotalBackups": 10, "maxTotalBackupGigabytes": 1000, "totalVolumesUsed": volumes,
		"totalGigabytesUsed": gigabytes, "totalSnapshotsUsed": 0, "totalBackupsUsed": 0, "totalBackupGigabytesUsed": 0,
	}}})
}

func volumeQuotas(q *request) reply {
	c := q.cloud
	if q.vars["project"] != c.ids.project {
		return q.fail(http.StatusForbidden, "Policy doesn't allow volume_extension:quotas:show to be performed.")
	}
	volumes, gigabytes := c.volumeUse()
	limit := map[string][2]int{
		"volumes": {c.quota.Volumes, volumes}, "gigabytes": {c.quota.Gigabytes, gigabytes}, "snapshots": {10, 0},
		"backups": {10, 0}, "backup_gigabytes": {1000, 0}, "per_volume_gigabytes": {-1, 0}, "groups": {10, 0},
	}
	for _, t := range volumeTypes {
		usedVolumes, usedGigabytes := 0, 0
		for _, v := range c.volumes {
			if v.volumeType == t {
				usedVolumes, usedGigabytes = usedVolumes+1, usedGigabytes+v.size
			}
		}
		limit["volumes_"+t.name] = [2]int{-1, usedVolumes}
		limit["gigabytes_"+t.name] = [2]int{-1, usedGigabytes}
		limit["snapshots_"+t.name] = [2]int{-1, 0}
	}
	usage, _ := boolean(q.query.Get("usage"))
	set := obj{"id": c.ids.project}
	for name, value := range limit {
		if usage {
			set[name] = obj{"limit": value[0], "in_use": value[1], "reserved": 0}
		} else {
			set[name] = value[0]
		}
	}
	return ok(obj{"quota_set": set})
}

func volumeZones(q *request) reply {
	return ok(obj{"availabilityZoneInfo": []obj{{"zoneName": zoneName, "zoneState": obj{"available": true}}}})
}
