"""The REST API, with its rate limits.

Limits are not what a bot runs into here: the stand-in refuses the requests that it is told to refuse. In a real 429's
body, and here, `retry_after` is in seconds with fractions, while the header `Retry-After` has whole ones.
"""

import asyncio
import json
import math
import random
import re
import time
import zlib

from aiohttp import web

from . import objects
from .truth import now

LIMIT = 1000
API = "/api/v10"
NUMBER = re.compile(r"#(\d+)\b")
"""What a person's message is told by, wherever its text is repeated."""

ROUTES = [
    ("GET", "/users/@me"),
    ("PATCH", "/users/@me"),
    ("GET", "/users/{user_id}"),
    ("POST", "/users/@me/channels"),
    ("GET", "/oauth2/applications/@me"),
    ("GET", "/applications/@me"),
    ("GET", "/soundboard-default-sounds"),
    ("GET", "/gateway"),
    ("GET", "/gateway/bot"),
    ("GET", "/channels/{channel_id}"),
    ("GET", "/channels/{channel_id}/messages"),
    ("POST", "/channels/{channel_id}/messages"),
    ("POST", "/channels/{channel_id}/typing"),
    ("GET", "/channels/{channel_id}/messages/{message_id}"),
    ("PATCH", "/channels/{channel_id}/messages/{message_id}"),
    ("DELETE", "/channels/{channel_id}/messages/{message_id}"),
    ("PUT", "/channels/{channel_id}/messages/{message_id}/reactions/{emoji}/@me"),
    ("DELETE", "/channels/{channel_id}/messages/{message_id}/reactions/{emoji}/@me"),
    ("GET", "/guilds/{guild_id}"),
    ("GET", "/guilds/{guild_id}/members/{user_id}"),
    ("PUT", "/guilds/{guild_id}/members/{user_id}/roles/{role_id}"),
    ("GET", "/applications/{application_id}/commands"),
    ("PUT", "/applications/{application_id}/commands"),
    ("GET", "/applications/{application_id}/guilds/{guild_id}/commands"),
    ("PUT", "/applications/{application_id}/guilds/{guild_id}/commands"),
    ("POST", "/webhooks/{webhook_id}/{token}"),
    ("GET", "/webhooks/{webhook_id}/{token}/messages/@original"),
    ("PATCH", "/webhooks/{webhook_id}/{token}/messages/@original"),
    ("DELETE", "/webhooks/{webhook_id}/{token}/messages/@original"),
    ("PATCH", "/webhooks/{webhook_id}/{token}/messages/{message_id}"),
    ("POST", "/interactions/{interaction_id}/{token}/callback"),
]


def pattern(route):
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(API + route)) + "$")


# In this order, so that what is written out comes before what stands for anything.
PATTERNS = [(method, route, pattern(route)) for method, route in sorted(ROUTES, key=lambda entry: entry[1].count("{"))]


def as_json(value, status=200):
    # discord.py takes the content type for JSON only if nothing stands behind it.
    body = json.dumps(value, separators=(",", ":")).encode()
    return web.Response(body=body, status=status, content_type="application/json")


class Call:
    """One request, and what it is about."""

    def __init__(self, method, route, names, query, value):
        self.method = method
        self.route = route
        self.names = names
        self.query = query
        self.value = value
        self.facts = {}
        self.afterwards = None

    def __getitem__(self, name):
        return self.names[name]


class Rest:
    def __init__(self, world, gateway, truth, options):
        self.world = world
        self.gateway = gateway
        self.truth = truth
        self.gateway_url = options.gateway_url
        self.shards = options.shards
        self.delay = options.delay_ms / 1000
        self.messages = {}
        self.numbered = {}
        """The ids of people's messages, by the number in their text."""
        self.interactions = {}
        """The ids of interactions, by their token."""
        self.counts = {}
        self.refusals = {}
        self.tasks = set()

    def refuse(self, method, route, scope, seconds, times=1, skip=0):
        """Refuses the next requests of a route, after some that pass."""
        first = self.counts.get((method, route), 0) + 1 + skip
        for nth in range(first, first + times):
            self.refusals[method, route, nth] = (scope, seconds)

    async def serve(self, request):
        received = request.protocol.first or now()
        call = await self.understand(request)
        if self.delay:
            await asyncio.sleep(self.delay * random.lognormvariate(0, 0.3))
        refusal, limits = self.limits(call)
        if refusal:
            scope, seconds = refusal
            told = {"message": "You are being rate limited.", "retry_after": seconds, "global": scope == "global"}
            response = as_json(told, 429)
        else:
            response = self.answer(call)
        response.headers.update(limits)
        answering = now()
        await response.prepare(request)
        await response.write_eof()
        answered = now()
        request.protocol.first = None
        self.truth.write(
            "request",
            method=call.method,
            route=API + call.route,
            path=request.raw_path,
            status=response.status,
            received=received,
            answering=answering,
            answered=answered,
            remaining=int(limits["X-RateLimit-Remaining"]),
            limit=LIMIT,
            scope=refusal[0] if refusal else None,
            seconds=refusal[1] if refusal else None,
            **call.names,
            **call.facts,
        )
        if call.afterwards and not refusal:
            task = asyncio.create_task(call.afterwards)
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        elif call.afterwards:
            call.afterwards.close()
        return response

    async def understand(self, request):
        body = await request.read()
        value = None
        if request.content_type == "application/json" and body:
            value = json.loads(body)
        elif request.content_type.startswith("multipart/"):
            # Only the part that carries the message matters, and it comes first.
            part = re.search(rb'name="payload_json".*?\r\n\r\n(.*?)\r\n--', body, re.DOTALL)
            value = json.loads(part[1]) if part else None
        for method, route, known in PATTERNS:
            match = known.match(request.path) if method == request.method else None
            if match:
                return Call(method, route, match.groupdict(), request.query, value or {})
        return Call(request.method, "/unknown", {}, request.query, value or {})

    def limits(self, call):
        key = (call.method, call.route)
        nth = self.counts[key] = self.counts.get(key, 0) + 1
        refusal = self.refusals.pop((*key, nth), None)
        limits = {
            "X-RateLimit-Limit": str(LIMIT),
            "X-RateLimit-Remaining": str(0 if refusal else LIMIT - 1 - nth % (LIMIT // 2)),
            "X-RateLimit-Reset": f"{time.time() + 1:.3f}",
            "X-RateLimit-Reset-After": f"{refusal[1] if refusal else 1:.3f}",
            "X-RateLimit-Bucket": f"{zlib.crc32(' '.join(key).encode()):016x}",
            "Via": "1.1 google",
        }
        if refusal:
            scope, seconds = refusal
            limits |= {"X-RateLimit-Scope": scope, "Retry-After": str(math.ceil(seconds))}
            if scope == "global":
                limits["X-RateLimit-Global"] = "true"
        return refusal, limits

    def answer(self, call):
        """What the API says to a call, and what becomes of it."""
        match call.method, call.route:
            case "POST", "/channels/{channel_id}/messages":
                return as_json(self.post(call, call["channel_id"]))
            case "PATCH", "/channels/{channel_id}/messages/{message_id}":
                return as_json(self.edit(call, call["channel_id"], call["message_id"]))
            case "POST", "/interactions/{interaction_id}/{token}/callback":
                return self.callback(call)
            case "POST", "/webhooks/{webhook_id}/{token}":
                return as_json(self.post(call, self.channel_of(call)))
            case "PATCH", "/webhooks/{webhook_id}/{token}/messages/@original":
                return as_json(self.edit(call, self.channel_of(call), self.world.new_id()))
            case "PATCH", "/webhooks/{webhook_id}/{token}/messages/{message_id}":
                return as_json(self.edit(call, self.channel_of(call), call["message_id"]))
            case "GET", "/users/@me" | "/users/{user_id}":
                return as_json(objects.BOT)
            case "GET", "/oauth2/applications/@me" | "/applications/@me":
                return as_json(objects.APPLICATION)
            case "GET", "/gateway":
                return as_json({"url": self.gateway_url})
            case "GET", "/gateway/bot":
                start = {"max_concurrency": 1, "remaining": 999, "reset_after": 14400000, "total": 1000}
                return as_json({"url": self.gateway_url, "shards": self.shards, "session_start_limit": start})
            case "GET", "/channels/{channel_id}":
                guild = self.world.channels.get(call["channel_id"])
                return as_json({**self.world.channel(call["channel_id"]), **({"guild_id": guild} if guild else {})})
            case "POST", "/users/@me/channels":
                return as_json(self.world.channel(next(iter(self.world.direct))))
            case "GET", "/channels/{channel_id}/messages/{message_id}":
                return as_json(self.known(call["channel_id"], call["message_id"]))
            case "GET", "/channels/{channel_id}/messages" | "/soundboard-default-sounds":
                return as_json([])
            case "GET", "/guilds/{guild_id}":
                return as_json(self.world.guild(call["guild_id"]))
            case "GET", "/guilds/{guild_id}/members/{user_id}":
                return as_json(objects.member(objects.BOT))
            case "PUT", route if route.endswith("/commands"):
                return as_json([self.command(command) for command in call.value])
            case "GET", route if route.endswith("/commands"):
                return as_json([])
            case _, "/unknown":
                return as_json({"message": "404: Not Found", "code": 0}, 404)
        return web.Response(status=204)

    def command(self, command):
        base = {"application_id": objects.APPLICATION["id"], "default_member_permissions": None, "type": 1, "nsfw": False}
        more = {"id": self.world.new_id(), "version": self.world.new_id(), "description": "", "options": []}
        return {**base, **more, **command}

    def known(self, channel, number):
        return self.messages.get(number) or self.world.message(channel, objects.BOT, "", id=number)

    def about(self, call):
        """Which message or interaction of a person the call is about."""
        token = call.names.get("token")
        if token in self.interactions:
            return self.interactions[token]
        reference = (call.value.get("message_reference") or {}).get("message_id")
        number = NUMBER.search(call.value.get("content") or "")
        return str(reference) if reference else self.numbered.get(number[1]) if number else None

    def channel_of(self, call):
        """The channel of an interaction, or some channel for webhooks that are no interaction's."""
        event = self.messages.get(self.interactions.get(call["token"]))
        return event["channel_id"] if event else next(iter(self.world.channels))

    def post(self, call, channel):
        value = call.value
        reference = value.get("message_reference")
        more = {"nonce": value.get("nonce")}
        if reference:
            # Libraries write ids as numbers too.
            number = str(reference["message_id"])
            more |= {
                "type": 19,
                "referenced_message": self.messages.get(number),
                "message_reference": {"type": 0, "message_id": number, "channel_id": channel},
            }
            call.facts["reference"] = number
        event = self.world.message(channel, objects.BOT, value.get("content") or "", **more)
        self.keep(event)
        call.facts |= {"created": event["id"], "answers": self.about(call)}
        call.afterwards = self.tell("MESSAGE_CREATE", event)
        return {name: part for name, part in event.items() if name not in ("guild_id", "member")}

    def edit(self, call, channel, number):
        event = {**self.known(channel, number), "edited_timestamp": objects.timestamp()}
        event |= {name: part for name, part in call.value.items() if name in ("content", "embeds", "components")}
        self.keep(event)
        call.facts["answers"] = self.about(call)
        call.afterwards = self.tell("MESSAGE_UPDATE", event)
        return {name: part for name, part in event.items() if name not in ("guild_id", "member")}

    def callback(self, call):
        kind = call.value["type"]
        call.facts |= {"kind": kind, "answers": self.about(call)}
        if call.query.get("with_response", "").lower() not in ("1", "true"):
            return web.Response(status=204)
        number = self.world.new_id()
        told = {
            "interaction": {
                "id": call["interaction_id"],
                "type": 2,
                "response_message_id": number,
                "response_message_loading": kind == 5,
                "response_message_ephemeral": False,
            },
            "resource": {"type": kind},
        }
        if kind in (4, 5, 7):
            content = (call.value.get("data") or {}).get("content") or ""
            message = self.world.message(self.channel_of(call), objects.BOT, content, id=number)
            told["resource"]["message"] = {**message, "edited_timestamp": None}
        return as_json(told)

    def keep(self, event):
        self.messages[event["id"]] = event
        # Nobody asks for old ones.
        while len(self.messages) > 5000:
            del self.messages[next(iter(self.messages))]

    async def tell(self, name, event):
        shard = self.gateway.shard_of(event.get("guild_id"))
        await self.gateway.dispatch(name, event, shard, message=event["id"], channel=event["channel_id"], person=False)
