"""`vmferry host`: the conversion host is made once, whatever happens meanwhile, checked, and removed without a trace."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time
import unittest

from ferry import BIN, Lab, Result

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDY2KAh+dBMEDvzQv5z6ZkjPXKl9yHKJ0PHiHUUdv00q me@here"
KINDS = ("servers", "ports", "floating_ips", "security_groups", "keypairs", "volumes")
POSTS = ("/security-groups$", "/os-keypairs$", "/security-group-rules$", "/ports$", "/floatingips$", "/servers$")


class Greeter:
    """Greets on 127.0.0.1 as an SSH server, since nothing runs in the lab's servers."""

    def __init__(self, words=b"SSH-2.0-Lab_1\r\n"):
        self.words = words
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                caller, _ = self.listener.accept()
            except OSError:
                return
            with caller:
                caller.sendall(self.words)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class HostTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.lab = Lab("--disks", "17M", "--writer-rate", "0", "--devices", "file")
        cls.lab.control("openstack", "POST", "/settings", {"server_delay_ms": 100, "create_delay_ms": 50, "attach_delay_ms": 50})
        cls.greeter = Greeter()
        cls.key = cls.lab.work / "id.pub"
        cls.key.write_text(KEY + "\n")

    @classmethod
    def tearDownClass(cls):
        cls.greeter.close()
        cls.lab.down()

    def setUp(self):
        self.lab.control("openstack", "DELETE", "/faults")
        self.lab.control("openstack", "DELETE", "/calls")
        self.before = self.counts()

    def state(self):
        return self.lab.control("openstack", "GET", "/state")

    def counts(self):
        state = self.state()
        return {kind: len(state[kind]) for kind in KINDS}

    def command(self, *words):
        return [str(BIN / "vmferry"), "host", *words, "--state-dir", str(self.lab.work / "s")]

    def host(self, *words, ok=True):
        done = Result(subprocess.run(self.command(*words), capture_output=True, text=True, env=self.lab.environment(), timeout=300,
                                     stdin=subprocess.DEVNULL))
        if ok:
            self.assertEqual(done.code, 0, str(done))
        return done

    def deploy_flags(self):
        return ["--image", "conversion-host-image", "--flavor", "m1.small", "--network", "lab-net", "--floating-ip-network", "public",
                "--public-key", str(self.key), "--boot-volume", "1", "--ssh-address", self.greeter.address]

    def deploy(self, *more, **how):
        flags = self.deploy_flags()
        for given in more:
            if given.startswith("--") and given in flags:  # instead of the usual one
                del flags[flags.index(given) : flags.index(given) + 2]
        return self.host("deploy", *flags, *more, **how)

    def assert_one_of_each(self):
        self.assertEqual(self.counts(), {kind: count + 1 for kind, count in self.before.items()})

    def assert_nothing_left(self):
        end = time.monotonic() + 120  # a boot volume goes a moment after its server
        while self.counts() != self.before and time.monotonic() < end:
            time.sleep(0.05)
        self.assertEqual(self.counts(), self.before)

    def test_its_life(self):
        made = self.deploy()
        server = next(s for s in self.state()["servers"] if s["name"] == "vmferry-host")
        for words in (server["id"], "203.0.113.", "SSH-2.0-Lab_1 answers at", "ssh -p", "--instance-id " + server["id"], "everybody may reach"):
            self.assertIn(words, made.out)
        self.assertNotIn("was there", made.out)
        self.assertIn("waiting until server", made.err)
        self.assert_one_of_each()

        again = self.deploy()
        self.assertNotIn("  made\n", again.out)
        self.assertIn("as it was", again.out)
        self.assert_one_of_each()
        narrowed = self.deploy("--ssh-from", "192.0.2.0/24", "--json").events()[-1]
        self.assertEqual((server["id"], [False] * 5), (narrowed["server"], [p["made"] for p in narrowed["pieces"]]))
        group = next(g for g in self.state()["security_groups"] if g["name"] == "vmferry-host")
        self.assertEqual(["192.0.2.0/24"], [r["remote_ip_prefix"] for r in group["security_group_rules"] if r["direction"] == "ingress"])

        checked = self.host("check", "--ssh-address", self.greeter.address)
        for words in ("deployed by vmferry as 'vmferry-host'", "room for about 25 more", "it is not the conversion host", "0 problems"):
            self.assertIn(words, checked.out)

        refused = self.host("destroy", ok=False)
        self.assertEqual(2, refused.code)
        self.assertIn("add --yes", refused.err)
        self.assert_one_of_each()
        self.assertIn("is gone", self.host("destroy", "--yes").out)
        self.assert_nothing_left()
        self.assertIn("nothing in", self.host("destroy", "--yes").out)
        self.assertIn("no such host was deployed: this is about the instance", self.host("check", "--no-wait-ssh").out)
        for elsewhere in (["--metadata-url", "http://127.0.0.1:1/"], ["--name", "other"]):
            gone = self.host("check", *elsewhere, ok=False)
            self.assertEqual(1, gone.code)
            self.assertIn("make it with `vmferry host deploy`", gone.out)

    def test_it_is_not_removed_under_a_migration(self):
        self.deploy()
        server = next(s for s in self.state()["servers"] if s["name"] == "vmferry-host")
        migrate = [str(BIN / "vmferry"), "{}", "--state-dir", str(self.lab.work / "s"), *self.lab.connection(), "--vmware-path",
                   self.lab.vcenter["vm_path"], "--instance-id", server["id"]]
        # The volume is attached to the new host; its device appears nowhere, for the lab has them for its first instance only.
        process = subprocess.Popen([w.format("migrate") for w in migrate], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env=self.lab.environment(), stdin=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 120
            while not any(a["server_id"] == server["id"] and a["attached"] for v in self.lab.volumes() if v["name"] for a in v["attachments"]):
                self.assertLess(time.monotonic(), end)
                time.sleep(0.05)
            refused = self.host("destroy", "--yes", ok=False)
            self.assertEqual(6, refused.code, str(refused))
            self.assertIn("vmferry abort", refused.err)
        finally:
            process.kill()
            process.wait()
        # The way out that the message names.
        undone = Result(subprocess.run([w.format("abort") for w in migrate] + ["--delete-volumes"], capture_output=True, text=True,
                                       env=self.lab.environment(), stdin=subprocess.DEVNULL, timeout=300))
        self.assertEqual(0, undone.code, str(undone))
        self.host("destroy", "--yes")
        self.assert_nothing_left()

    def test_every_reply_is_lost_once(self):
        for path in POSTS:
            with self.subTest(path):
                self.lab.control("openstack", "POST", "/faults", {"method": "POST", "path_regex": path, "kind": "lost-reply"})
                self.deploy()
                self.assert_one_of_each()
                self.host("destroy", "--yes")
                self.assert_nothing_left()

    def test_it_dies_before_every_call(self):
        """kill -9 while the call is held up: what was made until then is found again, or removed."""
        for goes_on in (True, False):
            for path in POSTS:
                with self.subTest(path, goes_on=goes_on):
                    # 503 is before the act, so the client tries again: as late as it is told, so that there is time to kill it.
                    self.lab.control("openstack", "POST", "/faults",
                                     {"method": "POST", "path_regex": path, "count": -1, "kind": "http", "status": 503, "retry_after": 60})
                    self.lab.control("openstack", "DELETE", "/calls")
                    process = subprocess.Popen(self.command("deploy", *self.deploy_flags()), stdout=subprocess.DEVNULL,
                                               stderr=subprocess.DEVNULL, env=self.lab.environment(), stdin=subprocess.DEVNULL)
                    end = time.monotonic() + 120
                    while not any(c["status"] == 503 for c in self.lab.control("openstack", "GET", "/calls")):
                        self.assertLess(time.monotonic(), end)
                        time.sleep(0.02)
                    process.kill()
                    self.assertEqual(-signal.SIGKILL, process.wait())
                    self.lab.control("openstack", "DELETE", "/faults")
                    if goes_on:
                        self.deploy()
                        self.assert_one_of_each()
                    self.host("destroy", "--yes")
                    self.assert_nothing_left()

    def test_ssh_that_does_not_answer(self):
        mute = Greeter(b"HTTP/1.1 400\r\n\r\n")
        self.addCleanup(mute.close)
        waited = self.deploy("--ssh-address", mute.address, "--ssh-timeout", "1", ok=False)
        self.assertEqual(9, waited.code, str(waited))
        self.assertIn("nothing greets as SSH at " + mute.address, waited.err)
        self.assertEqual(1, self.host("check", "--ssh-address", mute.address, ok=False).code)
        self.assertIn("ready" if "made" in (done := self.deploy("--no-wait-ssh")).out else "as it was", done.out)
        self.host("destroy", "--yes")
        self.assert_nothing_left()

    def test_on_the_host_itself(self):
        report = json.loads(self.host("check", "--instance-id", self.lab.openstack["instance_id"], "--no-wait-ssh", "--json", ok=False).out)
        facts = " / ".join(f["fact"] for f in report["findings"])
        self.assertIn("not deployed by vmferry", facts)
        self.assertIn("disks are read through nbdkit", facts)
        self.assertRegex(facts, "guests can(not)? be converted")
        self.assertNotIn("not the conversion host", facts)
        self.assertEqual(os.geteuid() != 0, "this is not root" in facts)

    def test_check_changes_nothing(self):
        self.host("check", ok=False)
        for call in self.lab.control("openstack", "GET", "/calls"):
            self.assertTrue(call["method"] in ("GET", "HEAD") or call["service"] == "identity", call)

    def test_keys(self):
        secret = self.lab.work / "id"
        secret.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n")
        refused = self.deploy("--public-key", str(secret), ok=False)
        self.assertEqual(3, refused.code)
        self.assertIn("is a private key", refused.err)
        self.assertNotIn("c2VjcmV0", refused.out + refused.err)
        self.assertEqual([], self.lab.control("openstack", "GET", "/calls"))
        home = self.lab.work / "home"
        (home / ".ssh").mkdir(parents=True)
        without = [w for w in self.command("deploy", *self.deploy_flags()) if w not in ("--public-key", str(self.key))]
        ask = lambda: Result(subprocess.run(without, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300,
                                            env=dict(self.lab.environment(), HOME=str(home))))
        self.assertIn("--public-key FILE", ask().err)
        (home / ".ssh" / "id_rsa.pub").write_text(KEY + "\n")
        self.assertEqual(0, ask().code)
        self.assertEqual([KEY], [k["public_key"] for k in self.state()["keypairs"]])
        self.host("destroy", "--yes")
        self.assert_nothing_left()
        log = pathlib.Path(self.lab.work / "s" / "logs" / "vmferry.log").read_bytes()
        for word in self.lab.secrets():
            self.assertNotIn(word, log)


if __name__ == "__main__":
    unittest.main()
