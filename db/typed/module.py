"""A catalog → the text of a Python module: the same bytes for the same catalog."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from ..styles import Styles
from . import names
from .annotations import UNIONS, annotation
from .catalog import Catalog, Column, Type
from .names import Names
from .scope import KNOWN, Named, Scope
from .text import WIDTH, comment, docstring, literal

HEAD = '"""Rows of the tables and views, as psycopg returns them. Written by invoke db.models."""'
_NOT_REQUIRED = """
if sys.version_info >= (3, 11):
    from typing import {names}
else:
    from typing_extensions import {names}
"""
_CONFIG = (
    *("frozen=True", "strict=True", "arbitrary_types_allowed=True", "allow_inf_nan=True"),
    "protected_namespaces=()",
)
_REGISTER = """\
{prefix}def {function}(conn: {connection}[{any}]) -> None:
    \"\"\"Have a connection return these classes. Raise LookupError if a type is not there.\"\"\"
    for name, members in {enums}:
        info = {wait}{info}.fetch(conn, {identifier}(*name))
        if info is None:
            raise LookupError(f"there is no type {{'.'.join(name)}}")
        {register}(info, conn, members, mapping={{each: each.value for each in members}})
"""


def write(catalog: Catalog, styles: Styles) -> str:
    """Return the module. Raise `SettingsError` if the team's names cannot be."""
    scope = Scope(catalog, styles)
    body = _Body(catalog, scope)
    types = [text for number in scope.types for text in body.type(number)]
    rows = [text for each in scope.relations for text in body.relation(each)]
    if styles.style == "pydantic" and scope.relations:
        rows.insert(0, body.base())
    parts = [*types, *body.registration(), *rows]
    return "\n".join([HEAD, *_imports(scope), *_spaced(parts)])


def _spaced(parts: Sequence[str]) -> Iterator[str]:
    """Yield the parts, with two lines between them where one is a class or a function."""
    before = "\n"
    for part in parts:
        block = any(line.startswith(("class ", "def ", "async def ")) for line in part.split("\n"))
        yield ("\n\n" if block or before == "block" else "\n" if before == "\n" else "") + part[:-1]
        before = "block" if block else "line"
    yield ""


class _Body:
    """What stands in the module, one definition at a time."""

    def __init__(self, catalog: Catalog, scope: Scope) -> None:
        self._types = catalog.types
        self._scope = scope
        self._symbol = scope.symbol
        self._style = scope.styles.style
        self._classes = scope.styles.enums == "class"
        self._base = scope.name("Row") if self._style == "pydantic" else ""

    # Types

    def type(self, number: int) -> Iterator[str]:
        """Yield the definition of a type that has a name."""
        kind, name = self._types[number], self._scope.types[number]
        head = "".join(f"{line}\n" for line in comment(kind.comment))
        if kind.has_labels and self._classes:
            yield self._enum(name, kind)
        elif kind.has_labels:
            labels = [literal(label) for label in kind.labels]
            yield head + self._alias(name, f"{self._symbol('Literal')}[", labels, "]", ", ")
        elif kind.kind == "d":
            yield head + self._alias(name, "", [self._annotation(kind.base)], "", "")
        else:
            union = [self._symbol(each) for each in UNIONS[kind.name]]
            yield self._alias(name, "", [" | ".join(union)], "", "")

    def _alias(self, name: str, before: str, items: list[str], after: str, between: str) -> str:
        start = f"{name}: {self._symbol('TypeAlias')} = {before}"
        line = f"{start}{between.join(items)}{after}"
        if _width(line) <= WIDTH:
            return f"{line}\n"
        if not before:
            return _fitting(line)
        comma = "," if items[1:] else ""
        every = [f"    {item}{comma}" for item in items]
        return _whole([start, *every, after])

    def _enum(self, name: str, kind: Type) -> str:
        free = Names()
        lines = [f"class {name}({self._symbol('str')}, {self._symbol('Enum')}):"]
        lines += _documented(kind.comment)
        for label in kind.labels:
            lines.append(f"    {free.take(names.of_member(label), '_')} = {literal(label)}")
        return _whole(lines)

    def registration(self) -> Iterator[str]:
        """Yield what has psycopg return the classes of the enums."""
        enums = [n for n in self._scope.types if self._types[n].has_labels]
        if not self._classes or not enums:
            return
        listed, any_ = self._scope.name("ENUMS"), self._symbol("Any")
        lines = [f"{listed} = ("]
        for number in enums:
            kind = self._types[number]
            pair = f"({literal(kind.schema)}, {literal(kind.name)})"
            lines.append(f"    ({pair}, {self._scope.types[number]}),")
        yield _whole([*lines, ")"])
        for wait, connection, function in (
            ("", "Connection", "register"),
            ("await ", "AsyncConnection", "register_async"),
        ):
            yield _REGISTER.format(
                prefix="async " if wait else "",
                function=self._scope.name(function),
                connection=self._symbol(connection),
                any=any_,
                enums=listed,
                wait=wait,
                info=self._symbol("EnumInfo"),
                identifier=self._symbol("Identifier"),
                register=self._symbol("register_enum"),
            )

    # Rows

    def base(self) -> str:
        """Return the base of pydantic's models: nothing is converted, nothing can be set."""
        head = f"class {self._base}({self._symbol('BaseModel')}):"
        options = [f"        {each}," for each in _CONFIG]
        start = f"    model_config = {self._symbol('ConfigDict')}("
        return _whole([head, start, *options, "    )"])

    def relation(self, named: Named) -> Iterator[str]:
        """Yield the class of a relation, its row factory, and what an insert takes."""
        relation = named.relation
        if self._style == "typeddict":
            items = [(c, self._read(c, kept=relation.keeps_rows)) for c in relation.columns]
            yield self._dictionary(named.row, relation.comment, items)
        else:
            yield self._class(named)
        if named.factory:
            yield from self._factory(named)
        if named.new:
            yield self._dictionary(
                named.new, "", [(c, self._insert(c)) for c in relation.columns if not c.generated]
            )

    def _class(self, named: Named) -> str:
        if self._style == "pydantic":
            lines = [f"class {named.row}({self._base}):"]
        else:
            lines = [
                f"@{self._symbol('dataclass')}(frozen=True, slots=True, kw_only=True)",
                f"class {named.row}:",
            ]
        lines += _documented(named.relation.comment)
        for column, name in zip(named.relation.columns, named.attributes, strict=True):
            lines += comment(column.comment, "    ")
            line = f"    {name}: {self._read(column, kept=named.relation.keeps_rows)}"
            if self._style == "pydantic" and name != column.name:
                line += f" = {self._symbol('Field')}(alias={literal(column.name)})"
            lines.append(line)
        if lines[-1].endswith(":"):
            lines.append("    pass")
        return _whole(lines)

    def _factory(self, named: Named) -> Iterator[str]:
        made = self._scope.name(f"_{names.of_function(named.row)}")
        lines = [f"def {made}(**row: {self._symbol('Any')}) -> {named.row}:", "    names = {"]
        for column, attribute in named.renamed.items():
            lines.append(f"        {literal(column)}: {literal(attribute)},")
        called = f"{named.row}(**{{names.get(name, name): value for name, value in row.items()}})"
        yield _whole([*lines, "    }", f"    return {called}"])
        yield _whole([f"{named.factory} = {self._symbol('kwargs_row')}({made})"])

    def _dictionary(self, name: str, about: str, items: Iterable[tuple[Column, str]]) -> str:
        """Return a TypedDict; one with keys that are no names is made by a call."""
        items, base = list(items), self._symbol("TypedDict")
        if all(names.is_attribute(column.name) for column, _ in items):
            lines = [f"class {name}({base}):", *_documented(about)]
            for column, what in items:
                lines += [*comment(column.comment, "    "), f"    {column.name}: {what}"]
            return _whole([*lines, "    pass"] if lines[-1].endswith(":") else lines)
        lines = [*comment(about), f"{name} = {base}(", f"    {literal(name)},", "    {"]
        for column, what in items:
            indent = " " * 8
            lines += [*comment(column.comment, indent), f"{indent}{literal(column.name)}: {what},"]
        return _whole([*lines, "    },", ")"])

    def _annotation(self, number: int) -> str:
        return annotation(
            number, self._types, self._scope.types, self._symbol, classes=self._classes
        )

    def _read(self, column: Column, *, kept: bool) -> str:
        return self._or_none(column, filled=column.filled and kept)

    def _insert(self, column: Column) -> str:
        what = self._or_none(column, filled=column.required)
        optional = column.has_default or not column.required
        return f"{self._symbol('NotRequired')}[{what}]" if optional else what

    def _or_none(self, column: Column, *, filled: bool) -> str:
        what = self._annotation(column.type)
        return what if filled or what == self._symbol("Any") else f"{what} | None"


# Lines


def _documented(about: str) -> list[str]:
    lines = list(docstring(about, "    "))
    return [*lines, ""] if lines else []


def _width(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in line)


def _fitting(line: str) -> str:
    """Return the line; one that is too long is kept from being broken in a way of its own."""
    return f"{line}\n" if _width(line) <= WIDTH else f"{line}  # fmt: skip\n"


def _whole(lines: list[str]) -> str:
    """Return the lines of one statement, kept as they are if one of its own is too long."""
    while lines and not lines[-1]:
        lines.pop()
    text = "".join(f"{line}\n" for line in lines)
    long = any(_width(line) > WIDTH and not line.lstrip().startswith("#:") for line in lines)
    return f"# fmt: off\n{text}# fmt: on\n" if long else text


def _imports(scope: Scope) -> Iterator[str]:
    """Yield the imports of what is used, as ruff sorts them."""
    used = dict(scope.symbols)
    condition = used.pop("NotRequired", "")
    places: dict[str, list[tuple[str, str]]] = {}
    for name, here in used.items():
        if KNOWN[name] != "builtins" or name != here:
            places.setdefault(KNOWN[name], []).append((name, here))
    standard = ["import sys"] if condition else []
    others: list[str] = []
    for place in sorted(places):
        group = standard if place in sys.stdlib_module_names else others
        group += _from(place, places[place])
    for group in (standard, others):
        if group:
            yield ""
            yield from group
    if condition:
        written = "NotRequired" if condition == "NotRequired" else f"NotRequired as {condition}"
        yield _NOT_REQUIRED.format(names=written).rstrip()


def _from(place: str, pairs: list[tuple[str, str]]) -> Iterator[str]:
    pairs.sort(key=lambda pair: (pair[0][0].islower(), pair))
    yield from (f"from {place} import {name} as {here}" for name, here in pairs if name != here)
    plain = [name for name, here in pairs if name == here]
    line = f"from {place} import {', '.join(plain)}"
    if len(line) > WIDTH:
        yield from (f"from {place} import (", *(f"    {each}," for each in plain), ")")
    elif plain:
        yield line
