"""What the cases measure with: one new server, databases on it, a launcher, turns, a slow link."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tests.proxy import Proxy
from tests.servers import Cluster, programs, temporary_folder

from .case import Sample, Samples

_BUDGET_S = 15.0  # a row that has used up so much of a case sits out its other rounds
# It commits to disk; no checkpoint and no vacuum in the middle of somebody's measurement.
_SERVER = {"max_wal_size": "16GB", "checkpoint_timeout": "1h", "autovacuum": "off"}
_LAUNCH = str(Path(__file__).with_name("launch.py"))


@dataclass
class Bench:
    """One session; all of it is gone at the end. The server is started when it is first used."""

    server: str  # embedded, a major version, or a folder of programs
    folder: Path
    say: Callable[[str], None]
    stack: contextlib.ExitStack
    warm: set[str] = field(default_factory=set)  # who has been run once: caches, bytecode

    @cached_property
    def cluster(self) -> Cluster:
        cluster = Cluster(programs(self.server), fsync=True, options=_SERVER)
        self.stack.callback(cluster.remove)
        return cluster

    @property
    def psql(self) -> Path:
        return programs(self.server) / "psql"

    def url(self, database: str, port: int = 0) -> str:
        return self.cluster.url(database, port=port or self.cluster.port) + "?sslmode=disable"

    def checkpoint(self) -> None:
        """Write down what was done before, such as a new database, so that nobody else pays."""
        with self.cluster.connect() as conn:
            conn.execute("CHECKPOINT")

    def count(self, database: str, query: str) -> int:
        with self.cluster.connect(database) as conn:
            row = conn.execute(query.encode()).fetchone()
        return int(row[0]) if row else 0

    @contextlib.contextmanager
    def link(self, round_trip_ms: int) -> Iterator[int]:
        """Yield the port of the server behind a link; the server's own if that takes no time."""
        if not round_trip_ms:
            yield self.cluster.port
            return
        with Proxy("127.0.0.1", self.cluster.port, latency_s=round_trip_ms / 2000) as link:
            yield link.port

    def launch(
        self, words: Sequence[str], folder: Path, url: str = "", *, timeout_s: int = 120
    ) -> Sample:
        """Run a command there, with a bare environment and DATABASE_URL; time it from outside.

        The figures are `seconds` and `peak_mb`, of the program itself and not of its children.
        """
        log = self.folder / "output.txt"
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8"}
        done = subprocess.run(
            [sys.executable, "-I", "-S", _LAUNCH, str(log), str(timeout_s), *words],
            cwd=folder,
            env=env | ({"DATABASE_URL": url} if url else {}),
            stdout=subprocess.PIPE,
            check=True,
        )
        told = json.loads(done.stdout)
        sample = Sample(
            {"seconds": round(told["seconds"], 4), "peak_mb": round(told["peak_mb"], 1)}
        )
        if told["code"] < 0:
            sample.error = f"killed after {told['seconds']:.0f} s"
        elif told["code"]:
            lines = log.read_text(errors="replace").strip().splitlines() or ["no message"]
            sample.error = next((x for x in reversed(lines) if "rror" in x), lines[-1])[:160]
        return sample

    def turns(self, name: str, rounds: int, rows: Mapping[str, Callable[[int], Sample]]) -> Samples:
        """Run each row once a round, beginning with another one each time.

        A row is given the number of the round. One that fails, or has taken long, is not run again.
        """
        samples: Samples = {row: [] for row in rows}
        order = list(rows)
        for turn in range(rounds):
            at = turn % len(order)
            for row in order[at:] + order[:at]:
                if _goes_on(samples[row]):
                    sample = rows[row](turn)
                    samples[row].append(sample)
                    shown = sample.error or ", ".join(f"{k} {v}" for k, v in sample.figures.items())
                    self.say(f"{name} {turn + 1}/{rounds}  {row}: {shown}")
        return samples

    @contextlib.contextmanager
    def application(self, database: str, queries: Sequence[str]) -> Iterator[list[float]]:
        """Have an application at work, a connection a query, over and over; yield its waits in s.

        The list grows while the body runs, and is complete behind it.
        """
        waits: list[float] = []
        stop = threading.Event()

        def work(query: bytes) -> None:
            with self.cluster.connect(database) as conn:
                while not stop.is_set():
                    began = time.perf_counter()
                    conn.execute(query)
                    waits.append(round(time.perf_counter() - began, 4))
                    time.sleep(0.002)

        threads = [threading.Thread(target=work, args=(query.encode(),)) for query in queries]
        for thread in threads:
            thread.start()
        try:
            yield waits
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def _goes_on(samples: Sequence[Sample]) -> bool:
    spent = sum(s.figures.get("seconds", 0) for s in samples)
    return not any(s.error for s in samples) and spent < _BUDGET_S


@contextlib.contextmanager
def session(server: str, say: Callable[[str], None]) -> Iterator[Bench]:
    with contextlib.ExitStack() as stack:
        folder = temporary_folder()
        stack.callback(shutil.rmtree, folder)
        yield Bench(server, folder, say, stack)
