"""Schemas of other projects, as their packages ship them, installed from their registries."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.servers import INSTALLED

# Which package of which registry, and where its SQL is in it.
SCHEMAS = {
    "procrastinate": ("pip", "procrastinate==3.10.0", "procrastinate/sql/schema.sql"),
    "graphile-worker": ("npm", "graphile-worker@0.17.3", "package/sql/*.sql"),
    "connect-pg-simple": ("npm", "connect-pg-simple@10.0.0", "package/table.sql"),
}


def sql(name: str) -> str:
    """Return the whole schema as one script; its package is fetched at the first call."""
    registry, package, files = SCHEMAS[name]
    folder = INSTALLED / "foreign" / package.replace("/", "_")
    INSTALLED.mkdir(exist_ok=True)
    with (INSTALLED / "foreign.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the workers of one run come at the same moment
        if not folder.exists():
            new = folder.with_name(f"{folder.name}.new")
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            _fetch(registry, package, new)
            new.rename(folder)
    found = sorted(folder.glob(files))
    assert found, f"{package} has no {files}"
    text = "\n".join(path.read_text(encoding="utf-8") for path in found)
    if name == "graphile-worker":  # its program makes the schema, and puts its name in
        made = text.replace(":GRAPHILE_WORKER_SCHEMA", "graphile_worker")
        return f"CREATE SCHEMA graphile_worker;\n{made}"
    return text


def _fetch(registry: str, package: str, folder: Path) -> None:
    if registry == "npm":
        subprocess.run(
            ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True
        )
        (archive,) = folder.glob("*.tgz")
        # Python's own tarfile wants a filter, which older patch releases do not know.
        subprocess.run(["tar", "xzf", archive.name], cwd=folder, check=True)
        return
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), package]
    subprocess.run(pip, check=True, capture_output=True)
    (archive,) = folder.glob("*.whl")
    with zipfile.ZipFile(archive) as wheel:
        wheel.extractall(folder)
