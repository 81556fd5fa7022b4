"""What people and programs see: real streams, and a real terminal where it matters."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import typing
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from db.errors import (
    Diagnostic,
    FilesError,
    Interrupted,
    Location,
    SettingsError,
    StatementFailed,
    counted,
)
from db.events import (
    Applied,
    Batched,
    Blocker,
    Connected,
    Event,
    Finished,
    Note,
    Noticed,
    Planned,
    Progress,
    Reconnected,
    Rehearsed,
    Retrying,
    TableLock,
    Waiting,
    Work,
)
from db.files.plan import repeated
from db.screen import rehearsal
from db.screen.lines import Lines, humanised
from db.screen.report import choose
from db.screen.stream import Cell
from db.server.connection import Target

ROOT = Path(__file__).resolve().parents[1]
# What the code of a process of its own begins with.
BARE = "from db.screen.report import choose\nfrom db.events import *\nreport = choose()\n"
IMPORTS = "from db.events import *\nfrom tests.test_report import *\n"
ROLES, INDEX = "003_update_user_roles.sql", "004_add_message_index.sql"
CONNECTED = Connected("whatsapp", "db.example.com", 5432, "deploy", "PostgreSQL 18.6")
BLOCKER = Blocker(4711, "app", "psql", "idle in transaction", 312.4, "SELECT 1 " + "+ 1 " * 90)
WARNING = Diagnostic("WARNING", "01000", "first\nsecond")
NOTICE = Diagnostic("NOTICE", "00000", "drop cascades to 2 objects", "view a\nview b")
EXCERPT = """\
   5 | CREATE INDEX IF NOT EXISTS idx_messages_sent
   6 |     ON messages
 > 7 |     (tenant_id, sent_on);
     |                 ^"""
FAILURE = """\
whatsapp on db.example.com:5432 as deploy (PostgreSQL 18.6)
  003_update_user_roles.sql  executed  12 ms
  004_add_message_index.sql  failed

migrations/004_add_message_index.sql:7:17: column "sent_on" does not exist (42703)

   5 | CREATE INDEX IF NOT EXISTS idx_messages_sent
   6 |     ON messages
 > 7 |     (tenant_id, sent_on);
     |                 ^
  hint: Perhaps you meant to reference the column "messages.sent_at".

Rolled back. 003 is the last executed file, 2 files still pending.
Fix the file, then: invoke db.migrate-run
"""


def failure() -> StatementFailed:
    hint = 'Perhaps you meant to reference the column "messages.sent_at".'
    return StatementFailed(
        Diagnostic("ERROR", "42703", 'column "sent_on" does not exist', hint=hint),
        "Fix the file, then: invoke db.migrate-run",
        filename=INDEX,
        outcome="Rolled back. 003 is the last executed file, 2 files still pending.",
        location=Location(f"migrations/{INDEX}", 7, 17),
        excerpt=EXCERPT,
    )


def failing_run() -> None:
    """Report the run of `FAILURE` on stdout and stderr."""
    report = choose()
    for event in (CONNECTED, Planned((ROLES, INDEX), 2), Applied(ROLES, 12)):
        report.event(event)
    report.error(failure())
    report.close()


def shown(capsys: pytest.CaptureFixture[str], *events: Event, **environ: str) -> str:
    """Return what a run without a terminal prints."""
    report = choose(environ=environ)
    for event in events:
        report.event(event)
    report.close()
    return capsys.readouterr().out


def run(code: str, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the code in a process of its own, with stdout and stderr in one pipe."""
    return subprocess.run(
        [sys.executable, *options, "-c", IMPORTS + code],
        cwd=ROOT,
        env=_environment(environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )


def on_terminal(
    code: str, *options: str, columns: int = 80, environ: Mapping[str, str] | None = None
) -> str:
    """Return what the code sends to a real terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, *options, "-c", code]
    environment = _environment({"TERM": "xterm-256color", **(environ or {})})
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    received = b""
    while chunk := _read(ours):
        received += chunk
    os.close(ours)
    assert process.wait() == 0, received.decode()
    return received.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other side is closed
        return b""


def _environment(more: dict[str, str]) -> dict[str, str]:
    kept = {"PATH", "HOME", "VIRTUAL_ENV"}
    return {"PYTHONPATH": str(ROOT), **{k: v for k, v in os.environ.items() if k in kept}, **more}


# For people, without a terminal


def test_a_failing_run_reads_in_order_through_one_pipe() -> None:
    result = run("failing_run()")
    assert result.stdout == FAILURE
    assert result.returncode == 0


def test_the_error_goes_to_stderr_and_the_files_to_stdout(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    failing_run()
    out, err = capfd.readouterr()
    assert out + err == FAILURE
    assert out.endswith("  004_add_message_index.sql  failed\n\n")


def test_a_successful_run_aligns_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(
        capsys,
        CONNECTED,
        Planned(("1_short.sql", ROLES), 0),
        Applied("1_short.sql", 3412, out_of_order=True),
        Applied(ROLES, 125_000),
        Finished(("1_short.sql", ROLES), 128_500),
    )
    assert out == (
        "whatsapp on db.example.com:5432 as deploy (PostgreSQL 18.6)\n"
        "  1_short.sql                executed  3.4 s  (out of order)\n"
        "  003_update_user_roles.sql  executed  2 min 5 s\n"
        "2 files executed in 2 min 8 s\n"
    )


@pytest.mark.parametrize(
    ("executed", "line"),
    [
        (12, "nothing to do: 12 files are executed\n"),
        (1, "nothing to do: 1 file is executed\n"),
        (0, ""),
    ],
)
def test_nothing_to_do_is_said_once(
    capsys: pytest.CaptureFixture[str], executed: int, line: str
) -> None:
    assert shown(capsys, Planned((), executed), Finished((), 20)) == line


def test_an_error_without_a_place_is_its_message_and_the_advice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    choose(environ={}).error(SettingsError("DATABASE_URL is not set.", "Write it into .env."))
    assert capsys.readouterr() == ("", "DATABASE_URL is not set.\nWrite it into .env.\n")


def test_details_without_an_excerpt_stand_apart_from_the_advice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = Diagnostic("ERROR", "23505", "duplicate key", detail="Key (id)=(1).\nTwice.")
    choose(environ={}).error(
        StatementFailed(said, "Fix it.", filename=INDEX, outcome="Rolled back.")
    )
    expected = (
        "duplicate key (23505)\n  detail: Key (id)=(1).\n    Twice.\n\nRolled back.\nFix it.\n"
    )
    assert capsys.readouterr().err == expected


def test_notes_and_warnings_name_their_file(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(
        capsys, Note("the folder is empty"), Note("was executed meanwhile", "warning", INDEX)
    )
    assert out == f"note: the folder is empty\nwarning: {INDEX}: was executed meanwhile\n"


def test_what_the_server_said_stands_under_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, Noticed(ROLES, NOTICE), Noticed(ROLES, WARNING), Applied(ROLES, 1))
    assert out == (
        f"  {ROLES}  executed  1 ms\n    notice: drop cascades to 2 objects\n"
        "      detail: view a\n        view b\n    warning: first\n      second\n"
    )


def test_a_retry_names_each_blocker_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    blockers = (BLOCKER, Blocker(12, "root", "", "active", 1, "SELECT\n2"))
    out = shown(capsys, Retrying(INDEX, "55P03", "canceling …", 1, 1.24, blockers))
    first, second, third = out.splitlines()
    assert first == f"  {INDEX}  waits for a lock (55P03), tried again in 1.2 s"
    assert second.startswith("    blocked by pid 4711 (app, psql), idle in transaction for 312 s: ")
    assert second.endswith("…")
    assert len(second) == 120
    assert third == "    blocked by pid 12 (root), active for 1 s: SELECT 2"


def test_a_deadlock_is_not_called_a_wait(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, Retrying(INDEX, "40P01", "deadlock detected", 1, 0.2))
    assert out == f"  {INDEX}  deadlock detected (40P01), tried again in 200 ms\n"


def test_progress_is_a_plain_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    events = [Progress(INDEX, 2 + n, "scanning table", 43.2, (BLOCKER,)) for n in range(5)]
    first, second = shown(capsys, *events).splitlines()
    assert first == f"  {INDEX}  running  2.0 s  43 %  scanning table"
    assert second.startswith("    blocked by pid 4711 ")
    report = Lines(sys.stdout, sys.stderr, {}, every_s=0)
    for event in events:
        report.event(event)
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_batches_are_a_line_that_says_how_far_and_why_slowly(
    capsys: pytest.CaptureFixture[str],
) -> None:
    event = Batched(INDEX, 12_400_000, 2480, 5210.4, 38.2, 3.0, "VACUUM works on t")
    out = shown(capsys, event, event)
    assert out == f"  {INDEX}  12,400,000 rows  5,210/s  38 %  VACUUM works on t\n"


def test_of_a_narrow_line_the_name_is_cut_and_not_the_numbers() -> None:
    name = "002_" + "a_long_name_" * 6 + ".sql"
    event = f"Batched({name!r}, 12_400_000, 2480, 5210.4, 38.2, 3.0, 'VACUUM works on t')"
    out = on_terminal(IMPORTS + f"choose().event({event})", columns=80)
    assert "12,400,000 rows  5,210/s  38 %" in out
    assert "  002_a_long" in out
    assert "….sql" not in out


def test_a_wait_and_a_lost_connection_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    waits = [Waiting("the server on db:5432", elapsed_s) for elapsed_s in (0.2, 5, 10)]
    out = shown(capsys, *waits, Reconnected("server closed the connection"))
    expected = "waiting for the server on db:5432\nreconnected: server closed the connection\n"
    assert out == expected


def test_a_table_is_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2026, 5, 4, 3, 2, tzinfo=timezone.utc)
    rows: list[list[Cell]] = [[ROLES, "executed", at, 3412], [INDEX, "pending", None, None]]
    choose(environ={}).table(["file", "state", "executed_at", "duration_ms"], rows)
    assert capsys.readouterr().out == (
        "file                       state     executed at       duration\n"
        "003_update_user_roles.sql  executed  2026-05-04 03:02  3.4 s\n"
        "004_add_message_index.sql  pending\n"
    )


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (999.7, "1.0 s"),
        (1000, "1.0 s"),
        (59_949, "59.9 s"),
        (59_951, "1 min 0 s"),
        (125_000, "2 min 5 s"),
        (3_599_600, "1 h 0 min"),
        (3_725_000, "1 h 2 min"),
    ],
)
def test_durations_are_said_as_people_say_them(ms: float, text: str) -> None:
    assert humanised(ms) == text


# For people, on a terminal


def test_what_is_counted_is_one_or_several() -> None:
    assert [counted(n, "row") for n in (0, 1, 12_000)] == ["0 rows", "1 row", "12,000 rows"]
    assert repeated(1, 1) == "1 row in 1 batch"
    assert repeated(None, 2) == "0 rows in 2 batches"


def test_no_text_of_ours_says_one_rows() -> None:
    """Behind a number that may be 1, the plural is that of `errors.counted`."""
    words = "batches|files|rows|lines|statements|objects|targets|servers|pairs"
    plural = re.compile(rf"\{{[^{{}}]*(?:len\(|number|:,)[^{{}}]*\}} (?:more )?(?:{words})\b")
    for path in (ROOT / "db").rglob("*.py"):
        lines = path.read_text().splitlines()
        assert [line for line in lines if plural.search(line) and " else " not in line] == [], path


def test_a_terminal_shows_the_same_words_in_colour() -> None:
    out = on_terminal(IMPORTS + "failing_run()")
    assert "  \x1b[32mexecuted\x1b[0m\x1b[2m  12 ms\x1b[0m\n" in out
    assert f"  {INDEX}  \x1b[1;31mfailed\x1b[0m\n" in out
    assert re.sub(r"\x1b\[[\d;]*m", "", out) == FAILURE


@pytest.mark.long
@pytest.mark.parametrize(
    "environ", [{"NO_COLOR": "1"}, {"CI": "true"}, {"TERM": "dumb"}], ids=lambda e: next(iter(e))
)
def test_nothing_is_coloured_or_redrawn_where_it_is_not_wanted(environ: dict[str, str]) -> None:
    code = IMPORTS + "choose().event(Progress(INDEX, 3, 'scanning', 40.0))\nfailing_run()"
    assert (
        on_terminal(code, environ=environ)
        == f"  {INDEX}  running  3.0 s  40 %  scanning\n{FAILURE}"
    )
    table = "choose().table(['file', 'state'], [[ROLES, 'executed']])"
    assert "\x1b" not in on_terminal(IMPORTS + table, environ=environ)


def test_a_long_statement_has_one_line_that_is_redrawn_and_goes() -> None:
    code = """
report = choose()
for percent in (10, 20):
    report.event(Progress(INDEX, percent, "building index", percent))
report.event(Progress(INDEX, 65, "", None, (BLOCKER,)))
report.event(Applied(INDEX, 70000))
print("after")
"""
    out = on_terminal(IMPORTS + code, columns=100)
    drawn, _, rest = out.rpartition("\x1b[2K")
    assert f"  {INDEX}  running  10.0 s  10 %  building index" in drawn
    assert f"  {INDEX}  running  20.0 s  20 %  building index" in drawn
    assert f"  {INDEX}  running  1 min 5 s  blocked by pid 4711 (app, psql), idle in" in drawn
    assert drawn.count("\n") == 1  # the one that rich goes up again from
    assert out.count("\x1b[?25l") == out.count("\x1b[?25h") == 1
    assert rest == f"  {INDEX}  \x1b[32mexecuted\x1b[0m\x1b[2m  1 min 10 s\x1b[0m\nafter\n"


def test_a_wait_leaves_one_line_behind() -> None:
    code = """
report = choose()
report.event(Progress(INDEX, 3))
for elapsed_s in (0, 5, 9):
    report.event(Waiting("another run", elapsed_s))
report.event(CONNECTED)
"""
    out = on_terminal(IMPORTS + code)
    assert "\x1b[2Kwaiting for another run\n" in out
    assert "waiting for another run  9.0 s" in out
    assert out.endswith(f"\x1b[2K{CONNECTED}\n")


def test_an_error_and_close_take_the_live_line_away() -> None:
    begin = "report = choose()\nreport.event(Progress(INDEX, 3))\n"
    for end in ("report.error(Interrupted('Interrupted.'))", "report.close()"):
        out = on_terminal(IMPORTS + begin + end)
        assert "\x1b[?25h" in out
        assert out.rpartition("\x1b[2K")[2] in ("", "\x1b[1mInterrupted.\x1b[0m\n")


def test_blockers_fit_the_terminal() -> None:
    code = "choose().event(Retrying(INDEX, '55P03', '', 1, 1.0, (BLOCKER,)))"
    out = on_terminal(IMPORTS + code, columns=90)
    assert len(out.splitlines()[1]) == 90


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_table_fits_the_terminal_with_nothing_lost_and_no_cell_cut(columns: int) -> None:
    names = [f"00{n}_add_whatsapp_{'x' * n}_table.sql" for n in range(1, 9)]
    rows = [[n, "changed", "2026-05-04 03:02", 3412, "deploy@runner-17.example"] for n in names]
    heads = ["file", "state", "executed_at", "duration_ms", "executed_by"]
    out = on_terminal(IMPORTS + f"choose().table({heads}, {rows})", columns=columns)
    assert "\x1b[1;31mchanged" in out
    lines = re.sub(r"\x1b\[[\d;]*m", "", out).splitlines()
    assert max(map(len, lines)) <= columns
    for cell in ["file", "executed at", "executed by", "3.4 s", *names, str(rows[0][4])]:
        assert any(cell in line for line in lines)


def test_words_of_a_last_cell_are_wrapped_where_they_begin() -> None:
    statements = ", ".join(f"CREATE TABLE ×{n}" for n in range(2, 9))
    code = f"choose().table(['file', 'statements'], [[ROLES, {statements!r}]])"
    first, *more = on_terminal(IMPORTS + code, columns=60).splitlines()[1:]
    at = first.index("CREATE")
    assert at == len(ROLES) + 2
    assert {line[:at].strip() for line in more} == {""}
    assert " ".join([first[at:], *(line[at:] for line in more)]) == statements


def test_a_name_longer_than_the_terminal_is_left_to_it() -> None:
    name = "005_" + "a_long_name_" * 7 + ".sql"
    code = f"choose().table(['file', 'state'], [[{name!r}, 'pending']])"
    assert on_terminal(IMPORTS + code).splitlines()[2] == name


def test_names_are_aligned_only_where_there_is_room() -> None:
    code = f"""
report = choose()
report.event(Planned(({"'002_' + 'x' * 30"}, "001_x.sql"), 0))
report.event(Applied("001_x.sql", 1))
"""
    first = re.sub(r"\x1b\[[\d;]*m", "", on_terminal(IMPORTS + code, columns=40))
    assert first == "  001_x.sql  executed  1 ms\n"


@pytest.mark.long
def test_force_color_colours_a_pipe_and_redraws_nothing_there() -> None:
    code = "choose().event(Progress(INDEX, 3, 'scanning', 40.0))\nfailing_run()"
    for more in ({}, {"CI": "true"}, {"GITHUB_ACTIONS": "true"}):
        out = run(code, FORCE_COLOR="1", **more).stdout
        assert f"  {INDEX}  running  3.0 s  40 %  scanning\n" in out
        assert "  \x1b[32mexecuted\x1b[0m\x1b[2m  12 ms\x1b[0m\n" in out
    assert "\x1b" not in run(code, FORCE_COLOR="0").stdout
    assert "\x1b" not in run(code, FORCE_COLOR="1", NO_COLOR="1").stdout


def test_brackets_and_colons_are_no_markup() -> None:
    name = "001_[red]x[/red]_:smile:_[link=http://x].sql"
    line = f"choose().event(Applied({name!r}, 1))\nchoose().table(['file'], [[{name!r}]])"
    assert on_terminal(IMPORTS + line, columns=120).count(name) == 2


def test_long_lines_of_an_excerpt_are_not_wrapped() -> None:
    line = "SELECT '" + "word " * 60 + "'"
    excerpt = f"{line}\r\nnext"
    code = f"choose().error(FilesError('m' * 200, 'advice', excerpt={excerpt!r}))"
    out = on_terminal(IMPORTS + code)
    assert f"{line}\nnext\n" in out
    assert "m" * 200 in out


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_escape_sequences_do_not_reach_the_screen(terminal: bool) -> None:
    code = r"""
evil = "\x1b]0;title\x07\x1b[2J\x9b1m\r\x08"
report = choose()
report.event(Note(evil, "warning", evil))
report.event(Progress(evil, 3, evil, None, (Blocker(1, evil, evil, evil, 1, evil),)))
report.event(Applied(evil, 1))
report.table(["a"], [[evil]])
report.error(FilesError(evil, evil, location=Location(evil, 1, 1), excerpt=evil + "\n\tx"))
"""
    out = on_terminal(IMPORTS + code) if terminal else run(code).stdout
    ours = re.sub(r"\x1b\[(\d*;?\d*[mKA]|\?25[lh])", "", out).replace("\n", "").replace("\t", "")
    assert re.findall(r"[\x00-\x1f\x7f-\x9f]", ours.replace("\r", "")) == []
    assert "\ufffd]0;title" in ours
    assert "\tx\n" in out


def test_a_run_with_nothing_to_do_imports_no_rich_even_on_a_terminal() -> None:
    code = BARE + (
        "report.event(Connected('a', 'b', 1, 'c', 'd'))\nreport.event(Note('e'))\n"
        "report.event(Planned((), 3))\nreport.event(Finished((), 1))\nreport.close()"
    )
    out = on_terminal(code, "-X", "importtime")
    assert "nothing to do: 3 files are executed" in out
    assert "db.screen.report" in out
    assert not re.search(r"\brich\b", out)
    executed = on_terminal(BARE + "report.event(Applied('x', 1))", "-X", "importtime")
    assert "rich.console" in executed
    assert "rich.live" not in executed


# Streams that do not do as they should


def test_a_reader_that_leaves_does_not_end_the_run(tmp_path: Path) -> None:
    done = tmp_path / "done"
    code = f"""
for report in (choose(), choose(json=True)):
    for n in range(5000):
        report.event(Applied(f"{{n}}.sql", 1))
Path({str(done)!r}).touch()
"""
    with subprocess.Popen(
        [sys.executable, "-c", IMPORTS + code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "  0.sql  executed  1 ms\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert done.exists()


def test_a_full_disk_does_not_end_the_run() -> None:
    code = "sys.stdout = open('/dev/full', 'w')\nreport = choose()\nreport.event(CONNECTED)\n"
    result = run(code + "report.event(CONNECTED)\nprint('went on', file=sys.__stdout__)")
    assert (result.returncode, result.stdout) == (0, "went on\n")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_no_encoding_is_too_small(encoding: str) -> None:
    name = "001_日本_\udc80_\U0001f600.sql"
    code = f"for json in (False, True): choose(json=json).event(Applied({name!a}, 1))"
    result = run(code, PYTHONIOENCODING=f"{encoding}:strict")
    plain, line = result.stdout.splitlines()
    assert plain.endswith(".sql  executed  1 ms")
    assert "\\udc80" in plain
    assert json.loads(line)["filename"] == name


# For programs


def parsed(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_json_is_an_object_a_line_with_the_fields_of_the_event(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = choose(json=True)
    message = "naïve\nand \u2028 \x85 \x9b1m"
    for event in (
        CONNECTED,
        Note(message),
        Noticed(ROLES, NOTICE),
        Progress(INDEX, 2.5, blockers=(BLOCKER,)),
        Applied(ROLES, 12),
    ):
        report.event(event)
    out, err = capsys.readouterr()
    connected, note, noticed, progress, applied = parsed(out)
    assert connected == {
        "event": "connected",
        "database": "whatsapp",
        "host": "db.example.com",
        "port": 5432,
        "user": "deploy",
        "server": "PostgreSQL 18.6",
    }
    assert note == {"event": "note", "message": message, "level": "note", "filename": ""}
    assert "naïve" in out
    assert noticed["diagnostic"]["severity"] == "NOTICE"
    assert progress["percent"] is None
    assert progress["blockers"][0]["pid"] == 4711
    expected = {"filename": ROLES, "duration_ms": 12, "out_of_order": False}
    assert applied == {"event": "applied", **expected}
    assert err == ""


def test_json_tells_a_failure_in_fields(capsys: pytest.CaptureFixture[str]) -> None:
    report = choose(json=True, environ={"GITHUB_ACTIONS": "true"})
    report.error(failure())
    report.error(Interrupted("Interrupted.", "003 is executed.", signal_number=15))
    out, err = capsys.readouterr()
    failed, interrupted = parsed(out)
    assert failed["event"] == "failed"
    assert failed["message"] == 'column "sent_on" does not exist'
    assert failed["sqlstate"] == "42703"
    assert failed["filename"] == INDEX
    assert failed["location"] == {"path": f"migrations/{INDEX}", "line": 7, "column": 17}
    assert failed["outcome"].startswith("Rolled back.")
    assert failed["advice"] == ["Fix the file, then: invoke db.migrate-run"]
    assert failed["exit_code"] == 1
    assert interrupted["message"] == "Interrupted."
    assert interrupted["advice"] == ["003 is executed."]
    assert interrupted["exit_code"] == 143
    assert interrupted["location"] is None
    assert set(failed) == set(interrupted)
    assert err == ""


def test_json_rows_keep_times_and_durations_exact(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2026, 5, 4, 3, 2, 1, tzinfo=timezone.utc)
    choose(json=True).table(["file", "executed_at", "duration_ms"], [[ROLES, at, 3412]])
    assert parsed(capsys.readouterr().out) == [
        {
            "event": "row",
            "file": ROLES,
            "executed_at": "2026-05-04T03:02:01+00:00",
            "duration_ms": 3412,
        }
    ]


def test_github_gets_an_annotation_at_the_place(capsys: pytest.CaptureFixture[str]) -> None:
    at = Location("a,b:c%/001_x.sql", 7, 17)
    report = choose(environ={"GITHUB_ACTIONS": "true"})
    report.error(FilesError("100 %, twice:\r\nonce", "advice", location=at))
    report.error(FilesError("without a place"))
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if line] == [
        "::error file=a%2Cb%3Ac%25/001_x.sql,line=7,col=17::100 %25, twice:%0D%0Aonce"
    ]
    assert "::" not in err
    choose(environ={}).error(FilesError("x", location=at))
    assert "::" not in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize("forced", ["", "1"], ids=["plain", "coloured"])
@pytest.mark.parametrize("json", [False, True], ids=["people", "json"])
def test_nothing_that_others_wrote_is_a_command_to_github(json: bool, forced: str) -> None:
    code = f"""
evil = "::set-env name=A::b\\n::error::c\\n  ::error::d\\nx ##[error]e"
said = Diagnostic("ERROR", "P0001", evil, evil, evil, evil)
report = choose(json={json})
report.event(Note(evil))
report.event(Note(evil, filename=evil))
report.event(Noticed(evil, said))
report.event(Applied(evil, 1))
report.event(Reconnected(evil))
report.table(["a", "b"], [[evil, evil]])
report.error(StatementFailed(said, evil, filename=evil, outcome=evil, notices=(said,)))
report.error(FilesError(evil, evil, excerpt=evil))
"""
    out = run(code, GITHUB_ACTIONS="true", FORCE_COLOR=forced).stdout
    assert "set-env" in out
    for line in re.sub(r"\x1b\[[\d;]*m", "", out).splitlines():
        # https://github.com/actions/runner/blob/main/src/Runner.Common/ActionCommand.cs
        assert not line.lstrip().startswith("::")
        assert "##[" not in line


def test_an_address_with_colons_is_in_brackets() -> None:
    assert "[::1]:5718 as" in str(CONNECTED._replace(host="::1", port=5718))
    assert Target({"host": "::1", "port": "5718"}, 1).place == "[::1]:5718"
    assert Target({"host": "/tmp"}, 1).place == "/tmp"


def test_a_refused_file_is_named_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    at = Location("migrations/003_x.sql", 7, 17)
    choose(json=True).error(FilesError("not closed", location=at))
    (failed,) = parsed(capsys.readouterr().out)
    assert failed["filename"] == "003_x.sql"


# The document of the events

TYPES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    int | None: "integer or null",
    float | None: "number or null",
    tuple[str, ...]: "list of strings",
    tuple[Blocker, ...]: "list of blockers",
    Diagnostic: "diagnostic",
    Location: "location",
    tuple[TableLock, ...]: "list of locks",
    tuple[Work, ...]: "list of works",
    Location | None: "location or null",
}


def documented() -> dict[str, list[tuple[str, str]]]:
    """Return the fields and types of each heading in the document."""
    text = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    sections = re.split(r"^##+ (.+)\n", text, flags=re.MULTILINE)[1:]
    row = re.compile(r"^\| (\w+) \| ([\w ]+) \|", re.MULTILINE)
    return {
        name: [found for found in row.findall(body) if found != ("field", "type")]
        for name, body in zip(sections[::2], sections[1::2], strict=True)
    }


def test_the_document_has_every_event_field_and_type() -> None:
    records: dict[str, type] = {kind.__name__.lower(): kind for kind in typing.get_args(Event)}
    records |= {"blocker": Blocker, "diagnostic": Diagnostic, "location": Location}
    records |= {"lock": TableLock, "work": Work}
    expected = {
        name: [(f, TYPES[hint]) for f, hint in typing.get_type_hints(kind).items()]
        for name, kind in records.items()
    }
    found = documented()
    assert {name: found.get(name) for name in expected} == expected
    assert set(found) - set(expected) == {"failed", "row", "Records inside events"}


def test_the_document_has_every_field_of_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    choose(json=True).error(failure())
    (failed,) = parsed(capsys.readouterr().out)
    assert ["event", *(name for name, _ in documented()["failed"])] == list(failed)


def test_the_examples_in_the_document_are_events() -> None:
    text = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    found = documented()
    for line in parsed(block):
        assert list(line)[1:] == [name for name, _ in found[line["event"]]]


def test_a_rehearsal_with_long_names_stands_below_its_statements() -> None:
    table = "whatsapp_instances_with_a_long_name"
    lock = TableLock("public", table, "SHARE ROW EXCLUSIVE", of_index=False)
    there = Location("migrations/001_x.sql", 7, 1)
    text = f"ALTER TABLE {table} ADD CHECK (id > 0), ADD CHECK (id < 1000)"
    statement = Rehearsed("001_x.sql", there, text, True, (lock,), (), None, None)
    nothing = statement._replace(statement="SELECT 1", locks=())
    lines = list(rehearsal.statements([statement, nothing], 80))
    assert max(map(len, lines)) <= 80
    assert lines[1:] == [
        f"       SHARE ROW EXCLUSIVE {table}  catalog only",
        "  7  SELECT 1",
        "       nothing new",
    ]
    assert len(list(rehearsal.statements([statement, nothing], 160))) == 2
