"""Which folder is the project, where nobody says it."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path


def find_root(start: Path, environ: Mapping[str, str]) -> Path:
    """Return the nearest folder upwards of `start` that has the migrations folder or a `.env`.

    It is looked for up to the root of the repository (the folder with a `.git`), and where there
    is none, below the home folder. `start` itself, if there is no such folder.
    """
    folder = environ.get("MIGRATIONS_DIR", "").strip() or "migrations"
    for place in _upwards(start):
        if (place / folder).is_dir() or any((place / n).is_file() for n in (".env", "invoke.yaml")):
            return place
    return start


def _upwards(start: Path) -> Iterator[Path]:
    """Yield the folder, and those above it that are as trustworthy as it is."""
    owner, home = start.stat().st_uid, home_folder()
    for place in (start, *start.parents):
        above = place.stat()
        # What others may write, they could put a folder of migrations or a .env into.
        foreign = above.st_uid != owner or above.st_mode & stat.S_IWOTH
        if place != start and (foreign or place in (home, place.parent)):
            return
        yield place
        if (place / ".git").exists():
            return


def home_folder() -> Path | None:
    """Return the home folder. A container's user may have none, being a number without HOME."""
    try:
        return Path.home()
    except RuntimeError:
        return None
