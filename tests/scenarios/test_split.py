"""Executed whole, statement by statement or by psql: a script leaves the same behind."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pglast
import psycopg
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from psycopg import pq
from psycopg.rows import TupleRow

from db.sql.script import Script
from tests.servers import Cluster
from tests.test_script import comments_off, split, text_in

Conn = psycopg.Connection[TupleRow]

gap = st.sampled_from(
    [" ", "\n", "\r\n", "\t ", " -- ;'\n", ' --"$$;\r\n', " --\r", "/*;'é*/", "/*/* $$ */;\n*/"]
)
plain = text_in.map(lambda s: "'" + s.replace("'", "''") + "'")
escapes = st.sampled_from([r"\'", r"\\", r"\n", r"\u00e9", "''", ";", "--", "/*", '"', "$$", "日"])
codes = st.sampled_from([r"\0061", r"\+01F600", r"\\", "''", ";", "--", "*/", '"', "$", "\r\n"])
string = st.one_of(
    plain,
    st.lists(escapes, max_size=6).map(lambda s: f" E'{''.join(s)}'"),
    st.lists(codes, max_size=6).map(lambda s: f" U&'{''.join(s)}'"),
    st.tuples(plain, st.sampled_from(["\n", " -- ';\n ", "\r\n\t"]), plain).map("".join),
    text_in.filter(lambda s: "$" not in s).map(lambda s: f"$${s}$$"),
    text_in.filter(lambda s: "$é_1$" not in s + "$").map(lambda s: f" $é_1${s}$é_1$"),
)

# In these ~ is a gap, & a string, @ an expression and № a number of its own.
EXPRESSIONS = [
    "(@~||~@)",
    "concat(@,~@,~-1)",
    "CASE~WHEN~@ = ';'~THEN~@ ELSE~@ END",
    "(CASE '('~WHEN & THEN 1 END~IS NULL)::text",
    "(7~-~3~*~2~/~+1--;\n-\n1)::text",
    """('{"a": "b;"}'::json~->>~'a')""",
    """('{"a": [";"]}'::json->~'a'->>--'\n0)""",
    '(SELECT~"a;"" $$ (".a$b$ FROM~(SELECT~@ AS~a$b$) AS "a;"" $$ (")',
    r'(SELECT U&"d\0061;"~FROM (VALUES~(@),~(@)) AS _$(U&"d!0061;" UESCAPE~' + "'!') LIMIT 1)",
    "((ARRAY[@,~@])[1~:~2])::text",
]
CONTINUED, NAMES = r"'\';--continued", "begin, 1 AS end, 2 AS case"
FIELDS = "t . end, (t) . case, 1 AS /*;*/ end, 2 AS --;\n case, 3 end, 4 case"
# psql takes the first for a string without escapes, and these names for BEGIN … END.
PSQL = {CONTINUED: "''';--continued", NAMES: re.sub(r"(\w+)(,|$)", r'"\1"\2', NAMES),
        FIELDS: re.sub(r"(end|case)(,|$)", r'"\1"\2', FIELDS)}  # fmt: skip
LOG = "INSERT~INTO~log (value)~"
GROUPS = [
    [LOG + "VALUES~(@)", LOG + "SELECT~@ UNION ALL SELECT~(@)"],
    [LOG + f"VALUES~(E'é' -- ;'\n\r\n {CONTINUED}')"],
    ["WITH~begin AS (SELECT~@ AS x)~" + LOG + "SELECT x FROM begin"],
    [
        'CREATE~TABLE~t№ ("a;""$" text DEFAULT~&, a$b$ int~CHECK (a$b$~>~- 5))',
        "COMMENT ON~TABLE t№ IS~&",
        'COMMENT ON COLUMN t№."a;""$" IS~&',
        "CREATE RULE r№ AS ON INSERT TO t№ DO ALSO (" + LOG + "VALUES (@);~" + LOG + "VALUES (@))",
        "INSERT INTO t№ (a$b$) VALUES~(1),~(-2)",
        'UPDATE~t№ SET "a;""$" = @ WHERE a$b$ = 1',
        LOG + """SELECT string_agg("a;""$", ';') FROM t№""",
    ],
    ['CREATE~OR~REPLACE~VIEW v№ AS~SELECT~@ AS "a;", @ AS end$1$'],
    ["PREPARE p$№ (text) AS~" + LOG + "VALUES ($1||@)", "EXECUTE~p$№ (&)", "DEALLOCATE p$№"],
    [
        "CREATE~FUNCTION~f№(text)~RETURNS text LANGUAGE sql AS $f№$ SELECT $1 || @; $f№$",
        "COMMENT ON FUNCTION f№(text) IS &",
        LOG + "VALUES (f№(@))",
    ],
    [
        "CREATE OR REPLACE~FUNCTION~g№() RETURNS text~BEGIN~ATOMIC~" + LOG + "VALUES (@);~"
        "SELECT~CASE~WHEN true THEN~@ ELSE CASE WHEN~@ = '' THEN~@ END~END AS case_end;~END",
        LOG + "VALUES (g№())",
    ],
    [
        f"CREATE PROCEDURE~c№() BEGIN~ATOMIC;;{LOG}VALUES (@);"
        f"~SELECT end$1$, {NAMES} FROM (SELECT 3, @) AS t (end$1$, begin); END",
        "CALL~c№()",
    ],
    [
        f"CREATE FUNCTION~d№() RETURNS text~BEGIN ATOMIC~SELECT {FIELDS} FROM (SELECT @, @)~"
        f'AS t ("end", "case");~{LOG}VALUES~(@) RETURNING~value;~END',
        LOG + "VALUES (d№())",
    ],
    ["DO~$do№$ BEGIN " + LOG + "VALUES (@); END; $do№$"],
    ["DO 'BEGIN INSERT INTO log (value) VALUES (''a;''); END' LANGUAGE~plpgsql"],
]


@st.composite
def filled(draw: st.DrawFn, templates: list[str], inner: st.SearchStrategy[str]) -> str:
    holes = {"~": gap, "&": string, "@": inner}
    hole = re.compile("[~@]|&(?!['\"])")
    return hole.sub(lambda found: draw(holes[found[0]]), draw(st.sampled_from(templates)))


expression = st.recursive(string, lambda inner: filled(EXPRESSIONS, inner), max_leaves=4)


@st.composite
def scripts(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(["", "\ufeff", ";", "\r\n-- é;\r\n"]))
    for number, group in enumerate(draw(st.lists(st.sampled_from(GROUPS), max_size=6))):
        for template in group:
            text += draw(filled([template], expression)).replace("№", str(number))
            text += draw(filled(["~;~", "~;;~", ";~;"], expression))
    return text + draw(st.sampled_from(["", "COMMENT ON TABLE log IS ';'", "-- ;'"]))


def tag(result: pq.abc.PGresult) -> str:
    assert result.status == pq.ExecStatus.COMMAND_OK, result.error_message.decode()
    return (result.command_status or b"").decode()


def run_whole(conn: Conn, text: bytes) -> list[str]:
    conn.pgconn.send_query(text.removeprefix(b"\xef\xbb\xbf"))
    results = list(iter(conn.pgconn.get_result, None))
    return [tag(r) for r in results if r.status != pq.ExecStatus.EMPTY_QUERY]


def run_split(conn: Conn, text: bytes) -> list[str]:
    """Use the extended protocol, in which a statement is refused if it is two or none."""
    script = Script(text)
    return [tag(conn.pgconn.exec_params(script.sql(s), [])) for s in script.statements()]


def run_psql(program: Path, url: str, text: bytes) -> list[str]:
    env = {**os.environ, "PGOPTIONS": "-c search_path=s", "PGCLIENTENCODING": "UTF8"}
    done = subprocess.run(
        [program, "-X", "-v", "ON_ERROR_STOP=1", "-f", "-", url], input=text, env=env,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines()


# 16384 is the first oid that is not of the system.
LEFT = """
SELECT id::text, value FROM log
UNION ALL SELECT 'column', attname FROM pg_attribute WHERE attrelid >= 16384 AND attnum > 0
UNION ALL SELECT 'constraint', pg_get_constraintdef(oid) FROM pg_constraint WHERE oid >= 16384
UNION ALL SELECT 'default', pg_get_expr(adbin, adrelid) FROM pg_attrdef
UNION ALL SELECT 'comment', concat(objsubid, description) FROM pg_description WHERE objoid >= 16384
UNION ALL SELECT 'routine', pg_get_functiondef(oid) FROM pg_proc WHERE oid >= 16384
UNION ALL SELECT 'view or rule', pg_get_ruledef(oid) FROM pg_rewrite WHERE oid >= 16384
ORDER BY 1, 2"""
EMPTY = """
DEALLOCATE ALL; SET search_path = s; SET client_min_messages = warning;
DROP SCHEMA IF EXISTS s CASCADE; CREATE SCHEMA s; CREATE TABLE log (id serial, value text)"""


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(script=scripts())
def test_a_script_leaves_the_same_behind_whole_split_and_run_by_psql(
    script: str, cluster: Cluster, conn: Conn
) -> None:
    assume("ATOMIC" not in script or conn.info.server_version >= 140000)
    url, text = cluster.url(conn.info.dbname), script.encode()

    def left(execute: Callable[[], list[str]]) -> tuple[list[str], list[TupleRow]]:
        conn.execute(EMPTY)
        return execute(), conn.execute(LEFT).fetchall()

    whole = left(lambda: run_whole(conn, text))
    assert left(lambda: run_split(conn, text)) == whole
    for misread, same in PSQL.items():
        text = text.replace(misread.encode(), same.encode())
    assert left(lambda: run_psql(cluster.binaries / "psql", url, text)) == whole


@pytest.mark.parametrize("behind", ["", " /* ;' */", "/**/ /* \\. */\t-- /*", " -- x */"])
def test_what_may_stand_behind_a_copy_is_what_psql_takes(
    behind: str, cluster: Cluster, conn: Conn
) -> None:
    text = f"COPY log (value) FROM stdin;{behind}\n1\n\\.\nINSERT INTO log (value) VALUES (2);\n"
    conn.execute(EMPTY)
    run_psql(cluster.binaries / "psql", cluster.url(conn.info.dbname), text.encode())
    assert conn.execute("SELECT value FROM log ORDER BY id").fetchall() == [("1",), ("2",)]
    script = Script(text.encode())
    copy, insert = script.statements()
    assert copy.data is not None
    assert b"".join(script.chunks(copy.data)) == b"1\n"
    assert script.sql(insert) == b"INSERT INTO log (value) VALUES (2)"


def parsable(text: str) -> str:
    """Take away what psql and CREATE EXTENSION take away: it is no SQL."""
    text = re.sub(r"(?m)^\\echo .*$", "", text)
    return re.sub(r"@(\w+)(:\w+)?@", r"\1", text)


def outside(text: bytes) -> set[str]:
    """Return what stands outside of the statements, without space and comments."""
    position, found = 0, b""
    for statement in Script(text).statements():
        assert position <= statement.start < statement.end
        found += text[position : statement.start]
        position = statement.end
    return set(comments_off((found + text[position:]).decode()))


def test_the_files_that_postgresql_ships_are_split_as_its_parser_splits_them(conn: Conn) -> None:
    found = conn.execute("SELECT setting FROM pg_config WHERE name = 'SHAREDIR'").fetchone()
    files = sorted(Path(found[0]).rglob("*.sql")) if found else []
    assert len(files) > 30
    assert "information_schema.sql" in {path.name for path in files}
    for path in files:
        text = path.read_bytes()
        grammar = path.name != "hstore--1.0--1.1.sql"  # 13's drops an operator =>, no name today
        parts = pglast.split(parsable(text.decode()), with_parser=grammar)
        expected = [comments_off(part) for part in parts]
        ours = [comments_off(parsable(s)) for s in split(text) if not s.startswith("\\echo ")]
        assert ours == expected, path.name
        assert outside(text) <= {";"}, path.name
