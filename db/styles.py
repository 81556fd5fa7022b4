"""How db.models writes a file: what `invoke.yaml` has under `db.models` → one checked record."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from .errors import SettingsError

STYLES = ("dataclass", "pydantic", "typeddict")
ENUMS = ("literal", "class")
_KEYS = ("out", "style", "enums", "names")
_NONE: Mapping[str, str] = MappingProxyType({})


class Styles(NamedTuple):
    """`names` are a team's own for its tables, views and types, by their names in SQL."""

    style: str = STYLES[0]
    enums: str = ENUMS[0]
    names: Mapping[str, str] = _NONE

    def chosen(self, style: str = "", enums: str = "") -> Styles:
        """Return these with what is said otherwise. Raise `SettingsError` if it is not known."""
        wanted = self._replace(style=style or self.style, enums=enums or self.enums)
        said = (("style", wanted.style, STYLES), ("enums", wanted.enums, ENUMS))
        for name, value, known in said:
            if value not in known:
                message = f"db.models has no {name} {value}."
                raise SettingsError(message, f"There are: {', '.join(known)}.")
        return wanted


def of(committed: object) -> Styles:
    """Return what is said under `models`, if that is more than a path; raise `SettingsError`."""
    given = under_models(committed)
    names = given.get("names") or {}
    if not hasattr(names, "items") or not all(isinstance(name, str) for _, name in names.items()):
        raise SettingsError(
            "db.models.names in invoke.yaml is no list of names.",
            "Write table: Class below it, indented; or schema.table: Class",
        )
    style, enums = (str(given.get(key) or "") for key in ("style", "enums"))
    return Styles(names={str(key): name for key, name in names.items()}).chosen(style, enums)


def under_models(committed: object) -> dict[str, object]:
    """Return the keys under `models`; none if there is a path or nothing."""
    found: object = committed.get("models") if hasattr(committed, "get") else None
    if found is None or not hasattr(found, "items"):
        return {}
    given = {str(key): value for key, value in found.items()}
    for key in given:
        if key not in _KEYS:
            message = f"db.models.{key}, in invoke.yaml, is no setting."
            raise SettingsError(message, f"There are: {', '.join(_KEYS)}.")
    return given
