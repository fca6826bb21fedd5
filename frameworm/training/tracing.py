"""What torch's own profiler sees, in a file that a browser shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import profile


@contextmanager
def traced(file: Path) -> Iterator[None]:
    """Write down what is computed inside, on every device, in Chrome's trace format."""
    with profile() as seen:
        yield
    seen.export_chrome_trace(str(file))
