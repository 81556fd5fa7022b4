"""`invoke bench`: everything heavy is imported when it runs."""

from __future__ import annotations

from invoke.context import Context
from invoke.tasks import task

_HELP = {
    "quick": "10 files, 2 rounds, psql and us only; writes nothing",
    "only": "one case, such as apply-1000, or several, a comma between; writes nothing",
    "write": "with --only: put what was measured in the place of what was written of it",
    "render": "measure nothing; make results.md and results.svg again from results.json",
    "server": "embedded, a major version such as 15, or a folder of programs",
}


@task(help=_HELP)
def bench(
    _: Context,
    quick: bool = False,
    only: str = "",
    write: bool = False,
    render: bool = False,
    server: str = "embedded",
) -> None:
    """Measure this runner beside others (installs them into bench/.peers)."""
    from . import run

    if render:
        run.render()
    else:
        run.main(quick=quick, only=only, write=write, server=server)
