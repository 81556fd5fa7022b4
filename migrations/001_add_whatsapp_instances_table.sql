-- Migration: 001_add_whatsapp_instances_table
-- Created at: 2026-11-23
-- Description: WhatsApp Cloud API instances. An instance is one business phone number that an
--   account has connected: how Meta identifies it, the secrets it is used with, and how it stands
--   with Meta. An account may have several.

DO $do$
BEGIN
    CREATE TYPE whatsapp_instance_status AS ENUM (
        'PENDING',
        'UNVERIFIED',
        'CONNECTED',
        'DISCONNECTED',
        'FLAGGED',
        'RATE_LIMITED',
        'RESTRICTED',
        'BANNED',
        'MIGRATED',
        'DELETED',
        'UNKNOWN'
    );
EXCEPTION
    WHEN duplicate_object THEN NULL;
END
$do$;

DO $do$
BEGIN
    CREATE TYPE whatsapp_quality_rating AS ENUM ('GREEN', 'YELLOW', 'RED', 'UNKNOWN');
EXCEPTION
    WHEN duplicate_object THEN NULL;
END
$do$;

CREATE TABLE IF NOT EXISTS whatsapp_instances (
    id                        uuid                     NOT NULL DEFAULT uuid_generate_v4(),
    user_id                   uuid                     NOT NULL,
    phone_number_id           text                     NOT NULL,
    business_account_id       text                     NOT NULL,
    display_phone_number      text                     NOT NULL,
    verified_name             text,
    access_token_encrypted    bytea                    NOT NULL,
    access_token_key_id       text                     NOT NULL,
    access_token_expires_at   timestamptz,
    webhook_verify_token_hash bytea                    NOT NULL,
    status                    whatsapp_instance_status NOT NULL DEFAULT 'PENDING',
    quality_rating            whatsapp_quality_rating  NOT NULL DEFAULT 'UNKNOWN',
    messaging_limit_tier      text,
    connected_at              timestamptz,
    synced_at                 timestamptz,
    created_at                timestamptz              NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at                timestamptz              NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT whatsapp_instances_pkey PRIMARY KEY (id),
    CONSTRAINT whatsapp_instances_user_id_id_key UNIQUE (user_id, id),
    CONSTRAINT whatsapp_instances_phone_number_id_key UNIQUE (phone_number_id),
    CONSTRAINT whatsapp_instances_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id),
    CONSTRAINT whatsapp_instances_phone_number_id_check CHECK (phone_number_id ~ '^[0-9]+$'),
    CONSTRAINT whatsapp_instances_business_account_id_check
        CHECK (business_account_id ~ '^[0-9]+$'),
    CONSTRAINT whatsapp_instances_display_phone_number_check
        CHECK (display_phone_number ~ '^\+[1-9][0-9 ()-]{5,28}[0-9]$'),
    CONSTRAINT whatsapp_instances_verified_name_check CHECK (btrim(verified_name) <> ''),
    CONSTRAINT whatsapp_instances_access_token_check
        CHECK (octet_length(access_token_encrypted) > 0 AND access_token_key_id <> ''),
    CONSTRAINT whatsapp_instances_webhook_verify_token_hash_check
        CHECK (octet_length(webhook_verify_token_hash) = 32),
    CONSTRAINT whatsapp_instances_messaging_limit_tier_check
        CHECK (messaging_limit_tier ~ '^TIER_[A-Z0-9_]+$'),
    CONSTRAINT whatsapp_instances_connected_at_check
        CHECK (connected_at IS NOT NULL OR status <> 'CONNECTED')
);

-- Webhooks about templates and account reviews name the business account only.
CREATE INDEX IF NOT EXISTS whatsapp_instances_business_account_id_idx
    ON whatsapp_instances (business_account_id);

-- Tokens to be renewed: those of a system user never expire and are not in it.
CREATE INDEX IF NOT EXISTS whatsapp_instances_access_token_expires_at_idx
    ON whatsapp_instances (access_token_expires_at)
    WHERE access_token_expires_at IS NOT NULL;

DO $do$
BEGIN
    CREATE TRIGGER whatsapp_instances_updated_at
        BEFORE UPDATE ON whatsapp_instances
        FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();
EXCEPTION
    WHEN duplicate_object THEN NULL;
END
$do$;

COMMENT ON TYPE whatsapp_instance_status IS
    'As Meta names them, where PENDING is a number that is not registered yet. '
    'What Meta may add is stored as UNKNOWN.';
COMMENT ON TYPE whatsapp_quality_rating IS
    'What recipients think of the number''s messages, as Meta names it. UNKNOWN is Meta''s NA too.';

COMMENT ON TABLE whatsapp_instances IS
    'Business phone numbers that accounts have connected to the WhatsApp Cloud API.';
COMMENT ON CONSTRAINT whatsapp_instances_user_id_id_key ON whatsapp_instances IS
    'For foreign keys of (user_id, whatsapp_instance_id).';
COMMENT ON COLUMN whatsapp_instances.user_id IS 'The account that owns the number.';
COMMENT ON COLUMN whatsapp_instances.phone_number_id IS
    'Meta''s id of the number, part of the URL that messages are sent to. A number, kept as text '
    'because JavaScript would round it.';
COMMENT ON COLUMN whatsapp_instances.business_account_id IS
    'Meta''s id of the WhatsApp Business Account (WABA) that the number belongs to.';
COMMENT ON COLUMN whatsapp_instances.display_phone_number IS
    'The number as Meta shows it, such as +1 631-555-1234. Not for comparing.';
COMMENT ON COLUMN whatsapp_instances.verified_name IS
    'The name that recipients see. NULL: Meta has not approved one yet.';
COMMENT ON COLUMN whatsapp_instances.access_token_encrypted IS
    'Encrypted by the application (AES-256-GCM: nonce, ciphertext, tag). The database never sees '
    'the token or the key.';
COMMENT ON COLUMN whatsapp_instances.access_token_key_id IS
    'Which of the application''s keys it is encrypted with, so that keys can be rotated.';
COMMENT ON COLUMN whatsapp_instances.access_token_expires_at IS
    'NULL: never, as those of a system user.';
COMMENT ON COLUMN whatsapp_instances.webhook_verify_token_hash IS
    'SHA-256 of the token that Meta sends when a webhook is set up. It is only ever compared.';
COMMENT ON COLUMN whatsapp_instances.messaging_limit_tier IS
    'How many people the number may start a conversation with in 24 hours: TIER_250, TIER_1K, … '
    'Text, because Meta adds tiers. NULL: not known yet.';
COMMENT ON COLUMN whatsapp_instances.connected_at IS
    'When the number was first registered with the Cloud API.';
COMMENT ON COLUMN whatsapp_instances.synced_at IS
    'When status, quality and tier were last read from Meta.';
