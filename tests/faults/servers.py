"""A real MLflow server that is started and stopped, and what it says that it has."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

_ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
_API = "/api/2.0/mlflow/"


class MLflowServer:
    """`mlflow server` on SQLite in a folder, on a free port of this machine; down until it is `up`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        """Start it; it is `healthy` when it answers."""
        words = ["server", "--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}", "--workers", "1"]
        words += ["--default-artifact-root", str(self._folder), "--host", "127.0.0.1", "--port", str(self._port)]
        with (self._folder / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "mlflow", *words],
                cwd=self._folder,
                env={**os.environ, **_ENVIRONMENT},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def healthy(self) -> bool:
        """Whether it answers."""
        with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
            return bool(answer.status == 200)
        return False

    def down(self) -> None:
        """Kill it, with all its processes; again is no error."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def runs(self) -> list[dict[str, Any]]:
        """Return the runs of the first experiment that is not MLflow's own."""
        found = self._ask("runs/search", {"experiment_ids": ["1"]})
        runs: list[dict[str, Any]] = found.get("runs", [])
        return runs

    def steps(self, run: str, metric: str) -> list[int]:
        """Return the step of every point that a metric has, in order."""
        words = urllib.parse.urlencode({"run_id": run, "metric_key": metric, "max_results": 25000})
        points = self._ask(f"metrics/get-history?{words}").get("metrics", [])
        return sorted(int(point["step"]) for point in points)

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.uri + _API + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            made: dict[str, Any] = json.load(answer)
        return made
