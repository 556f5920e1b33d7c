"""`vmferry check`: each finding names its object and remedy, and nothing is changed on either side."""

import json
import subprocess

from ferry import MigrationTest, Result

READS_ONLY = {"RetrieveServiceContent", "Login", "Logout", "RetrievePropertiesEx", "ContinueRetrievePropertiesEx", "FindByInventoryPath",
              "FindByUuid", "CreateContainerView", "DestroyView", "HasPrivilegeOnEntities", "CurrentTime"}


class CheckTest(MigrationTest):
    lab_flags = ("--disks", "17M+37s,16M+1s", "--writer-rate", "0")

    def check(self, *flags, path=None):
        arguments = self.command("migrate", *flags, path=path)
        arguments[1] = "check"
        done = Result(subprocess.run([*arguments, "--json"], capture_output=True, text=True, env=self.lab.environment(), stdin=subprocess.DEVNULL,
                                     timeout=60))
        self.assertIn(done.code, (0, 1), str(done))
        report = json.loads(done.out)
        self.assertEqual(done.code, 1 if report["problems"] else 0)
        return report["findings"]

    def facts(self, findings, level=None):
        return " / ".join(f"{f['object']}: {f['fact']}" for f in findings if level in (None, f["level"]))

    def test_a_machine_that_is_fine(self):
        findings = self.check("--volume-type", self.lab.openstack["volume_type"])
        self.assertEqual(self.facts(findings, "problem"), "")
        self.assertIn("changed block tracking is off", self.facts(findings, "note"))

    def test_it_changes_nothing(self):
        before = self.lab.vm(), self.lab.control("openstack", "GET", "/state")
        self.lab.control("vcenter", "DELETE", "/calls")
        self.lab.control("openstack", "DELETE", "/calls")
        self.check(*self.lab.cutover_flags())
        self.assertEqual({c["method"] for c in self.lab.control("vcenter", "GET", "/calls")} - READS_ONLY, set())
        for call in self.lab.control("openstack", "GET", "/calls"):
            self.assertTrue(call["method"] in ("GET", "HEAD") or call["service"] == "identity", call)
        self.assertEqual((self.lab.vm(), self.lab.control("openstack", "GET", "/state")), before)
        self.assertFalse((self.state / "s").exists(), "it made a state folder")

    def test_what_is_wrong_is_named(self):
        added = self.lab.control("vcenter", "POST", "/vms/web01/disks", {"bytes": 16 << 20, "mode": "independent_persistent", "backing": "flat"})
        self.addCleanup(self.lab.control, "vcenter", "DELETE", f"/vms/web01/disks/{added['key']}")
        self.lab.control("vcenter", "POST", "/settings", {"tools": "notRunning"})
        self.addCleanup(self.lab.control, "vcenter", "POST", "/settings", {"tools": "running"})
        findings = self.check("--flavor", "no-such-flavor")
        problems = self.facts(findings, "problem")
        self.assertIn("independent disk", problems)
        self.assertIn("no-such-flavor", problems)
        self.assertIn("cannot be asked to shut down", problems)
        for mac in self.lab.vcenter["macs"]:
            self.assertIn(mac, problems)
        self.assertTrue(all(f["remedy"] for f in findings if f["level"] == "problem" and f["object"] != "target"), findings)
        # What is said to help does help.
        self.assertNotIn("independent", self.facts(self.check("--skip-disk", str(added["key"])), "problem"))
        self.assertNotIn("shut down", self.facts(self.check("--flavor", "no-such-flavor", "--force-poweroff"), "problem"))

    def test_a_snapshot_of_somebody_stands_in_the_way_of_reading(self):
        made = self.lab.control("vcenter", "POST", "/vms/web01/snapshots", {"name": "backup"})
        self.addCleanup(self.lab.control, "vcenter", "DELETE", f"/vms/web01/snapshots/{made['id']}")
        self.assertIn("above somebody's snapshot", self.facts(self.check(), "problem"))

    def test_sides_that_do_not_answer_are_findings(self):
        arguments = ["--os-cloud", "no-such-cloud"]
        self.assertIn("no-such-cloud", self.facts(self.check(*arguments), "problem"))
        findings = self.check(path="/DC0/vm/nobody")
        self.assertIn("nobody", self.facts(findings, "problem"))
