"""A folder and a ledger's rows -> what would run; no database."""
