"""Nova's driver for the host that the conversion host is a server of. The conversion host is the machine that the lab runs
on, so there is no guest to start: all is Nova's own fake driver, except that an attached volume appears as a device of this
machine. The lab's supervisor makes it, asked over the unix socket in VMFERRY_LAB_DEVICES; when it cannot, the attach fails."""

import http.client
import json
import os
import socket

from nova import exception
from nova.virt import fake


class _Supervisor(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(os.environ["VMFERRY_LAB_DEVICES"])


def _ask(act, connection_info):
    data = connection_info["data"]
    question = {"volume_id": connection_info.get("serial") or data.get("volume_id", ""),
                "kind": connection_info["driver_volume_type"], "export": data.get("export", ""),
                "name": data.get("name", ""), "format": data.get("format", "")}
    supervisor = _Supervisor("lab")
    try:
        supervisor.request("POST", "/" + act, json.dumps(question))
        answer = supervisor.getresponse()
        said = answer.read().decode()
    finally:
        supervisor.close()
    if answer.status != 200:
        raise exception.InternalError(f"the device of volume {question['volume_id']}: {said}")


class ConversionHostDriver(fake.FakeDriver):
    def attach_volume(self, context, connection_info, instance, mountpoint, disk_bus=None, device_type=None, encryption=None):
        if encryption:
            raise exception.InternalError("this host cannot open encrypted volumes")
        _ask("attach", connection_info)
        super().attach_volume(context, connection_info, instance, mountpoint, disk_bus, device_type, encryption)

    def detach_volume(self, context, connection_info, instance, mountpoint, encryption=None):
        _ask("detach", connection_info)
        # The fake driver forgets what was attached when nova-compute starts again; the supervisor does not.
        if mountpoint in self._mounts.get(instance.name, {}):
            super().detach_volume(context, connection_info, instance, mountpoint, encryption)

    def extend_volume(self, context, connection_info, instance, requested_size):
        _ask("extend", connection_info)

    def get_info(self, instance, use_cache=True):
        # The same for the servers themselves: the machine did not stop because Nova did.
        if instance.uuid not in self.instances and instance.vm_state == "active":
            self.instances[instance.uuid] = fake.FakeInstance(instance.name, fake.power_state.RUNNING, instance.uuid)
        return super().get_info(instance, use_cache)
