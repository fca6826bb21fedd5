"""What plugins cost where nobody trains: being listed, and being loaded.

Every block is a process of its own, as a command is.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.paired import Block, Pair, Ratio, compare, summarize

PAIRS = 15
LISTED = 200
LOADED = 100

SLOW = "import time\ntime.sleep(1)\ndef register(): ...\n"

SMALL = """
from frameworm.core import register_metric
from frameworm.plugins.hooks import HookRegistry

def score(targets, predictions):
    return 1.0

def register():
    register_metric("score_{number}", score)

    @HookRegistry.on("on_epoch_end")
    def report(trainer, epoch, metrics):
        pass
"""

MANIFEST = """name: plugin-{number}
version: 1.0.0
author: Somebody
description: One of many
entry_point: plugin:register
dependencies:
  - torch>=2.0.0
hooks:
  - metric
  - callback
"""

LIST = "import sys; sys.argv = ['frameworm', 'plugins', 'list']; from frameworm.cli import main; main()"

# What both need is imported before the clock starts: it is there in any program that trains.
PRELUDE = """
import importlib, sys, time
import frameworm.core
from frameworm.plugins.loader import PluginLoader
from frameworm.plugins.selection import Selection
from pathlib import Path
names = [f"plugin-{number}" for number in range(%d)]
begin = time.perf_counter()
"""
LOAD = """
result = PluginLoader(Path.cwd()).load_all(Selection(required=tuple(names), others=False))
assert len(result.loaded) == len(names)
"""
IMPORT = """
sys.path.append(str(Path.cwd()))
for name in names:
    importlib.import_module("frameworm_plugins." + name).register()
"""
POSTLUDE = "print(time.perf_counter() - begin)"


@contextmanager
def project(plugins: int, code: str) -> Iterator[Path]:
    """Give a project with so many plugins, compiled as after a first use."""
    with TemporaryDirectory() as folder:
        for number in range(plugins):
            path = Path(folder, "frameworm_plugins", f"plugin-{number}")
            path.mkdir(parents=True)
            (path / "plugin.yaml").write_text(MANIFEST.format(number=number))
            (path / "__init__.py").write_text(code.replace("{number}", str(number)))
        Path(folder, "frameworm_plugins").mkdir(exist_ok=True)
        subprocess.run([sys.executable, "-m", "compileall", "-q", folder], check=True)
        yield Path(folder)


def run(code: str, folder: Path) -> str:
    """Run Python code in a new interpreter in a folder; return what it printed."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, check=True, text=True, stdout=subprocess.PIPE
    ).stdout


def list_against_none(*, pairs: int = PAIRS) -> Ratio:
    """Measure `frameworm plugins list` with many plugins, slow to import, against the same with none."""
    with project(LISTED, SLOW) as many, project(0, SLOW) as none:
        return compare(_listing(many), _listing(none), pairs=pairs)


def list_against_itself(*, pairs: int = PAIRS) -> Ratio:
    """Measure the noise of `list_against_none`."""
    with project(0, SLOW) as none:
        return compare(_listing(none), _listing(none), pairs=pairs)


def _listing(folder: Path) -> Block:
    return partial(run, LIST, folder)


def load_against_import(*, pairs: int = PAIRS) -> Ratio:
    """Measure loading many small plugins against importing the same modules and calling their `register`."""
    return _seconds(LOAD, IMPORT, pairs)


def import_against_itself(*, pairs: int = PAIRS) -> Ratio:
    """Measure the noise of `load_against_import`."""
    return _seconds(IMPORT, IMPORT, pairs)


def _seconds(a: str, b: str, pairs: int) -> Ratio:
    """Compare what two pieces of code take, each by its own clock, behind the start of its process."""
    order = random.Random(0)
    measured = []
    with project(LOADED, SMALL) as folder:
        for _ in range(pairs):
            seconds = {}
            for code in order.sample([a, b], 2):
                seconds[code] = float(run(PRELUDE % LOADED + code + POSTLUDE, folder))
            measured.append(Pair(seconds[a], seconds[b]))
    return summarize(measured)
