#!/bin/bash
# The lab's vCenter and ESXi, seen through govc: a client that knows nothing of
# this project. Needs VMFERRY_LAB_BIN (vmferry-lab) and GOVC (govc 0.38 or newer),
# openssl and curl. A failure here is a bug of the lab.
set -u
: "${VMFERRY_LAB_BIN:?must name the vmferry-lab program}"
: "${GOVC:?must name the govc program}"

dir=$(mktemp -d /tmp/vmferry-govc-XXXXXX)
server=
failed=0
count=0

stop_server() {
    [ -n "$server" ] || return 0
    kill "$server" 2>/dev/null
    wait "$server" 2>/dev/null
    server=
}
trap 'stop_server; rm -rf "$dir"' EXIT

# check NAME PATTERN COMMAND...: the command succeeds and its output matches.
check() {
    local name=$1 pattern=$2 output
    shift 2
    count=$((count + 1))
    if output=$("$@" 2>&1) && grep -Eq -- "$pattern" <<<"$output"; then
        echo "ok   $name"
    else
        echo "FAIL $name: wanted /$pattern/ of: $*"
        sed 's/^/     /' <<<"$output"
        failed=$((failed + 1))
    fi
}

# refuse NAME PATTERN COMMAND...: the command fails and says why.
refuse() {
    local name=$1 pattern=$2 output
    shift 2
    count=$((count + 1))
    if output=$("$@" 2>&1); then
        echo "FAIL $name: $* succeeded"
        failed=$((failed + 1))
    elif grep -Eq -- "$pattern" <<<"$output"; then
        echo "ok   $name"
    else
        echo "FAIL $name: wanted /$pattern/ of: $*"
        sed 's/^/     /' <<<"$output"
        failed=$((failed + 1))
    fi
}

control() { curl -sS --fail --unix-socket "$dir/control.sock" "http://control$1" ${2:+-d "$2"}; }

start_server() {
    rm -rf "$dir/datastore" "$dir"/datastore-* "$dir/ready"
    "$VMFERRY_LAB_BIN" vcenter --dir "$dir/datastore" --cert "$dir/ca.pem" --key "$dir/key.pem" \
        --password-file "$dir/password" --control-socket "$dir/control.sock" --ready-file "$dir/ready" \
        --disks 48M+5s,32M+1s --others 10 "$@" >"$dir/log" 2>&1 &
    server=$!
    for _ in $(seq 1200); do
        [ -f "$dir/ready" ] && break
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    if [ ! -f "$dir/ready" ]; then
        echo "FAIL vmferry-lab vcenter did not start:"
        cat "$dir/log"
        exit 1
    fi
    endpoint=$(sed -n 's/.*"endpoint": "\(.*\)".*/\1/p' "$dir/ready")
    control /settings '{"task_delay_ms":20}' >/dev/null
}

umask 077
echo lab-password >"$dir/password"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout "$dir/key.pem" -out "$dir/ca.pem" \
    -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 2>/dev/null

export GOVC_PERSIST_SESSION=false GOVC_TLS_CA_CERTS=$dir/ca.pem GOVC_PASSWORD=lab-password HOME=$dir
unset GOVC_INSECURE GOVC_DATACENTER

both() { # what a vCenter and a host have in common; $1 = the VM's path
    local vm=$1
    check "$profile: ls" "$vm\$" "$GOVC" ls "${vm%/*}"
    check "$profile: vm.info" 'Power state: *poweredOn' "$GOVC" vm.info "$vm"
    check "$profile: device.info" 'File: *\[LocalDS_0\] web01/web01_1.vmdk' "$GOVC" device.info -vm "$vm" 'disk-*'
    check "$profile: device.ls" 'ethernet-1 .*VirtualVmxnet3' "$GOVC" device.ls -vm "$vm"
    check "$profile: snapshot.create" '' "$GOVC" snapshot.create -vm "$vm" -m=false first
    check "$profile: snapshot.tree" first "$GOVC" snapshot.tree -vm "$vm" -i
    check "$profile: live file" 'web01-000001.vmdk' "$GOVC" device.info -vm "$vm" 'disk-*'
    check "$profile: cbt off" '^false$' "$GOVC" object.collect -s "$vm" config.changeTrackingEnabled
    check "$profile: snapshot.remove" '' "$GOVC" snapshot.remove -vm "$vm" first
    refuse "$profile: snapshot is gone" 'no snapshots' "$GOVC" snapshot.remove -vm "$vm" first
    check "$profile: enable cbt" '' "$GOVC" vm.change -vm "$vm" -e ctkEnabled=true -e scsi0:0.ctkEnabled=TRUE
    check "$profile: cbt enabled" true "$GOVC" object.collect -s "$vm" config.changeTrackingEnabled
    check "$profile: stun" '' "$GOVC" snapshot.create -vm "$vm" -m=false stun
    check "$profile: unstun" '' "$GOVC" snapshot.remove -vm "$vm" stun
    check "$profile: cbt active" '"cbt_active":true' control /vms/web01
    check "$profile: second snapshot" '' "$GOVC" snapshot.create -vm "$vm" -m=false second
    check "$profile: current snapshot" 'snapshot' "$GOVC" object.collect -s "$vm" snapshot.currentSnapshot
    check "$profile: datastore.download" '' "$GOVC" datastore.download -ds LocalDS_0 web01/web01-flat.vmdk "$dir/flat"
    local id
    id=$(control /vms/web01 | sed -n 's/.*"snapshots":\[{"id":"\([^"]*\)".*/\1/p')
    control /vms/web01/frozen >/dev/null
    check "$profile: downloaded bytes" '' cmp "$dir/flat" "$dir/datastore-frozen/$id/2000.img"
    check "$profile: export of a running VM's snapshot" 'web01-disk-0.vmdk' "$GOVC" export.ovf -f -vm "$vm" -snapshot second "$dir/export"
    check "$profile: exported bytes" 'identical' qemu-img compare -f raw -F vmdk "$dir/datastore-frozen/$id/2000.img" "$dir/export/web01/web01-disk-0.vmdk"
    check "$profile: exported second disk" 'identical' qemu-img compare -f raw -F vmdk "$dir/datastore-frozen/$id/2001.img" "$dir/export/web01/web01-disk-1.vmdk"
    refuse "$profile: export of a running VM" 'cannot be performed in the current state' "$GOVC" export.ovf -f -vm "$vm" "$dir/export"
    check "$profile: remove all" '' "$GOVC" snapshot.remove -vm "$vm" '*'
    refuse "$profile: running disk is locked" '500' "$GOVC" datastore.download -ds LocalDS_0 web01/web01-flat.vmdk "$dir/flat"
    check "$profile: power off" 'OK' "$GOVC" vm.power -off "$vm"
    check "$profile: is off" 'poweredOff' "$GOVC" vm.info "$vm"
    check "$profile: disk of a powered-off VM" '' "$GOVC" datastore.download -ds LocalDS_0 web01/web01-flat.vmdk "$dir/flat"
    check "$profile: its bytes" '' cmp "$dir/flat" "$dir/datastore/web01/web01-flat.vmdk"
    check "$profile: export of a powered-off VM" 'OK' "$GOVC" export.ovf -f -vm "$vm" "$dir/export"
    check "$profile: its exported bytes" 'identical' qemu-img compare -f raw -F vmdk "$dir/datastore/web01/web01-flat.vmdk" "$dir/export/web01/web01-disk-0.vmdk"
    check "$profile: power on" 'OK' "$GOVC" vm.power -on "$vm"
    check "$profile: shutdown" 'OK' "$GOVC" vm.power -s "$vm"
    check "$profile: wait for off" '' timeout 120 "$GOVC" object.collect -s "$vm" -runtime.powerState poweredOff
    check "$profile: guest is off" 'poweredOff' "$GOVC" vm.info "$vm"
    GOVC_PASSWORD=wrong refuse "$profile: wrong password" 'incorrect user name or password' "$GOVC" about
    GOVC_TLS_CA_CERTS=/dev/null refuse "$profile: unknown certificate" 'certificate' "$GOVC" about
}

profile=vcenter
start_server
export GOVC_URL=https://$endpoint/sdk GOVC_USERNAME=administrator@vsphere.local
check "$profile: about" 'API type: *VirtualCenter' "$GOVC" about
check "$profile: find" '^/DC0/vm/Test/app01' "$GOVC" find / -type m -name app01
both /DC0/vm/web01
stop_server

profile=esxi
start_server --esxi
export GOVC_URL=https://$endpoint/sdk GOVC_USERNAME=root
check "$profile: about" 'API type: *HostAgent' "$GOVC" about
both /ha-datacenter/vm/web01
stop_server

echo "govc: $count checks, $failed failed"
[ "$failed" -eq 0 ]
