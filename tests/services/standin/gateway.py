"""The gateway: sessions, their connections, and what goes over those."""

import asyncio
import collections
import json
import secrets
import zlib

from aiohttp import WSMsgType, web

from . import objects
from .truth import now

DISPATCH, HEARTBEAT, IDENTIFY, VOICE, RESUME, RECONNECT, MEMBERS, INVALID, HELLO, ACK = 0, 1, 2, 4, 6, 7, 8, 9, 10, 11
REMEMBERED = 20_000
"""Events of a session that can be sent again."""


class Plain:
    def __call__(self, text):
        return text


class Zlib:
    def __init__(self):
        self.stream = zlib.compressobj(6)

    def __call__(self, text):
        return self.stream.compress(text.encode()) + self.stream.flush(zlib.Z_SYNC_FLUSH)


class Zstd:
    def __init__(self):
        import zstandard

        self.block = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        self.stream = zstandard.ZstdCompressor(level=3).compressobj()

    def __call__(self, text):
        return self.stream.compress(text.encode()) + self.stream.flush(self.block)


COMPRESSIONS = {None: Plain, "": Plain, "zlib-stream": Zlib, "zstd-stream": Zstd}


class Session:
    """What survives a connection: the events of one shard, in their order."""

    def __init__(self, name, shard, shards):
        self.name = name
        self.shard = shard
        self.shards = shards
        self.sequence = 0
        self.events = collections.deque(maxlen=REMEMBERED)
        self.connection = None


class Connection:
    def __init__(self, number, socket, request, truth):
        self.number = number
        self.socket = socket
        self.transport = request.transport
        self.protocol = request.protocol
        self.encode = COMPRESSIONS[request.query.get("compress")]()
        self.truth = truth
        self.turn = asyncio.Lock()
        self.session = None
        self.ended_with = None
        """The close code, where the stand-in ends it."""

    async def send(self, text, /, **facts):
        async with self.turn:
            data = self.encode(text)
            send = self.socket.send_str if isinstance(data, str) else self.socket.send_bytes
            before = now()
            await send(data)
            after = now()
        facts |= {"connection": self.number, "size": len(text), "wire": len(data), "before": before, "after": after}
        self.truth.write("sent", **facts)

    async def control(self, op, d=None):
        await self.send(payload(None, None, op, d), op=op)


def payload(name, sequence, op, d):
    return json.dumps({"t": name, "s": sequence, "op": op, "d": d}, separators=(",", ":"))


class Gateway:
    def __init__(self, world, truth, options):
        self.world = world
        self.truth = truth
        self.interval = options.heartbeat_ms
        self.resume_url = options.resume_url
        self.guild_bytes = options.guild_bytes
        self.connections = {}
        self.count = 0
        self.sessions = {}
        self.current = {}
        self.acks = 0.0
        """After how many seconds a heartbeat is acknowledged; none for never."""
        self.ready = asyncio.Event()
        self.released = asyncio.Event()
        """Whether new connections get an answer."""
        self.released.set()
        self.tasks = set()
        self.voice = None
        """Who is told that a bot joins a voice channel, or leaves."""

    def shard_of(self, guild):
        shards = max((session.shards for session in self.current.values()), default=1)
        return (int(guild) >> 22) % shards if guild else 0

    async def dispatch(self, name, d, shard=0, /, **facts):
        """Sends an event on a shard, now or when that is resumed."""
        session = self.current.get(shard)
        if session:
            await self.emit(session, name, d, **facts)

    async def emit(self, session, name, d, /, **facts):
        session.sequence += 1
        text = payload(name, session.sequence, DISPATCH, d)
        facts = {"op": DISPATCH, "t": name, "s": session.sequence, "shard": session.shard, **facts}
        session.events.append((text, facts))
        if session.connection:
            await self.deliver(session, text, facts)

    async def deliver(self, session, text, facts):
        try:
            await session.connection.send(text, **facts)
        except (ConnectionError, AttributeError):
            # The connection ends; the event is sent again when the session is resumed.
            session.connection = None

    async def serve(self, request):
        socket = web.WebSocketResponse(compress=False, max_msg_size=0, autoclose=True, autoping=True)
        await socket.prepare(request)
        self.count += 1
        connection = Connection(self.count, socket, request, self.truth)
        self.connections[connection.number] = connection
        facts = {"compress": request.query.get("compress"), "tls": bool(request.transport.get_extra_info("ssl_object"))}
        self.truth.write("connected", connection=connection.number, at=now(), **facts)
        try:
            await self.released.wait()
            hello = {"heartbeat_interval": self.interval, "_trace": ['["gateway",{"micros":0.0}]']}
            await connection.control(HELLO, hello)
            await self.listen(connection)
        except ConnectionError:
            pass
        finally:
            del self.connections[connection.number]
            if connection.session and connection.session.connection is connection:
                connection.session.connection = None
            # Without a closing frame it is 1006 (RFC 6455, section 7.1.5).
            code = connection.ended_with or socket.close_code or 1006
            by = "standin" if connection.ended_with else "network" if code == 1006 else "bot"
            self.truth.write("closed", connection=connection.number, at=now(), code=code, by=by)
        return socket

    async def listen(self, connection):
        async for message in connection.socket:
            at = connection.protocol.last
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return
            # hikari writes its JSON in binary frames.
            value = json.loads(message.data)
            op, d = value["op"], value["d"]
            facts = {"d": d} if op == HEARTBEAT else {}
            self.truth.write("received", connection=connection.number, op=op, at=at, **facts)
            if op == HEARTBEAT:
                self.acknowledge(connection)
            elif op == IDENTIFY:
                await self.identify(connection, *(d.get("shard") or (0, 1)))
            elif op == RESUME:
                await self.resume(connection, d["session_id"], d["seq"])
            elif op == VOICE:
                await self.voice.state(connection.session, d)
            elif op == MEMBERS:
                await self.members(connection.session, d)

    def acknowledge(self, connection):
        if self.acks is None:
            return

        async def later(seconds):
            if seconds:
                await asyncio.sleep(seconds)
            if not connection.socket.closed:
                await connection.control(ACK)

        task = asyncio.create_task(later(self.acks))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def identify(self, connection, shard, shards):
        session = Session(secrets.token_hex(16), shard, shards)
        self.sessions[session.name] = session
        session.connection, connection.session = connection, session
        self.current[shard] = session
        guilds = [guild for guild in self.world.guilds if self.shard_of(guild) == shard]
        ready = {
            "v": 10,
            "user_settings": {},
            "user": {**objects.BOT, "verified": True, "mfa_enabled": False, "email": None},
            "shard": [shard, shards],
            "session_type": "normal",
            "session_id": session.name,
            "resume_gateway_url": self.resume_url,
            "relationships": [],
            "private_channels": [],
            "presences": [],
            "guilds": [{"unavailable": True, "id": guild} for guild in guilds],
            "guild_join_requests": [],
            "geo_ordered_rtc_regions": ["us-east"],
            "game_relationships": [],
            "auth": {},
            "application": {"id": objects.APPLICATION["id"], "flags": objects.APPLICATION_FLAGS},
            "_trace": [],
        }
        await self.emit(session, "READY", ready, session=session.name)
        for guild in guilds:
            await self.emit(session, "GUILD_CREATE", self.world.guild(guild, self.guild_bytes))
        if len(self.current) >= shards:
            self.ready.set()

    async def resume(self, connection, name, sequence):
        session = self.sessions.get(name)
        if not session:
            await connection.control(INVALID, False)
            return
        connection.session = session
        # What happens meanwhile has its turn too.
        while missed := [event for event in session.events if event[1]["s"] > sequence]:
            for text, facts in missed:
                await connection.send(text, **facts)
                sequence = facts["s"]
        session.connection = connection
        await self.emit(session, "RESUMED", {"_trace": []})

    async def members(self, session, d):
        known = [objects.BOT, objects.OWNER, *self.world.people]
        wanted = d.get("user_ids") or []
        people = [someone for someone in known if not wanted or someone["id"] in wanted]
        chunk = {
            "presences": [],
            "not_found": [],
            "nonce": d.get("nonce"),
            "members": [objects.member(someone) for someone in people],
            "guild_id": d["guild_id"],
            "chunk_index": 0,
            "chunk_count": 1,
        }
        await self.emit(session, "GUILD_MEMBERS_CHUNK", chunk)

    async def raw(self, text, t=None):
        """Sends something that is no payload, or not a good one; or an event of this name, however odd."""
        for connection in list(self.connections.values()):
            await connection.send(text, **({"op": DISPATCH, "t": t} if t is not None else {"op": None}))

    def unframed(self, data):
        """Sends bytes past the websocket."""
        for connection in self.connections.values():
            connection.transport.write(data)

    async def end(self, how, **more):
        """Ends all connections, or has the bots do it."""
        for connection in list(self.connections.values()):
            if how == "reconnect":
                await connection.control(RECONNECT)
            elif how == "invalid":
                if not more["resumable"] and connection.session:
                    self.sessions.pop(connection.session.name, None)
                await connection.control(INVALID, more["resumable"])
            elif how == "close":
                connection.ended_with = more["code"]
                await connection.socket.close(code=more["code"])
            elif how == "drop":
                connection.ended_with = 1006
                connection.transport.abort()
