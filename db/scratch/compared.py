"""Two databases held against each other: what is compared, and what is the same after all."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from psycopg import sql

from ..engine import ledger, place
from ..events import Difference
from ..files.plan import Executed
from ..server import ours
from . import again, beside, objects, roles
from .beside import Schema
from .database import Scratch
from .objects import Object

NOTHING = "Nothing was compared."
_NONE: dict[Object, str] = {}


class Made(NamedTuple):
    """What a database is made of, and the roles of its server. `without`: kinds not compared."""

    schema: Schema
    settings: Mapping[Object, str]
    roles: set[str]
    without: tuple[str, ...] = ()


def looked_at(
    scratch: Scratch, before: Mapping[Object, str] = _NONE, without: tuple[str, ...] = ()
) -> Made:
    """Return what is there now; what was set `before` is not the files' doing."""
    with scratch.target.once("invoke db scratch") as conn, ours.transaction(conn, ours.LOOKING):
        book = place.find(conn, scratch.settings.ledger)
        role = scratch.settings.role
        schema = beside.schema(scratch.target, conn, book, state=NOTHING, role=role)
        own = {key: text for key, text in schema.settings.items() if before.get(key) != text}
        return Made(schema, own, roles.names(conn), without)


def recorded(scratch: Scratch) -> dict[str, Executed]:
    """Return what is recorded as executed there."""
    with scratch.target.once("invoke db scratch") as conn:
        return ledger.read(conn, place.find(conn, scratch.settings.ledger))


class Comparison(NamedTuple):
    """Where two databases differ, and how many objects there are."""

    differences: list[Difference]
    objects: int


def compare(expected: Made, found: Made, runners: Collection[str], scratch: Scratch) -> Comparison:
    """Return where they differ. What the `runners`, the files' own roles, may do is not compared.

    On the server of `scratch` both are loaded once more, if need be.
    """
    both = (expected, found)
    made, there = (_objects(each, runners) for each in both)
    without = (*expected.without, *found.without)
    differences = objects.compare(made, there, without=without)
    if any(map(objects.may_be_spelling, differences)):
        differences = _settled(differences, both, runners, scratch)
    return Comparison(differences, len(made.keys() | there.keys()))


def _objects(made: Made, runners: Collection[str], dump: bytes | None = None) -> dict[Object, str]:
    found = {**made.schema.objects(dump), **made.settings}
    quoted = {sql.Identifier(name).as_string(None) for name in runners if name}
    names = "|".join(map(re.escape, sorted({*filter(None, runners), *quoted})))
    theirs = re.compile(rf"(?m)^GRANT .* TO (?:{names})(?: WITH GRANT OPTION)?;\n?")
    for key in [key for key in found if names and key.kind == "ACL"]:
        text = theirs.sub("", found.pop(key)).strip()
        if text:
            found[key] = text
    return found


def _settled(
    differences: list[Difference],
    both: tuple[Made, Made],
    runners: Collection[str],
    scratch: Scratch,
) -> list[Difference]:
    """Return those of the differences that are left when both sides are written by one server."""
    wanted = both[0].roles | both[1].roles
    kinds = {each.kind for each in differences if objects.may_be_spelling(each)}
    dumps = again.dumped([made.schema for made in both], kinds, scratch, wanted)
    if None in dumps:
        return differences
    made, there = (_objects(m, runners, dump) for m, dump in zip(both, dumps, strict=True))
    later = {(d.kind, d.schema, d.name): d for d in objects.compare(made, there)}
    settled = (
        later.get((each.kind, each.schema, each.name)) if objects.may_be_spelling(each) else each
        for each in differences
    )
    return [each for each in settled if each]
