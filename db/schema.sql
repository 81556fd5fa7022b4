-- The base schema of the platform: accounts, their contacts, templates, campaigns and messages.
--
-- It is loaded once, into an empty database, before the first migration. Later changes are
-- migrations: a change here reaches new databases only. PostgreSQL 13 and later; the role needs no
-- more than to own the database.
--
-- Conventions
--   Names of constraints and indexes follow PostgreSQL's own pattern: <table>_<what>_key, _fkey,
--   _check, _idx.
--   Values that Meta defines are spelled as Meta spells them, so that what a webhook says is stored
--   unchanged: template statuses in capitals, message statuses in small letters. Our own are small.
--   Every row belongs to one account. Tables that refer to each other do so by (user_id, …_id), so
--   that no row of one account can point at a row of another.
--   Deleting a row deletes what is part of it (a contact's messages, a list's members) and is
--   refused where history would be lost (a campaign or a template that was used, an account that
--   has data).

----------------------------------------------------------------------------------------------------
-- Functions
----------------------------------------------------------------------------------------------------

-- uuid_generate_v4() comes with uuid-ossp. Some servers do not have the extension, or do not let
-- this role create it; there a function of that name stands in, over the built-in generator.
DO $do$
BEGIN
    IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'uuid-ossp') THEN
        BEGIN
            CREATE EXTENSION IF NOT EXISTS "uuid-ossp";
        EXCEPTION
            -- Not the database's owner; not on a managed service's list; listed but not installed.
            WHEN insufficient_privilege OR feature_not_supported OR undefined_file THEN
                RAISE NOTICE 'uuid-ossp is not used: %', SQLERRM;
        END;
    END IF;

    IF to_regprocedure('uuid_generate_v4()') IS NULL THEN
        CREATE FUNCTION uuid_generate_v4() RETURNS uuid
            LANGUAGE sql VOLATILE PARALLEL SAFE
            AS 'SELECT pg_catalog.gen_random_uuid()';
        COMMENT ON FUNCTION uuid_generate_v4() IS
            'Stands in for the function of the extension uuid-ossp.';
    END IF;
END
$do$;

CREATE FUNCTION update_updated_at_column() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.updated_at := CURRENT_TIMESTAMP;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION update_updated_at_column() IS
    'Trigger function, BEFORE UPDATE: sets updated_at to the time of the transaction.';

----------------------------------------------------------------------------------------------------
-- Types
----------------------------------------------------------------------------------------------------

CREATE TYPE user_role AS ENUM ('customer', 'support', 'admin');

COMMENT ON TYPE user_role IS
    'customer: sees the own account. support: may read every account. admin: may do everything.';

CREATE TYPE template_category AS ENUM ('AUTHENTICATION', 'MARKETING', 'UTILITY');

COMMENT ON TYPE template_category IS 'Decides what a message costs and when it may be sent.';

CREATE TYPE template_status AS ENUM (
    'DRAFT',
    'PENDING',
    'IN_APPEAL',
    'APPROVED',
    'REJECTED',
    'PAUSED',
    'DISABLED',
    'LIMIT_EXCEEDED',
    'ARCHIVED',
    'PENDING_DELETION',
    'DELETED'
);

COMMENT ON TYPE template_status IS
    'Where Meta''s review stands. DRAFT is ours: not submitted. Only APPROVED can be sent.';

CREATE TYPE campaign_status AS ENUM (
    'draft',
    'scheduled',
    'running',
    'paused',
    'completed',
    'failed',
    'cancelled'
);

CREATE TYPE message_direction AS ENUM ('inbound', 'outbound');

-- In the order of a message's life: webhooks arrive out of order, and an update that says
-- "WHERE status < 'delivered'" does not turn a message that was read back into a delivered one.
CREATE TYPE message_status AS ENUM (
    'received',
    'queued',
    'accepted',
    'sent',
    'delivered',
    'read',
    'failed'
);

COMMENT ON TYPE message_status IS
    'received: inbound. queued: to be given to Meta. accepted: Meta has it, and has answered with '
    'a wamid. The others: as webhooks report them.';

----------------------------------------------------------------------------------------------------
-- Accounts
----------------------------------------------------------------------------------------------------

CREATE TABLE users (
    id                uuid        NOT NULL DEFAULT uuid_generate_v4(),
    email             text        NOT NULL,
    password_hash     text,
    full_name         text        NOT NULL,
    role              user_role   NOT NULL DEFAULT 'customer',
    email_verified_at timestamptz,
    last_login_at     timestamptz,
    deactivated_at    timestamptz,
    created_at        timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at        timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT users_pkey PRIMARY KEY (id),
    CONSTRAINT users_email_check
        CHECK (email ~ '^[^@[:space:]]+@[^@[:space:]]+$' AND char_length(email) <= 254),
    CONSTRAINT users_password_hash_check CHECK (password_hash LIKE '$%'),
    CONSTRAINT users_full_name_check CHECK (btrim(full_name) <> '')
);

-- Look an account up with lower(email) = lower($1).
CREATE UNIQUE INDEX users_email_key ON users (lower(email));

CREATE TRIGGER users_updated_at
    BEFORE UPDATE ON users
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

COMMENT ON TABLE users IS 'Accounts of the platform. They are deactivated, not deleted.';
COMMENT ON COLUMN users.email IS 'As its owner writes it; unique whatever the case.';
COMMENT ON COLUMN users.password_hash IS
    'With its algorithm and salt ($argon2id$…, $2b$…), never the password itself. '
    'NULL: no login by password.';
COMMENT ON COLUMN users.deactivated_at IS 'Since when the account may not log in or send.';

----------------------------------------------------------------------------------------------------
-- Contacts
----------------------------------------------------------------------------------------------------

CREATE TABLE contacts (
    id            uuid        NOT NULL DEFAULT uuid_generate_v4(),
    user_id       uuid        NOT NULL,
    phone_number  text        NOT NULL,
    wa_id         text,
    full_name     text,
    language      text,
    attributes    jsonb       NOT NULL DEFAULT '{}',
    opted_in_at   timestamptz,
    opt_in_source text,
    opted_out_at  timestamptz,
    created_at    timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at    timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT contacts_pkey PRIMARY KEY (id),
    CONSTRAINT contacts_user_id_id_key UNIQUE (user_id, id),
    CONSTRAINT contacts_phone_number_key UNIQUE (user_id, phone_number),
    CONSTRAINT contacts_wa_id_key UNIQUE (user_id, wa_id),
    CONSTRAINT contacts_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id),
    CONSTRAINT contacts_phone_number_check CHECK (phone_number ~ '^\+[1-9][0-9]{6,14}$'),
    CONSTRAINT contacts_wa_id_check CHECK (wa_id ~ '^[1-9][0-9]{6,14}$'),
    CONSTRAINT contacts_language_check CHECK (language ~ '^[a-z]{2,3}(_[A-Z]{2})?$'),
    CONSTRAINT contacts_attributes_check CHECK (jsonb_typeof(attributes) = 'object'),
    CONSTRAINT contacts_opt_in_check CHECK ((opted_in_at IS NULL) = (opt_in_source IS NULL))
);

CREATE INDEX contacts_created_at_idx ON contacts (user_id, created_at DESC);

CREATE TRIGGER contacts_updated_at
    BEFORE UPDATE ON contacts
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

COMMENT ON TABLE contacts IS
    'People whom an account writes to. The same person is one row for each account.';
COMMENT ON CONSTRAINT contacts_user_id_id_key ON contacts IS
    'For foreign keys of (user_id, contact_id).';
COMMENT ON COLUMN contacts.phone_number IS 'E.164: a plus sign, then 7 to 15 digits.';
COMMENT ON COLUMN contacts.wa_id IS
    'The number as webhooks name it. In some countries it is not the one that was dialled.';
COMMENT ON COLUMN contacts.attributes IS 'Fields of the account''s own, used in templates.';
COMMENT ON COLUMN contacts.opted_in_at IS
    'When the contact last agreed to be written to. NULL: never, so only replies may be sent.';
COMMENT ON COLUMN contacts.opt_in_source IS
    'Where the contact agreed: a form, a keyword, an import. It is the proof.';
COMMENT ON COLUMN contacts.opted_out_at IS
    'When the contact withdrew. Cleared by a new opt-in. Set: no campaign may reach the contact.';

CREATE TABLE contact_lists (
    id          uuid        NOT NULL DEFAULT uuid_generate_v4(),
    user_id     uuid        NOT NULL,
    name        text        NOT NULL,
    description text,
    created_at  timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at  timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT contact_lists_pkey PRIMARY KEY (id),
    CONSTRAINT contact_lists_user_id_id_key UNIQUE (user_id, id),
    CONSTRAINT contact_lists_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id),
    CONSTRAINT contact_lists_name_check CHECK (btrim(name) <> '')
);

CREATE UNIQUE INDEX contact_lists_name_key ON contact_lists (user_id, lower(name));

CREATE TRIGGER contact_lists_updated_at
    BEFORE UPDATE ON contact_lists
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

COMMENT ON TABLE contact_lists IS
    'Named sets of contacts, to choose the audience of a campaign from. Tags are lists too.';
COMMENT ON CONSTRAINT contact_lists_user_id_id_key ON contact_lists IS
    'For foreign keys of (user_id, contact_list_id).';

CREATE TABLE contact_list_members (
    user_id         uuid        NOT NULL,
    contact_list_id uuid        NOT NULL,
    contact_id      uuid        NOT NULL,
    added_at        timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT contact_list_members_pkey PRIMARY KEY (user_id, contact_list_id, contact_id),
    CONSTRAINT contact_list_members_contact_list_fkey FOREIGN KEY (user_id, contact_list_id)
        REFERENCES contact_lists (user_id, id) ON DELETE CASCADE,
    CONSTRAINT contact_list_members_contact_fkey FOREIGN KEY (user_id, contact_id)
        REFERENCES contacts (user_id, id) ON DELETE CASCADE
);

CREATE INDEX contact_list_members_contact_idx ON contact_list_members (user_id, contact_id);

COMMENT ON TABLE contact_list_members IS 'Which contact is on which list.';

----------------------------------------------------------------------------------------------------
-- Message templates
----------------------------------------------------------------------------------------------------

CREATE TABLE message_templates (
    id               uuid              NOT NULL DEFAULT uuid_generate_v4(),
    user_id          uuid              NOT NULL,
    name             text              NOT NULL,
    language         text              NOT NULL,
    category         template_category NOT NULL,
    status           template_status   NOT NULL DEFAULT 'DRAFT',
    components       jsonb             NOT NULL,
    meta_template_id text,
    rejection_reason text,
    submitted_at     timestamptz,
    reviewed_at      timestamptz,
    created_at       timestamptz       NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at       timestamptz       NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT message_templates_pkey PRIMARY KEY (id),
    CONSTRAINT message_templates_user_id_id_key UNIQUE (user_id, id),
    CONSTRAINT message_templates_name_key UNIQUE (user_id, name, language),
    CONSTRAINT message_templates_meta_template_id_key UNIQUE (meta_template_id),
    CONSTRAINT message_templates_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id),
    CONSTRAINT message_templates_name_check
        CHECK (name ~ '^[a-z0-9_]+$' AND char_length(name) <= 512),
    CONSTRAINT message_templates_language_check CHECK (language ~ '^[a-z]{2,3}(_[A-Z]{2})?$'),
    CONSTRAINT message_templates_components_check CHECK (jsonb_typeof(components) = 'array'),
    CONSTRAINT message_templates_meta_template_id_check
        CHECK (meta_template_id ~ '^[0-9]+$'),
    CONSTRAINT message_templates_draft_check
        CHECK (status <> 'DRAFT' OR meta_template_id IS NULL),
    CONSTRAINT message_templates_rejection_reason_check
        CHECK (rejection_reason IS NULL OR status IN ('REJECTED', 'IN_APPEAL'))
);

CREATE TRIGGER message_templates_updated_at
    BEFORE UPDATE ON message_templates
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

COMMENT ON TABLE message_templates IS
    'Message templates, one row a language. A business may write to somebody who has not written '
    'to it in the last 24 hours only with an approved one.';
COMMENT ON CONSTRAINT message_templates_user_id_id_key ON message_templates IS
    'For foreign keys of (user_id, template_id).';
COMMENT ON COLUMN message_templates.name IS 'Meta''s rule: small letters, digits, underscores.';
COMMENT ON COLUMN message_templates.language IS 'Meta''s code, such as en, en_US or pt_BR.';
COMMENT ON COLUMN message_templates.components IS
    'Header, body, footer and buttons: the array that the Cloud API takes and returns.';
COMMENT ON COLUMN message_templates.meta_template_id IS
    'Meta''s id: a number, kept as text because JavaScript would round it. NULL: not submitted.';
COMMENT ON COLUMN message_templates.rejection_reason IS 'Meta''s reason for the last rejection.';

----------------------------------------------------------------------------------------------------
-- Campaigns
----------------------------------------------------------------------------------------------------

CREATE TABLE campaigns (
    id           uuid            NOT NULL DEFAULT uuid_generate_v4(),
    user_id      uuid            NOT NULL,
    template_id  uuid,
    name         text            NOT NULL,
    status       campaign_status NOT NULL DEFAULT 'draft',
    parameters   jsonb           NOT NULL DEFAULT '{}',
    scheduled_at timestamptz,
    started_at   timestamptz,
    ended_at     timestamptz,
    created_at   timestamptz     NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at   timestamptz     NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT campaigns_pkey PRIMARY KEY (id),
    CONSTRAINT campaigns_user_id_id_key UNIQUE (user_id, id),
    CONSTRAINT campaigns_user_id_fkey FOREIGN KEY (user_id) REFERENCES users (id),
    CONSTRAINT campaigns_template_fkey FOREIGN KEY (user_id, template_id)
        REFERENCES message_templates (user_id, id),
    CONSTRAINT campaigns_name_check CHECK (btrim(name) <> ''),
    CONSTRAINT campaigns_parameters_check CHECK (jsonb_typeof(parameters) = 'object'),
    CONSTRAINT campaigns_template_check
        CHECK (template_id IS NOT NULL OR status IN ('draft', 'cancelled')),
    CONSTRAINT campaigns_scheduled_at_check
        CHECK (scheduled_at IS NOT NULL OR status <> 'scheduled'),
    CONSTRAINT campaigns_started_at_check
        CHECK (started_at IS NOT NULL OR status NOT IN ('running', 'paused', 'completed')),
    CONSTRAINT campaigns_ended_at_check
        CHECK ((ended_at IS NOT NULL) = (status IN ('completed', 'failed', 'cancelled'))),
    CONSTRAINT campaigns_order_check CHECK (ended_at >= started_at)
);

CREATE INDEX campaigns_template_idx ON campaigns (user_id, template_id);
CREATE INDEX campaigns_created_at_idx ON campaigns (user_id, created_at DESC);
-- What the scheduler asks every minute, of all accounts: which campaigns are due?
CREATE INDEX campaigns_due_idx ON campaigns (scheduled_at) WHERE status = 'scheduled';

CREATE TRIGGER campaigns_updated_at
    BEFORE UPDATE ON campaigns
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

COMMENT ON TABLE campaigns IS
    'One template, sent to many contacts. One that has sent messages cannot be deleted.';
COMMENT ON CONSTRAINT campaigns_user_id_id_key ON campaigns IS
    'For foreign keys of (user_id, campaign_id).';
COMMENT ON COLUMN campaigns.template_id IS 'May be missing while the campaign is a draft.';
COMMENT ON COLUMN campaigns.parameters IS
    'Values of the template''s variables that are the same for everybody.';
COMMENT ON COLUMN campaigns.scheduled_at IS 'When to start. NULL: when somebody says so.';
COMMENT ON COLUMN campaigns.ended_at IS 'When it was completed, failed or was cancelled.';

CREATE TABLE campaign_contacts (
    user_id     uuid        NOT NULL,
    campaign_id uuid        NOT NULL,
    contact_id  uuid        NOT NULL,
    parameters  jsonb       NOT NULL DEFAULT '{}',
    handled_at  timestamptz,
    skip_reason text,
    created_at  timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at  timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT campaign_contacts_pkey PRIMARY KEY (user_id, campaign_id, contact_id),
    CONSTRAINT campaign_contacts_campaign_fkey FOREIGN KEY (user_id, campaign_id)
        REFERENCES campaigns (user_id, id) ON DELETE CASCADE,
    CONSTRAINT campaign_contacts_contact_fkey FOREIGN KEY (user_id, contact_id)
        REFERENCES contacts (user_id, id) ON DELETE CASCADE,
    CONSTRAINT campaign_contacts_parameters_check CHECK (jsonb_typeof(parameters) = 'object'),
    CONSTRAINT campaign_contacts_skip_reason_check
        CHECK (skip_reason IS NULL OR handled_at IS NOT NULL)
);

CREATE INDEX campaign_contacts_contact_idx ON campaign_contacts (user_id, contact_id);
-- The sender's work list: whom has this campaign not reached yet?
CREATE INDEX campaign_contacts_pending_idx
    ON campaign_contacts (user_id, campaign_id) WHERE handled_at IS NULL;

CREATE TRIGGER campaign_contacts_updated_at
    BEFORE UPDATE ON campaign_contacts
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

COMMENT ON TABLE campaign_contacts IS
    'The audience of a campaign, as it was when the campaign was started.';
COMMENT ON COLUMN campaign_contacts.parameters IS
    'Values of the template''s variables for this contact; they win over the campaign''s.';
COMMENT ON COLUMN campaign_contacts.handled_at IS
    'When the contact''s message was queued, or it was decided to skip the contact.';
COMMENT ON COLUMN campaign_contacts.skip_reason IS 'Why nothing was sent: opted out, for example.';

----------------------------------------------------------------------------------------------------
-- Messages
----------------------------------------------------------------------------------------------------

-- The one large table. Its key is a sequence, because random keys would spread new rows over the
-- whole index. Its pages keep some room, and none of its indexes depends on status: the updates
-- that webhooks cause (delivered, read) then stay on their page and touch no index.
CREATE TABLE messages (
    id             bigint            GENERATED ALWAYS AS IDENTITY,
    user_id        uuid              NOT NULL,
    contact_id     uuid              NOT NULL,
    campaign_id    uuid,
    template_id    uuid,
    direction      message_direction NOT NULL,
    status         message_status    NOT NULL,
    wamid          text,
    reply_to_wamid text,
    message_type   text              NOT NULL,
    content        jsonb             NOT NULL,
    error_code     integer,
    error_message  text,
    sent_at        timestamptz,
    delivered_at   timestamptz,
    read_at        timestamptz,
    failed_at      timestamptz,
    created_at     timestamptz       NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at     timestamptz       NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT messages_pkey PRIMARY KEY (id),
    CONSTRAINT messages_wamid_key UNIQUE (wamid),
    CONSTRAINT messages_contact_fkey FOREIGN KEY (user_id, contact_id)
        REFERENCES contacts (user_id, id) ON DELETE CASCADE,
    CONSTRAINT messages_campaign_contact_fkey FOREIGN KEY (user_id, campaign_id, contact_id)
        REFERENCES campaign_contacts (user_id, campaign_id, contact_id),
    CONSTRAINT messages_template_fkey FOREIGN KEY (user_id, template_id)
        REFERENCES message_templates (user_id, id),
    CONSTRAINT messages_direction_check CHECK ((direction = 'inbound') = (status = 'received')),
    CONSTRAINT messages_outbound_check
        CHECK (direction = 'outbound' OR (campaign_id IS NULL AND template_id IS NULL)),
    CONSTRAINT messages_wamid_check CHECK (wamid LIKE 'wamid.%'),
    CONSTRAINT messages_accepted_check CHECK (
        CASE status
            WHEN 'queued' THEN wamid IS NULL
            WHEN 'failed' THEN true
            ELSE wamid IS NOT NULL
        END
    ),
    CONSTRAINT messages_reply_to_wamid_check CHECK (reply_to_wamid LIKE 'wamid.%'),
    CONSTRAINT messages_message_type_check CHECK (message_type ~ '^[a-z_]+$'),
    CONSTRAINT messages_template_check CHECK (template_id IS NULL OR message_type = 'template'),
    CONSTRAINT messages_content_check CHECK (jsonb_typeof(content) = 'object'),
    CONSTRAINT messages_timestamps_check CHECK (
        CASE status
            WHEN 'sent' THEN sent_at IS NOT NULL
            WHEN 'delivered' THEN delivered_at IS NOT NULL
            WHEN 'read' THEN read_at IS NOT NULL
            ELSE true
        END
    ),
    CONSTRAINT messages_failed_at_check CHECK ((status = 'failed') = (failed_at IS NOT NULL)),
    CONSTRAINT messages_error_check
        CHECK (failed_at IS NOT NULL OR (error_code IS NULL AND error_message IS NULL))
) WITH (fillfactor = 85);

-- A conversation, latest message first.
CREATE INDEX messages_contact_idx ON messages (user_id, contact_id, created_at DESC);
-- The latest messages of an account.
CREATE INDEX messages_created_at_idx ON messages (user_id, created_at DESC);
-- A campaign's messages; and a campaign never writes to a contact twice: the row is inserted before
-- the message is sent, and a second attempt updates it.
CREATE UNIQUE INDEX messages_campaign_contact_key
    ON messages (user_id, campaign_id, contact_id) WHERE campaign_id IS NOT NULL;
CREATE INDEX messages_template_idx
    ON messages (user_id, template_id) WHERE template_id IS NOT NULL;
-- The sender's queue, of all accounts. This is what status = 'queued' means, in columns that do not
-- change again when a message is delivered and read.
CREATE INDEX messages_queued_idx ON messages (id) WHERE wamid IS NULL AND failed_at IS NULL;

CREATE TRIGGER messages_updated_at
    BEFORE UPDATE ON messages
    FOR EACH ROW EXECUTE FUNCTION update_updated_at_column();

COMMENT ON TABLE messages IS
    'Every message to and from a contact. Deleting the contact deletes them.';
COMMENT ON COLUMN messages.campaign_id IS
    'The campaign that sent it; the contact is then one of its audience.';
COMMENT ON COLUMN messages.wamid IS
    'Meta''s id of the message. Unique, so a webhook that arrives twice is stored once. '
    'NULL: Meta has not accepted the message.';
COMMENT ON COLUMN messages.reply_to_wamid IS
    'The message that it answers or reacts to. No foreign key: that one may be older than the '
    'account.';
COMMENT ON COLUMN messages.message_type IS
    'text, template, image, interactive, … as the Cloud API names it; Meta adds to them.';
COMMENT ON COLUMN messages.content IS 'The message as the Cloud API takes or delivers it.';
COMMENT ON COLUMN messages.error_code IS
    'Of Meta''s list of Cloud API error codes, such as 131026: message undeliverable.';
COMMENT ON COLUMN messages.sent_at IS
    'When Meta sent it, or, if it is inbound, when the contact did. Times are those of Meta.';
COMMENT ON COLUMN messages.read_at IS
    'When the contact read it, or, if it is inbound, when somebody of the account did.';
