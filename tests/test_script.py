"""A splitter is wrong in silence: so it is held against PostgreSQL's own parser, and mutated."""

from __future__ import annotations

import codecs
import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pglast
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from db.errors import FilesError, ScriptError
from db.sql import checksum, lexer
from db.sql.kinds import (
    NOT_IN_TRANSACTION,
    IndexTarget,
    changed,
    concurrent_index,
    inserts_again,
    sets_blindly,
)
from db.sql.repeat import Repeat
from db.sql.script import Directives, Script


def split(text: str | bytes) -> list[str]:
    script = Script(text if isinstance(text, bytes) else text.encode())
    return [script.sql(s).decode() for s in script.statements()]


def kinds(text: str) -> list[str]:
    return [s.kind for s in Script(text.encode()).statements()]


def refused(text: str) -> ScriptError:
    script = Script(text.encode(), "001_a.sql")
    with pytest.raises(ScriptError) as error:
        script.check()
    assert error.value.location is not None
    assert "^" in error.value.excerpt
    return error.value


SPLIT = {
    "plain statements": ("SELECT 1; SELECT 2;", ["SELECT 1", "SELECT 2"]),
    "no semicolon at the end": ("SELECT 1;\nSELECT 2\n", ["SELECT 1", "SELECT 2"]),
    "empty statements": (";; ;\nSELECT 1;;;", ["SELECT 1"]),
    "nothing": ("", []),
    "only comments": ("-- a\n/* b; */ -- c", []),
    "doubled quotes": ("SELECT 'a'';b'; x", ["SELECT 'a'';b'", "x"]),
    "backslash in a plain string": (r"SELECT 'a\'; x", [r"SELECT 'a\'", "x"]),
    "escape string": (r"SELECT E'a\';b\\'; x", [r"SELECT E'a\';b\\'", "x"]),
    "doubled quote in an escape string": (r"SELECT e'a'';\';'; x", [r"SELECT e'a'';\';'", "x"]),
    "escape string over two lines": ("SELECT E'a' -- c\n 'b\\';'; x", 2),
    "escape string beside a string": ("SELECT E'a' , 'b\\'; x", 2),
    "a name that ends in e before a string": (r"SELECT type'\'; x", [r"SELECT type'\'", "x"]),
    "other prefixes": (r"SELECT U&'\0061;', B'1', X'f', N';\'; x", 2),
    "quoted name": ('SELECT "a;""b;"; x', ['SELECT "a;""b;"', "x"]),
    "quoted unicode name": ('SELECT U&"d;\\0061"; x', 2),
    "dollar quote": ("DO $$ a; ' $$; x", ["DO $$ a; ' $$", "x"]),
    "tagged dollar quote": ("DO $ä_1$ ; $$ $ä_2$ $ä_1$; x", ["DO $ä_1$ ; $$ $ä_2$ $ä_1$", "x"]),
    "dollar quote right behind another": ("DO $a$ $b$a$; x", ["DO $a$ $b$a$", "x"]),
    "parameters are no dollar quotes": ("SELECT $1$; x", ["SELECT $1$", "x"]),
    "dollars in a name": ("SELECT a$b$ ; c$b$", ["SELECT a$b$", "c$b$"]),
    "dollars in a name with digits": ("SELECT a1$2$b$ ; x", ["SELECT a1$2$b$", "x"]),
    "a number before a dollar quote": ("SELECT 1$a$;$a$; x", ["SELECT 1$a$;$a$", "x"]),
    "line comment": ("SELECT 1 -- ; '\n; x", ["SELECT 1 -- ; '", "x"]),
    "nested comment": ("SELECT /* ; /* ' */ ; */ 1; x", ["SELECT /* ; /* ' */ ; */ 1", "x"]),
    "comment in an operator": ("SELECT 1+/* ; */2*--;\n3; x", 2),
    "a comment that only looks closed": ("SELECT 1 /*/ ; */; x", 2),
    "rule with a list": ("CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2); x", 2),
    "slices and casts": ("SELECT a[1:b]::int, x := 1; y", 2),
    "crlf": ("SELECT 1;\r\nSELECT 2;\r\n", ["SELECT 1", "SELECT 2"]),
    "bom": ("\ufeffSELECT 1; x", ["SELECT 1", "x"]),
    "closing parenthesis alone": ("SELECT ); x", ["SELECT )", "x"]),
    "string behind an escape in parentheses": (r"SELECT (E'\')', ';'); x", 2),
    "dashes in parentheses": ("SELECT (1 -- );\n); x", 2),
    "atomic body": (
        "CREATE OR REPLACE /* x */ FUNCTION f() RETURNS int BEGIN /* y */ ATOMIC "
        "SELECT CASE WHEN (SELECT CASE WHEN true THEN true END) THEN 1 END; SELECT 2; END; x",
        2,
    ),
    "atomic procedure": ("create procedure p() begin atomic insert into t values (1); end; x", 2),
    "names in an atomic body": (
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT begin, 1 AS begin, t.case, "
        "(2)as\r\n\tEND, 'a'AS case, CASE WHEN bias THEN alias END FROM t; END; x",
        2,
    ),
    "labels and fields in an atomic body": (
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 end, 2 case, t. end, (t) . end, "
        f"t./* ; */case, 3 AS /*c*/ end, 4 AS --c;\n end, 5 AS{' ' * 50}case FROM t; END; x",
        2,
    ),
    "the end of an atomic body between comments": (
        "CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; ; /* ; /* */ */ -- end;\n END; x",
        2,
    ),
    "an empty atomic body": ("CREATE PROCEDURE p() BEGIN --;\n ATOMIC /* ; */ END; x", 2),
    "a word that begins with end in an atomic body": (
        "CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; endow; END; x",
        2,
    ),
    "options before an atomic body": (
        "CREATE FUNCTION f(begin atomic) RETURNS begin SET a TO begin BEGIN ATOMIC ; END; x",
        2,
    ),
    "a function named begin": ("CREATE FUNCTION begin() AS $$ ; $$; x", 2),
    "begin without atomic": ("BEGIN; SELECT CASE WHEN a THEN b END; END", 3),
    "psql commands": ("\\restrict a;b\nSELECT 1;\n\\x\n", ["\\restrict a;b", "SELECT 1", "\\x"]),
    "comments behind a copy": (
        "COPY t FROM stdin; /* ;' */ /**/ -- ;\n1\n\\.\nx",
        ["COPY t FROM stdin", "x"],
    ),
    "copy data": ("COPY t FROM stdin;\n;'\n\\.\nSELECT 1;", ["COPY t FROM stdin", "SELECT 1"]),
}


@pytest.mark.parametrize(("text", "expected"), SPLIT.values(), ids=SPLIT)
def test_statements_are_split_as_psql_splits_them(text: str, expected: list[str] | int) -> None:
    found = split(text)
    assert (found if isinstance(expected, list) else len(found)) == expected


@pytest.mark.parametrize("line", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("end", ["\\.", "\\.\n", None], ids=["end", "ended line", "end of file"])
@pytest.mark.parametrize("rows", ["", "1\t\\.\n\\.x\n;'\n"], ids=["no rows", "rows"])
def test_copy_data_end_at_their_own_line(line: str, end: str | None, rows: str) -> None:
    head = f"COPY t (a, b) FROM STDIN WITH (FORMAT csv);  -- rows\n{rows}".replace("\n", line)
    script = Script((head + (end or "").replace("\n", line)).encode())
    (found,) = script.statements()
    assert found.kind == "COPY FROM STDIN"
    assert found.data is not None
    assert b"".join(script.chunks(found.data)) == rows.replace("\n", line).encode()


@pytest.mark.parametrize(
    ("text", "column", "what"),
    [
        ("SELECT 'a", 8, "quote"),
        ("SELECT 'b', 'a''''b", 13, "quote"),
        ('SELECT "a""b', 8, "quote"),
        ("SELECT E'a\\'", 9, "quote"),
        ("SELECT E'a\\", 9, "quote"),
        ('SELECT "a', 8, "quote"),
        ("SELECT $a$ $b$", 8, "quote $a$"),
        ("SELECT /* /* */", 8, "comment"),
        ("/* /* */", 1, "comment"),
        ("SELECT (a, (b)", 8, "parenthesis"),
        ("CREATE FUNCTION f() BEGIN ATOMIC SELECT 1;", 21, "BEGIN ATOMIC"),
    ],
)
def test_what_is_not_closed_is_refused_where_it_opens(text: str, column: int, what: str) -> None:
    error = refused(f"SELECT 'é';\n{text}\n")
    assert (error.location and (error.location.line, error.location.column)) == (2, column)
    assert f"{what} is not closed" in error.message


KINDS = {
    "select 1": "SELECT",
    "(select 1)": "SELECT",
    "with a as (select 1) insert into t select 1": "WITH",
    "begin isolation level serializable": "BEGIN",
    "start transaction": "BEGIN",
    "commit work": "COMMIT",
    "end": "COMMIT",
    "rollback": "ROLLBACK",
    "abort": "ROLLBACK",
    "rollback work to savepoint a": "ROLLBACK TO",
    "savepoint a": "SAVEPOINT",
    "release a": "RELEASE",
    "prepare transaction 'a'": "PREPARE TRANSACTION",
    "prepare a as select 1": "PREPARE",
    "commit prepared 'a'": "COMMIT PREPARED",
    "rollback prepared 'a'": "ROLLBACK PREPARED",
    "set transaction read only": "SET TRANSACTION",
    "set local a = 1": "SET LOCAL",
    "set session a = 1": "SET",
    "set transaction_timeout = 0": "SET",
    "set transaction_isolation = 'serializable'": "SET TRANSACTION",
    "set local transaction_read_only to on": "SET TRANSACTION",
    "set constraints all deferred": "SET CONSTRAINTS",
    "reset all": "RESET",
    "create unique index i on t (a)": "CREATE INDEX",
    "create -- x\n unique index /* /* y */ */ concurrently i on t (a)": "CREATE INDEX CONCURRENTLY",
    "drop index concurrently i": "DROP INDEX CONCURRENTLY",
    "drop index i": "DROP INDEX",
    "reindex index concurrently i": "REINDEX CONCURRENTLY",
    "reindex (verbose, concurrently) table t": "REINDEX CONCURRENTLY",
    "reindex (concurrently false) table t": "REINDEX",
    "reindex (verbose) schema s": "REINDEX SCHEMA",
    "reindex database": "REINDEX DATABASE",
    "reindex system": "REINDEX SYSTEM",
    'alter table if exists only "a b".t detach partition p concurrently': (
        "ALTER TABLE DETACH PARTITION CONCURRENTLY"
    ),
    "alter table t detach partition concurrently": "ALTER TABLE",
    "vacuum (full) t": "VACUUM",
    "cluster": "CLUSTER ALL",
    "cluster verbose": "CLUSTER ALL",
    "cluster (verbose) t": "CLUSTER",
    "repack t": "REPACK",
    "repack": "REPACK ALL",
    "repack (concurrently) t": "REPACK CONCURRENTLY",
    "alter system set a = 1": "ALTER SYSTEM",
    "create database d": "CREATE DATABASE",
    "drop database d": "DROP DATABASE",
    "alter database d set tablespace t": "ALTER DATABASE SET TABLESPACE",
    "alter database d set a = 1": "ALTER DATABASE",
    "create tablespace t location 'x'": "CREATE TABLESPACE",
    "create subscription s": "CREATE SUBSCRIPTION",
    "discard all": "DISCARD ALL",
    "discard temp": "DISCARD TEMP",
    "copy s.t (a, b) from stdin": "COPY FROM STDIN",
    "copy t from '/tmp/stdin'": "COPY",
    "copy t from program 'x'": "COPY",
    "copy (select E'\\'(' from stdin) to stdout": "COPY TO STDOUT",
    'copy U&"t;" from stdin': "COPY FROM STDIN",
    "copy s . u&\"d!0061\" uescape '!' (a) from stdin": "COPY FROM STDIN",
    'alter table U&"t" detach partition s.U&"p" concurrently': (
        "ALTER TABLE DETACH PARTITION CONCURRENTLY"
    ),
    'alter database U&"d" set tablespace t': "ALTER DATABASE SET TABLESPACE",
    "create or replace function f() returns int as $$ $$": "CREATE FUNCTION",
    "create temp table t (a int)": "CREATE TABLE",
    "create materialized view v as select 1": "CREATE MATERIALIZED VIEW",
    "do $$ $$": "DO",
    "\\connect x": "\\connect",
}


@pytest.mark.parametrize(("text", "kind"), KINDS.items())
@pytest.mark.parametrize("comments", [False, True], ids=["plain", "between comments"])
def test_a_statement_has_the_kind_that_postgresql_names(
    text: str, kind: str, *, comments: bool
) -> None:
    if comments and "'" not in text and "--" not in text and text[0] not in "\\(":
        text = text.replace(" ", " /* ; /* ' */ */ -- ;\n ")
    assert kinds(f"{text};\nSELECT 1" if text[0] != "\\" else text)[0] == kind
    assert kinds(text.upper() if text[0] != "\\" else text)[0] == kind


@pytest.mark.parametrize(
    ("text", "target"),
    [
        (
            'create index concurrently if not exists "A b" on only s . "t.x" (a)',
            IndexTarget('"A b"', 's."t.x"'),
        ),
        ("create unique index concurrently i on t (a)", IndexTarget("i", "t")),
        (
            """drop index concurrently s . u&"d!0061!!""!+01F600" /* x */ uescape '!'""",
            IndexTarget('s."da!""😀"', None),
        ),
        (r'reindex table concurrently U&"\D83D\DE00"', IndexTarget(None, '"😀"')),
        ("create index concurrently on t (a)", IndexTarget(None, "t")),
        ("drop index concurrently if exists s.i", IndexTarget("s.i", None)),
        ("reindex (verbose) index concurrently s.i", IndexTarget("s.i", None)),
        ("reindex (concurrently) table t", IndexTarget(None, "t")),
        ("reindex database concurrently d", IndexTarget(None, None, database=True)),
        ("reindex (concurrently) system", IndexTarget(None, None, database=True)),
        ('reindex schema concurrently "S s"', IndexTarget(None, None, '"S s"')),
        ("reindex table concurrently databases", IndexTarget(None, "databases")),
        ("alter table only a . t detach partition s.p concurrently", IndexTarget("s.p", None)),
        ("create index i on t (a)", None),
        ("vacuum", None),
    ],
)
def test_the_index_of_a_concurrent_statement_is_known(text: str, target: object) -> None:
    assert concurrent_index(text.encode()) == target


EFFECTS: dict[str, set[str]] = {
    "insert into t values (f(1))": {"rows"},
    "with a as (select 1) insert into s.t (a) select 1": {"rows"},
    "with a as /* b */ (delete from t returning 1), b as materialized (update t set a = 1) table a":
        {"rows"},
    "with a as (values (1)) merge into t using a on true when matched then update set a = 1":
        {"rows"},
    "with a as (values (1)) update t set a = 1": {"rows"},
    "update t set a = 1": {"rows"},
    "delete from t": {"rows"},
    "merge into t using a on true when matched then delete": {"rows"},
    "copy t from stdin;\n1\n\\.\n": {"rows"},
    "copy s.t (a) from '/x'": {"rows"},
    "copy (select 1) to program 'from'": set(),
    "create table t as select 1": {"rows"},
    "create table u (a int generated always as (1) stored)": set(),
    "create table t as select 1 with no data": set(),
    "select 1 into t": {"rows"},
    "explain analyze insert into t values (1)": {"rows"},
    "select 'insert into t', $$ delete from t $$ -- update\n from a where b in (1) for update":
        set(),
    "select f(1)": {"may"},
    'values ("f"(1))': {"may"},
    "select s.f(a) as g, b from t as x (c, d)": {"may"},
    "select pg_catalog.set_config('search_path', '', false)": set(),
    "select count(*)::numeric(10, 2) from t as x (c, d) where exists (select from t)": set(),
    "call p(); execute e": {"may"},
    "select pg_catalog.setval('s', 1); select nextval('s')": {"sequences"},
    "alter sequence if exists s restart": {"sequences"},
    "alter sequence s owned by t.restart": set(),
    "alter table t add b int, alter column a restart with 1000": {"sequences"},
    "alter table t alter a set generated always restart": {"sequences"},
    "alter table t alter restart set default ' restart ', add column restart int": set(),
    "alter table t owner to a": {"owners"},
    "alter table t rename owner to a": set(),
    "alter database d owner to a; reassign owned by a to b": {"owners"},
    "create schema authorization a; create schema if not exists s authorization a": {"owners"},
    "set role a; set local role to a; set session authorization a": {"owners"},
    "set role none; reset role; set local search_path to a": set(),
    "grant select on t to a; revoke all (a) on s.t from a cascade": set(),
    "alter default privileges grant all on tables to a": set(),
    "grant a to b": {"rights"},
    "revoke connect on database d from public": {"rights"},
    "grant set on parameter work_mem to a": {"rights"},
    "alter database d set search_path = a, b": {"settings"},
    "alter role all in database d reset all; alter user a set work_mem = 1": {"settings"},
    "alter system set work_mem = 1": {"settings"},
    "alter function f() set search_path = a": set(),
    "create role a; drop user a": {"outside"},
    "create user mapping for a server s": set(),
    "alter role a rename to b; alter database d connection limit 1": {"outside"},
    "comment on database d is 'a'": {"outside"},
    "comment on column t.database is 'a'": set(),
    "security label on role a is 'a'": {"outside"},
    "drop schema if exists a, public cascade": {"outside"},
    "alter schema public rename to a": {"outside"},
    "drop schema public_too; drop table public.t; alter schema a rename to public": set(),
    "something else": {"outside"},
    "create function f() begin atomic insert into t values (1); end": set(),
    "create rule r as on insert to t do (insert into u values (1))": set(),
    "create table t (a int); alter table t add b int default f(1)": set(),
    "create index i on t (f(a)); create trigger g before update on t execute function f()": set(),
    "create extension if not exists citext; drop table t; truncate t; lock table t": set(),
    "create policy p on t using (f(a)); create type y as enum ('a'); create view v as select 1":
        set(),
    "begin; savepoint a; release a; analyze t; refresh materialized view v; commit": set(),
}  # fmt: skip
BLOCKS: dict[str, set[str]] = {
    "insert /* x */ into t values (1);": {"rows"},
    "update only t as q set a = 1;": {"rows"},
    "for r in delete from t returning * loop null; end loop;": {"rows"},
    "if a then copy t from program 'x'; end if;": {"rows"},
    "create table t as select 1;": {"rows"},
    "case a when 1 then insert into t values (1); else null; end case;": {"rows"},
    "perform f();": {"may"},
    "a := f();": {"may"},
    "a := (select 1);": set(),
    "copy := 1; lock := 2;": set(),
    "call p();": {"may"},
    "perform setval('s', 1);": {"sequences"},
    "select count(*) into a from t where b in (1) for update;": set(),
    "execute 'create table t (a int)';": set(),
    "execute $q$create role a$q$;": {"outside"},
    "execute 'copy t from program ''echo 1''';": {"rows"},
    "execute 'insert' || ' into t values (1)';": {"rows"},
    "execute e || ' into t values (1)';": {"may"},
    "execute e using 1;": {"may"},
    "execute format('alter table %i add a int', b);": {"may"},
    "for r in execute format('update %i set a = 1', b) loop null; end loop;": {"rows"},
    "execute format('alter database %i set work_mem = %l', current_database(), '8mb');":
        {"settings"},
    "execute 'alter table ' || quote_ident(a) || ' owner to b';": {"owners"},
    "execute format('revoke connect on database %i from public', current_database());": {"rights"},
    "if not exists (select from pg_type where typname = 'a') then create type a as enum (); "
        "end if;": set(),
    "alter table t add constraint c check (f(a)); exception when duplicate_object then null;":
        set(),
    "create view v as select case when f(a) then g(b) else h(c) end as d from t;": set(),
    "raise notice 'insert into % values', format('%s', a);": set(),
    "grant execute on function f() to a; grant a to b;": {"rights"},
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), EFFECTS.items())
def test_what_a_dump_of_the_schema_would_not_hold_is_known(text: str, expected: set[str]) -> None:
    assert Script(text.encode()).effects == expected
    assert Script(text.upper().encode()).effects == expected


@pytest.mark.parametrize(("text", "expected"), BLOCKS.items())
def test_what_a_block_does_besides_the_schema_is_known(text: str, expected: set[str]) -> None:
    declared = "declare a numeric(10, 2) := 1; c varchar(3);"
    block = f"do $do$ {declared} begin {text} end $do$"
    assert Script(block.encode()).effects == expected
    assert Script(block.upper().encode()).effects == expected
    quoted = text.replace("'", "''")
    assert Script(f"do '{declared} begin {quoted} end'".encode()).effects == expected


def test_what_a_block_in_another_language_does_nobody_knows() -> None:
    assert Script(b"do language plpython3u $$ pass $$").effects == {"may"}
    assert Script(b'do $$ begin null; end $$ language "plpgsql"').effects == set()


@pytest.mark.parametrize(
    ("text", "matter"),
    [
        (r"SELECT 'a\'; SELECT 1", True),
        (r"SELECT x'\'''", True),
        (r"SELECT 'C:\new'", False),
        (r"""SELECT E'it\'s', $$ '\' $$, $a$\'$a$, "\'" -- '\'""", False),
        ("COPY t FROM stdin;\n'\\'\n\\.\n", False),
    ],
)
def test_where_backslashes_could_be_escapes_is_known(text: str, *, matter: bool) -> None:
    assert Script(text.encode()).escapes_matter is matter


@pytest.mark.parametrize(
    "text",
    [
        "{}SELECT 'C:\\new';\n",
        "{}SELECT E'it\\'s';\n",
        "{}SET SESSION standard_conforming_strings TO on;\nSELECT 'a\\';\n",
        "{}SET standard_conforming_strings = DEFAULT;\nSELECT 'a\\';\n",
        "SET standard_conforming_strings = 'true';\nSELECT 'a\\';\n",
    ],
)
def test_escapes_that_split_nothing_otherwise_are_taken(text: str) -> None:
    Script(text.format(ESCAPES).encode()).check()


def test_directives_are_read_above_the_first_statement() -> None:
    text = b"\xef\xbb\xbf-- x\n--MIGRATE : no-transaction, lock-timeout=2s\r\n/* y */\n"
    text += b"-- migrate: statement-timeout = 10min\nSELECT 1;\n-- to migrate: the rest"
    script = Script(text)
    script.check()
    assert script.directives == Directives(False, 2000, 600_000)
    assert Script(b"SELECT 1").directives == Directives()


@pytest.mark.parametrize(
    ("value", "ms"), [("500ms", 500), ("0", 0), ("250", 250), ("1h", 3_600_000), ("1d", 86_400_000)]
)
def test_durations_are_written_as_in_postgresql(value: str, ms: int) -> None:
    text = f"-- migrate: lock-timeout={value}".encode()
    assert Script(text).directives.lock_timeout_ms == ms


INDEX = "CREATE INDEX CONCURRENTLY i ON t (a);"
OUTSIDE = "-- migrate: no-transaction\n"
ESCAPES = "SET standard_conforming_strings = off;\n"
REPEAT = f"{OUTSIDE}-- migrate: repeat until 0 rows"
UPDATE = "UPDATE t SET a = 1"
OUTSIDE_ONLY = NOT_IN_TRANSACTION - {"CREATE DATABASE", "DROP DATABASE"}
REFUSED = {
    "unknown directive": ("-- migrate: no-transactoin", "1:13", "Did you mean no-transaction?"),
    "bad duration": ("-- migrate: lock-timeout=2x", "1:13", "lock-timeout=500ms"),
    "no duration": ("-- migrate: statement-timeout", "1:13", "statement-timeout=500ms"),
    "too long": ("-- migrate: lock-timeout=99d", "1:13", "needs a duration"),
    "empty directive": ("-- migrate:", "1:1", "Known are"),
    "late directive": ("SELECT 1;\n  -- migrate: no-transaction", "2:3", "top of the file"),
    "directive in a statement": ("SELECT 1\n-- migrate: no-transaction", "2:1", "top of the file"),
    "outside in a transaction": (
        "SELECT 1;\n-- migrate: outside\nSELECT 2",
        "2:1",
        "no-transaction",
    ),
    "outside at the top of one": ("-- migrate: outside\nSELECT 2", "1:1", "no-transaction"),
    "outside in a block": (f"{OUTSIDE}BEGIN;\n-- migrate: outside\nSELECT 1; END", "3:1", "block"),
    "outside of a block": (f"{OUTSIDE}-- migrate: outside\nBEGIN; SELECT 1; END", "2:1", "block"),
    "outside at the end": (f"{OUTSIDE}SELECT 1;\n-- migrate: outside\n", "3:1", "no statement"),
    "outside behind": (f"{OUTSIDE}SELECT 1; -- migrate: outside\nSELECT 2", "2:11", "of its own"),
    "outside, inside": (f"{OUTSIDE}SELECT 1\n-- migrate: outside\n+ 2", "3:1", "top of the file"),
    "outside, and more": (
        f"{OUTSIDE}SELECT 1;\n-- migrate: outside, lock-timeout=1s\nSELECT 2",
        "3:1",
        "top of the",
    ),
    "repeat until one": (f"{REPEAT.replace('0', '1')}\n{UPDATE}", "2:1", "which is: until 0 rows"),
    "repeat, with =": (f"{REPEAT.replace('repeat ', 'repeat=')}\n{UPDATE}", "2:1", "until 0 rows"),
    "repeat, no colon": (
        f"{REPEAT.replace('migrate: repeat', 'migrate repeat')}\n{UPDATE}",
        "2:1",
        "-- migrate: repeat until 0 rows",
    ),
    "no colon": ("--migrate  no-transaction\nSELECT 1", "1:1", "--migrate: no-transaction"),
    "no colon, timeout": (
        "SELECT\n-- Migrate lock-timeout=2s\n1",
        "2:1",
        "Migrate: lock-timeout=2s",
    ),
    "no colon, outside": ("-- migrate outside\nSELECT 1", "1:1", "-- migrate: outside"),
    "repeat, misspelled": (
        f"{REPEAT.replace('repeat', 'repaet')}\n{UPDATE}",
        "2:13",
        "mean repeat?",
    ),
    "repeat, misspelled, late": (
        f"{OUTSIDE}SELECT 1;\n-- migrate: repaet until 0 rows\n{UPDATE}",
        "3:1",
        "Only outside and",
    ),
    "repeat, unknown option": (f"{REPEAT}, paus=1s\n{UPDATE}", "2:34", "Did you mean pause?"),
    "repeat, bad duration": (f"{REPEAT}, max-lag 5y\n{UPDATE}", "2:34", "max-lag needs a duration"),
    "repeat, no option": (f"{REPEAT},\n{UPDATE}", "2:33", "an option has no name"),
    "repeat, twice": (f"{REPEAT}, pause 1s, pause 2s\n{UPDATE}", "2:44", "pause is there twice"),
    "repeat at the end": (f"{OUTSIDE}SELECT 1;\n-- migrate: repeat until 0 rows", "3:1", "follows"),
    "repeat behind": (
        f"{OUTSIDE}SELECT 1; -- migrate: repeat until 0 rows\nx",
        "2:11",
        "of its own",
    ),
    "repeat in a transaction": (
        "-- migrate: repeat until 0 rows\nTABLE t",
        "1:1",
        "no-transaction",
    ),
    "repeat in a block": (
        f"{OUTSIDE}BEGIN;\n-- migrate: repeat until 0 rows\n{UPDATE}; END",
        "3:1",
        "block",
    ),
    "repeat and outside": (f"{REPEAT}\n-- migrate: outside\n{UPDATE}", "3:1", "Delete one"),
    "repeat beside": (
        f"-- migrate: no-transaction, repeat until 0 rows\n{UPDATE}",
        "1:29",
        "of its own",
    ),
    "escapes of its own": (f"SELECT 1;\n{ESCAPES}SELECT 'it\\'s; here'", "2:1", "as E'…'"),
    "escapes of its own, two": (
        f"{ESCAPES}SELECT 'it\\'s; here', 'x\\'x'",
        "1:1",
        "this SET makes",
    ),
    "escapes of its own, even": (f"{ESCAPES}SELECT 'it\\'; SELECT ';'", "1:1", "this SET makes"),
    "escapes of its own, and no end": (
        f"{ESCAPES}SELECT 'a\\n",
        "2:8",
        "this quote is not closed",
    ),
    "repeat of psql": (f"{REPEAT}\n\\restrict x", "3:1", "command of psql"),
    "repeat VACUUM": (f"{REPEAT}\nVACUUM", "2:1", "no number of rows"),
    "repeat skips": (
        f"{REPEAT}\n{UPDATE} WHERE a IN (SELECT a FROM t FOR UPDATE skip  locked)",
        "3:1",
        "SKIP",
    ),
    "repeat INSERT": (
        f'{REPEAT}\nINSERT INTO "S" . t SELECT * FROM u',
        "3:1",
        "the same rows again",
    ),
    "repeat INSERT, alias": (
        f"{REPEAT}\nINSERT INTO n SELECT id FROM t n LIMIT 10",
        "3:1",
        "the same rows again",
    ),
    "repeat INSERT, updates": (
        f"{REPEAT}\nINSERT INTO n SELECT id FROM t LIMIT 9 ON CONFLICT (id) DO UPDATE SET v = 1",
        "3:1",
        "the same rows again",
    ),
    "dbmate up": ("-- migrate:up\nSELECT 1", "1:1", "Delete this line"),
    "dbmate option": ("-- migrate:up transaction:false", "1:1", "-- migrate: no-transaction"),
    "dbmate down": ("SELECT 1;\n-- migrate:down\nx", "2:1", ".down.sql"),
    "goose up": ("-- +goose Up", "1:1", "Delete this line"),
    "goose down": ("SELECT 1;\n-- +goose Down", "2:1", ".down.sql"),
    "goose option": ("-- +goose NO TRANSACTION", "1:1", "-- migrate: no-transaction"),
    "goose statement": ("-- +goose StatementBegin", "1:1", "Delete this line"),
    "sqlx": ("-- no-transaction", "1:1", "-- migrate: no-transaction"),
    "codd": ("-- codd: no-txn", "1:1", "-- migrate: no-transaction"),
    "tern option": ("---- tern: disable-tx ----", "1:1", "-- migrate: no-transaction"),
    "tern down": ("---- create above / drop below ----", "1:1", ".down.sql"),
    "graphile": ("--! no-transaction", "1:1", "-- migrate: no-transaction"),
    "yoyo": ("-- transactional: false", "1:1", "-- migrate: no-transaction"),
    "concurrently": (f"SELECT 1;\n{INDEX}", "2:1", "-- migrate: no-transaction"),
    "concurrently, alone": (INDEX, "1:1", "in its own file"),
    "no name": (f"{OUTSIDE}CREATE INDEX CONCURRENTLY ON t (a)", "2:1", "needs a name"),
    "create database": ("CREATE DATABASE d", "1:1", "invoke db.create"),
    "create database outside": (f"{OUTSIDE}CREATE DATABASE d", "2:1", "invoke db.create"),
    "drop database": ("DROP DATABASE IF EXISTS d", "1:1", "Delete it"),
    "drop database outside": (f"{OUTSIDE}DROP DATABASE d", "2:1", "Delete it"),
    "\\unset": ("\\unset x", "1:1", "Delete the line"),
    "vacuum in a block": (f"{OUTSIDE}BEGIN; VACUUM; COMMIT", "2:8", "out of the block"),
    "begin inside": ("SELECT 1; BEGIN; COMMIT;", "1:11", "To keep its transactions"),
    "two blocks": ("BEGIN; COMMIT; BEGIN; COMMIT;", "1:8", "To keep its transactions"),
    "no commit": ("BEGIN; SELECT 1", "1:1", "has no COMMIT"),
    "commit alone": ("SELECT 1; COMMIT", "1:11", "close each BEGIN"),
    "rollback": ("BEGIN; SELECT 1; ROLLBACK", "1:18", "close each BEGIN"),
    "and chain": ("BEGIN; SELECT 1; COMMIT /* x */ WORK AND CHAIN", "1:18", "AND CHAIN"),
    "two phases": ("BEGIN; PREPARE TRANSACTION 'a'", "1:8", "PREPARE TRANSACTION inside"),
    "nested block": (f"{OUTSIDE}BEGIN; BEGIN; COMMIT", "2:8", "one after the other"),
    "unopened block": (f"{OUTSIDE}SELECT 1; COMMIT", "2:11", "one after the other"),
    "unclosed block": (f"{OUTSIDE}BEGIN; SELECT 1", "2:1", "not closed"),
    "rolled back block": (f"{OUTSIDE}BEGIN; ROLLBACK", "2:8", "one after the other"),
    "copy out": ("COPY t TO STDOUT", "1:1", "nobody to read"),
    "a comment that goes on behind copy": (
        "COPY t FROM stdin; /* x\n1\n\\.\n*/\n",
        "1:19",
        "below the data",
    ),
    "behind copy": ("COPY t FROM stdin; SELECT 1;\n", "1:19", "below the data"),
    "\\copy": ("\\copy t from 'x'", "1:1", "COPY … FROM stdin"),
    "\\i": ("\\i x.sql", "1:1", "migration file of its own"),
    "\\connect": ("\\connect x", "1:1", "DATABASE_URL"),
    "\\set": ("\\set x 1", "1:1", "not expanded"),
    "\\set off": ("\\set ON_ERROR_STOP off", "1:1", "not expanded"),
    "\\gexec": ("SELECT 1 \\gexec", "1:10", "EXECUTE format"),
    "\\if": ("\\if true", "1:1", "IF … THEN"),
    "\\timing": ("\\timing", "1:1", "Delete the line"),
    "\\;": ("SELECT 1\\; SELECT 2", "1:9", "with ;"),
    "\\x inside": ("SELECT 1\n\\x\n", "2:1", "before it with ;"),
}


@pytest.mark.parametrize(("text", "place", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_run_is_refused_with_place_and_fix(text: str, place: str, said: str) -> None:
    error = refused(text)
    assert str(error.location) == f"001_a.sql:{place}"
    assert said in "\n".join((error.message, *error.advice))


@pytest.mark.parametrize("text", [t for t, k in KINDS.items() if k in OUTSIDE_ONLY])
def test_what_postgresql_keeps_out_of_transactions_needs_the_directive(text: str) -> None:
    assert "-- migrate: no-transaction" in refused(text).advice[0]
    (unit,) = Script(f"{OUTSIDE}{text}".encode()).units()
    assert not unit.transactional


def test_a_begin_and_commit_around_the_file_are_passed_over() -> None:
    text = b"-- x\nBEGIN /* y */ WORK ISOLATION LEVEL SERIALIZABLE, READ WRITE;\n"
    text += b"\\set ON_ERROR_STOP on\nSET TRANSACTION DEFERRABLE;\nSELECT 1;\nCOMMIT;\n-- z"
    script = Script(text)
    script.check()
    assert script.modes == b"ISOLATION LEVEL SERIALIZABLE , READ WRITE"
    assert [script.sql(s) for s in script.leading] == [b"SET TRANSACTION DEFERRABLE"]
    assert [script.sql(s) for s in script.body()] == [b"SELECT 1"]


def test_pg_dump_output_runs_as_it_is() -> None:
    text = b"\\restrict k\n\nSET lock_timeout = 0;\nSELECT set_config('search_path', '', false);\n"
    text += b"COPY public.t (a) FROM stdin;\n1\n\\.\n\n\n\\unrestrict k\n\n"
    script = Script(text)
    script.check()
    assert [s.kind for s in script.body()] == ["SET", "SELECT", "COPY FROM STDIN"]


def test_a_no_transaction_file_is_run_in_units() -> None:
    text = "VACUUM; BEGIN READ WRITE; SELECT 1; SELECT 2; END; BEGIN; COMMIT; SELECT 3;"
    script = Script(f"{OUTSIDE}{text} CREATE SUBSCRIPTION s".encode())
    units = [
        (b"+".join(script.sql(s) for s in u.statements), u.transactional, u.modes)
        for u in script.units()
    ]
    assert units == [
        (b"VACUUM", False, b""),
        (b"SELECT 1+SELECT 2", True, b"READ WRITE"),
        (b"SELECT 3", True, b""),
        (b"CREATE SUBSCRIPTION s", False, b""),
    ]


def test_a_statement_says_that_it_runs_outside_a_transaction() -> None:
    text = (
        "-- migrate: outside\n-- x\nSELECT f();\nSELECT 1; -- x\n\n--MIGRATE: Outside\nSELECT g();"
    )
    script = Script(f"{OUTSIDE}{text} SELECT 2".encode())
    script.check()
    units = [(script.sql(u.statements[0]), u.transactional) for u in script.units()]
    assert units == [
        (b"SELECT f()", False),
        (b"SELECT 1", True),
        (b"SELECT g()", False),
        (b"SELECT 2", True),
    ]
    assert script.directives == Directives(transaction=False)


def test_a_statement_says_that_it_is_repeated() -> None:
    moves = "WITH x AS (DELETE FROM q RETURNING *) INSERT INTO t SELECT * FROM x"
    keeps = "INSERT INTO t SELECT * FROM u ON CONFLICT DO NOTHING"
    text = (
        f"{REPEAT}, pause 1s,max-lag=5s , BATCH-TIME 2s\n-- x\n{UPDATE};\n{UPDATE};\n"
        f"--MIGRATE: Repeat  until 0 rows\n{moves};\n-- migrate: repeat until 0 rows\n{keeps}"
    )
    script = Script(text.encode())
    script.check()
    assert [unit.repeat for unit in script.units()] == [
        Repeat(1000, 5000, 2000), None, Repeat(100, None, 1000), Repeat(),
    ]  # fmt: skip
    assert all(unit.transactional for unit in script.units())
    tables = [changed(script.sql(found)) for found in script.statements()]
    assert tables == [("UPDATE", "t"), ("UPDATE", "t"), ("INSERT", "t"), ("INSERT", "t")]


@pytest.mark.parametrize(
    ("sql", "blind"),
    [
        ("UPDATE t SET v = 1, w = 2 WHERE id IN (SELECT id FROM t ORDER BY id LIMIT 5)", True),
        ('UPDATE t SET v = 1 WHERE id IN (SELECT id FROM t WHERE t."v" IS NULL LIMIT 5)', False),
        ("UPDATE t SET v = f(v, w = v), w = 2 FROM u WHERE u.id = t.id AND w < 2", False),
        ("UPDATE t SET (v, w) = (1, 2)", False),
        ("WITH q AS (DELETE FROM q RETURNING id) UPDATE t SET v = 1 FROM q", False),
    ],
)
def test_an_update_that_does_not_look_at_what_it_sets_is_known(sql: str, blind: bool) -> None:
    assert sets_blindly(sql.encode()) is blind


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO n SELECT id FROM t ON CONFLICT (id) DO NOTHING",
        "INSERT INTO n SELECT id FROM t ON CONFLICT (id) DO UPDATE SET v = 1 WHERE n.v <> 1",
        "INSERT INTO n SELECT id FROM t WHERE NOT EXISTS (SELECT FROM n WHERE n.id = t.id)",
        "INSERT INTO app.n SELECT t.id FROM t LEFT JOIN app.n ON n.id = t.id WHERE n.id IS NULL",
        "WITH x AS (DELETE FROM q RETURNING id) INSERT INTO n SELECT id FROM x",
        "WITH x AS (UPDATE q SET v = 1 RETURNING id) INSERT INTO n SELECT id FROM x",
    ],
)
def test_an_insert_that_tells_what_it_has_inserted_is_known(sql: str) -> None:
    _, name = changed(sql.encode())
    assert name
    assert not inserts_again(sql.encode(), name)


def test_quoted_text_that_looks_like_a_directive_is_left_alone() -> None:
    text = "DO $$\n-- migrate: no-transaction\n$$; SELECT '\n-- +goose Down\n';"
    text += (
        "\n/*\n-- no-transaction\n*/\n-- Migrate outside of office hours, and repeat it until all\n"
    )
    text += "-- migrate no transaction; -- migrate repeatedly\n"
    Script(text.encode()).check()


EXCERPT = """\
   1 | SELECT 1;
   2 |
 > 3 |     日本😀é x
     |            ^
   4 | SELECT 3"""


def test_the_caret_stands_below_wide_characters_and_behind_tabs() -> None:
    text = "SELECT 1;\r\n\r\n\t日本😀é x\r\nSELECT 3".encode()
    script = Script(text)
    at = text.index(b"x")
    assert str(script.location(at)) == "<string>:3:7"
    excerpt = script.excerpt(at)
    caret = excerpt.splitlines()[3]
    assert excerpt.replace(caret, "") == EXCERPT.replace("     |            ^", "")
    assert caret == "     | " + " " * (4 + 6 + 1 + 1) + "^"


def test_a_long_line_is_cut_around_the_caret() -> None:
    script = Script(("é" * 1000 + "x" + "y" * 10_000).encode())
    excerpt = script.excerpt(2000)
    _, shown, caret = ("", *excerpt.splitlines())
    assert len(shown) < 120
    assert shown[caret.index("^")] == "x"
    assert shown.count("…") == 2


def test_a_server_position_counts_characters() -> None:
    script = Script("SELECT 1;\nSELECT 'é日😀', x;".encode())
    found = list(script.statements())[1]
    at = script.offset(found, 15)
    assert script.sql(found)[at - found.start :] == b"x"
    assert str(script.location(at)) == "<string>:2:15"
    assert script.offset(found, 10_000) == found.end


def test_bom_and_line_ends_do_not_change_a_checksum(tmp_path: Path) -> None:
    path, lines = tmp_path / "a.sql", "SELECT 'é';\n" * 100_000
    variants = (lines, "\ufeff" + lines, lines.replace("\n", "\r\n"), "\ufeff" + lines + "\r")
    sums = []
    for text in variants:
        path.write_bytes(text.encode())
        sums.append(checksum.read(path, "a.sql"))
        assert Script.open(path, "a.sql").checksum == sums[-1]
    assert sums[0] == sums[1] == sums[2] != sums[3]


@pytest.mark.parametrize("before", [0, 10, (1 << 20) - 1, 1 << 20])
def test_a_crlf_or_character_on_a_block_border_is_whole(before: int, tmp_path: Path) -> None:
    path = tmp_path / "a.sql"
    path.write_bytes(b"x" * before + b"\r\n\xc3\xa9\r")
    expected = Script(b"x" * before + b"\n\xc3\xa9\r").checksum
    assert checksum.read(path, "a.sql") == expected
    path.write_bytes(b"x" * before + b"\xc3\xa9")
    assert checksum.read(path, "a.sql") == Script(b"x" * before + b"\xc3\xa9").checksum


@pytest.mark.parametrize("before", [0, (1 << 20) - 1])
@pytest.mark.parametrize(
    ("text", "said"),
    [(b"\n\xe9x", "(0xe9), on line 2"), (b"\n\xc3", "(0xc3), on line 2"), (b"a\0", "is a NUL")],
)
def test_bytes_that_postgresql_refuses_are_named(
    before: int, text: bytes, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.sql"
    path.write_bytes(b"x" * before + text)
    with pytest.raises(FilesError, match=r"a\.sql") as error:
        checksum.read(path, "a.sql")
    assert f"byte {before + 1} " in error.value.message
    assert said in error.value.message


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [(codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"), (b"", "cp1252")],
)
def test_a_file_is_converted_from_what_it_begins_as(
    mark: bytes, encoding: str, tmp_path: Path
) -> None:
    path, text = tmp_path / "a.sql", "SELECT 'é';\n"
    path.write_bytes(mark + text.encode(encoding))
    with pytest.raises(FilesError, match=r"a\.sql") as error:
        checksum.read(path, "a.sql")
    command = error.value.advice[0].rpartition("In a shell")[2].partition("iconv")[2]
    words = ["iconv", *command.partition(" FILE")[0].split(), str(path)]
    assert subprocess.run(words, capture_output=True, check=True).stdout.decode() == text


def test_an_empty_file_is_a_script_without_statements(tmp_path: Path) -> None:
    path = tmp_path / "a.sql"
    path.write_bytes(b"")
    with Script.open(path, "a.sql") as script:
        script.check()
        assert list(script.body()) == []


# Everything PostgreSQL's lexer knows, as pieces of an expression that parses.
name = st.sampled_from(["a", "été", "a$b$", "x1$", '"q;"" $$"', 'U&"\\0061;"', "e", "_"])
text_in = st.text(alphabet=";'\"\\$a-/*(){}\n\té日", max_size=8)
literal = st.one_of(
    st.sampled_from(["1", "1.5e3", "$1", "B'01'", "X'1F'", "N'n;'", "NULL", "E''", "''"]),
    text_in.map(lambda s: "'" + s.replace("'", "''") + "'"),
    text_in.map(lambda s: "E'" + s.replace("\\", "\\\\").replace("'", "\\'") + "'"),
    text_in.map(lambda s: "E'x'\n'" + s.replace("\\", "\\\\").replace("'", "\\'") + "'"),
    text_in.filter(lambda s: "$" not in s).map(lambda s: f"$${s}$$"),
    text_in.filter(lambda s: "$é1$" not in s + "$").map(lambda s: f"$é1${s}$é1$"),
)
gap = st.one_of(
    st.sampled_from([" ", "\n", "\r\n", " -- ;'\n", "/* ; ' */", "/*/* $$ */;*/", " --\r", "\t"]),
)
operator = st.sampled_from(["+", "- ", "*", "||", "<>", "@-", "=", "%"])
expression = st.recursive(
    st.one_of(literal, name),
    lambda inner: st.one_of(
        st.tuples(inner, gap, operator, gap, inner).map("".join),
        st.tuples(st.just("("), gap, inner, gap, st.just(")")).map("".join),
        st.tuples(st.just("f("), inner, st.just(","), inner, st.just(")")).map("".join),
        st.tuples(st.just("CASE WHEN true THEN "), inner, gap, st.just(" END")).map("".join),
        st.tuples(inner, st.just("::text")).map("".join),
    ),
    max_leaves=6,
)
select = st.tuples(st.just("SELECT"), gap, expression).map(" ".join)
statement = st.one_of(
    select,
    st.tuples(st.just("CREATE RULE r AS ON INSERT TO t DO ("), select, st.just(";"), select,
              st.just(")")).map("".join),
    st.tuples(st.sampled_from(["CREATE", "CREATE OR REPLACE"]), gap, st.just("FUNCTION f()"),
              st.just(" RETURNS int BEGIN"), gap, st.just(" ATOMIC"), gap, select, st.just(";\n"),
              select, st.just("; END")).map(" ".join),
    literal.filter(lambda s: s.startswith("$") and s != "$1").map(lambda s: f"DO {s}"),
    st.sampled_from(["BEGIN", "COMMIT", "CREATE TABLE t (a int, b text DEFAULT ';')"]),
)  # fmt: skip
file = st.lists(st.tuples(statement, gap, st.just(";"), gap).map("".join), max_size=5)


@pytest.mark.long
@settings(max_examples=400, deadline=None)
@given(file)
@example(["SELECT E'x' --\r'\\';'", ";"])
@example(["SELECT a$b$ ", ";", "SELECT c$b$"])
def test_statements_are_those_of_postgresqls_own_parser(pieces: list[str]) -> None:
    text = "".join(pieces)
    try:
        expected = pglast.split(text, with_parser=True)
    except pglast.parser.ParseError:
        assume(False)
    assert [comments_off(s) for s in split(text)] == [comments_off(s) for s in expected]


def comments_off(text: str) -> list[str]:
    raw = text.encode()
    tokens = pglast.parser.scan(text)
    pieces = [raw[t.start : t.end + 1] for t in tokens if "COMMENT" not in t.name]
    return [p.decode(errors="replace") for p in pieces]


PARTS = [
    "'", "''", '"', "$", "$$", "$a$", "E'", "\\", "--", "/*", "*/", "(", ")", ";", "\n", "\r\n",
    "COPY t FROM stdin;", "\n\\.\n", "BEGIN ATOMIC", "CREATE FUNCTION f()", "CASE", "END", "a$b",
    "-- migrate:", "\\restrict", "BEGIN;", "COMMIT;", "COPY (", "TO STDOUT", "REINDEX (", "é", "\0",
    "CREATE INDEX CONCURRENTLY", "\ufeff", " ", "1", "\xa0",
]  # fmt: skip


@settings(max_examples=600, deadline=None)
@example([b"\xef\xbb\xbf", b"-- migrate:"])
@given(st.lists(st.one_of(st.sampled_from(PARTS).map(str.encode), st.binary(max_size=3))))
def test_no_text_makes_it_crash_or_lose_a_byte(parts: list[bytes]) -> None:
    text = b"".join(parts)
    whole(text)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_mutation_makes_it_crash_or_lose_a_byte(data: st.DataObject) -> None:
    text = "\n".join(f"{t};" for t in (*KINDS, *(t for t, _ in SPLIT.values()))).encode()
    a, b, c = (data.draw(st.integers(0, len(text))) for _ in "abc")
    whole(text[:a] + text[b:c] + text[a : a + 500])


@settings(max_examples=600, deadline=None)
@given(
    st.one_of(
        st.lists(st.sampled_from(PARTS), max_size=12).map("".join),
        st.lists(st.sampled_from([t for t, _ in SPLIT.values()]), max_size=4).map(";\n".join),
    ),
    st.integers(6, 40),
)
@example("SELECT 1; -- +goose Up\nSELECT 2", 10)
@example("-- migrate: lock-timeout=2s\n-- migrate: outside\nSELECT 1;\n-- migrate: outside\nx", 7)
def test_a_text_that_comes_in_windows_is_split_as_one_that_comes_whole(
    text: str, size: int
) -> None:
    whole, pieces = outcome(text), pytest.MonkeyPatch()
    with pieces.context() as patch:
        patch.setattr(lexer, "BLOCK", size)
        assert outcome(text) == whole


def outcome(text: str) -> list[object]:
    """Return all there is to know of a text, up to the first error."""
    script, found = Script(text.encode()), list[object]()
    try:
        found.append(script.directives)
        found.extend(script.statements())
    except ScriptError as error:
        found.append(str(error))
    return found


def whole(text: bytes) -> None:
    script = Script(text)
    try:
        found = list(script.statements())
    except ScriptError:
        return
    position = 3 if text[:3] == b"\xef\xbb\xbf" else 0
    for statement in found:
        assert position <= statement.start < statement.end <= len(text)
        between(text[position : statement.start])
        position = statement.end
        if statement.data:
            assert position <= statement.data[0] <= statement.data[1] <= len(text)
            between(text[position : statement.data[0]])
            position = statement.data[1]
            position += 2 if text[position : position + 2] == b"\\." else 0
    between(text[position:])
    try:
        script.check()
    except ScriptError as error:
        assert str(error)


def between(text: bytes) -> None:
    """Assert that only space, semicolons and comments are here."""
    assert not list(Script(b";" + text).statements())


ADVERSARIAL = {
    "quotes": b"'",
    "doubled quotes in an escape string": b"E''",
    "escapes": b"E'\\'\\'",
    "dollars": b"$",
    "dollar quotes": b"$a$b$c$",
    "dollar names": b"a$b$c$1",
    "open dollar tags": b"$a ",
    "comments": b"/*",
    "half comments": b"/ * - ",
    "parentheses": b"(",
    "pairs": b"()",
    "strings in parentheses": b"('a',",
    "strings of parentheses": b"('(((('",
    "calls of calls": b"f(g('a', h(b)), -1), ",
    "half a call": b"(a(b",
    "strings of quotes": b"'e''",
    "semicolons": b";",
    "statements": b"a;",
    "spaces": b" ",
    "names": b'"',
    "line comments": b"--\n",
    "directives": b"SELECT\n-- migrat\n",
    "create": b"CREATE (",
    "copies": b"COPY (a$b$ ",
    "copy statements": b"COPY (E'(' $a$($a$) FROM x;",
    "data": b"COPY t FROM stdin;\n\\.x\n",
    "long digits": b"1",
    "backslashes": b"\\\n",
    "atomic": b"CREATE FUNCTION f() BEGIN ATOMIC CASE END; END;",
}


@pytest.mark.long
@pytest.mark.parametrize("piece", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_time_grows_with_the_length_only(piece: bytes) -> None:
    started = time.process_time()
    for head in (b"", b"SELECT ", b"SELECT ( E'"):
        script = Script(head + piece * (500_000 // len(piece)))
        with contextlib.suppress(ScriptError):
            for _ in script.statements():
                pass
    assert time.process_time() - started < 60


MEASURE = """
import sys, resource
from pathlib import Path
from db.sql import checksum
from db.sql.script import Script
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
before, path = peak(), Path(sys.argv[1])
checksum.read(path, 'x')
with Script.open(path, "x") as script:
    script.check()
    read = 0
    for found in script.body():
        script.sql(found)
        read += sum(len(c) for c in script.chunks(found.data)) if found.data else 1
    script.location(found.end), script.excerpt(found.end)
print((peak() - before) // 1024, read)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("data", [True, False], ids=["COPY data", "INSERT statements"])
def test_a_large_file_does_not_come_into_memory(data: bool, tmp_path: Path) -> None:
    path, size = tmp_path / "a.sql", 300 if data else 60
    row = (
        b"1\tabcdefghijklmnopqrstuvwxyz\t\\N\n"
        if data
        else b"INSERT INTO t VALUES (1, '%b');\n" % (b"a" * 200)
    )
    block = row * ((1 << 20) // len(row))
    with path.open("wb") as file:
        file.write(b"COPY t FROM stdin;\n" if data else b"")
        for _ in range(size):
            file.write(block)
        file.write(b"\\.\nSELECT 1;\n" if data else b"")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    grown, read = map(int, done.stdout.split())
    assert grown < 40
    assert read == (len(block) * size + 1 if data else block.count(b"\n") * size)
