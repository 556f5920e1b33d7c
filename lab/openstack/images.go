// Glance v2: images are listed and shown, nothing more.
package openstack

import "net/http"

func imageVersions(q *request) reply {
	versions := []obj{}
	for i, id := range []string{"v2.15", "v2.13", "v2.12", "v2.11", "v2.10", "v2.9", "v2.7", "v2.6", "v2.5", "v2.4", "v2.3", "v2.2", "v2.1", "v2.0"} {
		status := "SUPPORTED"
		if i == 0 {
			status = "CURRENT"
		}
		versions = append(versions, obj{"id": id, "status": status,
			"links": []obj{{"rel": "self", "href": q.base + "/image/v2/"}}})
	}
	return answered(http.StatusMultipleChoices, obj{"versions": versions})
}

var imageQuery = []string{"name", "status", "visibility", "owner", "id", "disk_format", "container_format", "limit",
	"marker", "member_status"}

func listImages(q *request) reply {
	found := []obj{}
	for _, image := range q.cloud.images {
		fits := true
		for name := range q.query {
			switch name {
			case "limit", "marker", "member_status":
			default:
				fits = fits && text(image[name]) == q.query.Get(name)
			}
		}
		if fits {
			found = append(found, image)
		}
	}
	start, end, full, bad := q.page(len(found), func(i int) string { return text(found[i]["id"]) }, func(marker string) reply {
		return q.badRequest("Invalid marker. Image %s could not be found.", marker)
	})
	if bad != nil {
		return *bad
	}
	body := obj{"images": append([]obj{}, found[start:end]...), "first": "/v2/images", "schema": "/v2/schemas/images"}
	if full {
		body["next"] = "/v2/images?" + encodeQuery(map[string][]string{
			"limit": {q.query.Get("limit")}, "marker": {text(found[end-1]["id"])}})
	}
	return ok(body)
}

func showImage(q *request) reply {
	for _, image := range q.cloud.images {
		if image["id"] == q.vars["image"] {
			return ok(image)
		}
	}
	return q.missing("No image found with ID " + q.vars["image"])
}
