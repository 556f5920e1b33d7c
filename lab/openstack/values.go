// Reading JSON values whose type the caller chose.
package openstack

import (
	"encoding/json"
	"strconv"
	"strings"
)

func object(v interface{}) obj { o, _ := v.(obj); return o }

func text(v interface{}) string { s, _ := v.(string); return s }

func list(v interface{}) []interface{} { l, _ := v.([]interface{}); return l }

func stringList(v interface{}) []string {
	var all []string
	for _, element := range list(v) {
		if s, is := element.(string); is {
			all = append(all, s)
		}
	}
	return all
}

// integer reads a number or a string of digits, as the services do.
func integer(v interface{}) (int, bool) {
	switch n := v.(type) {
	case json.Number:
		i, err := strconv.Atoi(n.String())
		return i, err == nil
	case string:
		i, err := strconv.Atoi(n)
		return i, err == nil
	case int:
		return n, true
	}
	return 0, false
}

// boolean reads what oslo's bool_from_string(strict) takes.
func boolean(v interface{}) (value, valid bool) {
	switch b := v.(type) {
	case bool:
		return b, true
	case string:
		switch strings.ToLower(strings.TrimSpace(b)) {
		case "1", "t", "true", "on", "y", "yes":
			return true, true
		case "0", "f", "false", "off", "n", "no":
			return false, true
		}
	case json.Number:
		return b.String() == "1", b.String() == "1" || b.String() == "0"
	}
	return false, false
}

func contains(all []string, one string) bool {
	for _, s := range all {
		if s == one {
			return true
		}
	}
	return false
}

func union(a, b []string) []string {
	all := append([]string(nil), a...)
	for _, s := range b {
		if !contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

func copied(o obj) obj {
	all := obj{}
	for name, value := range o {
		all[name] = value
	}
	return all
}
