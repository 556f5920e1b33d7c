// nbdkit's plugin interface, version 2, for the files of this plugin that speak to nbdkit.
#pragma once

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>
