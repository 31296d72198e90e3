"""Discord's objects, as far as libraries read them. Keys of events stand in the order in which Discord writes them."""

import itertools
import secrets
import time

JOINED = "2024-01-01T00:00:00.000000+00:00"
EPOCH_MS = 1420070400000
"""The start of Discord's own time."""


def snowflake(number, kind):
    """An id that differs from those of other kinds."""
    return str(((238_418_579_000 + number) << 22) | kind)


def user(number, name, bot=False):
    return {
        "id": number,
        "username": name,
        "discriminator": "0",
        "global_name": None if bot else name.title(),
        "avatar": None,
        "bot": bot,
        "public_flags": 0,
        "flags": 0,
        "primary_guild": None,
        "avatar_decoration_data": None,
        "collectibles": None,
    }


BOT = user(snowflake(0, 1), "miku", bot=True)
OWNER = user(snowflake(1, 1), "owner")
APPLICATION_FLAGS = 565248


def timestamp():
    return time.strftime("%Y-%m-%dT%H:%M:%S.000000+00:00", time.gmtime())


def member(someone):
    """Somebody of a guild, as in lists of members."""
    return {"user": someone, **membership()}


def membership():
    """What is told of an author beside the author."""
    return {
        "roles": [],
        "premium_since": None,
        "pending": False,
        "nick": None,
        "mute": False,
        "joined_at": JOINED,
        "flags": 0,
        "deaf": False,
        "communication_disabled_until": None,
        "banner": None,
        "avatar": None,
    }


APPLICATION = {
    "id": BOT["id"],
    "name": "miku",
    "icon": None,
    "description": "",
    "summary": "",
    "type": None,
    "bot_public": False,
    "bot_require_code_grant": False,
    "verify_key": "0" * 64,
    "flags": APPLICATION_FLAGS,
    "hook": True,
    "owner": OWNER,
    "team": None,
    "bot": BOT,
    "redirect_uris": [],
    "tags": [],
    "integration_types_config": {"0": {}},
    "approximate_guild_count": 1,
}


class World:
    """The guilds, channels and people that there are."""

    def __init__(self, guilds, channels, people):
        self.ids = itertools.count((int(time.time() * 1000) - EPOCH_MS) << 22)
        self.people = [user(snowflake(number, 4), f"person{number}") for number in range(people)]
        self.guilds = [snowflake(number, 2) for number in range(guilds)]
        self.channels = {snowflake(number, 3): self.guilds[number % guilds] for number in range(channels)}
        self.voices = {snowflake(number, 7): guild for number, guild in enumerate(self.guilds)}
        self.direct = {snowflake(number, 5): person for number, person in enumerate(self.people)}

    def rename(self, name):
        for person in self.people:
            person |= {"username": name, "global_name": name}

    def new_id(self):
        return str(next(self.ids))

    def guild(self, number, padding=0):
        """A guild with its channels; `padding` bytes more in descriptions of roles."""
        role = {
            "version": 1,
            "unicode_emoji": None,
            "tags": {},
            "position": 0,
            "permissions": "2248473465835073",
            "name": "@everyone",
            "mentionable": False,
            "managed": False,
            "id": number,
            "icon": None,
            "hoist": False,
            "flags": 0,
            "colors": {"tertiary_color": None, "secondary_color": None, "primary_color": 0},
            "color": 0,
        }
        more = range(padding // 400 + 1 if padding else 0)
        roles = [role] + [{**role, "id": snowflake(place, 6), "name": f"{place:0200}"} for place in more]
        return {
            "version": 1,
            "large": False,
            "threads": [],
            "premium_subscription_count": 0,
            "nsfw": False,
            "guild_scheduled_events": [],
            "system_channel_flags": 0,
            "afk_channel_id": None,
            "premium_tier": 0,
            "vanity_url_code": None,
            "verification_level": 0,
            "soundboard_sounds": [],
            "voice_states": [],
            "explicit_content_filter": 0,
            "max_video_channel_users": 25,
            "id": number,
            "public_updates_channel_id": None,
            "members": [member(BOT), member(OWNER)],
            "rules_channel_id": None,
            "splash": None,
            "stickers": [],
            "activity_instances": [],
            "widget_channel_id": None,
            "premium_progress_bar_enabled": False,
            "icon": None,
            "safety_alerts_channel_id": None,
            "presences": [],
            "widget_enabled": False,
            "owner_id": OWNER["id"],
            "emojis": [],
            "roles": roles,
            "joined_at": JOINED,
            "nsfw_level": 0,
            "max_stage_video_channel_users": 50,
            "region": "deprecated",
            "default_message_notifications": 0,
            "embedded_activities": [],
            "afk_timeout": 300,
            "features": [],
            "description": None,
            "max_members": 500000,
            "unavailable": False,
            "channels": [
                *(self.channel(channel) for channel, owner in self.channels.items() if owner == number),
                *(self.voice_channel(channel) for channel, owner in self.voices.items() if owner == number),
            ],
            "application_command_counts": {},
            "max_presences": None,
            "preferred_locale": "en-US",
            "application_id": None,
            "stage_instances": [],
            "lazy": True,
            "mfa_level": 0,
            "system_channel_id": None,
            "home_header": None,
            "banner": None,
            "name": "A guild",
            "discovery_splash": None,
            "member_count": 2 + len(self.people),
        }

    def channel(self, number):
        if number in self.direct:
            recipients = [self.direct[number]]
            return {"type": 1, "recipients": recipients, "last_message_id": None, "id": number, "flags": 0}
        return {
            "version": 1,
            "type": 0,
            "topic": None,
            "rate_limit_per_user": 0,
            "position": 0,
            "permission_overwrites": [],
            "parent_id": None,
            "nsfw": False,
            "name": f"channel-{number}",
            "last_message_id": None,
            "id": number,
            "flags": 0,
        }

    def voice_channel(self, number):
        more = {"type": 2, "bitrate": 64000, "user_limit": 0, "rtc_region": None}
        return {**self.channel(number), **more}

    def message(self, channel, author, content, **more):
        """A message as an event carries it."""
        event = {
            "type": 0,
            "tts": False,
            "timestamp": timestamp(),
            "pinned": False,
            "nonce": None,
            "mentions": [],
            "mention_roles": [],
            "mention_everyone": False,
            "member": membership(),
            "id": self.new_id(),
            "flags": 0,
            "embeds": [],
            "edited_timestamp": None,
            "content": content,
            "components": [],
            "channel_type": 1 if channel in self.direct else 0,
            "channel_id": channel,
            "author": author,
            "attachments": [],
            "guild_id": self.channels.get(channel),
            **more,
        }
        if event["guild_id"] is None:
            del event["guild_id"], event["member"]
        return event

    def interaction(self, channel, author, kind, data):
        """An interaction as an event carries it: with a command, a component, a modal, or the start of an argument."""
        number = self.new_id()
        event = {
            "version": 1,
            "type": kind,
            "token": f"aW50ZXJhY3Rpb246{number}:{secrets.token_hex(80)}",
            "member": {"user": author, **membership(), "permissions": "2248473465835073", "unusual_dm_activity_until": None},
            "locale": "en-US",
            "id": number,
            "guild_locale": "en-US",
            "guild_id": self.channels.get(channel),
            "guild": {"locale": "en-US", "id": self.channels.get(channel), "features": []},
            "entitlements": [],
            "entitlement_sku_ids": [],
            "data": data,
            "context": 0,
            "channel_id": channel,
            "channel": {**self.channel(channel), "guild_id": self.channels.get(channel), "permissions": "2248473465835073"},
            "authorizing_integration_owners": {"0": self.channels.get(channel)},
            "attachment_size_limit": 10485760,
            "application_id": APPLICATION["id"],
            "app_permissions": "2248473465835073",
        }
        if kind in (3, 5):
            event["message"] = self.message(channel, BOT, "a message with a button")
        return event
