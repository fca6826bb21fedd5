"""A recorded run fed to any listener, as the relay would do it; the run's own listeners do not notice."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from bus.cursor import Cursor, Position
from bus.log import LogReader
from frameworm.delivery.journal import journal_path
from frameworm.delivery.listener import ProcessListener, RelayOptions
from frameworm.delivery.receiver import make_receiver
from frameworm.delivery.replay import check_journal, readable
from frameworm.delivery.status import ListenerReport, cursor_file
from frameworm.delivery.worker import Worker


def feed(
    run_dir: Path, listener: ProcessListener, *, from_seq: int = 1, options: RelayOptions | None = None
) -> ListenerReport:
    """Deliver what is recorded of a run, from the record number `from_seq` on; return the listener's account.

    A run that has crashed is closed as such. What the listener does not take is counted and logged, not kept. Raises
    RunError for a journal of a newer format.
    """
    check_journal(run_dir)
    with TemporaryDirectory(prefix="frameworm-replay-") as name:
        folder = Path(name)
        with Cursor(cursor_file(folder, listener)) as cursor:
            cursor.save(Position(max(0, from_seq - 1)))
        worker = Worker(run_dir, listener, folder, options or RelayOptions(), follow=False)
        worker.run()
        return worker.report()


def wanted(run_dir: Path, listener: ProcessListener, *, from_seq: int = 1) -> dict[str, int]:
    """Return how many events of which name `feed` would deliver, in the order of their first ones.

    The listener is made for that, and gets nothing. Raises what keeps it from being made, and RunError.
    """
    names = make_receiver(listener).names
    path = journal_path(run_dir)
    with contextlib.closing(LogReader(path, after=max(0, from_seq - 1))) as reader:
        return dict(Counter(record["event"] for record in readable(reader, path) if record["event"] in names))
