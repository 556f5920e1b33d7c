"""At the end of each cycle the target equals the frozen snapshot, with the writer running: vCenter and ESXi, https and file,
OpenStack and local; then a cutover whose target equals the powered-off disks."""

import json
import unittest

import ferry


class Cycles:
    def flags(self, transport):
        return ["--transport", "file", "--datastore-dir", self.lab.vcenter["datastore_dir"]] if transport == "file" else []

    def two_cycles(self, transport, target):
        first = self.ferry("migrate", "--json", *self.flags(transport), target=target).events()[-1]
        self.assertTrue(first["full"])
        self.prove(target)
        self.assert_nothing_left()
        second = self.ferry("migrate", "--json", *self.flags(transport), target=target).events()[-1]
        self.assertFalse(second["full"], "the second cycle must be a delta")
        self.assertGreater(second["read"], 0, "the guest wrote in between")
        self.prove(target)
        self.assert_nothing_left()
        self.ferry("abort", "--delete-volumes", target=target)
        self.assertEqual(self.lab.volumes(), [])

    def test_https_to_openstack(self):
        self.two_cycles("https", "openstack")

    def test_https_to_local(self):
        self.two_cycles("https", "local")

    def test_file_to_openstack(self):
        self.two_cycles("file", "openstack")

    def test_file_to_local(self):
        self.two_cycles("file", "local")

    def test_only_what_changed_is_read(self):
        """The guest's own writes may reach everything while a slow machine copies, so it pauses here."""
        self.lab.control("vcenter", "POST", "/vms/web01/writer", {"running": False})
        self.addCleanup(self.lab.control, "vcenter", "POST", "/vms/web01/writer", {"running": True})
        self.assertTrue(self.ferry("migrate", "--json").events()[-1]["full"])
        for disk in (2000, 2001):
            self.lab.control("vcenter", "POST", "/vms/web01/write", {"disk": disk, "offset": 2 << 20, "bytes": 300 << 10, "value": 7})
        second = self.ferry("migrate", "--json", "--audit", "0").events()[-1]
        self.assertFalse(second["full"])
        self.assertEqual(second["read"], 2 * (320 << 10), "the areas of 64 KiB that were written to")
        self.prove()
        self.assert_nothing_left()
        self.forget_volumes()


class VCenter(Cycles, ferry.MigrationTest):
    lab_flags = ("--disks", "70M+37s,33M+1s")


class ESXi(Cycles, ferry.MigrationTest):
    lab_flags = ("--esxi", "--disks", "70M+37s,33M+1s")


class Cutover(ferry.MigrationTest):
    lab_flags = ("--disks", "70M+37s,33M+1s")

    def test_cutover(self):
        self.ferry("migrate")
        result = self.ferry("cutover", *self.lab.cutover_flags(), "--json").events()[-1]
        self.assertEqual(result["phase"], "done")
        self.assertGreater(result["downtime_seconds"], 0)
        self.assertEqual(self.lab.vm()["power"], "off")
        self.prove()
        self.assert_nothing_left()
        state = self.lab.control("openstack", "GET", "/state")
        server = [s for s in state["servers"] if s["id"] == result["server"]][0]
        self.assertEqual(server["status"], "ACTIVE")
        self.assertEqual(len(server["volumes"]), 2)
        macs = {p["mac_address"] for p in state["ports"] if p.get("device_id") == server["id"]}
        self.assertEqual(macs, set(self.lab.vcenter["macs"]))
        again = self.ferry("status")
        self.assertIn("done", again.out)
        # Also for who has no journal of it.
        for folder in (self.state, self.state / "another-host"):
            folder.mkdir(exist_ok=True)
            self.state, here = folder, self.state
            seen = json.loads(self.ferry("status", "--volumes", "--json").out)["volumes"]
            self.state = here
            self.assertEqual({v["id"]: (v["content"], v["servers"]) for v in seen},
                             {id: ("the moved disk", [server["id"]]) for id in server["volumes"]})


class LocalCutover(ferry.MigrationTest):
    lab_flags = ("--disks", "70M+37s,33M+1s")

    def test_cutover_to_a_folder(self):
        self.ferry("cutover", *self.lab.cutover_flags(), target="local")
        self.prove("local")
        self.assertTrue((self.images / "web01" / "web01.xml").exists())


if __name__ == "__main__":
    unittest.main()
