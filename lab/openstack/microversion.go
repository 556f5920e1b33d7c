// Microversions of Nova and Cinder.
package openstack

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

type microversion struct{ major, minor int }

func (v microversion) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }
func (v microversion) zero() bool     { return v == microversion{} }
func (v microversion) less(o microversion) bool {
	return v.major < o.major || v.major == o.major && v.minor < o.minor
}

// at tells whether the call runs at 2.minor or 3.minor or later.
func (q *request) at(minor int) bool { return q.version.minor >= minor }

// The ranges of Zed: nova/api/openstack/api_version_request.py and cinder's.
var (
	computeRange = [2]microversion{{2, 1}, {2, 93}}
	volumeRange  = [2]microversion{{3, 0}, {3, 70}}
)

var microversionForm = regexp.MustCompile(`^([1-9]\d*)\.([1-9]\d*|0)$`)

func parseMicroversion(text string) (microversion, bool) {
	m := microversionForm.FindStringSubmatch(text)
	if m == nil {
		return microversion{}, false
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	return microversion{major, minor}, true
}

// readVersion takes the microversion out of the headers and refuses one out of
// range. The unversioned documents are not under microversions.
func (q *request) readVersion(path string) *reply {
	var limits [2]microversion
	asked := ""
	switch {
	case q.service == "compute" && strings.HasPrefix(path, "/v2.1"):
		limits = computeRange
		asked = versionFor(q.http.Header.Values("OpenStack-API-Version"), "compute")
		if asked == "" {
			asked = q.http.Header.Get("X-OpenStack-Nova-API-Version")
		}
	case q.service == "volume" && strings.HasPrefix(path, "/v3"):
		limits = volumeRange
		asked = versionFor(q.http.Header.Values("OpenStack-API-Version"), "volume")
	default:
		return nil
	}
	switch asked {
	case "":
		q.version = limits[0]
		return nil
	case "latest":
		q.version = limits[1]
		return nil
	}
	version, valid := parseMicroversion(asked)
	if !valid {
		bad := q.fail(http.StatusBadRequest, fmt.Sprintf(
			"API Version String %s is of invalid format. Must be of format MajorNum.MinorNum.", asked))
		return &bad
	}
	if version.less(limits[0]) || limits[1].less(version) {
		bad := q.fail(http.StatusNotAcceptable, fmt.Sprintf(
			"Version %s is not supported by the API. Minimum is %s and maximum is %s.", version, limits[0], limits[1]))
		return &bad
	}
	q.version = version
	return nil
}

// versionFor finds "SERVICE VERSION" in the header, which may name several
// services.
func versionFor(headers []string, service string) string {
	for _, header := range headers {
		for _, part := range strings.Split(header, ",") {
			words := strings.Fields(part)
			if len(words) == 2 && strings.EqualFold(words[0], service) {
				return words[1]
			}
		}
	}
	return ""
}

func withFate(ctx context.Context, f *fate) context.Context {
	return context.WithValue(ctx, fateKey{}, f)
}
