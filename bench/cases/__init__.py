"""The cases, in the order of the page: a module each, or one for several that are alike."""

from . import batches, drift, files, fleet, rehearse, stall, testing

CASES = [
    *files.CASES,
    *stall.CASES,
    *batches.CASES,
    *rehearse.CASES,
    *drift.CASES,
    *testing.CASES,
    *fleet.CASES,
]
