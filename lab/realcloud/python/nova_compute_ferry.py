"""nova-compute for the conversion host's host. Nova loads its driver from the package nova.virt only; this makes the folder of
this file a part of it."""

import os
import sys

from nova.cmd import compute  # first: it prepares Python for eventlet
import nova.virt

nova.virt.__path__.append(os.path.dirname(os.path.abspath(__file__)))
sys.exit(compute.main())
