"""Rows of the tables and views, as psycopg returns them. Written by invoke db.models."""

import sys
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypedDict
from uuid import UUID

if sys.version_info >= (3, 11):
    from typing import NotRequired
else:
    from typing_extensions import NotRequired

CampaignStatus: TypeAlias = Literal[
    "draft",
    "scheduled",
    "running",
    "paused",
    "completed",
    "failed",
    "cancelled",
]
MessageDirection: TypeAlias = Literal["inbound", "outbound"]
#: received: inbound. queued: to be given to Meta. accepted: Meta has it, and has answered with a
#: wamid. The others: as webhooks report them.
MessageStatus: TypeAlias = Literal[
    "received",
    "queued",
    "accepted",
    "sent",
    "delivered",
    "read",
    "failed",
]
#: Decides what a message costs and when it may be sent.
TemplateCategory: TypeAlias = Literal["AUTHENTICATION", "MARKETING", "UTILITY"]
#: Where Meta's review stands. DRAFT is ours: not submitted. Only APPROVED can be sent.
TemplateStatus: TypeAlias = Literal[
    "DRAFT",
    "PENDING",
    "IN_APPEAL",
    "APPROVED",
    "REJECTED",
    "PAUSED",
    "DISABLED",
    "LIMIT_EXCEEDED",
    "ARCHIVED",
    "PENDING_DELETION",
    "DELETED",
]
#: customer: sees the own account. support: may read every account. admin: may do everything.
UserRole: TypeAlias = Literal["customer", "support", "admin"]
#: As Meta names them, where PENDING is a number that is not registered yet. What Meta may add is
#: stored as UNKNOWN.
WhatsappInstanceStatus: TypeAlias = Literal[
    "PENDING",
    "UNVERIFIED",
    "CONNECTED",
    "DISCONNECTED",
    "FLAGGED",
    "RATE_LIMITED",
    "RESTRICTED",
    "BANNED",
    "MIGRATED",
    "DELETED",
    "UNKNOWN",
]
#: What recipients think of the number's messages, as Meta names it. UNKNOWN is Meta's NA too.
WhatsappQualityRating: TypeAlias = Literal["GREEN", "YELLOW", "RED", "UNKNOWN"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignContact:
    """The audience of a campaign, as it was when the campaign was started."""

    user_id: UUID
    campaign_id: UUID
    contact_id: UUID
    #: Values of the template's variables for this contact; they win over the campaign's.
    parameters: Any
    #: When the contact's message was queued, or it was decided to skip the contact.
    handled_at: datetime | None
    #: Why nothing was sent: opted out, for example.
    skip_reason: str | None
    created_at: datetime
    updated_at: datetime


class NewCampaignContact(TypedDict):
    user_id: UUID
    campaign_id: UUID
    contact_id: UUID
    #: Values of the template's variables for this contact; they win over the campaign's.
    parameters: NotRequired[Any]
    #: When the contact's message was queued, or it was decided to skip the contact.
    handled_at: NotRequired[datetime | None]
    #: Why nothing was sent: opted out, for example.
    skip_reason: NotRequired[str | None]
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """One template, sent to many contacts. One that has sent messages cannot be deleted."""

    id: UUID
    user_id: UUID
    #: May be missing while the campaign is a draft.
    template_id: UUID | None
    name: str
    status: CampaignStatus
    #: Values of the template's variables that are the same for everybody.
    parameters: Any
    #: When to start. NULL: when somebody says so.
    scheduled_at: datetime | None
    started_at: datetime | None
    #: When it was completed, failed or was cancelled.
    ended_at: datetime | None
    created_at: datetime
    updated_at: datetime


class NewCampaign(TypedDict):
    id: NotRequired[UUID]
    user_id: UUID
    #: May be missing while the campaign is a draft.
    template_id: NotRequired[UUID | None]
    name: str
    status: NotRequired[CampaignStatus]
    #: Values of the template's variables that are the same for everybody.
    parameters: NotRequired[Any]
    #: When to start. NULL: when somebody says so.
    scheduled_at: NotRequired[datetime | None]
    started_at: NotRequired[datetime | None]
    #: When it was completed, failed or was cancelled.
    ended_at: NotRequired[datetime | None]
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactListMember:
    """Which contact is on which list."""

    user_id: UUID
    contact_list_id: UUID
    contact_id: UUID
    added_at: datetime


class NewContactListMember(TypedDict):
    user_id: UUID
    contact_list_id: UUID
    contact_id: UUID
    added_at: NotRequired[datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactList:
    """Named sets of contacts, to choose the audience of a campaign from. Tags are lists too."""

    id: UUID
    user_id: UUID
    name: str
    description: str | None
    created_at: datetime
    updated_at: datetime


class NewContactList(TypedDict):
    id: NotRequired[UUID]
    user_id: UUID
    name: str
    description: NotRequired[str | None]
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """People whom an account writes to. The same person is one row for each account."""

    id: UUID
    user_id: UUID
    #: E.164: a plus sign, then 7 to 15 digits.
    phone_number: str
    #: The number as webhooks name it. In some countries it is not the one that was dialled.
    wa_id: str | None
    full_name: str | None
    language: str | None
    #: Fields of the account's own, used in templates.
    attributes: Any
    #: When the contact last agreed to be written to. NULL: never, so only replies may be sent.
    opted_in_at: datetime | None
    #: Where the contact agreed: a form, a keyword, an import. It is the proof.
    opt_in_source: str | None
    #: When the contact withdrew. Cleared by a new opt-in. Set: no campaign may reach the contact.
    opted_out_at: datetime | None
    created_at: datetime
    updated_at: datetime


class NewContact(TypedDict):
    id: NotRequired[UUID]
    user_id: UUID
    #: E.164: a plus sign, then 7 to 15 digits.
    phone_number: str
    #: The number as webhooks name it. In some countries it is not the one that was dialled.
    wa_id: NotRequired[str | None]
    full_name: NotRequired[str | None]
    language: NotRequired[str | None]
    #: Fields of the account's own, used in templates.
    attributes: NotRequired[Any]
    #: When the contact last agreed to be written to. NULL: never, so only replies may be sent.
    opted_in_at: NotRequired[datetime | None]
    #: Where the contact agreed: a form, a keyword, an import. It is the proof.
    opt_in_source: NotRequired[str | None]
    #: When the contact withdrew. Cleared by a new opt-in. Set: no campaign may reach the contact.
    opted_out_at: NotRequired[datetime | None]
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageTemplate:
    """Message templates, one row a language. A business may write to somebody who has not
    written to it in the last 24 hours only with an approved one.
    """

    id: UUID
    user_id: UUID
    #: Meta's rule: small letters, digits, underscores.
    name: str
    #: Meta's code, such as en, en_US or pt_BR.
    language: str
    category: TemplateCategory
    status: TemplateStatus
    #: Header, body, footer and buttons: the array that the Cloud API takes and returns.
    components: Any
    #: Meta's id: a number, kept as text because JavaScript would round it. NULL: not submitted.
    meta_template_id: str | None
    #: Meta's reason for the last rejection.
    rejection_reason: str | None
    submitted_at: datetime | None
    reviewed_at: datetime | None
    created_at: datetime
    updated_at: datetime


class NewMessageTemplate(TypedDict):
    id: NotRequired[UUID]
    user_id: UUID
    #: Meta's rule: small letters, digits, underscores.
    name: str
    #: Meta's code, such as en, en_US or pt_BR.
    language: str
    category: TemplateCategory
    status: NotRequired[TemplateStatus]
    #: Header, body, footer and buttons: the array that the Cloud API takes and returns.
    components: Any
    #: Meta's id: a number, kept as text because JavaScript would round it. NULL: not submitted.
    meta_template_id: NotRequired[str | None]
    #: Meta's reason for the last rejection.
    rejection_reason: NotRequired[str | None]
    submitted_at: NotRequired[datetime | None]
    reviewed_at: NotRequired[datetime | None]
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """Every message to and from a contact. Deleting the contact deletes them."""

    id: int
    user_id: UUID
    contact_id: UUID
    #: The campaign that sent it; the contact is then one of its audience.
    campaign_id: UUID | None
    template_id: UUID | None
    direction: MessageDirection
    status: MessageStatus
    #: Meta's id of the message. Unique, so a webhook that arrives twice is stored once. NULL: Meta
    #: has not accepted the message.
    wamid: str | None
    #: The message that it answers or reacts to. No foreign key: that one may be older than the
    #: account.
    reply_to_wamid: str | None
    #: text, template, image, interactive, … as the Cloud API names it; Meta adds to them.
    message_type: str
    #: The message as the Cloud API takes or delivers it.
    content: Any
    #: Of Meta's list of Cloud API error codes, such as 131026: message undeliverable.
    error_code: int | None
    error_message: str | None
    #: When Meta sent it, or, if it is inbound, when the contact did. Times are those of Meta.
    sent_at: datetime | None
    delivered_at: datetime | None
    #: When the contact read it, or, if it is inbound, when somebody of the account did.
    read_at: datetime | None
    failed_at: datetime | None
    created_at: datetime
    updated_at: datetime


class NewMessage(TypedDict):
    id: NotRequired[int]
    user_id: UUID
    contact_id: UUID
    #: The campaign that sent it; the contact is then one of its audience.
    campaign_id: NotRequired[UUID | None]
    template_id: NotRequired[UUID | None]
    direction: MessageDirection
    status: MessageStatus
    #: Meta's id of the message. Unique, so a webhook that arrives twice is stored once. NULL: Meta
    #: has not accepted the message.
    wamid: NotRequired[str | None]
    #: The message that it answers or reacts to. No foreign key: that one may be older than the
    #: account.
    reply_to_wamid: NotRequired[str | None]
    #: text, template, image, interactive, … as the Cloud API names it; Meta adds to them.
    message_type: str
    #: The message as the Cloud API takes or delivers it.
    content: Any
    #: Of Meta's list of Cloud API error codes, such as 131026: message undeliverable.
    error_code: NotRequired[int | None]
    error_message: NotRequired[str | None]
    #: When Meta sent it, or, if it is inbound, when the contact did. Times are those of Meta.
    sent_at: NotRequired[datetime | None]
    delivered_at: NotRequired[datetime | None]
    #: When the contact read it, or, if it is inbound, when somebody of the account did.
    read_at: NotRequired[datetime | None]
    failed_at: NotRequired[datetime | None]
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Accounts of the platform. They are deactivated, not deleted."""

    id: UUID
    #: As its owner writes it; unique whatever the case.
    email: str
    #: With its algorithm and salt ($argon2id$…, $2b$…), never the password itself. NULL: no login
    #: by password.
    password_hash: str | None
    full_name: str
    role: UserRole
    email_verified_at: datetime | None
    last_login_at: datetime | None
    #: Since when the account may not log in or send.
    deactivated_at: datetime | None
    created_at: datetime
    updated_at: datetime


class NewUser(TypedDict):
    id: NotRequired[UUID]
    #: As its owner writes it; unique whatever the case.
    email: str
    #: With its algorithm and salt ($argon2id$…, $2b$…), never the password itself. NULL: no login
    #: by password.
    password_hash: NotRequired[str | None]
    full_name: str
    role: NotRequired[UserRole]
    email_verified_at: NotRequired[datetime | None]
    last_login_at: NotRequired[datetime | None]
    #: Since when the account may not log in or send.
    deactivated_at: NotRequired[datetime | None]
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatsappInstance:
    """Business phone numbers that accounts have connected to the WhatsApp Cloud API."""

    id: UUID
    #: The account that owns the number.
    user_id: UUID
    #: Meta's id of the number, part of the URL that messages are sent to. A number, kept as text
    #: because JavaScript would round it.
    phone_number_id: str
    #: Meta's id of the WhatsApp Business Account (WABA) that the number belongs to.
    business_account_id: str
    #: The number as Meta shows it, such as +1 631-555-1234. Not for comparing.
    display_phone_number: str
    #: The name that recipients see. NULL: Meta has not approved one yet.
    verified_name: str | None
    #: Encrypted by the application (AES-256-GCM: nonce, ciphertext, tag). The database never sees
    #: the token or the key.
    access_token_encrypted: bytes
    #: Which of the application's keys it is encrypted with, so that keys can be rotated.
    access_token_key_id: str
    #: NULL: never, as those of a system user.
    access_token_expires_at: datetime | None
    #: SHA-256 of the token that Meta sends when a webhook is set up. It is only ever compared.
    webhook_verify_token_hash: bytes
    status: WhatsappInstanceStatus
    quality_rating: WhatsappQualityRating
    #: How many people the number may start a conversation with in 24 hours: TIER_250, TIER_1K, …
    #: Text, because Meta adds tiers. NULL: not known yet.
    messaging_limit_tier: str | None
    #: When the number was first registered with the Cloud API.
    connected_at: datetime | None
    #: When status, quality and tier were last read from Meta.
    synced_at: datetime | None
    created_at: datetime
    updated_at: datetime


class NewWhatsappInstance(TypedDict):
    id: NotRequired[UUID]
    #: The account that owns the number.
    user_id: UUID
    #: Meta's id of the number, part of the URL that messages are sent to. A number, kept as text
    #: because JavaScript would round it.
    phone_number_id: str
    #: Meta's id of the WhatsApp Business Account (WABA) that the number belongs to.
    business_account_id: str
    #: The number as Meta shows it, such as +1 631-555-1234. Not for comparing.
    display_phone_number: str
    #: The name that recipients see. NULL: Meta has not approved one yet.
    verified_name: NotRequired[str | None]
    #: Encrypted by the application (AES-256-GCM: nonce, ciphertext, tag). The database never sees
    #: the token or the key.
    access_token_encrypted: bytes
    #: Which of the application's keys it is encrypted with, so that keys can be rotated.
    access_token_key_id: str
    #: NULL: never, as those of a system user.
    access_token_expires_at: NotRequired[datetime | None]
    #: SHA-256 of the token that Meta sends when a webhook is set up. It is only ever compared.
    webhook_verify_token_hash: bytes
    status: NotRequired[WhatsappInstanceStatus]
    quality_rating: NotRequired[WhatsappQualityRating]
    #: How many people the number may start a conversation with in 24 hours: TIER_250, TIER_1K, …
    #: Text, because Meta adds tiers. NULL: not known yet.
    messaging_limit_tier: NotRequired[str | None]
    #: When the number was first registered with the Cloud API.
    connected_at: NotRequired[datetime | None]
    #: When status, quality and tier were last read from Meta.
    synced_at: NotRequired[datetime | None]
    created_at: NotRequired[datetime]
    updated_at: NotRequired[datetime]
