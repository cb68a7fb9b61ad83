"""What holds for every test."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# Tests train and score tiny networks: a second thread costs more than it brings, and CI's cores are busy.
# Set before anything imports torch or numpy; child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background has them ignore Ctrl-C, which some of them press.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A deadline would measure the machine, not the code: the first example compiles kernels.
settings.register_profile("streamfm", deadline=None, print_blob=True)
settings.load_profile("streamfm")
