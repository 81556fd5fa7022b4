"""Plain SQL migrations for PostgreSQL.

from db import migrate

executed = migrate("postgresql://deploy@localhost/app", "migrations")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import baseline, migrate, plan, rollback, status, verify
    from .settings import Settings

__all__ = [
    "Settings",
    "baseline",
    "errors",
    "events",
    "migrate",
    "plan",
    "rollback",
    "status",
    "verify",
]
_API = {"baseline", "migrate", "plan", "rollback", "status", "verify"}


def __getattr__(name: str) -> Any:
    # Lazily (PEP 562): `invoke --list` must not pay for psycopg.
    from importlib import import_module

    homes = {**dict.fromkeys(_API, ".api"), "Settings": ".settings"}
    if name in homes:
        return getattr(import_module(homes[name], __name__), name)
    if name in ("errors", "events"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
