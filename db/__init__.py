"""Plain SQL migrations for PostgreSQL.

from db import migrate

executed = migrate("postgresql://deploy@localhost/app", "migrations")

Installed from a wheel, the same package is named invoke_pg_migrations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import errors, events, testing
    from .api import (
        baseline,
        drift,
        fleet,
        migrate,
        plan,
        rehearse,
        rollback,
        status,
        typed_models,
        verify,
    )
    from .settings import Settings

    __version__: str

__all__ = [
    "Settings",
    "__version__",
    "baseline",
    "drift",
    "errors",
    "events",
    "fleet",
    "migrate",
    "plan",
    "rehearse",
    "rollback",
    "status",
    "testing",
    "typed_models",
    "verify",
]
_API = {*__all__} - {"Settings", "__version__", "errors", "events", "testing"}

if not TYPE_CHECKING:  # a type checker would take any name for one that is there

    def __getattr__(name: str) -> object:
        # Lazily (PEP 562): `invoke --list` must not pay for psycopg.
        from importlib import import_module, metadata

        homes = {**dict.fromkeys(_API, ".api"), "Settings": ".settings"}
        if name in homes:
            return getattr(import_module(homes[name], __name__), name)
        if name in ("errors", "events", "testing"):
            return import_module(f".{name}", __name__)
        if name == "__version__":
            return metadata.version("invoke-pg-migrations")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
