"""What has which name in the file, decided for the whole of it before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ..errors import SettingsError
from ..styles import Styles
from . import names
from .annotations import MODULES, UNIONS
from .catalog import Catalog, Relation, Type
from .names import Names

# What a model of pydantic has already: https://docs.pydantic.dev/latest/api/base_model/
_OF_PYDANTIC = frozenset(
    {
        *("construct", "copy", "dict", "from_orm", "json", "parse_file", "parse_obj", "parse_raw"),
        *("schema", "schema_json", "update_forward_refs", "validate", "model_computed_fields"),
        *("model_config", "model_construct", "model_copy", "model_dump", "model_dump_json"),
        *("model_extra", "model_fields", "model_fields_set", "model_json_schema"),
        *("model_parametrized_name", "model_post_init", "model_rebuild", "model_validate"),
        *("model_validate_json", "model_validate_strings"),
    }
)


class Named(NamedTuple):
    """A relation's names: its class, what an insert takes, its row factory, each attribute."""

    relation: Relation
    row: str
    new: str
    factory: str
    attributes: tuple[str, ...]

    @property
    def renamed(self) -> dict[str, str]:
        """Return the columns whose attributes have another name."""
        pairs = zip(self.relation.columns, self.attributes, strict=True)
        return {column.name: name for column, name in pairs if column.name != name}


class Scope:
    """All names of a file. A name that a column has is no type's: inside a class it is hidden."""

    def __init__(self, catalog: Catalog, styles: Styles) -> None:
        self.styles = styles
        self._catalog = catalog
        self._attributes = [_attributes(each, styles.style) for each in catalog.relations]
        columns = {column.name for each in catalog.relations for column in each.columns}
        self._names = Names(columns.union(*self._attributes))
        self._symbols: dict[str, str] = {}
        self._chosen = self._overridden()
        self.relations = tuple(self._relations())
        self.types = dict(self._types())

    def name(self, wanted: str) -> str:
        """Return a free name for what the file defines besides."""
        return self._names.take(wanted)

    def symbol(self, name: str) -> str:
        """Return what a name of Python's or psycopg's is called here; it is imported."""
        if name not in self._symbols:
            self._symbols[name] = self._names.take(name, "_")
        return self._symbols[name]

    @property
    def symbols(self) -> Mapping[str, str]:
        return self._symbols

    # What is named

    def _key(self, thing: Relation | Type) -> str:
        first = thing.schema == self._catalog.first
        return thing.name if first else f"{thing.schema}.{thing.name}"

    def _overridden(self) -> dict[str, str]:
        """Return the team's names by ours of the things. Raise `SettingsError` for a wrong one."""
        keys = {self._key(each) for each in self._catalog.relations}
        keys |= {self._key(each) for each in self._catalog.types.values()}
        chosen: dict[str, str] = {}
        for given, name in self.styles.names.items():
            key = given.removeprefix(f"{self._catalog.first}.")
            if key not in keys:
                raise SettingsError(
                    f"db.models.names: there is no table, view or type {given}.",
                    f"There are: {', '.join(sorted(map(self._key, self._catalog.relations)))}.",
                )
            if not names.is_attribute(name) or name.startswith("_"):
                raise SettingsError(f"db.models.names: {name}, for {given}, is no name in Python.")
            if self._names.taken(name):
                raise SettingsError(
                    f"db.models.names: {name}, for {given}, is the name of something else: "
                    "of a column, or of another table.",
                    "Choose another one.",
                )
            chosen[key] = self._names.take(name)
        return chosen

    def _named(self, thing: Relation | Type, *, plural: bool) -> str:
        key = self._key(thing)
        if key in self._chosen:
            return self._chosen[key]
        parts = key.split(".", 1) if thing.schema != self._catalog.first else [key]
        return self._names.take(names.of_class(*parts, plural=plural))

    def _relations(self) -> Iterator[Named]:
        rows = [self._named(each, plural=True) for each in self._catalog.relations]
        pairs = zip(self._catalog.relations, rows, self._attributes, strict=True)
        for relation, row, attributes in pairs:
            new = "" if relation.is_view else self._names.take(f"New{row}")
            found = Named(relation, row, new, "", attributes)
            if found.renamed and self.styles.style == "dataclass":
                factory = self._names.take(f"{names.of_function(row)}_row")
                found = found._replace(factory=factory)
            yield found

    def _types(self) -> Iterator[tuple[int, str]]:
        """Yield the types that get a name, and it: each behind those that it is made of."""
        types = self._catalog.types

        def place(number: int) -> tuple[int, str, str]:
            kind, depth = types[number], 0
            base = kind
            while base.kind == "d":
                base, depth = types[base.base], depth + 1
            return depth, kind.schema, kind.name

        for number in sorted(types, key=place):
            kind = types[number]
            if kind.schema == "pg_catalog" and kind.name in UNIONS:
                yield number, self._names.take(kind.name.capitalize())
            elif kind.has_labels or kind.kind == "d":
                yield number, self._named(kind, plural=False)


def _attributes(relation: Relation, style: str) -> tuple[str, ...]:
    """Return the attribute for each column; the keys of a dictionary need no change."""
    every = [column.name for column in relation.columns]
    if style == "typeddict":
        return tuple(every)
    refused = _OF_PYDANTIC if style == "pydantic" else frozenset[str]()
    as_they_are = [_plain(name, refused, style) for name in every]
    free = Names(name for name, plain in zip(every, as_they_are, strict=True) if plain)
    return tuple(
        name if plain else free.take(names.of_attribute(name, refused), "_")
        for name, plain in zip(every, as_they_are, strict=True)
    )


def _plain(name: str, refused: frozenset[str], style: str) -> bool:
    private = style == "pydantic" and name.startswith("_")
    return names.is_attribute(name) and name not in refused and not private


KNOWN = MODULES | {
    "dataclass": "dataclasses",
    "Enum": "enum",
    "NotRequired": "typing",
    "kwargs_row": "psycopg.rows",
    "AsyncConnection": "psycopg",
    "Connection": "psycopg",
    "Identifier": "psycopg.sql",
    "EnumInfo": "psycopg.types.enum",
    "register_enum": "psycopg.types.enum",
    "BaseModel": "pydantic",
    "ConfigDict": "pydantic",
    "Field": "pydantic",
}
