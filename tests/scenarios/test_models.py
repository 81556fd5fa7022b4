"""db.models: what is written is true of the rows, is Python and nothing else, and is checked."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import types
import typing
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.rows import TupleRow, class_row
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range
from pydantic import BaseModel

from db import typed_models
from db.styles import STYLES
from db.typed import names, scope, text
from db.typed.module import _width
from tests.conftest import ROOT, Project
from tests.servers import shipped

Conn = psycopg.Connection[TupleRow]


def module(source: str) -> Any:
    """Return what the text is as a module, with nothing of this project in reach."""
    made = types.ModuleType("made")
    sys.modules["made"] = made
    exec(compile(source, "made.py", "exec", dont_inherit=True), made.__dict__)
    return made


def each_style(url: str, **more: Any) -> dict[str, Any]:
    return {style: module(typed_models(url, style=style, **more)) for style in STYLES}


def holds(what: Any, value: object) -> bool:
    """Return whether an annotation is true of a value: of its very type, not of a base."""
    if what is Any:
        return True
    inside, arguments = typing.get_origin(what), typing.get_args(what)
    if inside in (typing.Union, types.UnionType):
        return any(holds(each, value) for each in arguments)
    if inside is typing.Literal:
        return value in arguments
    if inside is Range:
        bounds = (value.lower, value.upper) if type(value) is Range else ("",)
        return all(bound is None or holds(arguments[0], bound) for bound in bounds)
    if inside is Multirange:
        parts = list(value) if isinstance(value, Multirange) else [""]
        return all(holds(types.GenericAlias(Range, arguments), each) for each in parts)
    return type(value) is (inside or (types.NoneType if what is None else what))


def false_of(row: object) -> list[str]:
    """Return the attributes of a row of a dataclass that are not as they are annotated."""
    hints = typing.get_type_hints(type(row))
    return [
        f"{name}: {hint} = {value!r}"
        for name, hint in hints.items()
        if not holds(hint, value := getattr(row, name))
    ]


def read(conn: Conn, made: Mapping[str, Any], table: str, name: str) -> list[Any]:
    """Return the rows as dataclasses, once the other styles have taken the same values."""
    query = sql.SQL("SELECT * FROM {}").format(sql.Identifier(*table.split(".")))
    rows: dict[str, list[Any]] = {}
    for style, each in made.items():
        by = getattr(each, f"{name.lower()}_row", None) or class_row(getattr(each, name))
        rows[style] = conn.cursor(row_factory=by).execute(query).fetchall()
    for plain, model, mapping in zip(*rows.values(), strict=True):
        assert repr(list(mapping.values())) == repr([getattr(plain, a) for a in plain.__slots__])
        assert repr(list(model.__dict__.values())) == repr(list(mapping.values()))
    return rows["dataclass"]


# Every type that a server has

SMALL, WORDS = st.integers(-(2**15), 2**15 - 1), st.text("aä'\"\\ {},()\n1", max_size=8)
DAYS = st.dates(min_value=date(1, 1, 2))
TIMES = st.times()
MOMENTS = st.datetimes(
    min_value=datetime(1800, 1, 1),
    max_value=datetime(2200, 1, 1),
)
FLOATS = st.floats(width=32).map(str) | st.sampled_from(["NaN", "Infinity", "-0"])
NUMBERS = st.decimals(allow_infinity=False, max_value=10**30, min_value=-(10**30)).map(
    lambda number: str(number.copy_abs() if number.is_nan() else number).replace("sNaN", "NaN")
)
ADDRESSES = st.ip_addresses().map(str)
BITS = st.sampled_from(["0", "1"])
POINT = st.tuples(SMALL, SMALL).map(str)
JSON = st.sampled_from(["null", "1", '"a"', "[1, null]", '{"a": {"b": 1.5}}', "true"])


def ranges(low: str, high: str) -> st.SearchStrategy[str]:
    shapes = ("empty", "(,)", f"[{low},{high})", f"[{low},)", f"(,{high}]", f"[{low},{low}]")
    return st.sampled_from(shapes)


DATES, STAMPS = ("2020-01-01", "2021-01-01"), ('"2020-01-01 10:00"', '"2021-01-01 10:00:00.5"')
_OF_RANGES = {
    "int4": ("1", "5"),
    "int8": ("1", "5000000000"),
    "num": ("0.5", "7"),
    "date": DATES,
    "ts": STAMPS,
    "tstz": STAMPS,
}
VALUES: dict[str, st.SearchStrategy[str]] = {
    "bool": st.sampled_from(["t", "f"]),
    "bytea": st.binary(max_size=5).map(lambda data: f"\\x{data.hex()}"),
    "char": st.sampled_from(["a", "", "\\303"]),
    **dict.fromkeys(("name", "text", "varchar"), WORDS),
    "bpchar": BITS,
    "int2": SMALL.map(str),
    "int4": SMALL.map(str),
    "int8": st.integers(-(2**63), 2**63 - 1).map(str),
    **dict.fromkeys(("oid", "xid", "cid", "xid8"), st.integers(0, 2**32 - 1).map(str)),
    "float4": FLOATS,
    "float8": FLOATS,
    "numeric": NUMBERS,
    "money": SMALL.map(str),
    "date": DAYS.map(str),
    "time": TIMES.map(str),
    "timetz": st.tuples(TIMES, st.sampled_from(["+00", "-11:30", "+05:45"])).map(
        lambda pair: f"{pair[0]}{pair[1]}"
    ),
    "timestamp": MOMENTS.map(str),
    "timestamptz": MOMENTS.map(lambda at: f"{at}+00"),
    "interval": st.sampled_from(["0", "1 year 2 mons -3 days", "-04:05:06.789", "P1Y2M10DT2H30M"]),
    "uuid": st.uuids().map(str),
    "json": JSON,
    "jsonb": JSON,
    "jsonpath": st.just("$.a[*]"),
    "xml": st.just("<a/>"),
    "inet": ADDRESSES | ADDRESSES.map(lambda at: f"{at}/7"),
    "cidr": ADDRESSES,
    "macaddr": st.just("08:00:2b:01:02:03"),
    "macaddr8": st.just("08:00:2b:01:02:03:04:05"),
    "bit": BITS,
    "varbit": st.text("01", max_size=5),
    "point": POINT,
    "line": st.just("{1,2,3}"),
    **dict.fromkeys(("lseg", "box", "path"), st.tuples(POINT, POINT).map(",".join)),
    "polygon": st.just("((0,0),(1,1),(2,0))"),
    "circle": st.just("<(1,2),3>"),
    "tsvector": st.just("a:1 b:2"),
    "tsquery": st.just("a & b"),
    "tid": st.just("(0,1)"),
    "pg_lsn": st.just("16/B374D848"),
    **dict.fromkeys(("pg_snapshot", "txid_snapshot"), st.just("10:20:10,14,15")),
    "refcursor": WORDS,
    "aclitem": st.just("=r/postgres"),
    "int2vector": st.sampled_from(["", "1 2"]),
    "oidvector": st.sampled_from(["", "1 2"]),
    "regclass": st.sampled_from(["pg_class", "pg_catalog.pg_type"]),
    "regtype": st.sampled_from(["int4", "0"]),
    "regproc": st.sampled_from(["now", "0"]),
    "regprocedure": st.just("now()"),
    "regoper": st.just("0"),
    "regoperator": st.just("+(int4,int4)"),
    "regconfig": st.just("simple"),
    "regdictionary": st.just("simple"),
    "regnamespace": st.just("pg_catalog"),
    "regrole": st.just("postgres"),
    "regcollation": st.just('"C"'),
    "regdatabase": st.just("template1"),
    **{f"{name}range": ranges(*ends) for name, ends in _OF_RANGES.items()},
    **{
        f"{name}multirange": ranges(*ends).map(lambda r: "{}" if r == "empty" else f"{{{r}}}")
        for name, ends in _OF_RANGES.items()
    },
}
# The server's own notes on its planner and its indexes: nobody can write one.
NOT_WRITTEN = {
    *("gtsvector", "pg_node_tree", "pg_ndistinct", "pg_dependencies", "pg_mcv_list"),
    *("pg_brin_bloom_summary", "pg_brin_minmax_multi_summary"),
}
_TYPES = """
SELECT t.typname::text, format_type(t.oid, NULL) AS shown, t.typarray <> 0 AS in_arrays
FROM pg_type t WHERE t.typnamespace = 'pg_catalog'::regnamespace
  AND t.typtype IN ('b', 'r', 'm', 'e')
  AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid) ORDER BY 1"""


class BuiltIn(NamedTuple):
    """A type: what SQL calls it, and whether it has arrays."""

    typname: str
    shown: str
    in_arrays: bool


def test_every_type_of_the_server_comes_as_it_is_annotated(conn: Conn, url: str) -> None:
    found = conn.cursor(row_factory=class_row(BuiltIn)).execute(_TYPES).fetchall()
    assert {each.typname for each in found} <= VALUES.keys() | NOT_WRITTEN
    columns = [f'"c_{each.typname}" {each.shown}' for each in found]
    columns += [f'"a_{each.typname}" {each.shown}[]' for each in found if each.in_arrays]
    conn.execute(f"CREATE TABLE every ({', '.join(columns)})")
    given_types = [each for each in found if each.typname not in NOT_WRITTEN]
    try:
        conn.execute("SELECT '<a/>'::xml")
    except psycopg.errors.FeatureNotSupported:  # it was built without
        given_types = [each for each in given_types if each.typname != "xml"]
    made = each_style(url)
    seen: set[str] = set()

    @settings(
        max_examples=8,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a row of all types is too large to be made smaller
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def hold(data: st.DataObject) -> None:
        names, parts, values = [], [], []
        for each in given_types:
            value = data.draw(VALUES[each.typname], label=each.typname)
            names.append(f'"c_{each.typname}"')
            parts.append("%s")
            values.append(value)
            if each.in_arrays:
                shape = data.draw(st.sampled_from(["[%s, NULL]", "[[%s], [NULL]]", "[]"]))
                names.append(f'"a_{each.typname}"')
                parts.append(f"(ARRAY{shape}::text[])::{each.shown}[]")
                values += [value] if "%s" in shape else []
        conn.execute("TRUNCATE every")
        query = f"INSERT INTO every ({', '.join(names)}) VALUES ({', '.join(parts)})"
        conn.execute(query, values)
        (row,) = read(conn, made, "every", "Every")
        assert false_of(row) == []
        seen.update(name for name in row.__slots__ if getattr(row, name) is not None)

    hold()
    assert {f"c_{each.typname}" for each in given_types} - seen <= {"c_json", "c_jsonb"}
    hints = typing.get_type_hints(made["dataclass"].Every)
    assert hints["c_numeric"] == Decimal | None
    if conn.info.server_version >= 140000:
        assert hints["c_int4multirange"] == Multirange[int] | None
    assert hints["a_int4"] == list[Any] | None


# What is no plain table

NASTY = '"""\\\'\'\'\nimport os; os.abort()\u2028#\r""" # type: ignore\\'
AWKWARD = """
CREATE SCHEMA billing;
CREATE TYPE mood AS ENUM ('glad', 'not so glad', '', 'a''b"c', {label});
CREATE TYPE nothing AS ENUM ();
CREATE TYPE pair AS (a int, b text);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE DOMAIN z_email AS text CHECK (VALUE LIKE '%%@%%');
CREATE DOMAIN a_email AS z_email NOT NULL;
CREATE DOMAIN a_mood AS mood DEFAULT 'glad';
CREATE TABLE people (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "class" int NOT NULL, "class_" int, "a b" text, "1st" text, "self" text, "__private" text,
    "_hidden" text, "ﬁ" text, {column} text, date date, "int" int NOT NULL, "str" text NOT NULL,
    schema text, model_dump text, "Any" jsonb, "Person" text,
    mood mood NOT NULL, moods mood[], nothing nothing, pair pair, pairs pair[], span span,
    email a_email, emails z_email[], felt a_mood NOT NULL, tags text[] NOT NULL,
    doubled int GENERATED ALWAYS AS ("int" * 2) STORED, seen inet, made timestamptz NOT NULL
);
CREATE TABLE billing.people (at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE billing.people_2020 PARTITION OF billing.people DEFAULT;
CREATE TABLE billing_people (id serial);
CREATE TABLE {table} ({column} mood NOT NULL DEFAULT 'glad');
CREATE TABLE decimals (price numeric NOT NULL);
CREATE TABLE empty ();
CREATE VIEW adults AS SELECT id, mood FROM people;
CREATE MATERIALIZED VIEW counts AS SELECT count(*) AS n FROM people;
COMMENT ON TABLE people IS {comment};
COMMENT ON TABLE empty IS {comment};
COMMENT ON COLUMN people.id IS {comment};
COMMENT ON COLUMN people.mood IS 'type: text, or int';
COMMENT ON COLUMN people.moods IS 'noqa # noqa # type: ignore # fmt: off';
COMMENT ON TYPE mood IS {comment};
"""
ROW = """
INSERT INTO people ("class", "class_", "int", "str", date, "Any", mood, moods, pair, pairs, span,
                    email, emails, felt, tags, seen, made)
VALUES (1, 2, 3, 's', '2020-02-02', '{"a": null}', '', '{glad}', (1, 'x'), ARRAY[(2, 'y')::pair],
        '[1,2)', 'a@b', '{c@d}', 'glad', '{{a,NULL},{b,c}}', '::1/64', now());
INSERT INTO billing_people DEFAULT VALUES; INSERT INTO billing.people VALUES ('2020-01-01');
INSERT INTO decimals VALUES ('NaN'); REFRESH MATERIALIZED VIEW counts;
"""


def awkward(conn: Conn) -> None:
    """Make what few people would."""
    names = {"table": sql.Identifier(NASTY[:60]), "column": sql.Identifier(NASTY[:50])}
    texts = {"label": sql.Literal(NASTY[:50]), "comment": sql.Literal(f"Some words.\n\n{NASTY}")}
    made = sql.SQL(AWKWARD.replace("%%", "%")).format(**names, **texts)
    conn.execute(made)
    conn.execute(ROW.encode())


def test_what_is_no_plain_table_is_true_and_does_nothing(conn: Conn, url: str) -> None:
    awkward(conn)
    made = each_style(url)
    first = typed_models(url)
    assert first == typed_models(url), "not the same bytes"
    plain = made["dataclass"]
    for table, name in (
        ("people", "Person"),
        ("billing.people", "BillingPerson2"),
        ("billing_people", "BillingPerson"),
        ("adults", "Adult"),
        ("counts", "Count"),
        ("decimals", "Decimal"),
    ):
        kept = {"people": "Person2"}.get(table, name)  # a column is named Person
        (row,) = read(conn, made, table, kept)
        assert false_of(row) == [], table
    (row,) = read(conn, made, "people", "Person2")
    assert (row.class_, row.class__, row.a_b, row.self_) == (2, 1, None, None)
    assert row.tags == [["a", None], ["b", "c"]]
    assert (row.moods, row.pair, row.pairs, row.span) == ("{glad}", "(1,x)", '{"(2,y)"}', "[1,2)")
    hints = typing.get_type_hints(plain.Person2)
    assert hints["mood"] == plain.Mood
    assert typing.get_args(plain.Mood)[-1] == NASTY[:50]
    assert hints["email"] == str | None, "NULL comes through a domain that is NOT NULL"
    assert typing.get_type_hints(plain.Adult) == {"id": int | None, "mood": plain.Mood | None}
    new = plain.NewPerson2
    required = {n for n, hint in new.__annotations__.items() if "NotRequired" not in str(hint)}
    assert required == {"class", "int", "str", "mood", "tags", "made"}
    assert "doubled" not in new.__annotations__
    assert plain.Empty() == plain.Empty()
    assert not any("2020" in name or name.startswith("NewAdult") for name in vars(plain))
    for style in STYLES:
        source = typed_models(url, style=style)
        allowed = (ast.ImportFrom, ast.Import, ast.If, ast.ClassDef, ast.AnnAssign, ast.Assign)
        body = ast.parse(source, type_comments=True).body
        assert all(isinstance(node, (*allowed, ast.FunctionDef)) for node in body[1:])
        nodes = list(ast.walk(ast.parse(source)))
        assert not any(isinstance(node, ast.Name) and node.id == "os" for node in nodes)
        assert [n.names[0].name for n in nodes if isinstance(n, ast.Import)] == ["sys"]


def test_enums_as_classes_come_as_such_once_they_are_registered(conn: Conn, url: str) -> None:
    awkward(conn)
    made = each_style(url, enums="class")
    made["dataclass"].register(conn)
    (row,) = conn.execute("SELECT mood, moods, felt FROM people").fetchall()
    mood = made["dataclass"].Mood
    assert (row[0], row[1], row[2]) == (mood.EMPTY, [mood.GLAD], mood.GLAD)
    by = made["dataclass"].person2_row
    (person,) = conn.cursor(row_factory=by).execute("SELECT * FROM people").fetchall()
    assert false_of(person) == []
    conn.execute("DROP TYPE mood CASCADE")
    with pytest.raises(LookupError, match="mood"):
        made["dataclass"].register(conn)


def test_a_not_null_that_old_rows_do_not_keep_is_not_promised(conn: Conn, url: str) -> None:
    conn.execute("CREATE TABLE t (a int)")
    conn.execute("INSERT INTO t VALUES (NULL)")
    if conn.info.server_version >= 180000:
        conn.execute("ALTER TABLE t ADD CONSTRAINT n NOT NULL a NOT VALID")
    made = module(typed_models(url))
    assert typing.get_type_hints(made.T) == {"a": int | None}
    inserted = "int" if conn.info.server_version >= 180000 else "NotRequired[int | None]"
    assert f"class NewT(TypedDict):\n    a: {inserted}\n" in typed_models(url)


# As text

ANY = st.text(max_size=120) | st.text("'\"\\ \n#ab:", max_size=250)


@settings(max_examples=3, deadline=None, database=None, phases=[Phase.generate])
@given(st.lists(ANY, min_size=30, max_size=60))
def test_any_text_is_text_and_formatted(texts: list[str]) -> None:
    lines = ['"""Head."""', ""]
    for number, each in enumerate(texts):
        assert ast.literal_eval(text.literal(each)) == each
        line = f"v{number} = {text.literal(each)}"
        lines += [line] if _width(line) <= text.WIDTH else []
        lines += [*text.comment(each), f"w{number} = 1"]
    for number, each in enumerate(texts):
        documented = list(text.docstring(each, "    "))
        lines += ["", "", f"class C{number}:"]
        lines += [*documented, ""] if documented else []
        lines += [*text.comment(each, "    "), "    x: int"]
    source = "\n".join(lines) + "\n"
    body = ast.parse(source, type_comments=True).body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    for node, each in zip(classes, texts, strict=True):
        assert isinstance(node.body[-1], ast.AnnAssign)
        assert len(node.body) <= 2
        words = "".join((ast.get_docstring(node) or "").split())
        seen = "".join(c for c in each if text._is_seen(c) and not c.isspace())
        assert words.replace("\N{REPLACEMENT CHARACTER}", "").startswith(seen[:1])
    assert formatted(source) == source


def test_a_text_is_the_same_bytes_on_every_python() -> None:
    """Whatever edition of Unicode it has: a face of 2022, a format of 2022, a tag, no character."""
    assert text.literal("\U0001fae8") == '"\U0001fae8"'
    assert text.literal("\U0001343a\U000e0061\uffff\u202e") == (
        r'"\U0001343a\U000e0061\uffff\u202e"'
    )
    assert list(text.comment("a\U0001fae8b\U0001343ac")) == [
        "#: a\U0001fae8b\N{REPLACEMENT CHARACTER}c"
    ]


def formatted(source: str) -> str:
    command = [ruff(), "format", "--isolated", "--line-length=100", "-"]
    done = subprocess.run(command, input=source, check=True, capture_output=True, encoding="utf-8")
    return done.stdout


def ruff() -> str:
    return str(Path(sys.executable).parent / "ruff")


def test_words_become_singular_and_names_python() -> None:
    for words in (
        "campaigns Campaign, people Person, order_statuses OrderStatus, addresses Address",
        "boxes Box, cities City, series Series, analyses Analysis, houses House, news News",
        "OrderLines OrderLine, status Status, batches Batch, heroes Hero, 1_a_b Table1AB",
        "größen Größen, 日本 日本, none None_, --- Table1, gas Gas, bus Bus, days Day",
    ):
        for pair in words.split(", "):
            plural, one = pair.split()
            assert names.of_class(plural, plural=True) == one


def test_pydantics_own_names_are_known() -> None:
    own = {name for name in dir(BaseModel) if not name.startswith("_")}
    assert own <= scope._OF_PYDANTIC


# The command


@pytest.mark.long
def test_the_file_is_written_from_the_files_and_checked(project: Project) -> None:
    project.write_schema("CREATE TABLE users (id int PRIMARY KEY);")
    project.write("001_orders.sql", "CREATE SCHEMA ops;\nCREATE TABLE ops.orders (id int);")
    target, env = project.folder / "db" / "models.py", {"DATABASE_URL": None}
    target.write_text("ours = 1\n")
    refused = project.invoke("db.models", env=env)
    assert refused.returncode == 2
    assert "db/models.py was not written by db.models" in refused.stderr
    assert target.read_text() == "ours = 1\n"
    target.unlink()
    missing = project.invoke("db.models", "--check", env=env)
    assert missing.returncode == 3
    assert "db/models.py is not there." in missing.stderr
    assert "To write it: invoke db.models\n" in missing.stderr
    first = project.invoke("db.models", env=env)
    assert first.returncode == 0, first.output
    source = target.read_text()
    assert "class User:" in source
    assert "class OpsOrder:" in source
    assert "igration" not in source, "the ledger is no table of theirs"
    assert project.invoke("db.models", "--check", env=env).returncode == 0
    assert "is as it was" in project.invoke("db.models", env=env).output
    project.write("002_more.sql", "ALTER TABLE users ADD COLUMN name text;")
    stale = project.invoke("db.models", "--check", env=env)
    assert stale.returncode == 3
    assert "+    name: str | None\n" in stale.stderr
    assert target.read_text() == source
    live = project.invoke("db.models", "--live", "--check")
    assert live.returncode == 3  # nothing is executed there
    assert "is not what the database gives." in live.stderr
    assert "To write it: invoke db.models --live\n" in live.stderr
    assert project.invoke("db.migrate").returncode == 0
    assert project.invoke("db.models", env=env).returncode == 0
    same = project.invoke("db.models", "--live", "--check", "--json")
    assert same.returncode == 0, same.output
    assert "is what the database gives" in same.stdout
    project.write("003_bad.sql", "SELECT nonsense;")
    bad = project.invoke("db.models", env=env)
    assert bad.returncode == 1
    assert "migrations/003_bad.sql:1:8" in bad.stderr


def test_roles_that_only_the_target_has_are_made_for_a_replay_or_named(project: Project) -> None:
    made = 'CREATE TABLE notes (id int);\nGRANT SELECT ON notes TO "Web App", reporting_only;'
    project.write("001_notes.sql", made)
    done = project.invoke("db.models", env={"DATABASE_URL": None})
    assert done.returncode == 0, done.output
    assert "class Note:" in (project.folder / "db" / "models.py").read_text()
    named = {"DATABASE_URL": None, "MIGRATIONS_SCRATCH": project.cluster.url()}
    refused = project.invoke("db.models", env=named)
    assert refused.returncode == 1
    assert "migrations/001_notes.sql:2" in refused.stderr
    assert "This was a replay on PostgreSQL" in refused.stderr
    assert 'Make the role on that server: CREATE ROLE "Web App" NOLOGIN;' in refused.stderr


@pytest.mark.long
def test_a_team_has_its_own_style_and_names(project: Project) -> None:
    project.write("001_t.sql", "CREATE TABLE folks (id int); CREATE TYPE m AS ENUM ('a');")
    project.write_schema("CREATE TABLE schema_is_here ();")
    committed = project.folder / "invoke.yaml"
    said = "db:\n  models:\n    out: app.py\n    style: typeddict\n    names:\n      {}: {}\n"
    env = {"DATABASE_URL": None}

    def run(table: str, name: str) -> str:
        committed.write_text(said.format(table, name))
        return project.invoke("db.models", env=env).output

    assert "app.py: written" in run("public.folks", "Human")
    assert "class Human(TypedDict):" in (project.folder / "app.py").read_text()
    assert "there is no table, view or type fokls" in run("fokls", "Human")
    assert "is no name in Python" in run("folks", "a-b")
    assert "is the name of something else" in run("folks", "id")
    assert project.invoke("db.models", "--style", "nice", env=env).returncode == 2
    committed.write_text("db:\n  models: other.py\n")
    assert "other.py: written" in project.invoke("db.models", env=env).output
    done = project.invoke("db.models", "--out", "c.py", "--enums", "class", env=env)
    assert "c.py: written" in done.output
    for wrong in ("nmaes: {}", "names: [a]", "names: {a: 1}", "style: 7"):
        committed.write_text(f"db:\n  models:\n    {wrong}\n")
        done = project.invoke("db.models", env=env)
        assert done.returncode == 2
        assert "db.models" in done.stderr


# What type checkers say


@pytest.mark.long
def test_type_checkers_find_nothing(conn: Conn, url: str, tmp_path: Path) -> None:
    def written(name: str) -> None:
        for style in STYLES:
            source = typed_models(url, style=style)
            (tmp_path / f"{name}_{style}.py").write_text(source)
            assert formatted(source) == source
        (tmp_path / f"{name}_class.py").write_text(typed_models(url, enums="class"))

    shutil.copy(ROOT / "db" / "models.py", tmp_path / "own.py")
    for name in ("procrastinate", "graphile-worker", "connect-pg-simple"):
        conn.execute("CREATE SCHEMA graphile_worker")  # its program makes it, and puts its name in
        for path in shipped(name):
            script = path.read_text().replace(":GRAPHILE_WORKER_SCHEMA", "graphile_worker")
            conn.execute(script.encode())
        written(name.replace("-", "_"))
        conn.execute("DROP SCHEMA public, graphile_worker CASCADE")
        conn.execute("CREATE SCHEMA public")
    awkward(conn)
    written("awkward")
    (tmp_path / "used.py").write_text(USED)
    files = sorted(map(str, tmp_path.glob("*.py")))
    here = f"--pythonpath={sys.executable}"
    for name, *options in (["mypy", "--strict", "--python-version=3.10"], ["pyright", here]):
        command = [str(Path(sys.executable).parent / name), *options, *files]
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout[-5000:]


USED = """\
import psycopg
from psycopg.rows import class_row

from procrastinate_dataclass import NewProcrastinateJob, ProcrastinateJob
from awkward_dataclass import person2_row


def jobs(conn: psycopg.Connection) -> list[ProcrastinateJob]:
    return conn.cursor(row_factory=class_row(ProcrastinateJob)).execute("TABLE j").fetchall()


def people(conn: psycopg.Connection) -> list[int]:
    rows = conn.cursor(row_factory=person2_row).execute("TABLE people").fetchall()
    return [row.class_ or row.class__ for row in rows]


def added(job: NewProcrastinateJob) -> str:
    return job["task_name"]
"""
