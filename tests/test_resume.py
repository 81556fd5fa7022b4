"""What is to be done next with a unit, from its row and what the catalog has. No database."""

from __future__ import annotations

from typing import Any

import pytest

from db.engine import pooled, resume, targets
from db.engine.resume import CREATE, DETACH, DROP, REINDEX, Facts, Index, Left, Row, Step
from db.errors import ScriptError
from db.events import Connected
from db.files.plan import Progress
from db.server.described import Server
from db.settings import from_values
from db.sql.script import Script

HEAD = b"-- migrate: no-transaction\n"


def index(**changes: Any) -> Index:
    built = Index(7, "public.i", valid=True, ours=True, building=False, definition="CREATE …")
    return built._replace(**changes)


def intent(**target: object) -> Row:
    return Row(0, "", finished=False, run_by="migrations x", pid=1, target=target)


OLD = Row(0, "", finished=False, run_by="migrations x")
FINISHED = OLD._replace(finished=True)
VALID, INVALID = Facts(1, "i", indexes=(index(),)), Facts(1, "i", indexes=(index(valid=False),))
BUILDING = Facts(1, "i", indexes=(index(valid=False, building=True),))
ELSEWHERE = Facts(1, "i", indexes=(index(valid=False, ours=False),))
NOTHING = Facts(1, "i")
ATTACHED = Facts(1, attached=True)


@pytest.mark.parametrize(
    ("kind", "row", "facts", "step"),
    [
        (CREATE, None, NOTHING, Step.RUN),
        (CREATE, None, VALID, Step.RUN),  # PostgreSQL refuses it, or passes it over
        (CREATE, None, INVALID, Step.CLEAN),
        (CREATE, None, BUILDING, Step.WAIT),
        (CREATE, None, ELSEWHERE, Step.RUN),
        (CREATE, FINISHED, INVALID, Step.SKIP),
        (CREATE, intent(existed=None), VALID, Step.FINISH),
        (CREATE, intent(existed=7), VALID, Step.RUN),
        (CREATE, intent(existed=None), INVALID, Step.CLEAN),
        (CREATE, intent(existed=None), BUILDING, Step.WAIT),
        (CREATE, intent(existed=None), ELSEWHERE, Step.RUN),
        (CREATE, intent(existed=None), NOTHING, Step.RUN),
        (CREATE, OLD, VALID, Step.FINISH),
        (DROP, None, Facts(1), Step.RUN),
        (DROP, intent(relation=1), Facts(1, gone=True), Step.FINISH),
        (DROP, intent(relation=1), Facts(1), Step.RUN),
        (DROP, intent(relation=None), Facts(), Step.RUN),  # there was nothing to drop
        (DROP, OLD, Facts(), Step.FINISH),
        (DROP, OLD, Facts(1), Step.RUN),
        (REINDEX, None, NOTHING, Step.RUN),
        (REINDEX, intent(), INVALID, Step.CLEAN),
        (REINDEX, intent(), BUILDING, Step.WAIT),
        (REINDEX, intent(), NOTHING, Step.RUN),
        (DETACH, None, ATTACHED, Step.RUN),
        (DETACH, intent(existed=1), ATTACHED, Step.RUN),
        (DETACH, intent(existed=1), ATTACHED._replace(finalize="ALTER …"), Step.RUN),
        (DETACH, intent(existed=1), Facts(1), Step.FINISH),
        (DETACH, intent(existed=None), Facts(1), Step.RUN),  # PostgreSQL refuses it
        ("VACUUM", intent(), Facts(), Step.RUN),
        ("ALTER SYSTEM", OLD, Facts(), Step.RUN),
        ("CALL", None, Facts(), Step.RUN),
        ("CALL", intent(), Facts(), Step.ASK),
        ("CREATE DATABASE", OLD, Facts(), Step.ASK),
        ("CALL", FINISHED, Facts(), Step.SKIP),
    ],
)
def test_the_next_step(kind: str, row: Row | None, facts: Facts, step: Step) -> None:
    assert resume.next_step(kind, row, facts) is step


@pytest.mark.parametrize(
    ("kind", "sql", "strong"),
    [
        ("VACUUM", b"VACUUM t", False),
        ("VACUUM", b"vacuum (analyze, full) t", True),
        ("VACUUM", b"VACUUM/* */full t", True),
        ("VACUUM", b"VACUUM (FULL true) t", True),
        ("VACUUM", b"VACUUM (FULL off) t", False),
        ("VACUUM", b"VACUUM (FULL 'off', ANALYZE) t", False),
        ("VACUUM", b"VACUUM fulltexts", False),
        ("VACUUM", b"VACUUM (ANALYZE) fulls -- not full", False),
        ("VACUUM", b'VACUUM "full"', False),
        ("VACUUM", b'VACUUM (ANALYZE) t ("full")', False),
        ("CLUSTER ALL", b"CLUSTER", True),
        ("CALL", b"CALL p()", True),
        ("DO", b"DO $$ BEGIN COMMIT; END $$", True),
        ("SELECT", b"SELECT f()", True),
        ("REINDEX SCHEMA", b"REINDEX SCHEMA s", True),
        (REINDEX, b"REINDEX TABLE CONCURRENTLY t", False),
        (CREATE, b"CREATE INDEX CONCURRENTLY i ON t (a)", False),
        ("ALTER TABLE DETACH PARTITION CONCURRENTLY", b"", False),
        ("CREATE DATABASE", b"CREATE DATABASE d", False),
        ("ALTER SYSTEM", b"ALTER SYSTEM SET work_mem = 1", False),
    ],
)
def test_who_may_make_the_application_queue(kind: str, sql: bytes, strong: bool) -> None:
    assert resume.strong(kind, sql) is strong


@pytest.mark.parametrize(
    ("kind", "commits", "left"),
    [
        ("CALL", 0, Left.NOTHING),
        ("CALL", 2, Left.SOMETHING),
        ("CALL", None, Left.SOMETHING),  # not certain
        ("DO", None, Left.SOMETHING),
        ("SELECT", 0, Left.ELSEWHERE),
        ("SELECT", None, Left.ELSEWHERE),
        ("CREATE DATABASE", None, Left.NOTHING),
        ("ALTER DATABASE SET TABLESPACE", 1, Left.SOMETHING),
        (CREATE, 2, Left.KNOWN),
        ("VACUUM", 3, Left.KNOWN),
    ],
)
def test_what_a_failed_statement_has_left(kind: str, commits: int | None, left: Left) -> None:
    assert resume.left(kind, commits) is left


@pytest.mark.parametrize(
    ("before", "after", "counted"),
    [
        ([(b"3/7",)], [(b"3/9",)], 0),
        ([(b"3/7",)], [(b"3/11",)], 2),
        ([(b"3/7",)], [(b"3/8",)], 0),  # it did not even begin
        ([(b"3/7",)], [(b"4/9",)], None),
        ([(b"3/7",)], [], None),
        ([], [(b"3/9",)], None),
    ],
)
def test_the_commits_of_a_statement_between_two_transactions_of_ours(
    before: list[tuple[bytes]], after: list[tuple[bytes]], counted: int | None
) -> None:
    assert targets.commits(before, after) == counted


@pytest.mark.parametrize(
    ("finished", "said"),
    [(True, "is executed already, and was edited"), (False, "was running when a run was cut off")],
)
def test_what_ran_and_what_may_have_run_are_told_apart(finished: bool, said: str) -> None:
    script = Script(HEAD + b"SELECT 1;\nCALL p();\n")
    row = Progress("001_a.sql", 1, "another", finished, "migrations x")
    with pytest.raises(ScriptError, match=said) as caught:
        resume.check(script, [row])
    assert caught.value.location is not None
    assert caught.value.location.line == 3


LASTING = {
    "a setting": ("SELECT 1;\nSET search_path = app;", 3),
    "a setting in a block": ("BEGIN;\nSET work_mem = 1;\nSELECT 1;\nCOMMIT;", 3),
    "a role": ("SET ROLE x;", 2),
    "a reset": ("RESET ALL;", 2),
    "a function's": ("SELECT set_config('search_path', 'app', false);", 2),
    "one of two": ("SELECT set_config('a.b', '1', true), set_config('a.c', '1', false);", 2),
    "listening": ("LISTEN c;", 2),
    "preparing": ("PREPARE p AS SELECT 1;", 2),
    "a temporary table": ("CREATE TEMP TABLE t (a int);", 2),
    "another": ("SELECT 1 AS a INTO TEMPORARY t;", 2),
    "a lock": ("SELECT pg_advisory_lock(1);", 2),
    "discarding": ("DISCARD ALL;", 2),
    "a library": ("LOAD 'x';", 2),
    "a strong lock": ("VACUUM FULL t;", 2),
    "a procedure": ("SELECT 1;\nCALL p();", 3),
}
WITHIN = {
    "settings of a block": "BEGIN;\nSET LOCAL search_path = app;\nSELECT 1;\nCOMMIT;",
    "and by function": "BEGIN;\nSELECT set_config('a.b', 'x', true);\nCOMMIT;",
    "a table of a block": "BEGIN;\nCREATE TEMP TABLE t (a int) ON COMMIT DROP;\nSELECT 1;\nCOMMIT;",
    "a function that is only made": "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS "
    "$$ SELECT set_config('search_path', 'app', false) $$;",
    "a weak lock": "VACUUM t;",
    "an index": "CREATE INDEX CONCURRENTLY i ON t (a);",
}


def refuse(text: str, *, server_lock_timeout: str = "0", **settings: str) -> None:
    here = Connected("app", "localhost", 6432, "deploy", "PostgreSQL 18")
    server = Server(
        here, frozenset(), lock_timeout=server_lock_timeout, pooled=True, reaches_out=False
    )
    values = from_values(settings, "postgresql://localhost/app")
    pooled.refuse(Script(HEAD + text.encode()), server, values)


@pytest.mark.parametrize(("text", "line"), LASTING.values(), ids=LASTING)
def test_what_needs_a_session_is_refused_behind_a_pooler(text: str, line: int) -> None:
    with pytest.raises(ScriptError) as caught:
        refuse(text)
    assert "pooler" in caught.value.message
    assert "directly" in caught.value.advice[0]
    assert caught.value.location is not None
    assert caught.value.location.line == line


@pytest.mark.parametrize("text", WITHIN.values(), ids=WITHIN)
def test_what_needs_none_is_not(text: str) -> None:
    refuse(text)


def test_what_a_statement_outside_a_transaction_cannot_have_behind_a_pooler() -> None:
    index = "CREATE INDEX CONCURRENTLY i ON t (a);"
    with pytest.raises(ScriptError, match="MIGRATIONS_ROLE"):
        refuse(index, MIGRATIONS_ROLE="app")
    with pytest.raises(ScriptError, match="statement-timeout"):
        refuse(f"-- migrate: statement-timeout=1s\n{index}")
    with pytest.raises(ScriptError, match="lock_timeout"):
        refuse(index, server_lock_timeout="1s")
    refuse("SELECT 1;", MIGRATIONS_ROLE="app")
    refuse("-- migrate: statement-timeout=1s\nSELECT 1;")
    refuse("-- migrate: lock-timeout=0\nVACUUM FULL t;")
    refuse("VACUUM FULL t;", MIGRATIONS_LOCK_TIMEOUT="0")
