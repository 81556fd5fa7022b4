"""How fast a statement is repeated, how far it is, and whether it comes to its end.

Replicas, VACUUM and slow batches make the pauses longer. What the statement does is not touched.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import NamedTuple

from .. import pauses
from ..events import Batched, Event, Note
from ..files.plan import repeated
from ..server.pipeline import Command, CommandFailed
from ..sql import kinds
from ..sql.lexer import Statement
from ..sql.repeat import Repeat
from .progress import Answers, Work

_LONGEST_S = 10.0  # that pauses grow to by themselves
_GROWS_S = 0.1  # from no pause at all
_LAG_POLL_S = 1.0
_SILENT_S = 15.0  # replicas reply at least every wal_receiver_status_interval, which is 10 s
_SHOW_AGAIN_S = 0.9
_AGAIN = ("UPDATE", "MERGE")  # what may find again what it has changed
_ENDS = ("UPDATE", "MERGE", "DELETE")  # with as many rows as there are, at most
_TIMES = 2  # as many rows as the table has: each may have been changed by others meanwhile
_FULLEST = 291  # rows in a page of 8 kB, at most
_NOT_FOR_US = {"42501", "42P01", "42703", "42883", "0A000"}  # no right, or another engine

_RESOLVE = b"SELECT pg_catalog.to_regclass($1)::pg_catalog.oid"
_TREE = """
WITH RECURSIVE tree (oid) AS (
    SELECT $1::pg_catalog.oid
    UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i
    JOIN tree ON i.inhparent OPERATOR(pg_catalog.=) tree.oid)"""
# A view is what it reads, too: a write to it is one to those.
_BENEATH = _TREE.replace(
    """
    UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i
    JOIN tree ON i.inhparent OPERATOR(pg_catalog.=) tree.oid)""",
    """
    UNION SELECT below.oid FROM tree JOIN (
        SELECT i.inhparent, i.inhrelid FROM pg_catalog.pg_inherits AS i
        UNION ALL SELECT w.ev_class, d.refobjid FROM pg_catalog.pg_rewrite AS w
        JOIN pg_catalog.pg_depend AS d ON d.objid OPERATOR(pg_catalog.=) w.oid
         AND d.classid OPERATOR(pg_catalog.=)
             'pg_catalog.pg_rewrite'::pg_catalog.regclass::pg_catalog.oid
         AND d.refclassid OPERATOR(pg_catalog.=)
             'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
        WHERE w.rulename OPERATOR(pg_catalog.=) '_RETURN'
    ) AS below (above, oid) ON below.above OPERATOR(pg_catalog.=) tree.oid)""",
)
# What this transaction has written, and what of the session's earlier ones is not reported yet.
_WRITES = (
    _BENEATH
    + """
SELECT coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_xact_tuples_inserted(tree.oid)), 0),
       coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_xact_tuples_updated(tree.oid)), 0),
       coalesce(pg_catalog.sum(pg_catalog.pg_stat_get_xact_tuples_deleted(tree.oid)), 0)
FROM tree"""
)
# As the planner reckons: how full its pages were at the last ANALYZE, and how many they are now.
_SIZE = (
    _BENEATH
    + """,
sized (pages, filled, counted) AS (
    SELECT pg_catalog.pg_relation_size(c.oid)
           OPERATOR(pg_catalog./) pg_catalog.current_setting('block_size')::pg_catalog.int8,
           CASE WHEN c.relpages OPERATOR(pg_catalog.>) 0
                THEN c.reltuples::pg_catalog.float8
                     OPERATOR(pg_catalog./) c.relpages::pg_catalog.float8 END,
           c.reltuples OPERATOR(pg_catalog.>) 0::pg_catalog.float4
    FROM pg_catalog.pg_class AS c JOIN tree ON c.oid OPERATOR(pg_catalog.=) tree.oid)
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname),
       (SELECT coalesce(pg_catalog.sum(pages), 0) FROM sized),
       (SELECT pg_catalog.sum(pages::pg_catalog.float8 OPERATOR(pg_catalog.*) filled) FROM sized
        HAVING pg_catalog.bool_and(counted OR pages OPERATOR(pg_catalog.=) 0::pg_catalog.int8)),
       (SELECT pg_catalog.string_agg(
            pg_catalog.format('(SELECT pg_catalog.count(*) FROM %I.%I)', s.nspname, r.relname),
            ' OPERATOR(pg_catalog.+) ')
        FROM tree JOIN pg_catalog.pg_class AS r ON r.oid OPERATOR(pg_catalog.=) tree.oid
        JOIN pg_catalog.pg_namespace AS s ON s.oid OPERATOR(pg_catalog.=) r.relnamespace
        WHERE r.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}'::pg_catalog."char"[])
          AND NOT EXISTS (
              SELECT FROM pg_catalog.pg_inherits AS i
              JOIN tree AS above ON i.inhparent OPERATOR(pg_catalog.=) above.oid
              WHERE i.inhrelid OPERATOR(pg_catalog.=) r.oid))
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE c.oid OPERATOR(pg_catalog.=) $1::pg_catalog.oid"""
)
_VACUUMED = (
    _TREE
    + """
SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_vacuum AS v
               JOIN tree ON v.relid OPERATOR(pg_catalog.=) tree.oid
               WHERE v.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())"""
)
# Physical and logical ones. Who may not see them sees rows without a state. One that has caught up
# keeps the lag that it had on the way until it replies again, which may take 10 s.
_LAG = b"""
SELECT r.state IS NULL,
       CASE WHEN r.replay_lsn OPERATOR(pg_catalog.=) pg_catalog.pg_current_wal_lsn() THEN 0
            ELSE coalesce(extract(epoch FROM r.replay_lag), 0) END,
       r.application_name, r.pid, r.reply_time,
       r.flush_lsn OPERATOR(pg_catalog.=) pg_catalog.pg_current_wal_lsn()
FROM pg_catalog.pg_stat_replication AS r
WHERE r.state IS NULL
   OR r.state OPERATOR(pg_catalog.=) ANY ('{streaming,catchup}'::pg_catalog.text[])"""
_UNREAD = b"""
SELECT s.slot_name, pg_catalog.pg_size_pretty(pg_catalog.pg_wal_lsn_diff(
       pg_catalog.pg_current_wal_lsn(), s.restart_lsn))
FROM pg_catalog.pg_replication_slots AS s
WHERE NOT s.active AND s.restart_lsn IS NOT NULL ORDER BY s.slot_name LIMIT 5"""


class Writes(NamedTuple):
    """How many rows of what a statement changes were written."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0


class Pace:
    """Of one statement in one run. `rows` and `batches` are those of all runs so far."""

    def __init__(self, work: Work, found: Statement, options: Repeat) -> None:
        self.rows = self.batches = 0
        sql = work.running.script.sql(found)
        self.verb, changed = kinds.changed(sql)
        inner = list(kinds.changed_within(sql))
        within = [name for verb, name in inner if verb in _AGAIN and self.verb not in _AGAIN]
        # Whose rows are counted comes first; of all it is seen whether 0 rows have written some.
        names = [*within[:1], changed, *(name for _, name in inner)]
        self._names = list(dict.fromkeys(filter(None, names)))
        self._named, self._within = bool(within or changed), bool(within)
        self.table = ""  # what it changes, qualified
        self._count = ""  # what counts them
        self._sees = False  # what is written
        self._wrote, self._gave = Writes(), 0  # by this run
        self._work, self._options = work, options
        self._oid: bytes | None = None
        self._oids: list[bytes] = []
        self.of: float | None = None  # rows that the table had when the statement was begun
        self._limit: float | None = None
        self._pause_s = options.pause_ms / 1000
        self._since, self._shown, self._before = time.monotonic(), 0.0, 0
        self._blind = options.max_lag_ms is None
        self._heard: dict[bytes | None, tuple[bytes | None, float]] = {}  # replies, since when

    # How far it is

    def begin(self) -> Iterator[Event]:
        """Look what the statement is about, and what reads the server's log of changes."""
        if self._names:
            questions = [
                Command(_RESOLVE, "resolved", self._work.running, [name.encode()])
                for name in self._names
            ]
            answers = yield from self._work.asked(questions, theirs=True)
            oids = [oid for (oid,) in answers["resolved"]]
            self._oid = oids[0] if self._named else None
            self._oids = [oid for oid in oids if oid is not None]
            answers = yield from self._looked(list(self._writes("writes")))
            self._sees = "writes" in answers
        if self._oid is not None:
            answers = yield from self._work.asked([self._about(_SIZE, "size")])
            ((name, pages, estimate, count),) = answers["size"]
            self._count = (count or b"").decode()
            self.table = (name or b"").decode()
            if most := _FULLEST * int(pages or 0):
                self.of = float(estimate) if estimate else None
                self._limit = _TIMES * self.of if self.of else most
        if not self._blind:
            answers = yield from self._looked([Command(_UNREAD, "slots", self._work.running)])
            for slot, size in answers.get("slots", ()):
                yield from self._once(
                    f"nobody reads the replication slot {(slot or b'').decode()}, which keeps "
                    f"{(size or b'').decode()} of the server's log, and is not waited for"
                )

    @property
    def done(self) -> str:
        """Return how far it is, as people say it."""
        return repeated(self.rows, self.batches)

    def resume(self, rows: int, batches: int, of: float | None) -> None:
        """Go on from what earlier runs have done; `of` is what the first one has kept.

        Pages say less by now: batches fill new ones, and VACUUM gives some back.
        """
        self.rows = self._before = rows
        self.batches = batches
        self.of = of if batches else self.of
        self._since = time.monotonic()

    # Whether it ends

    def writes(self, role: str) -> Iterator[Command]:
        """Yield the questions what was written; their answers at two moments are told apart."""
        if self._sees:
            yield from self._writes(role)

    def _writes(self, role: str) -> Iterator[Command]:
        for oid in self._oids:
            yield Command(_WRITES.encode(), role, self._work.running, [oid])

    def wrote(self, answers: Answers) -> list[Writes]:
        """Return what was written between the two moments of a batch, before and after.

        That of the table whose rows are counted is the first.
        """
        found = []
        for before, after in zip(answers.get("before", ()), answers.get("after", ()), strict=True):
            pairs = zip(before, after, strict=True)
            found.append(Writes(*(int(now or 0) - int(then or 0) for then, now in pairs)))
        return found

    def add(self, gave: int, answers: Answers) -> None:
        """Count a batch that was committed."""
        self._gave += gave
        for now in self.wrote(answers)[:1]:
            self._wrote = Writes(*map(sum, zip(self._wrote, now, strict=True)))

    def endless(self) -> Generator[Event, None, int | None]:
        """Return how many rows the table had, if this run has given twice as many; or None.

        No row is counted before that is likely: it takes as long as reading the whole table. What
        the run has removed is added: the table had that as well.
        """
        gave = self._wrote.updated if self._within else self._gave
        checked = self._within or self.verb in _AGAIN
        if not checked or self._limit is None or gave <= self._limit or not self._count:
            return None
        question = Command(f"SELECT {self._count}".encode(), "count", self._work.running)
        answers = yield from self._looked([question], theirs=True)
        if "count" not in answers:
            self._limit = None
            return None
        removed = max(0, self._wrote.deleted - self._wrote.inserted)
        number = int(answers["count"][0][0] or 0) + removed
        self._limit = _TIMES * number
        return number if gave > self._limit else None

    # When the next batch may begin

    def pause(self, took_s: float) -> Iterator[Event]:
        """Let pass what lies between two batches; the last one took so long."""
        options, reason = self._options, ""
        if took_s * 1000 > options.batch_time_ms:
            reason = f"the last batch took {took_s:.1f} s"
        elif (yield from self._is_vacuumed()):
            reason = f"VACUUM works on {self.table}"
        self._pause_s = following(self._pause_s, options.pause_ms / 1000, took_s, slow=bool(reason))
        yield from self._show(self._pause_s, reason)
        pauses.pause(self._pause_s)
        while behind := (yield from self._behind()):
            yield from self._show(_LAG_POLL_S, behind)
            pauses.pause(_LAG_POLL_S)

    def _is_vacuumed(self) -> Generator[Event, None, bool]:
        if self._oid is None:
            return False
        answers = yield from self._looked([self._about(_VACUUMED, "vacuumed")])
        return answers.get("vacuumed") == [(b"t",)]

    def _behind(self) -> Generator[Event, None, str]:
        """Return which replica is too far behind, and how far; nothing if none is."""
        if self._blind:
            return ""
        answers = yield from self._looked([Command(_LAG, "lag", self._work.running)])
        rows = answers.get("lag", [])
        if "lag" not in answers or any(row[0] == b"t" for row in rows):
            self._blind = True
            yield from self._once(
                "how far replicas are behind is hidden from this role, so max-lag does not hold; "
                f'to let it: GRANT pg_monitor TO "{self._work.session.server.connected.user}";'
            )
        lag_s, name = max((self._lag(*row[1:]) for row in rows), default=(0.0, ""))
        most_ms = self._options.max_lag_ms
        if most_ms is None or lag_s * 1000 <= most_ms:
            return ""
        return f"{name or 'a replica'} is {lag_s:.1f} s behind, and may be {most_ms / 1000:g} s"

    def _lag(self, *row: bytes | None) -> tuple[float, str]:
        """Return how far one is behind, in seconds, and its name.

        The server measures that by replies: of one that hangs, it shows what was before. How long
        it has been silent is counted here, because a reply has the time of the replica's clock.
        """
        lag, name, pid, reply, confirmed = row
        now = time.monotonic()
        before, since = self._heard.get(pid, (None, now))
        since = since if reply == before else now
        self._heard[pid] = reply, since
        silent_s = 0.0 if confirmed == b"t" or now - since < _SILENT_S else now - since
        return max(float(lag or 0), silent_s), (name or b"").decode()

    def _show(self, pause_s: float, reason: str) -> Iterator[Event]:
        now = time.monotonic()
        if now - self._shown < _SHOW_AGAIN_S:
            return
        self._shown, elapsed_s = now, now - self._since
        percent = None
        if self.of and self.verb in _ENDS:
            percent = min(100.0, 100 * self.rows / self.of)
        # With the pause that follows: after the first batch that is most of the time.
        lasts_s = elapsed_s + pause_s
        rate = (self.rows - self._before) / lasts_s if lasts_s else 0.0
        filename = self._work.running.filename
        yield Batched(filename, self.rows, self.batches, rate, percent, pause_s, reason)

    def _once(self, message: str) -> Iterator[Event]:
        """Say it, unless this session has said it."""
        said = self._work.session.said
        if message not in said:
            said.add(message)
            yield Note(message, "warning", self._work.running.filename)

    def _about(self, text: str, role: str) -> Command:
        return Command(text.encode(), role, self._work.running, [self._oid])

    def _looked(
        self, commands: list[Command], *, theirs: bool = False
    ) -> Generator[Event, None, dict[str, list[tuple[bytes | None, ...]]]]:
        """Return the answers; none where this role, or this engine, has none to give."""
        try:
            return (yield from self._work.asked(commands, theirs=theirs))
        except CommandFailed as failed:
            if failed.diagnostic.sqlstate not in _NOT_FOR_US:
                raise
            self._work.session.conn.execute("ROLLBACK")
            return {}


def following(pause_s: float, least_s: float, took_s: float, *, slow: bool) -> float:
    """Return the next pause: twice as long, and as long as the batch took, where it was slow."""
    if slow:
        return max(least_s, min(_LONGEST_S, max(2 * pause_s, took_s, _GROWS_S)))
    return max(least_s, pause_s / 2)
