"""The base schema and the first migration, on a real server, loaded by an ordinary role."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import TupleRow

from tests.servers import DEPLOY, Cluster

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = (ROOT / "db" / "schema.sql").read_bytes()
FIRST = (ROOT / "migrations" / "001_add_whatsapp_instances_table.sql").read_bytes()
README = (ROOT / "migrations" / "README.md").read_text(encoding="utf-8")

Conn = psycopg.Connection[TupleRow]

_TABLES = """
SELECT c.oid, c.relname FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
"""
_SHAPE = """
SELECT 'column', attrelid::regclass::text, attname::text, format_type(atttypid, atttypmod)
FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
WHERE attnum > 0 AND relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname::text, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'public'::regnamespace
UNION ALL
SELECT 'trigger', tgrelid::regclass::text, tgname::text, pg_get_triggerdef(oid)
FROM pg_trigger WHERE NOT tgisinternal
UNION ALL
SELECT 'enum', enumtypid::regtype::text, enumlabel::text, enumsortorder::text FROM pg_enum
ORDER BY 1, 2, 3, 4
"""


@contextmanager
def _own_database(cluster: Cluster) -> Iterator[Conn]:
    """Load the base schema and the first migration as a role that is no superuser."""
    name = cluster.create_database(DEPLOY)
    with closing(psycopg.connect(cluster.url(name, role=DEPLOY), autocommit=True)) as conn:
        for text in (SCHEMA, FIRST):
            conn.execute(text)  # without parameters: one transaction
        yield conn
    cluster.drop_database(name)


@pytest.fixture
def fresh(cluster: Cluster) -> Iterator[Conn]:
    """An autocommit connection to a loaded database of the test's own."""
    with _own_database(cluster) as conn:
        yield conn


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Conn]:
    with _own_database(cluster) as conn:
        yield conn


@pytest.fixture
def loaded(shared: Conn) -> Iterator[Conn]:
    """A connection to a loaded database, in a transaction that is rolled back after the test."""
    with shared.transaction(force_rollback=True):
        yield shared


_SEND = b"""
INSERT INTO messages (user_id, contact_id, campaign_id, direction, status, message_type, content)
VALUES (%s, %s, %s, 'outbound', 'queued', 'text', '{}') RETURNING id"""
_INVITE = b"""
INSERT INTO campaign_contacts (user_id, campaign_id, contact_id) VALUES (%s, %s, %s)"""


def _value(conn: Conn, query: bytes, *parameters: object) -> object:
    row = conn.execute(query, parameters or None).fetchone()
    assert row is not None
    return row[0]


def _account(conn: Conn, email: str = "ana@example.com") -> object:
    query = b"INSERT INTO users (email, full_name) VALUES (%s, 'Ana') RETURNING id"
    return _value(conn, query, email)


def _contact(conn: Conn, account: object, phone: str = "+16315551234") -> object:
    query = b"INSERT INTO contacts (user_id, phone_number) VALUES (%s, %s) RETURNING id"
    return _value(conn, query, account, phone)


def _template(conn: Conn, account: object) -> object:
    query = b"""
    INSERT INTO message_templates (user_id, name, language, category, components)
    VALUES (%s, 'welcome', 'en', 'MARKETING', '[]') RETURNING id"""
    return _value(conn, query, account)


def _running_campaign(conn: Conn, account: object) -> object:
    query = b"""
    INSERT INTO campaigns (user_id, template_id, name, status, started_at)
    VALUES (%s, %s, 'Spring', 'running', now()) RETURNING id"""
    return _value(conn, query, account, _template(conn, account))


def _refused_by(conn: Conn, constraint: str, query: bytes, *parameters: object) -> None:
    with pytest.raises(psycopg.errors.IntegrityError) as caught, conn.transaction():
        conn.execute(query, parameters)
    assert caught.value.diag.constraint_name == constraint


def test_the_schema_loads_for_a_role_that_only_owns_the_database(fresh: Conn) -> None:
    query = b"SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
    assert _value(fresh, query) is False
    assert {name for _, name in fresh.execute(_TABLES)} == {
        "campaign_contacts",
        "campaigns",
        "contact_list_members",
        "contact_lists",
        "contacts",
        "message_templates",
        "messages",
        "users",
        "whatsapp_instances",
    }


def test_uuid_generate_v4_comes_from_the_extension_where_the_server_has_it(loaded: Conn) -> None:
    assert _value(loaded, b"SELECT uuid_generate_v4()::text") != _value(
        loaded, b"SELECT uuid_generate_v4()::text"
    )
    assert _value(loaded, b"SELECT substr(uuid_generate_v4()::text, 15, 1)") == "4"
    from_extension = b"""
    SELECT EXISTS (SELECT FROM pg_depend WHERE deptype = 'e' AND classid = 'pg_proc'::regclass
                   AND objid = 'uuid_generate_v4()'::regprocedure)"""
    offered = b"SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'uuid-ossp')"
    assert _value(loaded, from_extension) == _value(loaded, offered)


def test_a_role_that_may_not_create_extensions_gets_the_stand_in(
    cluster: Cluster, database: str, conn: Conn
) -> None:
    conn.execute(f"GRANT CREATE ON SCHEMA public TO {DEPLOY}".encode())
    with closing(psycopg.connect(cluster.url(database, role=DEPLOY), autocommit=True)) as ours:
        ours.execute(SCHEMA)
        assert _account(ours)
    assert _value(conn, b"SELECT count(*) FROM pg_extension WHERE extname = 'uuid-ossp'") == 0


def test_an_update_moves_updated_at_and_nothing_else_does(fresh: Conn) -> None:
    account = _account(fresh)
    moved = b"SELECT updated_at > created_at FROM users WHERE id = %s"
    assert _value(fresh, moved, account) is False
    fresh.execute("UPDATE users SET full_name = 'Ana B.' WHERE id = %s", [account])
    assert _value(fresh, moved, account) is True


def test_every_table_has_a_comment(loaded: Conn) -> None:
    without = f"SELECT relname FROM ({_TABLES}) t WHERE obj_description(oid, 'pg_class') IS NULL"
    assert loaded.execute(without.encode()).fetchall() == []


def test_every_table_with_updated_at_has_the_trigger(loaded: Conn) -> None:
    without = f"""
    SELECT relname FROM ({_TABLES}) t JOIN pg_attribute a ON a.attrelid = t.oid
    WHERE a.attname = 'updated_at' AND NOT EXISTS (
        SELECT FROM pg_trigger g WHERE g.tgrelid = t.oid AND g.tgenabled = 'O'
        AND g.tgfoid = 'update_updated_at_column()'::regprocedure
        AND g.tgtype = 1 | 2 | 16)  -- FOR EACH ROW, BEFORE, UPDATE"""
    assert loaded.execute(without.encode()).fetchall() == []


def test_every_foreign_key_has_an_index(loaded: Conn) -> None:
    # One that begins with the key's columns, in any order; it may leave out rows without the key.
    without = b"""
    SELECT conrelid::regclass::text, conname FROM pg_constraint k
    WHERE contype = 'f' AND NOT EXISTS (
        SELECT FROM pg_index i
        WHERE i.indrelid = k.conrelid AND i.indisvalid
        AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] <@ k.conkey
        AND (i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
        AND (i.indpred IS NULL
             OR pg_get_expr(i.indpred, i.indrelid) IN (
                 SELECT format('(%I IS NOT NULL)', attname) FROM pg_attribute
                 WHERE attrelid = k.conrelid AND attnum = ANY (k.conkey))))"""
    assert loaded.execute(without).fetchall() == []


def test_the_first_migration_may_be_executed_twice(fresh: Conn) -> None:
    before = fresh.execute(_SHAPE.encode()).fetchall()
    fresh.execute(FIRST)
    assert fresh.execute(_SHAPE.encode()).fetchall() == before


def test_an_email_is_taken_in_any_case(loaded: Conn) -> None:
    _account(loaded, "ana@example.com")
    insert = b"INSERT INTO users (email, full_name) VALUES (%s, 'Ana')"
    _refused_by(loaded, "users_email_key", insert, "Ana@Example.COM")


@pytest.mark.parametrize("password", ["secret", ""])
def test_a_password_that_is_not_hashed_is_refused(loaded: Conn, password: str) -> None:
    insert = b"INSERT INTO users (email, full_name, password_hash) VALUES ('a@b', 'Ana', %s)"
    _refused_by(loaded, "users_password_hash_check", insert, password)


@pytest.mark.parametrize(
    "phone",
    ["16315551234", "+0631555123", "+1 631 555 1234", "+123456", "+1234567890123456", "+1\n234567"],
)
def test_a_phone_number_that_is_not_e164_is_refused(loaded: Conn, phone: str) -> None:
    insert = b"INSERT INTO contacts (user_id, phone_number) VALUES (%s, %s)"
    _refused_by(loaded, "contacts_phone_number_check", insert, _account(loaded), phone)


def test_an_account_has_a_phone_number_once_and_another_account_may_have_it(loaded: Conn) -> None:
    ana, ben = _account(loaded), _account(loaded, "ben@example.com")
    assert _contact(loaded, ana) != _contact(loaded, ben)
    insert = b"INSERT INTO contacts (user_id, phone_number) VALUES (%s, '+16315551234')"
    _refused_by(loaded, "contacts_phone_number_key", insert, ana)


def test_a_row_cannot_point_into_another_account(loaded: Conn) -> None:
    ana, ben = _account(loaded), _account(loaded, "ben@example.com")
    insert = b"INSERT INTO campaigns (user_id, template_id, name) VALUES (%s, %s, 'Spring')"
    _refused_by(loaded, "campaigns_template_fkey", insert, ben, _template(loaded, ana))
    campaign, contact = _running_campaign(loaded, ben), _contact(loaded, ana)
    _refused_by(loaded, "campaign_contacts_contact_fkey", _INVITE, ben, campaign, contact)


def test_a_campaign_needs_what_its_status_says(loaded: Conn) -> None:
    account = _account(loaded)
    insert = b"""
    INSERT INTO campaigns (user_id, template_id, name, status) VALUES (%s, %s, 'Spring', %s)"""
    template = _template(loaded, account)
    _refused_by(loaded, "campaigns_scheduled_at_check", insert, account, template, "scheduled")
    _refused_by(loaded, "campaigns_started_at_check", insert, account, template, "running")
    _refused_by(loaded, "campaigns_ended_at_check", insert, account, template, "cancelled")
    started = (
        b"INSERT INTO campaigns (user_id, name, status, started_at) VALUES (%s, 'A', %s, now())"
    )
    _refused_by(loaded, "campaigns_template_check", started, account, "running")


def test_a_campaign_writes_to_a_contact_of_its_audience_and_once(loaded: Conn) -> None:
    account = _account(loaded)
    contact, campaign = _contact(loaded, account), _running_campaign(loaded, account)
    message = (account, contact, campaign)
    _refused_by(loaded, "messages_campaign_contact_fkey", _SEND, *message)
    loaded.execute(_INVITE, [account, campaign, contact])
    loaded.execute(_SEND, message)
    _refused_by(loaded, "messages_campaign_contact_key", _SEND, *message)


@pytest.mark.parametrize(
    ("constraint", "change"),
    [
        ("messages_accepted_check", b"status = 'accepted'"),
        ("messages_accepted_check", b"wamid = 'wamid.1'"),
        ("messages_wamid_check", b"status = 'accepted', wamid = '1'"),
        ("messages_timestamps_check", b"status = 'sent', wamid = 'wamid.1'"),
        ("messages_timestamps_check", b"status = 'read', wamid = 'wamid.1'"),
        ("messages_failed_at_check", b"status = 'failed'"),
        ("messages_error_check", b"error_code = 131026"),
        ("messages_direction_check", b"direction = 'inbound'"),
        ("messages_content_check", b"content = '[]'"),
        ("messages_template_check", b"template_id = uuid_generate_v4()"),
    ],
)
def test_a_message_cannot_contradict_itself(loaded: Conn, constraint: str, change: bytes) -> None:
    account = _account(loaded)
    message = _value(loaded, _SEND, account, _contact(loaded, account), None)
    _refused_by(loaded, constraint, b"UPDATE messages SET " + change + b" WHERE id = %s", message)


def test_the_life_of_a_message_fits_and_a_late_webhook_does_not_turn_it_back(loaded: Conn) -> None:
    account = _account(loaded)
    message = _value(loaded, _SEND, account, _contact(loaded, account), None)
    for change in (
        b"status = 'accepted', wamid = 'wamid.1'",
        b"status = 'sent', sent_at = now()",
        b"status = 'read', read_at = now()",
        b"delivered_at = now()",
    ):
        loaded.execute(b"UPDATE messages SET " + change + b" WHERE id = %s", [message])
    late = "UPDATE messages SET status = 'delivered' WHERE id = %s AND status < 'delivered'"
    assert loaded.execute(late, [message]).rowcount == 0


def test_a_message_is_received_once(loaded: Conn) -> None:
    account = _account(loaded)
    insert = b"""
    INSERT INTO messages (user_id, contact_id, direction, status, message_type, content, wamid)
    VALUES (%s, %s, 'inbound', 'received', 'text', '{"body": "Hi"}', 'wamid.1')"""
    contact = _contact(loaded, account)
    loaded.execute(insert, [account, contact])
    _refused_by(loaded, "messages_wamid_key", insert, account, contact)


def test_deleting_a_contact_deletes_what_is_its_own(loaded: Conn) -> None:
    account = _account(loaded)
    contact, campaign = _contact(loaded, account), _running_campaign(loaded, account)
    loaded.execute(_INVITE, [account, campaign, contact])
    loaded.execute(_SEND, [account, contact, campaign])
    loaded.execute("DELETE FROM contacts WHERE id = %s", [contact])
    assert _value(loaded, b"SELECT count(*) FROM messages") == 0
    assert _value(loaded, b"SELECT count(*) FROM campaign_contacts") == 0
    assert _value(loaded, b"SELECT count(*) FROM campaigns") == 1


def test_history_and_accounts_with_data_are_not_deleted(loaded: Conn) -> None:
    account = _account(loaded)
    contact, campaign = _contact(loaded, account), _running_campaign(loaded, account)
    loaded.execute(_INVITE, [account, campaign, contact])
    loaded.execute(_SEND, [account, contact, campaign])
    _refused_by(loaded, "messages_campaign_contact_fkey", b"DELETE FROM campaigns")
    _refused_by(loaded, "campaigns_template_fkey", b"DELETE FROM message_templates")
    ben = _account(loaded, "ben@example.com")
    _contact(loaded, ben)
    _refused_by(loaded, "contacts_user_id_fkey", b"DELETE FROM users WHERE id = %s", ben)


_INSTANCE = b"""
INSERT INTO whatsapp_instances
    (user_id, phone_number_id, business_account_id, display_phone_number,
     access_token_encrypted, access_token_key_id, webhook_verify_token_hash)
VALUES (%s, '106540352242922', '102290129340398', '+1 631-555-1234',
        '\\x00ff', 'key-1', sha256('token'))
RETURNING id"""


def test_an_instance_is_connected_once(loaded: Conn) -> None:
    account = _account(loaded)
    assert _value(loaded, _INSTANCE, account)
    _refused_by(loaded, "whatsapp_instances_phone_number_id_key", _INSTANCE, account)


@pytest.mark.parametrize(
    ("constraint", "change"),
    [
        ("whatsapp_instances_display_phone_number_check", b"display_phone_number = '6315551234'"),
        (
            "whatsapp_instances_webhook_verify_token_hash_check",
            b"webhook_verify_token_hash = 'tok'",
        ),
        ("whatsapp_instances_access_token_check", b"access_token_encrypted = ''"),
        ("whatsapp_instances_messaging_limit_tier_check", b"messaging_limit_tier = '1000'"),
        ("whatsapp_instances_connected_at_check", b"status = 'CONNECTED'"),
    ],
)
def test_an_instance_cannot_hold_what_makes_no_sense(
    loaded: Conn, constraint: str, change: bytes
) -> None:
    found = _value(loaded, _INSTANCE, _account(loaded))
    update = b"UPDATE whatsapp_instances SET " + change + b" WHERE id = %s"
    _refused_by(loaded, constraint, update, found)


def test_the_example_of_the_readme_runs_and_may_run_again(fresh: Conn) -> None:
    (example,) = re.findall(r"`002_\w+\.sql`:\n```sql\n(.*?)```", README, re.DOTALL)
    for _ in range(2):
        fresh.execute(example.encode())
        assert _value(fresh, b"SELECT count(*) FROM message_templates") == 4
        assert _value(fresh, b"SELECT count(*) FROM users") == 1


def test_the_index_of_the_readme_is_built(fresh: Conn) -> None:
    (example,) = re.findall(r"^CREATE INDEX CONCURRENTLY .*?;", README, re.DOTALL | re.MULTILINE)
    fresh.execute(example.encode())
    assert _value(fresh, b"SELECT indisvalid FROM pg_index ORDER BY indexrelid DESC LIMIT 1")
