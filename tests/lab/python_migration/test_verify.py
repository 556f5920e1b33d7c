"""`vmferry verify`: what the volumes hold is what was written to them, and one flipped byte is found, named and repaired."""

import json
import re
import signal
import subprocess

from ferry import BIN
from journey import JourneyTest

CHUNK = 64 << 10
DAMAGED = 12


class VerifyTest(JourneyTest):
    def setUp(self):
        super().setUp()
        self.begin_anew()

    def flip(self, key=2000):
        """Changes one byte of the disk's volume behind everybody's back; its offset."""
        done = subprocess.run([BIN / "vmferry-prove", "--frozen", "web01", "--lab", self.lab.directory, "--flip", str(key)], capture_output=True,
                              text=True, check=True)
        return int(re.search(r"at offset (\d+)", done.stdout + done.stderr)[1])

    def quiet(self):
        """Nobody writes but who is asked to, so that what changes does not depend on how long things take."""
        self.lab.control("vcenter", "POST", "/vms/web01/writer", {"running": False})
        self.addCleanup(self.lab.control, "vcenter", "POST", "/vms/web01/writer", {"running": True})

    def change_a_little(self):
        for disk in (2000, 2001):
            self.lab.control("vcenter", "POST", "/vms/web01/write", {"disk": disk, "offset": 2 << 20, "bytes": 300 << 10, "value": 7})

    def test_a_flipped_byte_is_found_and_repaired(self):
        self.ferry("migrate")
        self.ferry("verify")
        offset = self.flip()
        found = self.ferry("verify", ok=False)
        self.assertEqual(found.code, DAMAGED, str(found))
        self.assertIn(f"{CHUNK} bytes at offset {offset // CHUNK * CHUNK}", found.err)
        self.assertIn("verify --repair", found.err)
        self.assert_nothing_left()
        self.prove(equal=False)
        repaired = self.ferry("verify", "--repair", "--json")
        cycle = [e for e in repaired.events() if e["event"] == "disk_finished"]
        self.assertEqual({e["full"] for e in cycle}, {False}, "only what changed and what differs is copied")
        self.prove()
        self.ferry("verify")
        self.ferry("cutover", *self.cutover_flags(), "--verify")
        self.assert_arrived()

    def test_the_next_cycle_repairs_what_was_found(self):
        self.ferry("migrate")
        self.flip(2001)
        self.assertEqual(self.ferry("verify", ok=False).code, DAMAGED)
        self.ferry("migrate", "--verify")
        self.prove()

    def test_nothing_is_read_from_the_source(self):
        self.ferry("migrate")
        self.lab.control("vcenter", "DELETE", "/calls")
        self.ferry("verify")
        calls = {c["method"] for c in self.lab.control("vcenter", "GET", "/calls")}
        self.assertEqual(calls & {"CreateSnapshotEx_Task", "CreateSnapshot_Task", "QueryChangedDiskAreas", "GET", "HEAD"}, set())

    def bytes_read(self, result):
        return sum(int(mib) for mib in re.findall(r"(\d+) MiB read again", result.err))

    def test_only_what_was_not_read_back(self):
        self.quiet()
        self.ferry("migrate")
        whole = self.bytes_read(self.ferry("verify", "--changed"))
        self.assertGreater(whole, 20, "nothing was read back yet")
        self.assertEqual(self.bytes_read(self.ferry("verify", "--changed")), 0)
        # Little has changed, however long all that took.
        self.change_a_little()
        cycle = self.ferry("migrate", "--verify-changed")
        self.assertLess(self.bytes_read(cycle), whole)
        # What the cutover writes, and the conversion, is read back before the server has it.
        done = self.ferry("cutover", *self.cutover_flags(), "--verify-changed")
        self.assertIn("read again", done.err)
        self.assert_arrived()

    def test_what_was_not_read_back_and_is_damaged(self):
        self.ferry("migrate")
        self.flip()
        self.assertEqual(self.ferry("verify", "--changed", ok=False).code, DAMAGED)
        self.ferry("verify", "--changed", "--repair")
        self.prove()

    def test_a_sample_reads_a_part(self):
        self.ferry("migrate")
        self.assertIn(" 0 MiB read again", self.ferry("verify", "--sample", "0").err)
        self.assertNotEqual(self.ferry("verify", "--sample", "101", ok=False).code, 0)

    def test_a_sample_does_not_leave_out_what_was_found_damaged(self):
        self.ferry("migrate")
        where = f"{CHUNK} bytes at offset {self.flip() // CHUNK * CHUNK}"
        self.assertIn(where, self.ferry("verify", ok=False).err)
        known = self.ferry("verify", "--sample", "0", ok=False)
        self.assertEqual(known.code, DAMAGED, str(known))
        self.assertIn(where, known.err)
        mended = self.ferry("verify", "--sample", "0", "--repair")
        self.assertIn("what differed was copied once more, and is right now", mended.out)
        self.prove()
        self.assertIn("no difference was found", self.ferry("verify", "--sample", "0").out)

    def test_after_a_crash_it_says_what_to_do_first(self):
        self.assertIn("no unfinished job", self.ferry("verify", ok=False).err)
        self.ferry("migrate")
        # Slowly and without change tracking, so that both disks are in the middle of it for half a minute.
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0.2})
        self.addCleanup(self.lab.control, "vcenter", "POST", "/settings", {"folder_rate_mb_s": 0})
        self.killed_in_the_copy(0.1, "--no-cbt", "--connections", "2")
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0})
        self.assertIn("run `vmferry migrate` first", self.ferry("verify", ok=False).err)
        self.ferry("migrate")
        self.ferry("verify")

    def test_a_lost_change_history_writes_only_what_differs(self):
        self.quiet()
        self.ferry("migrate")
        self.change_a_little()
        self.lab.control("vcenter", "POST", "/vms/web01/cbt-reset")
        again = [e for e in self.ferry("migrate", "--json").events() if e["event"] == "disk_finished"]
        self.assertEqual({e["full"] for e in again}, {True})
        for event in again:
            self.assertGreater(event["written"], 0, event)
            self.assertLess(event["written"], event["read"] / 2, event)
        self.prove()

    def test_digests_go_with_the_job(self):
        self.ferry("migrate")
        kept = list((self.state / "s" / "digests").glob("*/*"))
        self.assertEqual(len(kept), 2)
        self.assertTrue(all(f.stat().st_mode & 0o077 == 0 for f in kept))
        self.ferry("abort", "--delete-volumes")
        self.assertEqual(list((self.state / "s" / "digests").glob("*")), [])


class LeftoverTest(JourneyTest):
    def test_the_overlay_of_a_dead_run(self):
        self.begin_anew()
        died = self.ferry("cutover", *self.cutover_flags(), ok=False, env={"VMFERRY_CRASH_AT": "convert the guest|after GuestConverted"})
        self.assertEqual(died.code, -signal.SIGKILL)
        self.assertEqual(len(list((self.state / "s" / "convert").glob("*"))), 1)
        self.ferry("cutover", *self.cutover_flags())
        self.assert_arrived()

    def test_another_jobs_snapshot_is_told_of_and_left_alone(self):
        self.begin_anew()
        died = self.ferry("migrate", target="local", ok=False, env={"VMFERRY_CRASH_AT": "copy disks|before"})
        self.assertEqual(died.code, -signal.SIGKILL)
        told = self.ferry("status")
        self.assertIn("interrupted", told.out)
        # It stands in the way of reading over https, and whose it is is said.
        done = self.ferry("migrate", ok=False)
        self.assertIn("a run that moves web01 to folder", done.err)
        self.assertIn("was interrupted", done.err)
        self.assertEqual(len(self.lab.vm()["snapshots"]), 1)
        self.ferry("abort", "--delete-volumes", target="local")
        self.ferry("migrate")
        self.assert_nothing_left()
