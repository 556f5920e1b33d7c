"""Cinder's NFS driver with Cinder's own way to take over files that the share has already, which the drivers of other remote file
systems have and this one has not."""

from cinder import interface
from cinder.volume.drivers import nfs
from cinder.volume.drivers import remotefs


@interface.volumedriver
class ManageableNfsDriver(remotefs.RemoteFSManageableVolumesMixin, nfs.NfsDriver):
    pass
