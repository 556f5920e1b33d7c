"""The edge cases of changed block tracking: each is handled as vSphere's rules demand, and the bytes are equal after it."""

import unittest

import ferry


class ChangeTracking(ferry.MigrationTest):
    lab_flags = ("--disks", "40M+37s,20M+1s", "--writer-rate", "5")

    def setUp(self):
        super().setUp()
        self.control("POST", "/settings", {"page_areas": 2000, "task_delay_ms": 0, "quiesce_fails": False})
        self.control("POST", "/vms/web01/wrong-answers", {"mode": "off"})

    def control(self, method, path, body=None):
        return self.lab.control("vcenter", method, path, body)

    def cycle(self, *flags):
        result = self.ferry("migrate", "--json", *flags)
        self.prove()
        self.assert_nothing_left()
        events = result.events()
        self.warnings = [e["text"] for e in events if e["event"] == "warned"]
        return {e["disk"]: e for e in events if e["event"] == "disk_finished"}

    def tearDown(self):
        self.ferry("abort", "--delete-volumes", ok=False)

    def test_reset_of_one_disk_copies_that_disk_in_full(self):
        self.cycle()
        self.control("POST", "/vms/web01/cbt-reset", {"disk": 2000})
        disks = self.cycle()
        self.assertTrue(disks[2000]["full"])
        self.assertFalse(disks[2001]["full"])
        self.assertTrue(any("reset" in w for w in self.warnings), self.warnings)
        self.assertFalse(self.cycle()[2000]["full"], "and the next one is a delta again")

    def test_small_pages_are_followed_to_the_end(self):
        self.control("POST", "/settings", {"page_areas": 3})
        self.cycle()
        self.assertFalse(self.cycle()[2000]["full"])

    def test_an_empty_first_page_is_not_the_end(self):
        self.cycle()
        self.control("POST", "/vms/web01/wrong-answers", {"mode": "empty-first-page"})
        disks = self.cycle()
        self.assertGreater(disks[2000]["read"], 0)

    def test_without_tracking_every_cycle_is_full(self):
        self.cycle("--no-cbt")
        disks = self.cycle("--no-cbt")
        self.assertTrue(disks[2000]["full"] and disks[2001]["full"])

    def test_tracking_switched_off_in_between_is_found_out(self):
        self.cycle()
        self.control("POST", "/vms/web01/cbt", {"enabled": False})
        # It acts at the next stun: somebody else's snapshot comes and goes.
        self.control("DELETE", "/vms/web01/snapshots/" + self.control("POST", "/vms/web01/snapshots", {"name": "other"})["id"])
        disks = self.cycle()
        self.assertTrue(disks[2000]["full"], "a history with a hole in it must not be trusted")

    changes = 0  # by all tests: what one has written there is no change when another writes the same

    def quiet(self):
        """The guest writes no more but what change() does."""
        self.control("POST", "/vms/web01/writer", {"running": False})
        self.addCleanup(self.control, "POST", "/vms/web01/writer", {"running": True})

    def change(self):
        """Two areas of each disk, others each time."""
        ChangeTracking.changes += 1
        for disk in (2000, 2001):
            for area in (0, 2):
                self.control("POST", "/vms/web01/write", {"disk": disk, "offset": (3 << 20) + (4 * self.changes + area) * (64 << 10),
                                                          "bytes": 64 << 10, "value": self.changes})

    def lied_to(self, *flags):
        """A cycle in which change tracking leaves out one area of two; its result, whether or not the copy is right."""
        self.change()
        self.control("POST", "/vms/web01/wrong-answers", {"mode": "drop-area"})
        result = self.ferry("migrate", "--json", *flags)
        self.control("POST", "/vms/web01/wrong-answers", {"mode": "off"})
        self.warnings = [e["text"] for e in result.events() if e["event"] == "warned"]
        return {e["disk"]: e for e in result.events() if e["event"] == "disk_finished"}

    def test_an_audit_of_everything_finds_the_lie_at_once(self):
        self.cycle()
        self.quiet()
        self.cycle()
        disks = self.lied_to("--audit", "100")
        self.assertTrue(any("without change tracking's telling" in w for w in self.warnings), self.warnings)
        lied = [disk for disk, event in disks.items() if event["full"]]
        self.assertEqual(sorted(lied), [2000, 2001], disks)
        self.prove()
        # Trust is gone for good: that disk is compared in full, and little of it is written.
        again = self.cycle("--audit", "0")
        for disk in lied:
            self.assertTrue(again[disk]["full"])
            self.assertLess(again[disk]["written"], again[disk]["read"])

    def test_a_sample_finds_it_within_a_few_cycles(self):
        self.cycle()
        self.quiet()
        self.cycle()
        found = {}
        # Nothing heals what was left out, so the Nth cycle finds one of N lies: the odds against all of 20 are 0.9 to the power of 210.
        for cycle in range(1, 21):
            self.lied_to("--audit", "10")
            for disk in ("Hard disk 1", "Hard disk 2"):
                if any(w.startswith(disk) and "without change tracking's telling" in w for w in self.warnings):
                    found.setdefault(disk, cycle)
            if len(found) == 2:
                break
        else:
            self.fail(f"the lies were not found in 20 cycles: {found}")
        print(f"\nan area dropped in each cycle, 10 % audited: found in cycle {sorted(found.values())}", flush=True)
        self.prove()

    def test_without_an_audit_the_lie_stays(self):
        """What the audit is for: the copy is wrong, and only the proof knows."""
        self.cycle()
        self.quiet()
        self.cycle()
        self.lied_to("--audit", "0")
        self.assertEqual(self.warnings, [])
        self.prove(equal=False)

    def test_an_added_disk_is_copied_and_a_removed_one_left_out(self):
        self.cycle()
        self.control("POST", "/vms/web01/disks", {"bytes": 5 * 2**20 + 512})
        disks = self.cycle()
        self.assertEqual(sorted(disks), [2000, 2001, 2002])
        self.assertTrue(disks[2002]["full"])
        self.assertFalse(disks[2000]["full"])
        self.control("DELETE", "/vms/web01/disks/2002")
        self.assertEqual(sorted(self.cycle()), [2000, 2001])
        self.assertTrue(any("no longer part" in w for w in self.warnings), self.warnings)

    def test_somebody_elses_snapshot_taken_in_between_stays(self):
        self.cycle()
        # In the middle of the copy, however short that would be.
        self.control("POST", "/settings", {"folder_latency_ms": 10000})
        self.addCleanup(self.control, "POST", "/settings", {"folder_latency_ms": 0})
        process = self.start("migrate")
        self.wait_for(lambda: self.lab.vm()["snapshots"] or process.poll() is not None, what="our snapshot")
        self.assertIsNone(process.poll(), "it was over too soon")
        foreign = self.control("POST", "/vms/web01/snapshots", {"name": "nightly backup"})["id"]
        self.assertEqual(len(self.lab.vm()["snapshots"]), 2)
        self.control("POST", "/settings", {"folder_latency_ms": 0})
        _, err = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 0, err)
        self.assertEqual([s["name"] for s in self.lab.vm()["snapshots"]], ["nightly backup"])
        self.control("DELETE", f"/vms/web01/snapshots/{foreign}")
        self.cycle()

    def test_a_snapshot_from_before_is_refused_in_words_over_https(self):
        self.cycle()
        foreign = self.control("POST", "/vms/web01/snapshots", {"name": "nightly backup"})["id"]
        refused = self.ferry("migrate", ok=False)
        self.assertEqual(refused.code, 10, str(refused))
        self.assertIn("snapshot", refused.err)
        self.assertEqual([s["name"] for s in self.lab.vm()["snapshots"]], ["nightly backup"], "nothing of ours, all of theirs")
        self.control("DELETE", f"/vms/web01/snapshots/{foreign}")
        self.cycle()

    def test_quiescing_falls_back_and_says_so(self):
        self.control("POST", "/settings", {"quiesce_fails": True})
        self.cycle("--quiesce", "auto")
        self.assertTrue(self.warnings, "the fallback must be told")
        refused = self.ferry("migrate", "--quiesce", "always", ok=False)
        self.assertNotEqual(refused.code, 0)
        self.assert_nothing_left()


class Growth(ferry.MigrationTest):
    lab_flags = ("--disks", "40M+37s,20M+1s", "--writer-rate", "5")

    def test_a_grown_disk_is_copied_in_full(self):
        self.ferry("migrate")
        self.lab.control("vcenter", "POST", "/vms/web01/grow", {"disk": 2000, "bytes": 48 * 2**20 + 512})
        disks = {e["disk"]: e for e in self.ferry("migrate", "--json").events() if e["event"] == "disk_finished"}
        self.assertTrue(disks[2000]["full"])
        self.assertFalse(disks[2001]["full"])
        self.prove()

    def test_a_host_that_forgets_what_a_disk_has_grown_by(self):
        """Neither what changed nor what is allocated is asked after the growth; the cycles after that are deltas, and right."""
        self.ferry("migrate")
        self.lab.control("vcenter", "POST", "/vms/web01/wrong-answers", {"mode": "growth-128g"})
        self.addCleanup(self.lab.control, "vcenter", "POST", "/vms/web01/wrong-answers", {"mode": "off"})
        grown = self.lab.vm()["disks"][0]["bytes"] + 8 * 2**20
        self.lab.control("vcenter", "POST", "/vms/web01/grow", {"disk": 2000, "bytes": grown})
        for full in (True, False):
            disks = {e["disk"]: e for e in self.ferry("migrate", "--json").events() if e["event"] == "disk_finished"}
            self.assertEqual(disks[2000]["full"], full)
            self.prove()
        print("\na disk that has grown, and change tracking without its new part: right in cycle 1", flush=True)

    def test_growth_beyond_the_volume_extends_it(self):
        """Once the quota has room for it; without, the numbers are said and nothing is left behind."""
        self.ferry("migrate")
        before = {v["id"] for v in self.lab.volumes()}
        self.lab.control("vcenter", "POST", "/vms/web01/grow", {"disk": 2001, "bytes": 2**30 + 512})
        self.lab.control("openstack", "POST", "/quota", {"gigabytes": 2})
        refused = self.ferry("migrate", ok=False)
        self.lab.control("openstack", "POST", "/quota", {"gigabytes": 1000})
        self.assertEqual(refused.code, 7, str(refused))
        self.assertIn("GiB", refused.err)
        self.assert_nothing_left()
        self.ferry("migrate")
        self.assertEqual({v["id"] for v in self.lab.volumes()}, before)
        self.assertEqual(sorted(v["size"] for v in self.lab.volumes()), [1, 2])
        self.prove()
        self.assert_nothing_left()


class Refusals(ferry.MigrationTest):
    """Disks that cannot be moved are refused by name before anything changes."""

    lab_flags = ("--disks", "20M+37s,20M+1s", "--writer-rate", "1")

    def test_each_kind_is_named_and_can_be_skipped(self):
        for body, word in (({"mode": "independent_persistent"}, "independent"), ({"backing": "rdm-physical"}, "raw device"),
                           ({"backing": "shared"}, "shared")):
            with self.subTest(word):
                self.lab.control("vcenter", "POST", "/vms/web01/disks", {"bytes": 2**20, **body})
                key = self.lab.vm()["disks"][-1]["key"]
                self.lab.control("vcenter", "DELETE", "/calls")
                refused = self.ferry("migrate", ok=False)
                self.assertEqual(refused.code, 10, str(refused))
                self.assertIn(word, refused.err)
                self.assertIn(f"key {key}", refused.err)
                methods = {c["method"] for c in self.lab.control("vcenter", "GET", "/calls")}
                self.assertFalse(methods & {"CreateSnapshot_Task", "ReconfigVM_Task"}, "nothing was changed")
                self.assertEqual(self.lab.volumes(), [])
                skipped = self.ferry("migrate", "--skip-disk", str(key), ok=False)
                if word == "shared":
                    # vSphere takes no snapshot at all of a VM with such a disk, skipped or not: it must say so itself.
                    self.assertIn("SnapshotIncompatibleDeviceInVm", skipped.err)
                    self.assert_nothing_left()
                else:
                    self.assertEqual(skipped.code, 0, str(skipped))
                self.ferry("abort", "--delete-volumes")
                self.lab.control("vcenter", "DELETE", f"/vms/web01/disks/{key}")


if __name__ == "__main__":
    unittest.main()
