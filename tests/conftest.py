"""What holds for every test: torch's threads sleep while they wait.

They spin by default, which on a machine that has other things to do makes training a small model ten times slower, in
this process and in those that the tests start.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded, so here is early enough
