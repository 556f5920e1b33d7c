// What tools/setup has installed: whether it is there, where the unpacked
// packages are, and what names the databases that fit these versions.
package realcloud

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
)

// versioned are the packages whose versions name the folder of the unpacked ones;
// tools/setup makes the same name.
var versioned = []string{"python3-keystone", "python3-glance", "python3-cinder", "python3-nova", "python3-neutron", "python3-placement", "python3-heat"}

// programs that nothing else would miss until late.
var programs = []string{"/usr/sbin/mariadbd", "/usr/lib/rabbitmq/bin/rabbitmq-server", "/usr/bin/epmd", "/usr/bin/uwsgi_python3",
	"/usr/sbin/libvirtd", "/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-img", "/usr/bin/genisoimage", "/usr/bin/virsh"}

const howToInstall = "install them with `tools/setup openstack`"

// ToolsDir is where tools/setup puts what belongs to no clone.
func ToolsDir() (string, error) {
	if dir := os.Getenv("VMFERRY_TOOLS_DIR"); dir != "" {
		return dir, nil
	}
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		home := os.Getenv("HOME")
		if home == "" {
			return "", fmt.Errorf("HOME is not set, and neither is VMFERRY_TOOLS_DIR")
		}
		cache = filepath.Join(home, ".cache")
	}
	return filepath.Join(cache, "vmferry"), nil
}

// installed says where the unpacked packages are and where a database for these
// versions is, or would be.
func installed() (unpacked, database string, err error) {
	tools, err := ToolsDir()
	if err != nil {
		return "", "", err
	}
	versions, err := versionsOf(versioned...)
	if err != nil {
		return "", "", err
	}
	for _, program := range programs {
		if _, err := os.Stat(program); err != nil {
			return "", "", fmt.Errorf("the real OpenStack needs %s: %s", program, howToInstall)
		}
	}
	unpacked = filepath.Join(tools, "openstack-debs-"+short(versions))
	if _, err := os.Stat(unpacked); err != nil {
		return "", "", fmt.Errorf("%s is missing: %s", unpacked, howToInstall)
	}
	server, err := versionsOf("mariadb-server")
	if err != nil {
		return "", "", err
	}
	return unpacked, filepath.Join(tools, "openstack-database-"+short(databaseForm+versions+server)), nil
}

// versionsOf gives lines NAME=VERSION, sorted.
func versionsOf(packages ...string) (string, error) {
	said, err := exec.Command("dpkg-query", append([]string{"-W", "-f=${db:Status-Status} ${Package}=${Version}\n"}, packages...)...).Output()
	var found []string
	for _, line := range strings.Split(string(said), "\n") {
		if strings.HasPrefix(line, "installed ") {
			found = append(found, strings.TrimPrefix(line, "installed "))
		}
	}
	if err != nil || len(found) != len(packages) {
		return "", fmt.Errorf("the real OpenStack needs the packages %s: %s", strings.Join(packages, " "), howToInstall)
	}
	sort.Strings(found)
	return strings.Join(found, "\n") + "\n", nil
}

func short(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])[:12]
}
