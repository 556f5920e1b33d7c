// Nothing of its own: a libvixDiskLib that is not loaded before the loader finds another library of its folder.
