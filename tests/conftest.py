"""What holds for all tests."""

from __future__ import annotations

import os
import signal

# Threads that wait by spinning cost a test ten times its time where several processes share few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded, so here is early enough

# A shell that runs this in the background has SIGINT ignored, and so would all processes that the tests start and
# interrupt; a handler of our own does not pass on to them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
