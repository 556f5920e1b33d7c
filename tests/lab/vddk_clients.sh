#!/bin/bash
# Reading the lab's frozen disks with VDDK by programs that other people wrote: nbdkit as virt-v2v calls it (with our
# plugin behind the word "vddk"), nbdkit's own vddk plugin, and virt-v2v itself. What is not installed here is told as
# "not shown". Needs VMFERRY_LAB_BIN (vmferry-lab), nbdkit, nbdcopy, openssl and python3.
set -euo pipefail
: "${VMFERRY_LAB_BIN:?must name the vmferry-lab program}"
build=$(cd "$(dirname "$VMFERRY_LAB_BIN")/.." && pwd)
wrapper=$build/lib/vmferry/nbdkit
vddk=$build/lib/lab-vddk
work=$(mktemp -d /tmp/vmferry-vddk-XXXXXX)
trap '"$VMFERRY_LAB_BIN" down --dir "$work/lab" >/dev/null 2>&1 || true; rm -rf "$work"' EXIT

"$VMFERRY_LAB_BIN" up --dir "$work/lab" --deadline 5m --devices file --writer-rate 2 >"$work/up" 2>&1 || { cat "$work/up"; exit 1; }
ctl() { "$VMFERRY_LAB_BIN" ctl --dir "$work/lab" vcenter "$@"; }
fact() { python3 -c 'import json, sys; d = json.load(sys.stdin)
for step in sys.argv[1:]: d = d[int(step) if step.lstrip("-").isdigit() else step]
print(d)' "$@"; }

endpoint=$(fact vcenter endpoint <"$work/lab/lab.json")
user=$(fact vcenter username <"$work/lab/lab.json")
password=$(fact vcenter password_file <"$work/lab/lab.json")
openssl s_client -connect "$endpoint" </dev/null >"$work/certificate" 2>/dev/null
thumbprint=$(openssl x509 -fingerprint -sha1 -noout -in "$work/certificate" | cut -d= -f2)
moref=$(ctl GET /vms/web01 | fact moref)
disk=$(ctl GET /vms/web01 | fact disks 0 file)
snapshot=$(ctl POST /vms/web01/snapshots '{"name": "of a client"}' | fact id)
image=$(ctl GET /vms/web01/frozen | fact -1 disks 0 path)

# read_by WHO PATH_OF_NBDKIT: the command line of virt-v2v 2.2 (input/nbdkit_vddk.ml), and the bytes that it gives.
read_by() {
    rm -f "$work/copy"
    # shellcheck disable=SC2016  # $uri is for nbdkit's shell
    PATH=$2 LANG=C nbdkit --unix - --threads 16 -D nbdkit.backend.datapath=0 -D vddk.datapath=0 -D vddk.stats=1 --exportname / \
        --filter cow --filter cacheextents --filter retry vddk "server=${endpoint%:*}" "port=${endpoint##*:}" "user=$user" \
        "vm=moref=$moref" "file=$disk" "libdir=$vddk" "snapshot=$snapshot" "thumbprint=$thumbprint" "password=+$password" \
        --run 'nbdcopy "$uri" '"$work/copy" >"$work/said" 2>&1 || { echo "FAIL $1"; cat "$work/said"; exit 1; }
    cmp "$work/copy" "$image" || { echo "FAIL $1: other bytes"; exit 1; }
    echo "ok   $1"
}

# Not grep -q, which ends at the first match: who writes on then is killed by SIGPIPE, and with pipefail that counts.
PATH=$wrapper:$PATH nbdkit vddk --version | grep '^vddk ' >/dev/null
PATH=$wrapper:$PATH nbdkit vddk --dump-plugin | grep -x 'vddk_has_nfchostport=1' >/dev/null
PATH=$wrapper:$PATH nbdkit vddk --dump-plugin "libdir=$vddk" | grep "^vddk_dll=$vddk/" >/dev/null
echo "ok   what virt-v2v asks the plugin"
read_by "nbdkit as virt-v2v calls it, our plugin behind its name" "$wrapper:$PATH"

if nbdkit vddk --version >/dev/null 2>&1; then
    read_by "nbdkit's own vddk plugin" "$PATH"
else
    echo "not shown: nbdkit's own vddk plugin is not installed here (nbdkit-plugin-vddk)"
fi

# libvirt has to read the machine's configuration from the lab first.
source="vpx://${user/@/%40}@$endpoint/DC0/DC0_C0/DC0_C0_H0?no_verify=1"
printf '[credentials-lab]\nusername=%s\npassword=%s\n[auth-esx-%s]\ncredentials=lab\n' \
    "$user" "$(head -1 "$password")" "${endpoint%:*}" >"$work/auth"
if ! command -v virt-v2v >/dev/null || ! command -v virsh >/dev/null; then
    echo "not shown: virt-v2v -it vddk (virt-v2v and virsh are not installed here)"
elif ! LIBVIRT_AUTH_FILE=$work/auth timeout 120 virsh -c "$source" dominfo web01 >"$work/said" 2>&1; then
    echo "not shown: virt-v2v -it vddk (libvirt cannot read the machine from the lab's vCenter: $(tail -1 "$work/said"))"
else
    LIBVIRT_AUTH_FILE=$work/auth LIBGUESTFS_BACKEND=direct PATH=$wrapper:$PATH virt-v2v -ic "$source" -it vddk -io "vddk-libdir=$vddk" \
        -io "vddk-thumbprint=$thumbprint" -ip "$password" web01 -o null >"$work/said" 2>&1 || { echo "FAIL virt-v2v"; cat "$work/said"; exit 1; }
    echo "ok   virt-v2v -it vddk"
fi
