"""`invoke bench`: this runner beside other programs, and what is written down of it.

A case is a module of `cases/` that ends in `CASES = [Case(…)]` and is named in `cases/__init__.py`:
what is measured, by which programs, the columns of its table, its targets, and where its time goes.
Its function `measure(bench, present)` gets a `session.Bench`, which has a server with fsync, a
folder, a slow link, a launcher that tells seconds and peak memory, and turns; it returns
`{row: [Sample({column: figure}), …]}`, a sample a round.

`cases/stall.py` is a short one. `invoke bench --only NAME` runs it and shows its part of the page;
with `--write` the case replaces what `results.json` has of it, with its own date, and `results.md`
and `results.svg` are made again. `--render` only makes these two again, when a target or a text has
changed.
"""
