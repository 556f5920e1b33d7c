"""Cinder's NFS driver with Cinder's own way to take over files that the share has already, which the drivers of other remote file
systems have and this one has not. It says that several servers may have a volume at once, which is so for a file of one machine."""

from cinder import interface
from cinder.volume.drivers import nfs
from cinder.volume.drivers import remotefs


@interface.volumedriver
class ManageableNfsDriver(remotefs.RemoteFSManageableVolumesMixin, nfs.NfsDriver):
    def _update_volume_stats(self):
        super()._update_volume_stats()
        self._stats["multiattach"] = True
