"""--attach brick as a test drives it: the real os-brick connects the lab's volumes to this machine. (There is no NFS server, so the
lab's own `mount` is on the PATH.) Only root can mount."""

import pathlib
import signal

MOUNTS = pathlib.Path("/run/vmferry/mounts")


class Brick:
    """Beside a MigrationTest."""

    def brick(self, verb, *flags, more_env=None, **more):
        # Nobody tells which instance this is: nobody may ask.
        env = {"PATH": f"{self.lab.openstack['mount_dir']}:/usr/sbin:/usr/bin:/sbin:/bin", "VMFERRY_ATTACH": "brick",
               "VMFERRY_METADATA_URL": "http://127.0.0.1:1/", "VMFERRY_DEVICE_DIR": "/nonexistent"}
        return self.ferry(verb, *flags, env={**env, **(more_env or {})}, **more)

    def volumes_mounted(self):
        """Of this lab; another one may run beside it."""
        return [v["id"] for v in self.lab.volumes() if (MOUNTS / v["id"]).exists()]

    def assert_not_connected(self):
        self.assertEqual(self.volumes_mounted(), [])
        for volume in self.lab.volumes():
            if volume["status"] != "in-use":  # a server's
                self.assertEqual((volume["status"], volume["attachments"]), ("available", []), volume)
            self.assertNotIn("vmferry_attachment", volume["metadata"])
        self.assert_nothing_left()

    def dies_at(self, when, number, verb, *flags):
        """kill -9 of vmferry `when` (before or after) its so many-eth call of os-brick does its work."""
        count = self.state / f"count-{when}-{number}"
        python = self.state / f"python-{when}-{number}"
        work, kill = '/usr/bin/python3 "$@"', 'kill -9 "$PPID"'
        python.write_text(f"""#!/bin/bash
n=$(flock {count}.lock sh -c 'echo >>{count}; wc -l <{count}')
[ "$n" = {number} ] || exec {work}
{f"{work}; {kill}" if when == "after" else kill}
""")
        python.chmod(0o700)
        died = self.brick(verb, "--brick-python", str(python), *flags, ok=False, timeout=900)
        self.assertEqual(died.code, -signal.SIGKILL, f"{when} {number}: {died}")
