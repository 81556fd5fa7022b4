"""Our own SQL means the same whoever else is in the database, and calls nothing of theirs."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pglast import parse_sql
from pglast.parser import scan
from pglast.visitors import Visitor
from psycopg import sql
from psycopg.rows import TupleRow

from db import testing
from db.clones import template
from db.clones.databases import Databases
from db.rehearsal import sizes
from db.server.connection import Target
from db.server.databases import ours_named
from db.server.ours import Connection, ask
from db.settings import Settings
from tests.conftest import ROOT, Project, Result
from tests.servers import DEPLOY, Cluster

THEIRS = "/* theirs */"
FILES = {
    "001_plain.sql": f"CREATE TABLE {THEIRS} public.plain (id int PRIMARY KEY, name text);\n",
    "002_wrapped.sql": f"BEGIN;\nINSERT {THEIRS} INTO public.plain VALUES (1, 'a');\nCOMMIT;\n",
    "003_copy.sql": "COPY /* theirs */ public.plain FROM stdin;\n2\tb\n3\t\\N\n\\.\n",
    "004_block.sql": f"DO {THEIRS} $$ BEGIN INSERT INTO public.plain VALUES (4, 'd'); END $$;\n",
    "005_outside.sql": (
        "-- migrate: no-transaction\n"
        f"CREATE INDEX {THEIRS} CONCURRENTLY plain_name ON public.plain (name);\n"
        f"UPDATE {THEIRS} public.plain SET name = 'z';\n"
        f"VACUUM {THEIRS} public.plain;\n"
        "-- migrate: repeat until 0 rows, pause 0ms, max-lag 5s\n"
        f"UPDATE {THEIRS} public.plain SET name = 'y' WHERE name OPERATOR(pg_catalog.=) 'z';\n"
        "-- migrate: repeat until 0 rows, pause 0ms\n"
        f"SELECT {THEIRS} 1 WHERE false;\n"
    ),
    "006_undone.sql": f"CREATE TABLE {THEIRS} public.undone (id int);\n",
    "006_undone.down.sql": f"DROP TABLE {THEIRS} public.undone;\n",
}
SCHEMA = f"CREATE TABLE {THEIRS} public.base (id int);\n"
# All of these in one process: what a person would type one after the other.
COMMANDS = (
    ("db.plan",),
    ("db.migrate",),
    ("db.status", "--check"),
    ("db.verify",),
    ("db.rollback", "--yes"),
    ("db.status",),
    ("db.migrate-run",),
    ("db.repair", "--name", "006_undone", "--forget", "--yes"),
    ("db.repair", "--name", "006_undone", "--mark", "--yes"),
    ("db.baseline", "--yes"),
    ("db.dump", "--force", "--data", "plain"),
    ("db.models", "--live"),
    ("db.migrate-single", "--name", "006_undone"),
    ("db.rollback", "--yes"),
    ("db.fleet", "--targets-from", f"SELECT pg_catalog.current_database() {THEIRS}"),
    ("db.fleet", "--targets-from", f"SELECT pg_catalog.current_database() {THEIRS}", "--status"),
    ("db.fleet", "--schemas", "public", "--status"),
)
TENANT = {f"{n:03}_t.sql": f"CREATE TABLE {THEIRS} t_{n} (id int);\n" for n in (1, 2)}
# A ledger that is made, a file that is alone, and nothing to do.
FLEET = (
    ("db.fleet", "--schemas", "tenant_%", "--to", "001_t"),
    ("db.fleet", "--schemas", "tenant_%"),
    ("db.fleet", "--schemas", "tenant_%", "--workers", "2"),  # invoke does the same thing once
)


def filled(project: Project) -> Project:
    for name, text in FILES.items():
        project.write(name, text)
    project.write_schema(SCHEMA)
    return project


PENDING = {
    "007_waits.sql": (
        f"ALTER TABLE {THEIRS} public.plain ADD later int;\n"
        f"UPDATE {THEIRS} public.plain SET name = 'x' WHERE id OPERATOR(pg_catalog.=) 1;\n"
        f"UPDATE {THEIRS} public.plain SET later = 1;\n"
    ),
    "008_outside.sql": (
        "-- migrate: no-transaction\n"
        f"CREATE INDEX {THEIRS} CONCURRENTLY plain_later ON public.plain (later);\n"
    ),
    "008_outside.down.sql": f"DROP INDEX {THEIRS} public.plain_later;\n",
}


def rehearsed(project: Project) -> Result:
    for name, text in PENDING.items():
        project.write(name, text)
    return project.invoke("db.rehearse", timeout=120)


def every_command(project: Project, **options: Any) -> Result:
    return project.invoke(*itertools.chain(*COMMANDS), timeout=180, **options)


def every_schema(project: Project) -> Result:
    """Run the commands that are about many schemas, with files of their own."""
    with project.cluster.connect(project.database) as conn:
        # The lock of one of them is a negative number.
        conn.execute("CREATE SCHEMA tenant_a; CREATE SCHEMA tenant_g")
    folder = project.folder / "tenants"
    folder.mkdir()
    for name, text in TENANT.items():
        (folder / name).write_text(text)
    env = {"MIGRATIONS_DIR": "tenants"}
    return project.invoke(*itertools.chain(*FLEET), timeout=180, env=env)


# What is said and done


def spoken(output: str) -> str:
    """Return what was said, without what differs from run to run."""
    output = re.sub(r"test_[0-9a-f]+", "DATABASE", output)
    output = re.sub(r"\d{4}-\d\d-\d\d( at)? \d\d:\d\d(:\d\d \S+)?", "TIME", output)
    output = re.sub(r" \([0-9a-f]{6}\)", "", output)  # which run it was
    output = re.sub(r"\d+(\.\d+)? (ms|s)\b", "DURATION", output)
    output = re.sub(r"[\d,]+/s\b", "RATE", output)
    return re.sub(r" {2,}", "  ", output)


def left(project: Project) -> tuple[Any, ...]:
    """Return what the commands have left in the database, and in db/schema.sql."""
    with project.cluster.connect(project.database, client_encoding="utf8") as conn:
        conn.execute("SET search_path = public")
        rows = conn.execute("SELECT * FROM plain ORDER BY id").fetchall()
        names = conn.execute(
            "SELECT nspname, relname, relkind::text FROM pg_class "
            "JOIN pg_namespace n ON n.oid = relnamespace "
            "WHERE nspname !~ '^(pg_|information_schema)' ORDER BY 1, 2"
        ).fetchall()
        executed = conn.execute("SELECT filename FROM migrations ORDER BY id").fetchall()
    dumped = (project.folder / "db" / "schema.sql").read_text()
    return rows, names, executed, re.sub(r"(?m)^SET .*\n", "", dumped)


SETTINGS = [
    ("search_path", ""),
    ("search_path", '"$user"'),
    ("search_path", "public, pg_catalog"),
    ("search_path", "nowhere"),
    ("search_path", "pg_catalog"),
    ("DateStyle", "SQL, DMY"),
    ("DateStyle", "German"),
    ("DateStyle", "Postgres, MDY"),
    ("IntervalStyle", "sql_standard"),
    ("TimeZone", "Asia/Kathmandu"),
    ("client_encoding", "LATIN1"),
    ("client_encoding", "SQL_ASCII"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_isolation", "repeatable read"),
    ("default_transaction_deferrable", "on"),
    ("standard_conforming_strings", "off"),
    ("row_security", "off"),
    ("lc_messages", "C"),
    ("quote_all_identifiers", "on"),
    ("extra_float_digits", "-3"),
    ("bytea_output", "escape"),
    ("array_nulls", "off"),
    ("transform_null_equals", "on"),
    ("synchronous_commit", "off"),
]


@pytest.fixture(scope="session")
def expected(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What is said and left where nothing is set."""
    folder = tmp_path_factory.mktemp("plain") / "project"
    folder.mkdir()
    project = filled(Project(folder, cluster, cluster.create_database()))
    done = every_command(project)
    assert done.returncode == 0, done.output
    yield spoken(done.output), left(project)
    project.close()


# A search path is set by both; the others by one or the other, which are read at the same place.
# All but a role's search paths take long, being so many.
CASES = [
    pytest.param(
        name, value, by, marks=() if (name, by) == ("search_path", "role") else pytest.mark.long
    )
    for number, (name, value) in enumerate(SETTINGS)
    for by in ("role", "database")
    if name == "search_path" or by == ("role", "database")[number % 2]
]


@pytest.mark.parametrize(("name", "value", "by"), CASES, ids=lambda each: str(each) or "empty")
def test_no_setting_changes_what_is_done_or_said(
    project: Project, expected: Any, name: str, value: str, by: str
) -> None:
    filled(project)
    database = sql.Identifier(project.database)
    path = name == "search_path"
    with project.cluster.connect() as conn:
        change = sql.SQL("ALTER DATABASE {} SET {} = ").format(database, sql.Identifier(name))
        if by == "role":
            change = sql.SQL("ALTER ROLE postgres IN DATABASE {} SET {} = ").format(
                database, sql.Identifier(name)
            )
        conn.execute(change + (sql.SQL(value or "''") if path else sql.Literal(value)))
    done = every_command(project)
    assert done.returncode == 0, done.output
    said, found = expected
    # Where the ledger is made is on no path then, which is said.
    shown = re.sub(r"note: the ledger is .* not on the search_path\n", "", done.output)
    assert spoken(shown) == said
    assert left(project) == found


# What is called


class Unqualified(Visitor):
    """Collects what a search_path would have to find."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.own: set[str] = set()

    def visit_CommonTableExpr(self, _: Any, node: Any) -> None:
        self.own.add(node.ctename)

    def visit_RangeVar(self, _: Any, node: Any) -> None:
        if node.schemaname is None:
            self.found.append(f"table {node.relname}")

    def visit_FuncCall(self, _: Any, node: Any) -> None:
        names = [name.sval for name in node.funcname]
        if names[0] != "pg_catalog":
            self.found.append(f"function {'.'.join(names)}")

    def visit_A_Expr(self, _: Any, node: Any) -> None:
        names = [name.sval for name in node.name]
        if names[0] != "pg_catalog":
            self.found.append(f"operator {'.'.join(names)}")

    def visit_TypeName(self, _: Any, node: Any) -> None:
        names = [name.sval for name in node.names or ()]
        if names and names[0] not in ("pg_catalog", "serial"):
            self.found.append(f"type {'.'.join(names)}")

    def visit_JoinExpr(self, _: Any, node: Any) -> None:
        if node.usingClause or node.isNatural:
            self.found.append("USING")

    def visit_CaseExpr(self, _: Any, node: Any) -> None:
        if node.arg:
            self.found.append("CASE … WHEN")

    def visit_SubLink(self, _: Any, node: Any) -> None:
        names = [name.sval for name in node.operName or ()]
        if node.testexpr and names[:1] != ["pg_catalog"]:
            self.found.append(f"operator {'.'.join(names) or 'IN'}")

    def visit_SortBy(self, _: Any, node: Any) -> None:
        names = [name.sval for name in node.useOp or ()]
        if names and names[0] != "pg_catalog":
            self.found.append(f"operator {'.'.join(names)}")

    def visit_CollateClause(self, _: Any, node: Any) -> None:
        names = [name.sval for name in node.collname]
        if names[0] != "pg_catalog":
            self.found.append(f"collation {'.'.join(names)}")


def unqualified(text: str) -> list[str]:
    visitor = Unqualified()
    visitor(parse_sql(text))
    return [each for each in visitor.found if each.removeprefix("table ") not in visitor.own]


def statements_of(log: str) -> Iterator[str]:
    """Yield our statements of a server's log; those of a file and of pg_dump are left out."""
    entries = re.split(r"(?m)^@@", log)
    for entry in entries:
        found = re.match(r"(.*?)@@ LOG:  (?:statement|execute <unnamed>): (.*)", entry, re.DOTALL)
        if found and THEIRS not in found[2] and found[1] != "pg_dump":
            yield found[2].replace("\n\t", "\n")


def for_tests(project: Project) -> None:
    """Have databases made for tests, used, kept and removed; leave what others would have left."""
    cluster = project.cluster
    databases = Databases(testing.recipe(project.folder), cluster.url())
    databases.give_back(databases.take())
    databases.keep(databases.take())
    databases.close()
    with cluster.connect() as conn:
        conn.execute("CREATE DATABASE migrations_test_dead_1")
        conn.execute("CREATE DATABASE migrations_template_dead_new")
    databases = Databases(testing.recipe(project.folder), cluster.url())
    databases.close()
    with Target({"dbname": "postgres", **Settings.of(cluster.url()).parameters}, 5).once("") as own:
        assert not template.without_role(own, "nobody_has_it")
        (left,) = ours_named(own, "migrations_")
    assert re.fullmatch("migrations_template_[0-9a-f]+", left[0])


@pytest.fixture(scope="session")
def ours(binaries: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    """Every statement of ours that the commands send, as a server has logged it."""
    options = {"log_statement": "all", "log_line_prefix": "@@%a@@ ", "log_min_messages": "log"}
    cluster = Cluster(binaries, options=options)
    try:
        folder = tmp_path_factory.mktemp("logged") / "project"
        folder.mkdir()
        project = filled(Project(folder, cluster, cluster.create_database()))
        begin = cluster.log.stat().st_size
        assert project.invoke("db.create").returncode == 0
        for done in (every_command(project), project.invoke("db.drift"), rehearsed(project)):
            assert done.returncode == 0, done.output
        with cluster.connect(project.database, application_name="pg_dump") as conn:
            with conn.transaction():
                conn.execute("SELECT * FROM public.plain")
                waiting = project.popen("db.migrate-run")
                assert waiting.stdout is not None
                while "blocked by" not in waiting.stdout.readline():
                    assert waiting.poll() is None
            assert waiting.wait(60) == 0
        project.write_schema(SCHEMA)  # not the dump, whose statements are theirs
        for_tests(project)
        done = every_schema(project)  # behind which the database has several ledgers
        assert done.returncode == 0, done.output
        logged = cluster.log.read_bytes()[begin:].decode()
        project.close()
    finally:
        cluster.remove()
    yield tuple(dict.fromkeys(statements_of(logged)))


def test_our_statements_name_the_schema_of_all_that_they_use(ours: tuple[str, ...]) -> None:
    assert any("pg_blocking_pids" in text for text in ours)
    assert any("pg_try_advisory_xact_lock" in text for text in ours)
    assert any("SELECT FROM ONLY" in text for text in ours)
    assert any("pg_shdepend" in text for text in ours)
    assert any("string_agg" in text for text in ours)  # a file that is alone
    assert any('FROM "tenant_a"."migrations"' in text for text in ours)
    assert {text: wrong for text in ours if (wrong := unqualified(text))} == {}


def test_what_is_not_qualified_is_found() -> None:
    text = "SELECT f(a), a = b, a::text FROM t JOIN pg_catalog.u USING (id)"
    found = ["function f", "operator =", "type text", "table t", "USING"]
    assert sorted(unqualified(text)) == sorted(found)
    assert unqualified("SELECT 1 OPERATOR(pg_catalog.=) extract(epoch FROM x)") == []
    text = "SELECT a COLLATE c, -1::pg_catalog.int8 WHERE b IN (SELECT 1) ORDER BY d USING <"
    found = ["collation c", "operator -", "operator IN", "operator <"]
    assert sorted(unqualified(text)) == sorted(found)


# What calls an operator by its name, without saying which one.
SIGNS = re.compile(
    r"ASCII_(37|42|43|45|47|60|61|62|94)|Op|\w+_EQUALS|I?LIKE|SIMILAR|BETWEEN|IN_P|NULLIF|OVERLAPS"
    r"|DISTINCT|USING|NATURAL|COLLATE"
)
HARMLESS = re.compile(
    r"(OPERATOR \( pg_catalog \. \S+|(SET|LOCAL|DIAGNOSTICS|,) \w+ =|(\(|SELECT) \*|SELECT DISTINCT"
    r"|TABLE x( , x)? IN)$"
)


def by_name(text: str) -> list[str]:
    """Return what of a text of ours would be looked for on a search_path; it may be a piece."""
    text = re.sub(r"%(\(\w+\))?[sbt]|%d", "$1", text)
    text = re.sub(r"\{+[^{}\s,']*\}+", "x", text)
    tokens = scan(text)
    words = [text.encode()[each.start : each.end + 1].decode() for each in tokens]
    found = []
    for number, (token, word) in enumerate(zip(tokens, words, strict=True)):
        after = words[number + 1] if words[number + 1 :] else ""
        before = " ".join(words[max(0, number - 4) : number + 1])
        if SIGNS.fullmatch(token.name) and not HARMLESS.search(before):
            found.append(f"{before} {after}")
        if token.name == "TYPECAST" and after not in ("pg_catalog", "integer", "x"):
            found.append(f"{word} {after}")
        if token.name == "CASE" and after != "WHEN":
            found.append(f"{word} {after}")
    return found


def texts_of_ours() -> Iterator[tuple[str, str]]:
    """Yield each SQL text of the package, whole or in pieces, and where it is."""
    for path in sorted((ROOT / "db").rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        left_out = {id(v) for each in nodes if isinstance(each, ast.JoinedStr) for v in each.values}
        left_out |= {id(each.value) for each in nodes if isinstance(each, ast.Expr)}  # docstrings
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                values = (v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)
                text = "".join(str(value) for value in values)
            elif isinstance(node, ast.Constant) and id(node) not in left_out:
                text = node.value.decode() if isinstance(node.value, bytes) else str(node.value)
            else:
                continue
            if re.search(r"pg_catalog\.|\{(table|unfinished)\}", text):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def test_each_operator_in_a_text_of_ours_says_its_schema() -> None:
    """Also in what is seldom sent: on Citus, to a pooler, after a crash."""
    texts = list(texts_of_ours())
    assert len(texts) > 100
    assert {place: wrong for place, text in texts if (wrong := by_name(text))} == {}


@pytest.mark.parametrize(
    "text",
    [
        *("SELECT -1", "a = b", "a IN (1)", "a BETWEEN 1 AND 2", "a LIKE 'b'", "a::text"),
        *("CASE a WHEN 1 THEN 2 END", "a IS DISTINCT FROM b", "NULLIF(a, b)", "a @> b", "a <= b"),
        *("JOIN b USING (c)", "WHERE a = ANY (b)", "ORDER BY a USING >", "NOT a SIMILAR TO b"),
    ],
)
def test_an_operator_that_does_not_say_its_schema_is_found(text: str) -> None:
    assert by_name(text)


TYPES = (
    *("text", "varchar", "name", "char(1)", '"char"', "int2", "int4", "int8", "numeric", "float8"),
    *("bool", "oid", "regclass", "timestamptz", "interval", "text[]", "name[]", "int4[]", "oid[]"),
)
POLYMORPHIC = {"anyelement", "anyarray", "anynonarray", "anycompatible", "anycompatiblearray"}


def shadows(conn: psycopg.Connection[TupleRow], schema: str, statements: tuple[str, ...]) -> int:
    """Put a function or operator for each that could be preferred into a schema; return how many.

    What our SQL names, with every exact type of arguments that the server would convert from.
    """
    text = "\n".join(statements)
    words = sorted(set(re.findall(r"\b([a-z_][a-z_0-9]*)\s*\(", text)) | {"date_part", "extract"})
    signs = sorted(
        set(re.findall(r"OPERATOR\(pg_catalog\.(\S+?)\)", text)) | {"=", "<>", "~", "||", "-"}
    )
    implicit: dict[str, set[str]] = {}
    for source, target in conn.execute(
        "SELECT castsource::regtype::text, casttarget::regtype::text FROM pg_cast "
        "WHERE castcontext = 'i'"
    ):
        implicit.setdefault(target, set()).add(source)
    declared = conn.execute(
        "SELECT p.proname, ARRAY(SELECT a::regtype::text FROM unnest(p.proargtypes::oid[]) a), "
        "p.prorettype::regtype::text, p.proretset FROM pg_proc p "
        "WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY (%s)",
        [words],
    ).fetchall()
    wanted: dict[tuple[str, tuple[str, ...]], str] = {}
    for name, arguments, result, is_set in declared:
        choices = [
            TYPES if a in POLYMORPHIC or a == '"any"' else (a, *sorted(implicit.get(a, ())))
            for a in arguments
        ]
        for types in itertools.islice(itertools.product(*choices), 400):
            kind = types[0].removesuffix("[]") if result in POLYMORPHIC and types else result
            wanted[name, types] = f"SETOF {kind}" if is_set else kind
    made = 0
    with conn.pipeline():
        for (name, types), result in wanted.items():
            made += _made(conn, schema, name, types, result)
        for left_type, right_type in itertools.product(TYPES, TYPES):
            made += _made(conn, schema, "shadow_of_operator", (left_type, right_type), "bool")
        for only_type in TYPES:
            made += _made(conn, schema, "shadow_of_sign", (only_type,), only_type)
    for only_type in TYPES[:-1]:
        conn.execute(
            f"CREATE OPERATOR {schema}.- "
            f"(FUNCTION = {schema}.shadow_of_sign, RIGHTARG = {only_type})".encode()
        )
    for sign, left_type, right_type in itertools.product(signs, TYPES, TYPES):
        try:
            conn.execute(
                f"CREATE OPERATOR {schema}.{sign} (FUNCTION = {schema}.shadow_of_operator, "
                f"LEFTARG = {left_type}, RIGHTARG = {right_type})".encode()
            )
            made += 1
        except psycopg.errors.DuplicateFunction:
            pass  # char(1) and "char" are written in more than one way
    return made


def _made(
    conn: psycopg.Connection[TupleRow], schema: str, name: str, types: tuple[str, ...], result: str
) -> int:
    body = (
        f"BEGIN PERFORM pg_catalog.nextval('{schema}.fired'); "
        f"RAISE EXCEPTION 'a shadow of {name} was called'; END"
    )
    conn.execute(
        f"DO $do$ BEGIN CREATE FUNCTION {schema}.{name}({', '.join(types)}) RETURNS {result} "
        f"LANGUAGE plpgsql AS $$ {body} $$; "
        f"EXCEPTION WHEN OTHERS THEN NULL; END $do$".encode()
    )
    return 1


@pytest.mark.long
@pytest.mark.parametrize(
    "path", ["evil, pg_catalog, public", "public, evil"], ids=["before pg_catalog", "behind it"]
)
def test_no_function_or_operator_of_others_is_called(
    project: Project, ours: tuple[str, ...], path: str
) -> None:
    """Exact argument types are preferred to what the server has to convert, in any schema."""
    filled(project)
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE SCHEMA evil")
        conn.execute("CREATE SEQUENCE evil.fired")
        assert shadows(conn, "evil", ours) > 2000
        conn.execute(f"ALTER DATABASE {project.database} SET search_path = {path}".encode())
    with project.cluster.connect(project.database) as conn:  # they are there, and would fire
        with pytest.raises(psycopg.Error, match="a shadow of unnest was called"):
            conn.execute("SELECT * FROM unnest(ARRAY['a'::text])")
        with pytest.raises(psycopg.Error, match="a shadow of shadow_of_operator was called"):
            conn.execute("SELECT 'a'::varchar = 'b'::varchar")
        if path.startswith("evil"):
            with pytest.raises(psycopg.Error, match="a shadow of shadow_of_sign was called"):
                conn.execute("SELECT -1::int8")
        conn.execute("SELECT setval('evil.fired', 1, false)")
    done = every_command(project)
    assert done.returncode == 0, done.output
    drift = project.invoke("db.drift")
    assert drift.returncode == 3, drift.output
    assert "  unexpected" in drift.output
    rehearsal = rehearsed(project)
    assert rehearsal.returncode == 0, rehearsal.output
    assert "rows unknown" not in rehearsal.stdout, rehearsal.stdout
    done = every_schema(project)
    assert done.returncode == 0, done.output
    assert "2 targets with nothing to do" in done.output
    with project.cluster.connect(project.database) as conn:
        assert conn.execute("SELECT is_called FROM evil.fired").fetchone() == (False,)


def test_an_ordinary_role_gains_nothing_by_an_overload(project: Project) -> None:
    filled(project)
    assert project.invoke("db.migrate").returncode == 0
    with project.cluster.connect(project.database) as conn:
        conn.execute("DROP ROLE IF EXISTS mallory")
        conn.execute("CREATE ROLE mallory")
        try:
            conn.execute("GRANT CREATE ON SCHEMA public TO mallory")
            conn.execute("SET ROLE mallory")
            grab = (
                "IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) "
                "THEN EXECUTE 'ALTER ROLE mallory SUPERUSER'; END IF"
            )
            again = "RETURN QUERY SELECT * FROM pg_catalog.unnest(a)"
            for arguments, result, body in (
                ("unnest(a text[])", "SETOF text", again),
                ("format(f text, a name, b name)", "text", "RETURN ''"),
            ):
                conn.execute(
                    f"CREATE FUNCTION public.{arguments} RETURNS {result} LANGUAGE plpgsql "
                    f"AS $$ BEGIN {grab}; {body}; END $$".encode()
                )
            conn.execute("RESET ROLE")
            for command in (("db.status",), ("db.verify",), ("db.plan",), ("db.dump", "--force")):
                project.invoke(*command)
            query = "SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'"
            assert conn.execute(query).fetchone() == (False,)
        finally:
            conn.execute("DROP OWNED BY mallory CASCADE")
            conn.execute("DROP ROLE mallory")


THEIR_TABLES = """
CREATE TABLE by_cast (code text);
CREATE FUNCTION cast_of(by_cast) RETURNS text LANGUAGE plpgsql
    AS $$ BEGIN {} RETURN $1.code; END $$;
CREATE CAST (by_cast AS text) WITH FUNCTION cast_of(by_cast);
CREATE FUNCTION called(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql
    AS $$ BEGIN {} RETURN n; END $$;
CREATE TABLE by_index (n int, m int GENERATED ALWAYS AS (n + called(1)) STORED);
CREATE INDEX ON by_index ((n + called(2)));
CREATE TABLE by_predicate (n int PRIMARY KEY);
CREATE INDEX ON by_predicate (n) WHERE n > called(3);
CREATE TABLE by_child (n int PRIMARY KEY, m int REFERENCES by_predicate);
CREATE TABLE child (CHECK (n > called(4))) INHERITS (by_child);
CREATE TABLE by_partition (n int) PARTITION BY LIST (n);
CREATE TABLE partition PARTITION OF by_partition (CHECK (n > called(5))) DEFAULT;
CREATE TABLE by_policy (n int PRIMARY KEY, m int REFERENCES by_predicate);
"""
STATISTICS = "CREATE STATISTICS by_statistics ON (n + called(6)), m FROM by_index"
CALLED = """IF current_user <> 'mallory' THEN
    RAISE WARNING 'called as %', current_user; RAISE 'called as %', current_user; END IF;"""


@pytest.fixture
def their_tables(project: Project) -> Iterator[list[str]]:
    """Tables of another role, with its functions wherever a table may have one."""
    with project.cluster.connect(project.database) as conn:
        conn.execute("DROP ROLE IF EXISTS mallory; CREATE ROLE mallory")
        try:
            conn.execute("CREATE SCHEMA AUTHORIZATION mallory; SET ROLE mallory")
            conn.execute("SET search_path = mallory")
            conn.execute(THEIR_TABLES.replace("{}", CALLED).encode())
            if conn.info.server_version >= 140000:  # before, there are none of expressions
                conn.execute(STATISTICS)
            conn.execute("RESET ROLE")
            found = conn.execute(
                "SELECT relname FROM pg_class WHERE relname LIKE 'by\\_%' AND "
                "relnamespace = 'mallory'::regnamespace AND relkind IN ('r', 'p')"
            )
            yield [name for (name,) in found.fetchall()]
        finally:
            conn.execute("RESET ROLE; DROP OWNED BY mallory CASCADE; DROP ROLE mallory")


def test_rows_of_another_role_are_dumped_without_a_call_of_its_functions(
    project: Project, their_tables: list[str]
) -> None:
    assert len(their_tables) == 6
    wanted = itertools.chain(*(("--data", f"mallory.{name}") for name in their_tables))
    done = project.invoke("db.dump", "--force", *wanted)
    assert done.returncode == 0, done.output


def test_rows_that_a_policy_guards_are_refused_before_it_is_asked(
    project: Project, their_tables: list[str]
) -> None:
    assert their_tables
    with project.cluster.connect(project.database) as conn:
        conn.execute("ALTER TABLE mallory.by_policy ENABLE ROW LEVEL SECURITY")
        conn.execute("CREATE POLICY p ON mallory.by_policy USING (n > mallory.called(n))")
        conn.execute("SET ROLE mallory")
        conn.execute("INSERT INTO mallory.by_predicate VALUES (1)")
        conn.execute("INSERT INTO mallory.by_policy VALUES (1, 1); RESET ROLE")
        conn.execute(f"GRANT USAGE ON SCHEMA mallory TO {DEPLOY}")
        conn.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA mallory TO {DEPLOY}")
        project.url = project.cluster.url(project.database, role=DEPLOY)
        done = project.invoke("db.dump", "--force", "--data", "by_policy")
        assert done.returncode == 2, done.output
        assert "row-level security" in done.stderr
        assert "called as" not in done.stderr


def test_how_many_rows_there_are_is_asked_without_a_call_of_others_functions(
    project: Project, their_tables: list[str]
) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("SET ROLE mallory; SET search_path = mallory")
        conn.execute("INSERT INTO by_index SELECT n FROM generate_series(1, 99) AS n")
        conn.execute("INSERT INTO by_policy SELECT n FROM generate_series(1, 99) AS n")
        conn.execute("ANALYZE by_index; RESET ROLE")
    said: list[str | None] = []
    with Connection.connect(project.url, autocommit=True) as target:
        target.add_notice_handler(lambda notice: said.append(notice.message_primary))
        found = sizes.sizes(target, [("mallory", name) for name in their_tables])
    assert said == []
    rows = {name: size.rows for (_, name), size in found.items()}
    assert rows["by_index"] == 99  # as it was counted
    assert rows["by_policy"]  # as the planner guesses


def test_a_question_of_ours_finds_only_what_the_server_has(url: str) -> None:
    with Connection.connect(url, autocommit=True) as conn:
        conn.execute("CREATE TABLE public.theirs (); CREATE TEMPORARY TABLE pg_class ()")
        conn.execute("SET search_path = public")
        assert ask(
            conn,
            "SELECT pg_catalog.to_regclass('theirs'),"
            " pg_catalog.to_regclass('pg_class')::pg_catalog.oid::pg_catalog.int8",
        ) == [(None, 1259)]
        assert conn.execute("SELECT current_setting('search_path')").fetchone() == ("public",)
