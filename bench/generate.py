"""Realistic migration files, the same ones on every run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

Files: TypeAlias = list[tuple[str, str]]  # (name without number and suffix, SQL)

# What the files make: every name ends in, or goes on after, the number of its group.
COUNT_OBJECTS = r"SELECT count(*) FROM pg_class WHERE relname ~ '_g\d+(_|$)'"
COUNT_ROWS = "SELECT count(*) FROM load"
STALL: Files = [("add_note", "ALTER TABLE busy ADD COLUMN note text;\n")]
_NOTE = "Please call back before noon and bring the signed copy of the agreement with you. " * 5


def files(n: int) -> Files:
    """Return `n` files: tables, columns, functions, DO blocks, rows, views, constraints."""
    kinds = re.findall(r"^-- Migration: (\w+)\n(.+?)\n(?=-- Migration|\Z)", _SET, re.M | re.S)
    made = []
    for i in range(n):
        name, body = kinds[i % len(kinds)]
        group = f"g{i // len(kinds):03d}"
        text = f"-- Migration: {name}_{group}\n{body.strip()}\n"
        made.append((f"{name}_{group}", text.replace("@", group)))
    return made


def load(megabytes: int, *, copy: bool) -> Files:
    """Return one file of so much data: COPY … FROM stdin, or INSERTs of 1,000 rows."""
    rows = list(_rows(megabytes))
    text = "CREATE TABLE load (id bigint, email text, at timestamptz, note text);\n"
    if copy:
        return [("load", f"{text}COPY load FROM stdin;\n{''.join(rows)}\\.\n")]
    for at in range(0, len(rows), 1000):
        values = ("('" + r.strip().replace("\t", "', '") + "')" for r in rows[at : at + 1000])
        text += "INSERT INTO load VALUES\n" + ",\n".join(values) + ";\n"
    return [("load", text)]


def _rows(megabytes: int) -> Iterator[str]:
    size, n = 0, 0
    while size < megabytes * 1_000_000:
        n += 1
        day = f"2026-01-{n % 28 + 1:02d} 12:00:00+00"
        row = f"{n}\tcustomer-{n}@example.com\t{day}\t{_NOTE.strip()}\n"
        size += len(row)
        yield row


_SET = """\
-- Migration: create_orders
-- Description: what customers have ordered
CREATE TABLE orders_@ (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id bigint NOT NULL,
    reference   text NOT NULL,
    status      text NOT NULL DEFAULT 'open',
    total       numeric(12, 2) NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT orders_@_reference_key UNIQUE (reference),
    CONSTRAINT orders_@_status_check CHECK (status IN ('open', 'paid', 'sent', 'void')),
    CONSTRAINT orders_@_total_check CHECK (total >= 0 AND total < 90000)
);

CREATE INDEX orders_@_customer_idx ON orders_@ (customer_id, created_at DESC);
COMMENT ON TABLE orders_@ IS 'What customers have ordered; paid means paid in full.';

-- Migration: add_delivery
ALTER TABLE orders_@ ADD COLUMN delivery_method text;
ALTER TABLE orders_@ ADD COLUMN delivered_at timestamptz;
ALTER TABLE orders_@ ADD COLUMN weight_g integer NOT NULL DEFAULT 0;

CREATE INDEX orders_@_undelivered_idx ON orders_@ (created_at) WHERE delivered_at IS NULL;

-- Migration: touch_orders
ALTER TABLE orders_@ ADD COLUMN updated_at timestamptz;

CREATE OR REPLACE FUNCTION touch_@() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    -- A weight that was never measured is guessed; the courier corrects it.
    IF NEW.weight_g = 0 THEN
        NEW.weight_g = 250;
    END IF;
    NEW.updated_at = now();
    RETURN NEW;
END
$body$;

CREATE TRIGGER orders_@_touch BEFORE UPDATE ON orders_@
    FOR EACH ROW EXECUTE FUNCTION touch_@();

-- Migration: create_channel_type
DO $do$
BEGIN
    CREATE TYPE channel_@ AS ENUM ('web', 'phone', 'shop', 'partner');
EXCEPTION
    WHEN duplicate_object THEN NULL;
END
$do$;

ALTER TABLE orders_@ ADD COLUMN channel channel_@ NOT NULL DEFAULT 'web';

-- Migration: insert_orders
INSERT INTO orders_@ (customer_id, reference, status, total) VALUES
    (17, 'R-0001', 'open', 120.00),
    (17, 'R-0002', 'paid', 12.50),
    (204, 'R-0003', 'paid', 999.99),
    (31, 'R-0004', 'sent', 45.00),
    (8, 'R-0005', 'void', 0);

UPDATE orders_@ SET delivery_method = 'courier' WHERE delivery_method IS NULL;

-- Migration: create_lines
CREATE TABLE order_lines_@ (
    order_id   bigint NOT NULL REFERENCES orders_@ (id) ON DELETE CASCADE,
    position   integer NOT NULL,
    product    text NOT NULL,
    quantity   integer NOT NULL DEFAULT 1 CHECK (quantity > 0),
    unit_price numeric(12, 2) NOT NULL,
    properties jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (order_id, position)
);

CREATE INDEX order_lines_@_product_idx ON order_lines_@ (lower(product));
CREATE INDEX order_lines_@_properties_idx ON order_lines_@ USING gin (properties);
COMMENT ON COLUMN order_lines_@.unit_price IS 'As it was when ordered; it doesn''t change.';

-- Migration: tighten_orders
/* The application has filled this in since the last release;
   rows from before were filled in by the migration that inserts. */
ALTER TABLE orders_@ ALTER COLUMN delivery_method SET NOT NULL;
ALTER TABLE orders_@ ALTER COLUMN delivery_method SET DEFAULT 'courier';
ALTER TABLE orders_@
    ADD CONSTRAINT orders_@_delivery_check CHECK (delivery_method IN ('courier', 'pickup'));

-- Migration: create_totals_view
CREATE VIEW order_totals_@ AS
    SELECT o.id, o.reference, count(l.position) AS lines, sum(l.quantity * l.unit_price) AS total
    FROM orders_@ o
    LEFT JOIN order_lines_@ l ON l.order_id = o.id
    WHERE o.status <> 'void'
    GROUP BY o.id, o.reference;

-- Migration: create_events
CREATE TABLE order_events_@ (
    order_id bigint NOT NULL,
    at       timestamptz NOT NULL DEFAULT now(),
    what     text NOT NULL,
    payload  jsonb
);

CREATE INDEX order_events_@_at_idx ON order_events_@ USING brin (at);
ALTER TABLE order_events_@ ADD CONSTRAINT order_events_@_order_id_fkey
    FOREIGN KEY (order_id) REFERENCES orders_@ (id) NOT VALID;
ALTER TABLE order_events_@ VALIDATE CONSTRAINT order_events_@_order_id_fkey;
"""
