"""Tasks of this project; `invoke --list` shows them."""

from invoke.collection import Collection

import db.tasks

ns = Collection(db=Collection.from_module(db.tasks))
