"""A type of PostgreSQL → what psycopg returns for it, on a connection that nobody has taught more.

https://www.psycopg.org/psycopg3/docs/basic/adapt.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from psycopg import adapters
from psycopg.pq import Format

from .catalog import Type

# Python's name of each type, and the module that it is from.
MODULES = {
    **dict.fromkeys(("bool", "bytes", "float", "int", "list", "str"), "builtins"),
    **dict.fromkeys(("date", "datetime", "time", "timedelta"), "datetime"),
    **dict.fromkeys(("Any", "Literal", "TypeAlias", "TypedDict"), "typing"),
    "Decimal": "decimal",
    "UUID": "uuid",
    "Range": "psycopg.types.range",
    "Multirange": "psycopg.types.multirange",
    **dict.fromkeys(("IPv4Address", "IPv4Interface", "IPv4Network"), "ipaddress"),
    **dict.fromkeys(("IPv6Address", "IPv6Interface", "IPv6Network"), "ipaddress"),
}
_SCALARS = {
    "bool": "bool",
    "bytea": "bytes",
    **dict.fromkeys(("int2", "int4", "int8", "oid"), "int"),
    **dict.fromkeys(("float4", "float8"), "float"),
    "numeric": "Decimal",
    "date": "date",
    **dict.fromkeys(("timestamp", "timestamptz"), "datetime"),
    **dict.fromkeys(("time", "timetz"), "time"),
    "interval": "timedelta",
    "uuid": "UUID",
    **dict.fromkeys(("json", "jsonb"), "Any"),
}
_RANGES = {
    **dict.fromkeys(("int4", "int8"), "int"),
    "num": "Decimal",
    "date": "date",
    **dict.fromkeys(("ts", "tstz"), "datetime"),
}
# An address is an interface if a mask is written with it.
UNIONS = {
    "inet": ("IPv4Address", "IPv4Interface", "IPv6Address", "IPv6Interface"),
    "cidr": ("IPv4Network", "IPv6Network"),
}

Symbol = Callable[[str], str]  # a type of Python → the name that it has in the file


def annotation(
    number: int,
    types: Mapping[int, Type],
    named: Mapping[int, str],
    symbol: Symbol,
    *,
    classes: bool = False,
) -> str:
    """Return the annotation of a value that is not NULL.

    `named` are the types that have a name in the file: enums, domains and addresses. `classes`:
    enums are registered. What psycopg does not know (composites, types of extensions, other arrays
    of enums) it returns as a string.
    """
    if number in named:
        return named[number]
    kind = types[number]
    if kind.element:
        known = _is_registered(number) or (classes and types[kind.element].has_labels)
        # Any element may be NULL, and any value of another number of dimensions than the others.
        return f"{symbol('list')}[{symbol('Any')}]" if known else symbol("str")
    if kind.schema != "pg_catalog":
        return symbol("str")
    for ending, container in (("multirange", "Multirange"), ("range", "Range")):
        bound = _RANGES.get(kind.name.removesuffix(ending)) if kind.name.endswith(ending) else None
        if bound:
            return f"{symbol(container)}[{symbol(bound)}]"
    return symbol(_SCALARS.get(kind.name, "str"))


def _is_registered(number: int) -> bool:
    return adapters.get_loader(number, Format.TEXT) is not None
