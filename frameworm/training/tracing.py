"""What torch's own profiler sees, in a file that a browser shows."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch.profiler


class Tracing:
    """Sees what is computed between `start` and `stop`, on every device."""

    def __init__(self) -> None:
        self._profiler = torch.profiler.profile()

    def start(self) -> None:
        """Begin to look."""
        self._profiler.start()

    def stop(self) -> None:
        """Look no more."""
        self._profiler.stop()

    def write(self, file: Path) -> None:
        """Write what was seen in Chrome's trace format, once. Raises OSError."""
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder, "trace.json")
            self._profiler.export_chrome_trace(str(written))  # which only prints that it could not write
            shutil.copyfile(written, file)
