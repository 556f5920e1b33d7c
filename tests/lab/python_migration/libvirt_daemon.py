"""A libvirt that belongs to one test: libvirtd as a child with all it writes in one folder, virsh, and a guest's serial
console. Knows nothing of vmferry. Needs the packages of `tools/setup conversion`.

As root, libvirtd would be the system's libvirt and use /etc, /run and /var. So it runs in a user namespace in which root has
another number: it takes itself for a user's (qemu:///session), and root's images are still its own. Nobody needs that who is
not root."""

import atexit
import os
import pathlib
import re
import select
import shutil
import subprocess
import tempfile
import threading
import time
from xml.etree import ElementTree

AS_A_USER = ["--user", "--map-user=1", "--map-group=1"]  # any number but 0 that has a name everywhere


def without_kvm(command, *namespaces):
    """`command`, so that it finds no /dev/kvm: it may be there and hang its guests."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return ["unshare", *namespaces, *command] if namespaces else command
    if os.geteuid() != 0:
        namespaces = ("--user", "--map-current-user")
    # A file that cannot be written, even by root, because it is mounted so.
    cover = 'mount --bind "$0" /dev/kvm && mount -o remount,bind,ro /dev/kvm && exec "$@"'
    if namespaces:
        namespaces += ("--keep-caps",)
    return ["unshare", "--mount", *namespaces, "sh", "-c", cover, "/etc/passwd", *command]


class Libvirt:
    """libvirtd from the constructor to down()."""

    def __init__(self):
        # Not below a test's own folder: the paths of its sockets must stay under 108 bytes.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="vmferry-l-", dir="/tmp"))
        self.uri = f"qemu:///session?socket={self.folder}/run/libvirt/libvirt-sock"
        self.environment = {**os.environ, "HOME": str(self.folder), "LC_ALL": "C"}
        for name, variable in (("run", "RUNTIME_DIR"), ("config", "CONFIG_HOME"), ("cache", "CACHE_HOME"), ("data", "DATA_HOME")):
            (self.folder / name).mkdir(mode=0o700)
            self.environment["XDG_" + variable] = str(self.folder / name)
        namespaces = AS_A_USER if os.geteuid() == 0 else []
        with open(self.folder / "log", "wb") as log:
            self.daemon = subprocess.Popen(without_kvm(["libvirtd"], *namespaces), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                           env={**self.environment, "PATH": os.environ["PATH"] + ":/usr/sbin"})
        atexit.register(self.down)  # an interrupted test cleans up nothing
        end = time.monotonic() + 300
        while self.ask("version").returncode != 0:
            if self.daemon.poll() is not None or time.monotonic() > end:
                words = (self.folder / "log").read_text(errors="replace")[-2000:]
                self.down()
                raise RuntimeError(f"libvirtd does not answer (tools/setup conversion installs it): {words}")
            time.sleep(0.2)

    def down(self):
        """Switches every domain off first: they outlive libvirtd."""
        atexit.unregister(self.down)
        if self.daemon.poll() is None:
            for name in self.ask("list", "--name").stdout.split("\n"):
                if name:
                    self.ask("destroy", name)
            self.daemon.terminate()
        try:
            self.daemon.wait(30)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, *words):
        return subprocess.run(["virsh", "--connect", self.uri, "--quiet", *words], capture_output=True, text=True, timeout=300,
                              stdin=subprocess.DEVNULL, env=self.environment)

    def virsh(self, *words):
        done = self.ask(*words)
        if done.returncode != 0:
            raise RuntimeError(f"virsh {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def define(self, xml_text):
        file = self.folder / "define.xml"
        file.write_text(xml_text)
        self.virsh("define", str(file))

    def xml(self, name):
        """What is defined, as an element."""
        return ElementTree.fromstring(self.virsh("dumpxml", "--inactive", name))

    def everything(self, name):
        """All that a command could have changed of the domain, to be compared: also whether it was started anew ("id")."""
        return {what: self.ask(what, name).stdout.strip() for what in ("domid", "domuuid", "domstate", "dumpxml")} | {
            "defined": self.virsh("dumpxml", "--inactive", name), "all": sorted(self.virsh("list", "--all", "--name").split("\n"))}


class Console(threading.Thread):
    """Listens to the serial console of a domain from its start on, also if it is to be defined yet, until a line matches `last`."""

    def __init__(self, libvirt, domain, last):
        super().__init__(daemon=True)
        self.libvirt, self.domain, self.last = libvirt, domain, re.compile(last)
        self.lines = []
        self.heard_last = False
        self.enough = threading.Event()
        self.start()

    def wait(self, seconds):
        """Until `last` was heard, the domain has ended, or it took too long; then it listens no more."""
        self.join(seconds)
        self.enough.set()
        self.join()

    def run(self):
        device = ""
        while not device:
            if self.enough.wait(0.3):
                return
            device = self.libvirt.ask("ttyconsole", self.domain).stdout.strip()
        terminal = os.open(device, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
        pending = b""
        try:
            while not self.enough.is_set() and not self.heard_last:
                if not select.select([terminal], [], [], 0.5)[0]:
                    continue
                heard = os.read(terminal, 4096)
                if not heard:
                    return
                *lines, pending = (pending + heard).split(b"\n")
                for line in lines:
                    self.lines.append(line.decode(errors="replace").rstrip())
                    if self.last.search(self.lines[-1]):
                        self.heard_last = True
                        break
        except OSError:
            pass  # QEMU ended, and the other side of its pseudo terminal with it
        finally:
            os.close(terminal)
