"""A file that is changed while it runs: an error, never a signal, and never a mixture of two."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Project
from tests.scenarios.test_engine import scalar, wait_for

_WAITS = "pg_advisory_xact_lock_shared(42)"
_ROW = "x" * 990
_TRIGGER = f"""CREATE FUNCTION waits() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM {_WAITS}; RETURN NEW; END $$;
CREATE TRIGGER waits BEFORE INSERT ON big FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION waits();
"""
_TABLE = "CREATE TABLE big (id int, t text);\n"
_NUMBERS = range(1, 30_001)


def copy() -> str:
    rows = "".join(f"{n}\t{_ROW}\n" for n in _NUMBERS)
    return f"{_TABLE}{_TRIGGER}COPY big FROM stdin;\n{rows}\\.\n"


def inserts() -> str:
    rows = "".join(f"INSERT INTO big VALUES ({n}, '{_ROW}');\n" for n in _NUMBERS)
    return f"{_TABLE}{_TRIGGER}{rows}"


def overwritten(path: Path) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size - 500_500)
        file.write(b"y" * 100)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 500_500)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("change", [overwritten, cut_off, emptied])
@pytest.mark.parametrize(
    ("head", "text", "left"),
    [
        ("lock-timeout=0", copy, "It was not executed."),
        ("lock-timeout=0", inserts, "It was not executed."),
        ("no-transaction, lock-timeout=0", copy, "3 of its statements stay executed."),
    ],
    ids=["COPY data", "INSERT statements", "a no-transaction file"],
)
def test_a_file_that_is_changed_while_it_runs_is_an_error(
    project: Project, head: str, text: Callable[[], str], left: str, change: Callable[[Path], None]
) -> None:
    project.write("001_a.sql", "CREATE TABLE a (id int);")
    whole = f"-- migrate: {head}\n{text()}"
    path = project.write("002_big.sql", whole)
    with project.cluster.connect(project.database) as conn:
        conn.execute("SELECT pg_advisory_lock(42)")
        process = project.popen("db.migrate-run")
        query = """SELECT EXISTS (SELECT FROM pg_locks
            WHERE locktype = 'advisory' AND objid = 42 AND NOT granted)"""
        wait_for(lambda: conn.execute(query).fetchone() == (True,), 120)
        time.sleep(1)  # until the buffers between the two are full
        change(path)
        conn.execute("SELECT pg_advisory_unlock(42)")
        out, err = process.communicate(timeout=120)
    assert process.returncode == 2, (out, err)
    assert "Traceback" not in err
    assert (
        f"migrations/002_big.sql was {'written to' if change == overwritten else 'cut off'}" in err
    )
    assert f"{left} 001_a.sql is the last executed file, 1 file still pending." in err
    assert "invoke db.migrate-run" in err
    assert project.executed() == ["001_a.sql"]
    rows = "SELECT count(*) FROM big" if "no-tr" in head else "SELECT count(to_regclass('big'))"
    assert scalar(project, rows) == 0
    path.write_text(whole)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert scalar(project, "SELECT count(*) FROM big") == len(_NUMBERS)
