"""A whole cutover that can be begun anew in one lab, for suites that repeat it many times: reset, run, look at every byte."""

import os
import pathlib
import stat

import openstack

from ferry import MigrationTest

# What a conversion does to a disk in these suites: the real qemu-img, qemu-nbd and commit, and in virt-v2v's place a program
# that changes a few bytes of each overlay. (What virt-v2v itself does is the conversion suite's business.)
CONVERTED_AT, CONVERTED_BYTES, CONVERTED_TO = 1 << 20, 200 << 10, 0x56
FAKE_VIRT_V2V = f"""#!/bin/sh
[ "$1" = --version ] && exec echo "virt-v2v-in-place 2.2.0 (a stand-in)"
echo "[   0.0] Converting"
for disk in $(sed -n 's/.*source file="\\([^"]*\\)".*/\\1/p' "$3"); do
  qemu-io -f qcow2 -c "write -q -P {CONVERTED_TO} {CONVERTED_AT} {CONVERTED_BYTES}" "$disk" || exit 1
done
"""


class JourneyTest(MigrationTest):
    """Small disks and a slow writer: a journey takes seconds."""

    lab_flags = ("--disks", "17M+37s,16M+1s", "--writer-rate", "2")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        programs = cls.lab.work / "programs"
        programs.mkdir()
        program = programs / "virt-v2v-in-place"
        program.write_text(FAKE_VIRT_V2V)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
        for key, value in cls.lab.environment().items():
            if key.startswith("OS_"):
                os.environ[key] = value
        cls.cloud = openstack.connect(cloud="lab")
        cls.lab.control("openstack", "POST", "/settings", {"create_delay_ms": 50, "attach_delay_ms": 50, "server_delay_ms": 50})

    def cutover_flags(self):
        return [flag for flag in self.lab.cutover_flags() if not flag.startswith("--run-v2v")]

    def begin_anew(self):
        """As if nothing had ever been migrated; the machine runs."""
        self.lab.control("openstack", "DELETE", "/faults")
        self.lab.control("vcenter", "DELETE", "/faults")
        state = self.lab.control("openstack", "GET", "/state")
        host = self.lab.openstack["instance_id"]
        # Asked for at once and watched here: the client's own waits look every two seconds only.
        for server in state["servers"]:
            if server["id"] != host:
                self.cloud.compute.delete_server(server["id"])
        for volume in state["volumes"]:
            if any(a.get("server_id") == host for a in volume["attachments"]):
                self.cloud.compute.delete_volume_attachment(host, volume["id"])
        self.wait_for(lambda: all(v["status"] in ("available", "error") for v in self.lab.volumes()), what="volumes to be free")
        for volume in state["volumes"]:
            self.cloud.block_storage.delete_volume(volume["id"])
        self.wait_for(lambda: not self.lab.volumes(), what="volumes to be gone")
        for port in state["ports"]:
            if port.get("device_id") != host:
                self.cloud.network.delete_port(port["id"], ignore_missing=True)
        for snapshot in self.lab.vm()["snapshots"]:
            self.lab.control("vcenter", "DELETE", f"/vms/web01/snapshots/{snapshot['id']}")
        # Off and on again, so that change tracking is off in truth.
        if self.lab.vm()["power"] != "off":
            self.lab.control("vcenter", "POST", "/vms/web01/power", {"state": "off"})
        self.lab.control("vcenter", "POST", "/vms/web01/cbt", {"enabled": False})
        self.lab.control("vcenter", "POST", "/vms/web01/power", {"state": "on"})
        self.lab.control("openstack", "DELETE", "/calls")
        self.lab.control("vcenter", "DELETE", "/calls")

    def assert_arrived(self, converted=True):
        """The end of every cutover, whatever happened on the way."""
        self.assertEqual(self.lab.vm()["power"], "off")
        state = self.lab.control("openstack", "GET", "/state")
        servers = [s for s in state["servers"] if s["name"] == "web01"]
        self.assertEqual([s["status"] for s in servers], ["ACTIVE"])
        self.assertEqual(len(servers[0]["volumes"]), 2)
        self.assertEqual(len(servers[0]["ports"]), len(self.lab.vcenter["macs"]))
        host = self.lab.openstack["instance_id"]
        self.assertEqual(len([p for p in state["ports"] if p.get("device_id") != host]), len(self.lab.vcenter["macs"]), "a port too many")
        self.assertEqual(len(state["volumes"]), 2, "a volume too many")
        self.assert_bytes(state, servers[0], converted)
        self.assert_nothing_left()
        self.assertEqual(list((self.state / "s" / "convert").glob("*")), [], "an overlay was left behind")

    def assert_bytes(self, state, server, converted):
        frozen = self.lab.control("vcenter", "GET", "/vms/web01/frozen")[-1]["disks"]
        volumes = {v["id"]: v for v in state["volumes"]}
        for disk, volume in zip(sorted(frozen, key=lambda d: d["key"]), server["volumes"]):
            wanted = bytearray(pathlib.Path(disk["path"]).read_bytes())
            if converted:
                wanted[CONVERTED_AT:CONVERTED_AT + CONVERTED_BYTES] = bytes([CONVERTED_TO]) * CONVERTED_BYTES
            with open(volumes[volume]["file"], "rb") as file:
                arrived = file.read(len(wanted))
            if arrived != wanted:
                first = next(i for i in range(len(wanted)) if arrived[i] != wanted[i])
                self.fail(f"disk {disk['key']} differs from byte {first} on")


def slice_of(cases):
    """The part of `cases` that VMFERRY_SLICE_SEED chooses out of VMFERRY_SLICES; all of them without a seed."""
    seed, slices = os.environ.get("VMFERRY_SLICE_SEED"), int(os.environ.get("VMFERRY_SLICES", "1"))
    if seed is None or slices <= 1:
        return list(cases)
    return [case for index, case in enumerate(cases) if (index + int(seed)) % slices == 0]
