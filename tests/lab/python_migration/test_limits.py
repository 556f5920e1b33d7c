"""What the runs of one conversion host share, changed while they run."""

import json
import signal

from ferry import MigrationTest


class LimitsTest(MigrationTest):
    lab_flags = ("--disks", "40M+37s,24M,24M", "--writer-rate", "0")

    def limits(self, *flags, ok=True):
        result = self.ferry("limits", "--json", *flags, ok=ok)
        return json.loads(result.out) if ok else result

    def started(self):
        """A run of all three disks that would last for minutes, and what it holds once it copies."""
        process = self.start("migrate", "--json")
        self.addCleanup(process.kill)
        self.wait_for(lambda: list(self.state.rglob("journal.sqlite")), what="the journal, without which there is nothing to ask")
        shown = {}

        def copies():
            shown.update(self.limits())
            return shown["running"] and sum(host["connections"] for host in shown["esxi_hosts"]) >= 3

        self.wait_for(copies, what="a copy of all three disks")
        self.assertIsNone(process.poll(), "it was over too soon")
        return process, shown

    def finished(self, process):
        out, err = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 0, out + err)
        self.prove()
        self.assertEqual([host["connections"] for host in self.limits()["esxi_hosts"]], [0])
        self.assertEqual(self.limits()["running"], [])

    def tearDown(self):
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0})
        self.forget_volumes()

    def test_the_hosts_bandwidth_is_lifted_while_a_copy_runs(self):
        self.limits("--host-bandwidth", "64K")
        process, shown = self.started()
        self.assertEqual((shown["host_bandwidth"], shown["running"][0]["vm"]), (64 << 10, "web01"))
        self.limits("--host-bandwidth", "none")
        self.finished(process)

    def test_a_runs_bandwidth_is_its_own_and_ends_with_it(self):
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0.3})
        self.limits("--host-bandwidth", "none")  # from here on there is something to look at
        process, _ = self.started()
        self.assertEqual(self.limits("--vm", "web01", "--bandwidth", "64K")["running"][0]["bandwidth"], 64 << 10)
        refused = self.limits("--vm", "db01", "--bandwidth", "64K", ok=False)
        self.assertEqual(refused.code, 5, refused)
        self.assertIn("web01", refused.err)
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0})
        self.limits("--vm", "web01", "--bandwidth", "none")
        self.finished(process)

    def test_connections_to_an_esxi_host(self):
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0.2})
        self.limits("--esxi-connections", "3", "--esxi-in-flight", "3M")
        process, shown = self.started()
        glances = [self.limits()["esxi_hosts"][0]["connections"] for _ in range(8)]
        self.assertEqual(set(glances), {3}, "each disk has its one connection, and no more")
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0})
        self.finished(process)

    def test_a_killed_run_holds_nothing(self):
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0.3})
        process, _ = self.started()
        process.kill()
        process.communicate()
        self.assertEqual(process.returncode, -signal.SIGKILL)
        shown = self.limits()
        self.assertEqual((shown["running"], [host["connections"] for host in shown["esxi_hosts"]]), ([], [0]))
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0})
        self.ferry("migrate")
        self.prove()
