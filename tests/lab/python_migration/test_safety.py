"""Secrets, interruptions, two runs at once, and bad input."""

import json
import os
import pathlib
import signal
import stat
import threading
import time
import unittest

import openstack

import ferry


class Secrets(ferry.MigrationTest):
    lab_flags = ("--disks", "70M+37s,33M+1s")

    def watch_children(self, process, seen):
        """Every command line and environment of every descendant, sampled until the run ends."""
        ours = os.fsencode(self.state)  # other tests have nbdkits of theirs
        while process.poll() is None:
            for entry in pathlib.Path("/proc").iterdir():
                if not entry.name.isdigit():
                    continue
                try:
                    status = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                    line = (entry / "cmdline").read_bytes()
                    if int(entry.name) == process.pid:
                        seen.append(("cmdline", line))
                    elif int(status[1]) == process.pid or b"nbdkit" in line and ours in line:
                        seen.append(("cmdline", line))
                        seen.append(("environ", (entry / "environ").read_bytes()))
                except (OSError, IndexError, ValueError):
                    continue
            time.sleep(0.01)

    def run_watched(self, verb, *flags):
        seen = []
        process = self.start(verb, *flags)
        watcher = threading.Thread(target=self.watch_children, args=(process, seen))
        watcher.start()
        out, err = process.communicate(timeout=300)
        watcher.join()
        self.assertEqual(process.returncode, 0, err)
        self.assertTrue(any(b"nbdkit" in text for _, text in seen), "the watch saw no child: the test would prove nothing")
        return seen, out + err

    def test_no_secret_anywhere(self):
        # Each child lives long enough to be looked at.
        self.lab.control("vcenter", "POST", "/settings", {"folder_latency_ms": 300})
        self.addCleanup(self.lab.control, "vcenter", "POST", "/settings", {"folder_latency_ms": 0})
        recording = self.state / "recording"
        everything = []
        for verb, flags in (("migrate", []), ("migrate", ["--debug"]), ("cutover", self.lab.cutover_flags())):
            seen, text = self.run_watched(verb, *flags, "--record", str(recording))
            everything += [(f"{verb} {kind}", data) for kind, data in seen] + [(f"{verb} output", text.encode())]
        files = [f for f in list((self.state / "s").rglob("*")) + list(recording.rglob("*")) if f.is_file()]
        self.assertTrue(any(f.suffix == ".log" for f in files) and any(f.suffix == ".sqlite" for f in files))
        self.assertGreater(len(list(recording.rglob("*.json"))), 20)
        everything += [(str(f), f.read_bytes()) for f in files]
        wanted = self.lab.secrets()
        self.assertGreater(len(wanted), 3)
        for where, data in everything:
            for secret in wanted:
                self.assertNotIn(secret, data, f"a secret is readable in {where}")
        for f in files:
            self.assertEqual(stat.S_IMODE(f.stat().st_mode) & 0o077, 0, f"{f} can be read by others")

    def test_a_password_on_the_command_line_is_wiped(self):
        # It lasts for minutes, until it was looked at.
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0.2})
        self.addCleanup(self.lab.control, "vcenter", "POST", "/settings", {"folder_rate_mb_s": 0})
        password = pathlib.Path(self.lab.vcenter["password_file"]).read_text().strip()
        command = self.command("migrate")
        at = command.index("--vmware-password-file")
        command[at : at + 2] = ["--vmware-password", password]
        process = ferry.subprocess.Popen(command, stdout=ferry.subprocess.PIPE, stderr=ferry.subprocess.PIPE, text=True, env=self.lab.environment())
        cmdline = pathlib.Path(f"/proc/{process.pid}/cmdline")

        def wiped():
            # A program that is just being put in the place of the one that forked has no command line for a moment.
            line = cmdline.read_bytes()
            return b"--vmware-password" in line and password.encode() not in line

        self.wait_for(lambda: wiped() or process.poll() is not None, what="the wiped password")
        self.assertIsNone(process.poll(), "it was over too soon, or the password was there to the end")
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0})
        _, err = process.communicate(timeout=300)
        self.assertIn("command line", err)
        self.assertEqual(process.returncode, 0, err)


class Interruptions(ferry.MigrationTest):
    lab_flags = ("--disks", "120M+37s,33M+1s")

    def in_the_middle(self):
        """A run that copies, and would do so for minutes."""
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0.5})
        process = self.start("migrate", "--json")
        self.addCleanup(lambda: process.poll() is None and process.kill())
        self.until_it_copied(process)
        self.assertEqual(len(self.lab.vm()["snapshots"]), 1, "ours")
        return process

    def fast(self):
        self.lab.control("vcenter", "POST", "/settings", {"folder_rate_mb_s": 0})

    def tearDown(self):
        self.fast()
        self.ferry("abort", "--delete-volumes", ok=False)

    def stop_by(self, number):
        process = self.in_the_middle()
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
        return process.returncode, err

    def test_ctrl_c_cleans_up(self):
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            with self.subTest(number):
                returned, err = self.stop_by(number)
                self.assertEqual(returned, code, err)
                self.assert_nothing_left()
                self.fast()
                self.ferry("migrate")
                self.prove()
                self.ferry("abort", "--delete-volumes")

    def test_kill_9_and_again(self):
        process = self.in_the_middle()
        process.kill()
        process.communicate()
        self.assertEqual(process.returncode, -signal.SIGKILL)
        self.assertEqual(len(self.lab.vm()["snapshots"]), 1, "nothing could clean up")
        self.fast()
        self.ferry("migrate")
        self.prove()
        self.assert_nothing_left()

    def test_abort_after_kill_9_leaves_nothing(self):
        process = self.in_the_middle()
        process.kill()
        process.communicate()
        self.assertEqual(process.returncode, -signal.SIGKILL)
        self.fast()
        self.ferry("abort", "--delete-volumes")
        self.assert_nothing_left()
        self.assertEqual(self.lab.volumes(), [])

    def test_two_runs_at_once(self):
        first = self.in_the_middle()
        second = self.ferry("migrate", ok=False)
        self.fast()
        out, err = first.communicate(timeout=300)
        self.assertEqual(first.returncode, 0, err)
        self.assertEqual(second.code, 6, str(second))
        self.assertIn(f"pid {first.pid}", second.err)
        self.assertIn(os.uname().nodename, second.err)

    def test_sessions_and_tokens_that_end_in_the_middle(self):
        process = self.in_the_middle()
        for _ in range(3):
            # One after the other: it has logged in again, however long that takes, before the next session ends.
            logins = self.logins()
            self.lab.control("vcenter", "POST", "/sessions/expire")
            self.lab.control("openstack", "POST", "/tokens/revoke")
            self.wait_for(lambda: self.logins() > logins or process.poll() is not None, what="another login")
            self.assertIsNone(process.poll(), "it was over too soon")
        self.fast()
        out, err = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 0, err)
        self.prove()
        self.assert_nothing_left()


    def logins(self):
        """That the vCenter accepted so far."""
        return sum(c["method"] == "Login" and c["status"] == 200 for c in self.lab.control("vcenter", "GET", "/calls"))


class BadInput(ferry.MigrationTest):
    """One clear sentence with the remedy, the right exit code, and nothing changed."""

    lab_flags = ("--disks", "20M+37s,20M+1s", "--writer-rate", "1")

    def refused(self, code, *words, flags=(), replace=None, env=None, path=None):
        self.lab.control("vcenter", "DELETE", "/calls")
        command = self.command("migrate", *flags, path=path)
        for flag, value in (replace or {}).items():
            at = command.index(flag)
            command[at : at + 2] = [flag, value] if value is not None else []
        environment = self.lab.environment()
        environment.update(env or {})
        done = ferry.Result(ferry.subprocess.run(command, capture_output=True, text=True, env=environment, stdin=ferry.subprocess.DEVNULL, timeout=300))
        self.assertEqual(done.code, code, str(done))
        for word in words:
            self.assertIn(word, done.err)
        self.assertEqual(self.lab.volumes(), [], "nothing was made")
        methods = {c["method"] for c in self.lab.control("vcenter", "GET", "/calls")}
        self.assertFalse(methods & {"CreateSnapshot_Task", "ReconfigVM_Task"}, "nothing was changed")
        return done

    def scratch(self, name, text, mode=0o600):
        file = self.state / name
        file.write_text(text)
        file.chmod(mode)
        return str(file)

    def test_wrong_password(self):
        self.refused(4, "password", replace={"--vmware-password-file": self.scratch("wrong", "wrong\n")})

    def test_missing_password_file(self):
        self.refused(3, "/nowhere", replace={"--vmware-password-file": "/nowhere"})

    def test_closed_port(self):
        self.refused(8, "127.0.0.1:9", replace={"--vmware-endpoint": "127.0.0.1:9"})

    def test_unknown_certificate_prints_its_fingerprint_and_the_flag(self):
        self.refused(4, self.lab.vcenter["sha256"], "--vmware-fingerprint", replace={"--vmware-ca": None})

    def test_the_printed_fingerprint_is_accepted(self):
        command = self.command("migrate", "--vmware-fingerprint", self.lab.vcenter["sha256"])
        at = command.index("--vmware-ca")
        del command[at : at + 2]
        done = ferry.subprocess.run(command, capture_output=True, text=True, env=self.lab.environment(), stdin=ferry.subprocess.DEVNULL, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.prove()
        self.ferry("abort", "--delete-volumes")

    def test_wrong_fingerprint(self):
        self.refused(4, "certificate", flags=("--vmware-fingerprint", ":".join(["00"] * 32)), replace={"--vmware-ca": None})

    def test_missing_vm_lists_near_names(self):
        done = self.refused(5, "web01", path="/DC0/vm/web10")
        self.assertIn("/DC0/vm/web01", done.err)

    def test_malformed_flag(self):
        self.refused(2, "--connections", flags=("--connections", "many"))

    def test_unknown_cloud(self):
        self.refused(3, "mars", flags=("--os-cloud", "mars"))

    def test_unknown_volume_type(self):
        self.refused(3, "gold", flags=("--volume-type", "gold"))

    def test_state_dir_is_a_file(self):
        self.refused(3, "--state-dir", replace={"--state-dir": self.scratch("file", "x")})

    def test_not_inside_an_instance(self):
        # Volumes can be made before this shows, so only the words and the remedy are looked at.
        done = self.ferry("migrate", ok=False, env={"VMFERRY_METADATA_URL": "http://127.0.0.1:9/"})
        self.assertIn("--instance-id", done.err)
        self.assertNotEqual(done.code, 0)
        self.assert_nothing_left()
        self.ferry("abort", "--delete-volumes", ok=False)
        self.assertEqual(self.lab.volumes(), [])

    def test_volume_quota(self):
        self.lab.control("openstack", "POST", "/quota", {"gigabytes": 0})
        try:
            self.refused(7, "uota")
        finally:
            self.lab.control("openstack", "POST", "/quota", {"gigabytes": 1000})
            self.ferry("abort", "--delete-volumes", ok=False)

    def test_every_failure_names_its_log(self):
        done = self.refused(5, path="nothing-like-this")
        self.assertIn(".log", done.err)

    def test_inventory_and_status_as_json(self):
        listed = json.loads(self.ferry("inventory", "--json").out)
        self.assertIn("/DC0/vm/web01", [vm["path"] for vm in listed["machines"]])
        misspelt = self.ferry("status", "--json", ok=False)
        self.assertEqual((misspelt.code, misspelt.out), (3, ""), misspelt)
        self.assertIn("there is no state folder", misspelt.err)
        (self.state / "s").mkdir()
        self.assertEqual(json.loads(self.ferry("status", "--json").out), {"jobs": []})
        self.assertEqual(list((self.state / "s").iterdir()), [])


class TakeOver(ferry.MigrationTest):
    """A migration that migratekit began goes on here: same names, same metadata."""

    lab_flags = ("--disks", "40M+37s,20M+1s", "--writer-rate", "5")

    def tearDown(self):
        self.forget_volumes()

    def test_metadata_are_migratekits_and_carry_over(self):
        self.ferry("migrate")
        for volume in self.lab.volumes():
            metadata = volume["metadata"]
            self.assertEqual(metadata["migrate_kit"], "true")
            self.assertEqual(metadata["vm"], self.lab.vm()["moref"])
            self.assertRegex(metadata["change_id"], r"^[^/]+/[^/]+$")
            self.assertEqual(volume["name"], f"web01-{metadata['disk']}")
        # Another host, without our journal, and without our own keys: what migratekit would have left.
        for volume in self.lab.volumes():
            self.lab.control("openstack", "POST", f"/volumes/{volume['id']}/metadata",
                             {k: v for k, v in volume["metadata"].items() if not k.startswith("vmferry_")})
        self.state = self.state / "another-host"
        self.state.mkdir()
        result = self.ferry("migrate", "--json", "--trust-change-id")
        self.assertFalse(result.events()[-1]["full"], "it must go on from migratekit's change id")
        self.prove()

    def test_volumes_of_an_older_migratekit_are_found(self):
        """It named and marked them by the disk's object id; and all of them are bootable."""
        for key, value in self.lab.environment().items():
            if key.startswith("OS_"):
                os.environ[key] = value
        cloud = openstack.connect(cloud="lab")
        machine, left = self.lab.vm(), {}
        for disk in machine["disks"]:
            word = f"919-{disk['key']}"
            volume = cloud.block_storage.create_volume(size=1, name=f"web01-{word}", metadata={"migrate_kit": "true", "vm": machine["moref"], "disk": word})
            left[volume.id] = word
        self.wait_for(lambda: all(v["status"] == "available" for v in self.lab.volumes()), what="volumes")
        for volume in self.lab.volumes():
            cloud.block_storage.set_volume_bootable_status(volume["id"], True)
            with open(volume["file"], "r+b") as file:
                file.write(b"half a copy" * 100000)
        told = self.ferry("check", *self.lab.connection(), "--vmware-path", self.lab.vcenter["vm_path"])
        self.assertIn("migratekit made it for disk 2000 of this machine", " ".join(told.out.split()))
        seen = json.loads(self.ferry("status", "--volumes", "--json").out)["volumes"]
        self.assertEqual({v["id"]: (v["program"], v["vm_id"], v["disk"], v["whole"], v["job"]) for v in seen},
                         {id: ("migratekit", machine["moref"], word, False, None) for id, word in left.items()})
        self.assertIn("`vmferry migrate` of that machine goes on with them", self.ferry("status", "--volumes").out)
        self.ferry("migrate")
        self.prove()
        self.ferry("migrate")
        self.prove()
        self.assertEqual({v["id"]: v["metadata"]["disk"] for v in self.lab.volumes()}, left)
        job = json.loads(self.ferry("status", "--json").out)["jobs"][0]["job"]
        seen = json.loads(self.ferry("status", "--volumes", "--json").out)["volumes"]
        self.assertEqual({(v["id"], v["program"], v["whole"], v["content"], v["job"], v["phase"]) for v in seen},
                         {(id, "vmferry", True, "all, as of cycle 2", job, "synced") for id in left})
        here, self.state = self.state, self.state / "another-host"
        self.state.mkdir()
        self.assertIn(f"{job[:8]} elsewhere", self.ferry("status", "--volumes").out)
        self.state = here

    def test_a_volume_that_a_conversion_has_half_changed_is_repaired(self):
        """migratekit keeps its change id when virt-v2v fails; what virt-v2v wrote is in no delta."""
        self.ferry("migrate")
        for volume in self.lab.volumes():
            self.lab.control("openstack", "POST", f"/volumes/{volume['id']}/metadata",
                             {k: v for k, v in volume["metadata"].items() if not k.startswith("vmferry_")})
            with open(volume["file"], "r+b") as file:
                file.seek(5 << 20)
                file.write(b"virt-v2v was here" * 1000)
        self.prove(equal=False)
        self.state = self.state / "another-host"
        self.state.mkdir()
        said = self.ferry("migrate")
        self.assertIn("of migratekit; all of it is copied once", said.out + said.err)
        self.prove()

    def test_what_vmware_migration_kit_left_half_copied_is_repaired(self):
        """It writes changeID before the first byte; the volume is known by its name alone."""
        for key, value in self.lab.environment().items():
            if key.startswith("OS_"):
                os.environ[key] = value
        cloud = openstack.connect(cloud="lab")
        # That tool wants change tracking on; vmferry leaves it so. The change id is the snapshot's, as right as any.
        self.ferry("migrate", target="local")
        self.ferry("abort", "--delete-volumes", target="local")
        snapshot = self.lab.control("vcenter", "POST", "/vms/web01/snapshots", {"name": "osm"})["id"]
        frozen = {disk["key"]: disk["path"] for disk in self.lab.control("vcenter", "GET", "/vms/web01/frozen")[-1]["disks"]}
        left = {}
        for disk in self.lab.vm()["disks"]:
            volume = cloud.block_storage.create_volume(
                size=1, name=f"web01-{disk['key']}", metadata={"osm": "true", "converted": "false", "changeID": disk["change_id"]})
            left[volume.id] = frozen[disk["key"]]
        self.wait_for(lambda: all(v["status"] == "available" for v in self.lab.volumes()), what="volumes")
        for volume in self.lab.volumes():
            cloud.block_storage.set_volume_bootable_status(volume["id"], True)
            cloud.block_storage.set_volume_image_metadata(volume["id"], hw_machine_type="q35", hw_firmware_type="uefi")
            source = pathlib.Path(left[volume["id"]]).read_bytes()
            with open(volume["file"], "r+b") as file:
                file.write(source[:len(source) // 2])
        self.lab.control("vcenter", "DELETE", f"/vms/web01/snapshots/{snapshot}")
        told = self.ferry("check", *self.lab.connection(), "--vmware-path", self.lab.vcenter["vm_path"], ok=False)
        self.assertIn("--adopt-osm-volumes", told.out)
        shown = self.ferry("status", "--volumes").out
        for id in left:
            self.assertRegex(shown, rf"vmware-migration-kit +a copy, unproven +available +- +{id}")
        self.assertIn("--adopt-osm-volumes", shown)
        self.ferry("migrate", "--adopt-osm-volumes")
        self.assertEqual(sorted(v["id"] for v in self.lab.volumes()), sorted(left))
        self.prove()
        self.ferry("migrate")  # they are this machine's now
        self.assertEqual(sorted(v["id"] for v in self.lab.volumes()), sorted(left))
        self.prove()


if __name__ == "__main__":
    unittest.main()
