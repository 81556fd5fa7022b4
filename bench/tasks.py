"""`invoke bench`: everything heavy is imported when it runs."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

_HELP = {
    "quick": "10 files, 2 rounds, psql and us only; writes nothing",
    "only": "one case, such as apply-1000; writes nothing",
    "server": "embedded, a major version such as 15, or a folder of programs",
}


@task(help=_HELP)
def bench(_: Context, quick: bool = False, only: str = "", server: str = "embedded") -> None:
    """Measure this runner beside others (installs them into bench/.peers)."""
    from . import run

    run.main(quick=quick, only=only, server=server)
