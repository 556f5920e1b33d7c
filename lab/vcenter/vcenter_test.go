package vcenter

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/vim25/types"

	"vmferry.dev/lab/disk"
)

func TestParseRange(t *testing.T) {
	const size = 1000
	for _, c := range []struct {
		header     string
		start, end int64
		partial    bool
		ok         bool
	}{
		{"", 0, size, false, true},
		{"bytes=0-0", 0, 1, true, true},
		{"bytes=10-19", 10, 20, true, true},
		{"bytes=990-", 990, size, true, true},
		{"bytes=990-2000", 990, size, true, true},
		{"bytes=-1", 999, size, true, true},
		{"bytes=-5000", 0, size, true, true},
		{"bytes=-0", 0, 0, false, false},
		{"bytes=1000-", 0, 0, false, false},
		{"bytes=1000-1001", 0, 0, false, false},
		{"bytes=20-10", 0, size, false, true},
		{"bytes=0-1,5-6", 0, size, false, true},
		{"bytes=x-1", 0, size, false, true},
		{"lines=0-1", 0, size, false, true},
	} {
		start, end, partial, ok := parseRange(c.header, size)
		if start != c.start || end != c.end || partial != c.partial || ok != c.ok {
			t.Errorf("%q: %d %d %v %v, want %d %d %v %v", c.header, start, end, partial, ok, c.start, c.end, c.partial, c.ok)
		}
	}
}

// Whatever the page size, following startOffset+length gives every area once and
// ends exactly at the capacity.
func TestPagesCoverTheDisk(t *testing.T) {
	const size = 100 << 16
	layouts := map[string][]disk.Area{
		"none":        nil,
		"whole":       {{Start: 0, Length: size}},
		"at the ends": {{Start: 0, Length: 1 << 16}, {Start: size - 1<<16, Length: 1 << 16}},
		"many":        {{Start: 1 << 16, Length: 1 << 16}, {Start: 3 << 16, Length: 2 << 16}, {Start: 40 << 16, Length: 1 << 16}, {Start: 98 << 16, Length: 1 << 16}},
	}
	for name, areas := range layouts {
		for max := 1; max <= 5; max++ {
			for _, gaps := range []bool{false, true} {
				what := fmt.Sprintf("%s, %d a page, gaps %v", name, max, gaps)
				var got []disk.Area
				empty := false
				for at := int64(0); at < size; {
					p := page(areas, at, size, max, gaps)
					if p.StartOffset != at || p.Length <= 0 || len(p.ChangedArea) > max {
						t.Fatalf("%s: page %+v at %d", what, p, at)
					}
					for _, a := range p.ChangedArea {
						if a.Start < at || a.Start+a.Length > at+p.Length {
							t.Fatalf("%s: area %+v outside of its page %+v", what, a, p)
						}
						got = append(got, disk.Area{Start: a.Start, Length: a.Length})
					}
					at += p.Length
					empty = empty || len(p.ChangedArea) == 0 && at < size
				}
				if fmt.Sprint(got) != fmt.Sprint(areas) {
					t.Errorf("%s: %v, want %v", what, got, areas)
				}
				if wanted := gaps && name != "none" && name != "whole"; empty != wanted {
					t.Errorf("%s: an empty page before the end: %v", what, empty)
				}
			}
		}
	}
}

func TestPageStartsWithinAnArea(t *testing.T) {
	p := page([]disk.Area{{Start: 0, Length: 100}}, 30, 200, 10, false)
	if len(p.ChangedArea) != 1 || p.ChangedArea[0].Start != 30 || p.ChangedArea[0].Length != 70 || p.Length != 170 {
		t.Errorf("%+v", p)
	}
}

func TestFaultsByName(t *testing.T) {
	vm := types.ManagedObjectReference{Type: "VirtualMachine", Value: "vm-1"}
	for name, part := range map[string]string{
		"RestrictedVersion":     "<RestrictedVersionFault xmlns=\"urn:vim25\" xsi:type=\"RestrictedVersion\">",
		"InvalidArgument":       "<invalidProperty>changeId</invalidProperty>",
		"ManagedObjectNotFound": `<obj type="VirtualMachine">vm-1</obj>`,
		"NotAuthenticated":      "<privilegeId>System.View</privilegeId>",
		"FileFault":             "<file>",
	} {
		f, err := faultByName(name, "", vm)
		if err != nil {
			t.Fatal(err)
		}
		status, out, err := encodeReply(nil, f)
		if err != nil || status != http.StatusInternalServerError {
			t.Fatalf("%s: %d %v", name, status, err)
		}
		if !bytes.Contains(out, []byte(part)) {
			t.Errorf("%s: no %s in %s", name, part, out)
		}
		if faultIn(out) != name {
			t.Errorf("%s: seen as %s", name, faultIn(out))
		}
	}
	for _, name := range []string{"NoSuchFault", "VirtualMachineConfigSpec"} {
		if _, err := faultByName(name, "", vm); err == nil {
			t.Errorf("%s passes for a fault", name)
		}
	}
	f, _ := faultByName("TaskInProgress", "my own words", vm)
	if !strings.Contains(f.Error(), "my own words") {
		t.Error(f)
	}
}

func TestSessionsIdleOutUnlessBusy(t *testing.T) {
	var dropped []string
	table := newSessionTable("user", "word", time.Hour, func(s *session) { dropped = append(dropped, s.key) })
	if table.valid("user", "wrong") || table.valid("other", "word") || !table.valid("user", "word") {
		t.Error("the password check")
	}
	opened := table.add("key", "user")
	request := httptest.NewRequest("POST", "/sdk", nil)
	request.AddCookie(&http.Cookie{Name: "vmware_soap_session", Value: "key"})
	found, leave := table.enter(request)
	if found != opened {
		t.Fatal("the session is not found by its cookie")
	}
	table.setIdle(30 * time.Millisecond)
	time.Sleep(60 * time.Millisecond)
	if !table.alive("key") {
		t.Error("a session with a call under way idled out")
	}
	leave()
	time.Sleep(60 * time.Millisecond)
	if table.alive("key") || len(dropped) != 1 {
		t.Errorf("an idle session lives on (%v)", dropped)
	}
	select {
	case <-opened.ended:
	default:
		t.Error("nobody is told that the session ended")
	}
	if found, _ := table.enter(request); found != nil {
		t.Error("an ended session may be used")
	}
}

func TestGrowthCutsAreas(t *testing.T) {
	got := cut([]disk.Area{{Start: 0, Length: 10}, {Start: 90, Length: 20}, {Start: 200, Length: 5}}, 100)
	if fmt.Sprint(got) != "[{0 10} {90 10}]" {
		t.Error(got)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	s := &settings{v: defaultSettings()}
	for _, wrong := range []func(*Settings){
		func(v *Settings) { v.PageAreas = 0 },
		func(v *Settings) { v.TaskDelayMS = -1 },
		func(v *Settings) { v.Tools = "maybe" },
		func(v *Settings) { v.FolderRateMBs = -1 },
	} {
		v := s.get()
		wrong(&v)
		if s.set(v) == nil {
			t.Errorf("taken: %+v", v)
		}
	}
	if s.get() != defaultSettings() {
		t.Error("a refused setting came into force")
	}
}

func TestFaultIsAnError(t *testing.T) {
	var err error = invalidArgument("startOffset")
	var f *fault
	if !errors.As(err, &f) || f.name() != "InvalidArgument" {
		t.Error(err)
	}
}

func TestEveryCookieIsRemembered(t *testing.T) {
	table := newSessionTable("user", "word", 0, func(*session) {})
	if given := table.given(); given == nil || len(given) != 0 {
		t.Errorf("%v before any login", given)
	}
	table.add("first", "user")
	table.add("second", "user")
	table.end("first")
	if got := fmt.Sprint(table.given()); got != "[first second]" {
		t.Error(got)
	}
}
