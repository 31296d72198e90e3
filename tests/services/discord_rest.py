"""A stand-in for Discord's REST API, over TLS, with its rate limits. It writes one JSON line for each request.

A line has the method, the route as Discord's documentation writes it, the status, the times of the request and of its
answer by the monotonic clock, the rate limit's headers, and for a 429 its scope.

Limits are not what a client runs into here: the stand-in says so at chosen requests, by a plan. In a real 429's body,
and here, `retry_after` is in seconds with fractions, while the header `Retry-After` has whole ones.
"""

import argparse
import json
import ssl
import time

from aiohttp import web

BOT = {"id": "1000000000000000001", "username": "miku", "discriminator": "0", "avatar": None, "bot": True}
APPLICATION = {
    "id": BOT["id"],
    "name": "miku",
    "icon": None,
    "description": "",
    "bot_public": False,
    "bot_require_code_grant": False,
    "verify_key": "0" * 64,
    "flags": 0,
    "owner": {**BOT, "id": "1000000000000000002", "bot": False},
}
LIMIT = 20
API = "/api/v10"

# Which request of a route is refused, by which scope, and for how many seconds.
REFUSALS = {
    ("POST", "/channels/{channel_id}/messages", 2): ("user", 0.4),
    ("POST", "/channels/{channel_id}/messages", 6): ("shared", 0.3),
    ("POST", "/channels/{channel_id}/messages", 7): ("shared", 0.2),
    ("PATCH", "/channels/{channel_id}/messages/{message_id}", 3): ("global", 0.5),
    ("POST", "/webhooks/{webhook_id}/{token}", 2): ("user", 0.3),
}

ROUTES = [
    ("GET", "/users/@me"),
    ("GET", "/users/{user_id}"),
    ("GET", "/oauth2/applications/@me"),
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
    ("PUT", "/applications/{application_id}/commands"),
    ("POST", "/webhooks/{webhook_id}/{token}"),
    ("PATCH", "/webhooks/{webhook_id}/{token}/messages/@original"),
    ("PATCH", "/webhooks/{webhook_id}/{token}/messages/{message_id}"),
    ("POST", "/interactions/{interaction_id}/{token}/callback"),
]


def message(channel):
    return {
        "id": "1000000000000000100",
        "channel_id": channel,
        "type": 0,
        "content": "",
        "author": BOT,
        "attachments": [],
        "embeds": [],
        "mentions": [],
        "mention_roles": [],
        "mention_everyone": False,
        "pinned": False,
        "tts": False,
        "timestamp": "2024-01-01T00:00:00.000000+00:00",
        "edited_timestamp": None,
        "flags": 0,
        "components": [],
    }


def body(request, route):
    """What a client can make sense of; most need no more than an object."""
    if route.startswith("/users/"):
        return BOT
    if route == "/oauth2/applications/@me":
        return APPLICATION
    if route == "/gateway/bot":
        return {"url": "wss://gateway.discord.gg", "shards": 1, "session_start_limit": {"max_concurrency": 1}}
    if route.endswith(("/commands", "/messages")) and request.method != "POST":
        return []
    return message(request.match_info.get("channel_id", "1"))


class Discord:
    def __init__(self, log):
        self.log = log
        self.counts = {}

    def handler(self, route):
        async def handle(request):
            received = time.monotonic()
            await request.read()
            key = (request.method, route)
            nth = self.counts[key] = self.counts.get(key, 0) + 1
            refusal = REFUSALS.get((*key, nth))
            remaining = LIMIT - 1 - nth % (LIMIT - 1)
            limits = {
                "X-RateLimit-Limit": str(LIMIT),
                "X-RateLimit-Remaining": str(0 if refusal else remaining),
                "X-RateLimit-Reset": f"{time.time() + 1:.3f}",
                "X-RateLimit-Reset-After": f"{refusal[1] if refusal else 1:.3f}",
                "X-RateLimit-Bucket": f"{abs(hash(key)):016x}"[:16],
            }
            if refusal:
                scope, seconds = refusal
                limits |= {"X-RateLimit-Scope": scope, "Retry-After": "1", "Via": "1.1 google"}
                if scope == "global":
                    limits["X-RateLimit-Global"] = "true"
                told = {"message": "You are being rate limited.", "retry_after": seconds, "global": scope == "global"}
                response = self.json(told, 429)
            elif request.method in ("PUT", "DELETE") and "commands" not in route or route.endswith(
                ("/typing", "/callback")
            ):
                response = web.Response(status=204)
            else:
                response = self.json(body(request, route), 200)
            response.headers.update(limits)
            self.write(request, route, response, received, refusal)
            return response

        return handle

    @staticmethod
    def json(value, status):
        # discord.py takes the content type for JSON only if nothing stands behind it.
        return web.Response(body=json.dumps(value).encode(), status=status, content_type="application/json")

    def write(self, request, route, response, received, refusal):
        entry = {
            "method": request.method,
            "route": API + route,
            "path": request.raw_path,
            "status": response.status,
            "received": received,
            "answered": time.monotonic(),
            "remaining": int(response.headers["X-RateLimit-Remaining"]),
            "limit": LIMIT,
            "scope": refusal[0] if refusal else None,
        }
        self.log.write(json.dumps(entry) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--ssl-certfile", required=True)
    parser.add_argument("--ssl-keyfile", required=True)
    options = parser.parse_args()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(options.ssl_certfile, options.ssl_keyfile)
    with open(options.log, "w", buffering=1) as log:
        discord = Discord(log)
        app = web.Application()
        for method, route in ROUTES:
            app.router.add_route(method, API + route, discord.handler(route))
        web.run_app(app, host="127.0.0.1", port=options.port, ssl_context=tls, access_log=None, print=None)


if __name__ == "__main__":
    main()
