"""A backfill of a table that is in use: what the application and a standby feel of it."""

from __future__ import annotations

import contextlib
import math
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tests.servers import SUPERUSER, Standby, programs

from ..case import Case, Column, Program, Sample, Samples, Target
from ..peers import OURS, PEERS, PSQL
from ..results import Results
from ..session import Bench

NAME, ONE, LOOP, QUIET = "batches", f"{PSQL}, one UPDATE", f"{PSQL}, a loop", "no backfill"
_ROWS, _BATCH, _CLIENTS, _RATE = 120_000, 5000, 4, 200
_SETTLE_S = 2.0  # of the application alone, before and behind
_UPDATE = "UPDATE contacts SET region = 'eu' WHERE region IS NULL"
_SOME = f"{_UPDATE} AND id IN (SELECT id FROM contacts WHERE region IS NULL ORDER BY id LIMIT"
_TEXTS = {
    ONE: f"{_UPDATE};\n",
    LOOP: "DO $$ DECLARE n bigint; BEGIN LOOP\n"
    f"    {_SOME} {_BATCH});\n    GET DIAGNOSTICS n = ROW_COUNT; COMMIT;\n"
    "    EXIT WHEN n = 0; PERFORM pg_sleep(0.1);\nEND LOOP; END $$;\n",
    OURS: "-- migrate: no-transaction\n"
    "-- migrate: repeat until 0 rows, pause 100ms, max-lag 1s\n"
    f"{_SOME} {_BATCH});\n",
    QUIET: "SELECT pg_sleep(5);\n",
}
_TABLE = (
    "CREATE TABLE contacts (id int PRIMARY KEY, region text, n int, note text)",
    f"INSERT INTO contacts SELECT i, NULL, 0, repeat('x', 100) FROM generate_series(1, {_ROWS}) i",
    "CREATE INDEX ON contacts (id) WHERE region IS NULL",
    "ANALYZE contacts",
)
_APPLICATION = (
    f"\\set id random(1, {_ROWS})\nUPDATE contacts SET n = n + 1 WHERE id = :id;\n"
    "SELECT note FROM contacts WHERE id = :id;\n"
)
_LAG = "SELECT coalesce(max(extract(epoch FROM replay_lag)), 0) FROM pg_stat_replication"


def measure(bench: Bench, _: Sequence[Program]) -> Samples:
    standby = Standby(bench.cluster)
    try:
        rows: dict[str, Callable[[int], Sample]] = {n: partial(_once, bench, n) for n in _TEXTS}
        return bench.turns(NAME, 3, rows)
    finally:
        standby.remove()


def _once(bench: Bench, name: str, turn: int) -> Sample:
    database = bench.cluster.create_database()
    with bench.cluster.connect(database) as conn:
        for text in _TABLE:
            conn.execute(text.encode())
    bench.checkpoint()
    folder = bench.folder / NAME / f"{name}-{turn}"
    (folder / "migrations").mkdir(parents=True)
    file = folder / "migrations" / "001_backfill.sql"
    words = [str(bench.psql), "-X", "-q", "-o", "/dev/null", "-f", str(file), bench.url(database)]
    if name == OURS:
        peer = next(peer for peer in PEERS if peer.name == OURS)
        shutil.rmtree(folder)
        peer.lay(folder, [])
        words = peer.words(bench.psql, bench.url(database))
        file.parent.mkdir(exist_ok=True)
    file.write_text(_TEXTS[name])
    with _application(bench, database, folder) as waits, _lag(bench) as lags:
        time.sleep(_SETTLE_S)
        sample = bench.launch(words, folder, bench.url(database))
        time.sleep(_SETTLE_S)
    if not waits:
        sample.error = sample.error or "the application has done nothing"
        return sample
    waits.sort()
    for share in (50, 95, 99):
        sample.figures[f"p{share}"] = waits[math.ceil(len(waits) * share / 100) - 1]
    sample.figures |= {"longest": waits[-1], "lag": round(max(lags), 3)}
    left = bench.count(database, "SELECT count(*) FROM contacts WHERE region IS NULL")
    if left != (_ROWS if name == QUIET else 0) and not sample.error:
        sample.error = f"{left} rows are left"
    return sample


@contextlib.contextmanager
def _application(bench: Bench, database: str, folder: Path) -> Iterator[list[float]]:
    """Have pgbench at work, so many transactions a second; yield its latencies in ms, at the end.

    They count from when each was due: one that waits for a lock makes the next ones late.
    """
    waits: list[float] = []
    script = folder / "application.sql"
    script.write_text(_APPLICATION)
    command = [
        str(programs("15") / "pgbench"),
        "-n",
        "-f",
        str(script),
        "-c",
        str(_CLIENTS),
        "-R",
        str(_RATE),
    ]
    command += ["-T", "600", "-l", "--log-prefix", str(folder / "log"), "-h", bench.cluster.host]
    command += ["-p", str(bench.cluster.port), "-U", SUPERUSER, database]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield waits
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
        for log in folder.glob("log.*"):
            # client, number, latency in µs, script, …; the last line may be cut off
            lines = [line.split() for line in log.read_text().splitlines()[:-1]]
            waits += [round(int(line[2]) / 1000, 2) for line in lines]


@contextlib.contextmanager
def _lag(bench: Bench) -> Iterator[list[float]]:
    """Yield how far the standby is behind, in seconds, as the list grows."""
    lags, stop = [0.0], threading.Event()

    def look() -> None:
        with bench.cluster.connect() as conn:
            while not stop.wait(0.1):
                lags.extend(float(lag) for (lag,) in conn.execute(_LAG))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lags
    finally:
        stop.set()
        thread.join()


def targets(results: Results) -> Sequence[Target]:
    found = []
    for what, share in (("p95", "95th"), ("p99", "99th")):
        ratio = results.ratio(NAME, OURS, ONE, what)
        if ratio is not None:
            found.append(
                Target(NAME, f"{share} percentile at most 0.5 of one UPDATE's", ratio, 0.5)
            )
    if (ratio := results.ratio(NAME, OURS, LOOP, "p99")) is not None:
        found.append(Target(NAME, "99th percentile at most 1.2 of a loop's", ratio, 1.2))
    return found


CASES = [
    Case(
        NAME,
        f"a backfill of {_ROWS:,} rows of a table in use",
        measure,
        [
            Program(QUIET, "the application alone"),
            Program(ONE, "all rows in one transaction"),
            Program(LOOP, f"a DO block: {_BATCH:,} rows, COMMIT, pg_sleep(0.1)"),
            Program(OURS, f"repeat until 0 rows, pause 100ms, max-lag 1s; {_BATCH:,} rows a batch"),
        ],
        {
            "seconds": Column("whole, s", 1),
            "p50": Column("latency 50th, ms"),
            "p95": Column("95th, ms"),
            "p99": Column("99th, ms"),
            "longest": Column("longest, ms", 0, most=True),
            "lag": Column("a standby's lag, s", most=True),
        },
        targets,
        about=f"pgbench (of Debian's PostgreSQL 15) sends {_RATE} transactions a second by "
        f"{_CLIENTS} connections, each an UPDATE and a SELECT of a row of the table. Latencies "
        "count from when a transaction was due. A streaming standby is on the same machine.",
    )
]
