"""Tasks of this project; `invoke --list` shows them."""

from pathlib import Path

from invoke.collection import Collection

import db.tasks

ns = Collection(db=Collection.from_module(db.tasks))

if Path(__file__).with_name("bench").is_dir():  # not everybody copies it
    from bench.tasks import bench

    ns.add_task(bench)
