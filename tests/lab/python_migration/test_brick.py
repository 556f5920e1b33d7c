"""--attach brick in the lab: whole migrations by a host that is no instance, and what dead runs leave. Needs root and
python3-os-brick."""

import pathlib
import subprocess
import sys

from brick import MOUNTS, Brick
from ferry import MigrationTest


class BrickTest(Brick, MigrationTest):
    lab_flags = ("--disks", "17M+37s,16M+1s", "--writer-rate", "2")

    def test_two_cycles_and_a_cutover(self):
        self.lab.control("openstack", "DELETE", "/calls")
        self.brick("migrate")
        self.prove()
        self.assert_not_connected()
        again = self.brick("migrate", "--json").events()
        self.assertEqual([e["full"] for e in again if e["event"] == "disk_finished"], [False, False])
        self.prove()
        self.brick("verify")
        done = self.brick("cutover", *self.lab.cutover_flags())
        self.assertIn("ACTIVE", done.out)
        self.assert_not_connected()
        calls = [c["path_or_object"] for c in self.lab.control("openstack", "GET", "/calls")]
        self.assertEqual([c for c in calls if "os-volume_attachments" in c], [], "Nova was asked to attach")
        server = next(s for s in self.lab.control("openstack", "GET", "/state")["servers"] if s["name"] == "web01")
        self.assertEqual((server["status"], len(server["volumes"])), ("ACTIVE", 2))
        self.wait_for(lambda: all(v["status"] == "in-use" for v in self.lab.volumes()))

    def test_a_dead_run_is_gone_on_with(self):
        # The first call asks for the connector; the others connect and disconnect.
        for when, number in (("before", 2), ("after", 2)):
            with self.subTest(when=when, number=number):
                self.dies_at(when, number, "migrate")
                self.assertTrue({v["status"] for v in self.lab.volumes()} & {"attaching", "in-use", "reserved"})
                self.brick("migrate")
                self.prove()
                self.assert_not_connected()
                self.brick("abort", "--delete-volumes")
                self.assertEqual(self.lab.volumes(), [])

    def test_a_restart_disconnects(self):
        self.ferry_dies_in_the_copy()
        for volume in self.volumes_mounted():
            for point in (MOUNTS / volume).iterdir():
                subprocess.run(["umount", point], check=True)
        self.brick("migrate")
        self.prove()
        self.assert_not_connected()
        self.brick("abort", "--delete-volumes")

    def test_abort_while_attached(self):
        self.ferry_dies_in_the_copy()
        self.assertEqual(len(self.volumes_mounted()), 2)
        self.assertEqual([v["status"] for v in self.lab.volumes()], ["in-use", "in-use"])
        # Nova's way does not touch them: it says who has them.
        refused = self.ferry("abort", "--delete-volumes", ok=False)
        self.assertNotEqual(refused.code, 0)
        self.assertIn("is attached to host ", refused.err)
        self.brick("abort", "--delete-volumes")
        self.assertEqual(self.lab.volumes(), [])
        self.assertNotIn(str(self.lab.directory), pathlib.Path("/proc/self/mounts").read_text())

    def test_what_is_missing_is_said(self):
        before = self.lab.volumes()
        check = self.brick("check", *self.lab.connection(), "--vmware-path", self.lab.vcenter["vm_path"], ok=False)
        self.assertIn("it tells Cinder: {", check.out)
        self.assertNotIn("disk slots", check.out)
        for python, words in ((sys.executable, "python3-os-brick"), ("/nonexistent/python3", "/nonexistent/python3")):
            check = self.brick("check", *self.lab.connection(), "--vmware-path", self.lab.vcenter["vm_path"], "--brick-python", python, ok=False)
            self.assertEqual(check.code, 1, str(check))
            self.assertEqual(check.out.count(words), 1, check.out)
            failed = self.brick("migrate", "--brick-python", python, ok=False)
            self.assertIn(words, failed.err)
        self.assertEqual(self.lab.volumes(), before)

    def ferry_dies_in_the_copy(self):
        died = self.brick("migrate", ok=False, more_env={"VMFERRY_CRASH_AT": "copy disks|after"})
        self.assertEqual(died.code, -9, str(died))
