"""What a benchmark runs on: servers, loop devices and timed children. All of it ends with its owner, by process id and
by the device's own name."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

import disks

BLKFLSBUF = 0x1261  # writes and forgets what the kernel has cached of one block device
PATIENCE = 900  # seconds for one copy


class Trouble(Exception):
    """The benchmark cannot go on; says what to do."""


def spawn(command, **options):
    # A session of its own: Ctrl-C is for the benchmark alone, which then ends its children in order.
    return subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, start_new_session=True, **options)


def end(child):
    """Never by name: the id is ours until it has been waited for."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


class Server:
    """An nbdkit for one image, started as vmferry starts its own."""

    def __init__(self, folder, name, plugin, parameters):
        self.socket = folder / f"{name}.sock"
        self.words = folder / f"{name}.log"
        command = ["nbdkit", "--foreground", "--readonly", "--exit-with-parent", "--threads", "16", "--unix", self.socket]
        with open(self.words, "wb") as words:
            self.child = spawn([*command, plugin, *parameters], stdout=words, stderr=words)
        try:
            self.await_answer()
        except BaseException:
            self.stop()
            raise

    @property
    def uri(self):
        return f"nbd+unix:///?socket={self.socket}"

    def await_answer(self):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.child.poll() is None:
            with socket.socket(socket.AF_UNIX) as knock, contextlib.suppress(OSError):
                knock.connect(str(self.socket))
                return
            time.sleep(0.02)
        self.refuse("does not answer")

    def refuse(self, what):
        raise Trouble(f"nbdkit {what}: {self.words.read_text(errors='replace').strip() or 'it said nothing'}")

    def check(self):
        if self.child.poll() is not None:
            self.refuse(f"ended with {self.child.returncode} during the benchmark")

    def stop(self):
        end(self.child)
        self.socket.unlink(missing_ok=True)


class Folder:
    """The lab's datastore over HTTPS, for nbdkit's curl plugin to read."""

    uri = None

    def __init__(self, command, folder):
        ready = folder / "folder.ready"
        ready.unlink(missing_ok=True)
        self.words = folder / "folder.log"
        with open(self.words, "wb") as words:
            self.child = spawn(command, stdout=words, stderr=words)
        deadline = time.monotonic() + 20
        while not ready.exists():
            if self.child.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise Trouble(f"the lab's folder does not answer: {self.words.read_text(errors='replace').strip()}")
            time.sleep(0.02)
        self.facts = json.loads(ready.read_text())

    def check(self):
        if self.child.poll() is not None:
            raise Trouble(f"the lab's folder ended: {self.words.read_text(errors='replace').strip()}")

    def stop(self):
        end(self.child)


class Target:
    """A loop device without a cache of its own (direct I/O) over a file that has all its blocks. Held open, so that
    its number is nobody else's as long as this object lives; the kernel detaches it with the last one who has it open."""

    def __init__(self, file, size):
        self.file, self.size = file, size
        self.background = None  # the byte that stands everywhere but in
        self.spoiled = []
        self.device, self.fd = None, -1
        with open(file, "wb") as backing:
            os.posix_fallocate(backing.fileno(), 0, size)
        try:
            command = ["losetup", "--find", "--show", "--direct-io=on", str(file)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Trouble(f"no loop device for {file}: {done.stderr.strip()}")
            self.device = done.stdout.strip()
            self.fd = os.open(self.device, os.O_RDWR)
            self.check()
            # From now on it detaches itself, even if this process is killed.
            subprocess.run(["losetup", "--detach", self.device], check=True, capture_output=True)
            self.check()
        except BaseException:
            self.close()
            raise

    def ours(self):
        try:
            shown = pathlib.Path("/sys/block", self.device.split("/")[-1], "loop", "backing_file").read_text().strip()
        except OSError:
            return False
        return shown == str(self.file)

    def check(self):
        """Is the device still over our file, and has the file all its blocks?"""
        if not self.ours():
            raise Trouble(f"{self.device} is no longer over {self.file}: somebody detached it")
        if pathlib.Path("/sys/block", self.device.split("/")[-1], "loop", "dio").read_text().strip() != "1":
            raise Trouble(f"{self.device} has no direct I/O: {self.file} must be on a real disk's file system (--dir)")
        if self.file.stat().st_size != self.size:
            raise Trouble(f"{self.file} is no longer {self.size} bytes long: somebody cut it")

    def fill(self, ranges, byte):
        disks.fill(self.device, ranges, byte)

    def settle(self):
        """Nothing of it is left to be written, and nothing of it is in the kernel's memory."""
        os.fsync(self.fd)
        fcntl.ioctl(self.fd, BLKFLSBUF)
        with open(self.file, "rb") as backing:
            os.fsync(backing.fileno())

    def allocated(self):
        return self.file.stat().st_blocks * 512 >= self.size

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        deadline = time.monotonic() + 5
        while self.device and self.ours() and time.monotonic() < deadline:
            subprocess.run(["losetup", "--detach", self.device], capture_output=True, check=False)
            time.sleep(0.05)
        self.device = None
        self.file.unlink(missing_ok=True)


@dataclasses.dataclass
class Timed:
    wall: float = 0.0  # seconds
    cpu: float = 0.0  # seconds of user and system, of the client and its children
    said: dict = dataclasses.field(default_factory=dict)  # the line of JSON on its output, if any

    def __add__(self, other):
        return Timed(self.wall + other.wall, self.cpu + other.cpu, {**self.said, **other.said})


def timed(command, folder):
    """Runs a client to its end."""
    output = folder / "client.out"
    with open(output, "wb") as out:
        begun = time.monotonic()
        child = spawn(command, stdout=out, stderr=out)
        late = threading.Timer(PATIENCE, child.send_signal, [signal.SIGKILL])
        late.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
            wall = time.monotonic() - begun
            child.returncode = os.waitstatus_to_exitcode(status)
        finally:
            late.cancel()
            end(child)
    words = output.read_text(errors="replace")
    if child.returncode != 0:
        raise Trouble(f"{' '.join(map(str, command))}\nended with {child.returncode}: {words.strip()}")
    said = json.loads(words.splitlines()[-1]) if words.startswith("{") else {}
    return Timed(wall, usage.ru_utime + usage.ru_stime, said)
