"""A voice server: its websocket, and the UDP port that voice goes to. Whatever is said there it says back, and something
more."""

import asyncio
import json
import struct

from aiohttp import WSMsgType, web

from . import objects

IDENTIFY, SELECT, READY, HEARTBEAT, DESCRIPTION, ACK, HELLO = 0, 1, 2, 3, 4, 6, 8
HOST = "rotterdam1.discord.media"
PORT = 50001
SSRC = 7
MODE = "aead_xchacha20_poly1305_rtpsize"
DISCOVERY, DISCOVERED = 1, 2
"""Types of the packets by which a client asks for its own address, and is told it."""
MORE = b"\0" * 20


def payload(op, d):
    return json.dumps({"op": op, "d": d}, separators=(",", ":"))


class Port(asyncio.DatagramProtocol):
    def __init__(self, truth):
        self.truth = truth

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.truth.write("voice", direction="transmit", size=len(data))
        if struct.unpack_from(">H", data)[0] == DISCOVERY:
            head = struct.pack(">HHI", DISCOVERED, 70, SSRC)
            answer = head + address[0].encode().ljust(64, b"\0") + struct.pack(">H", address[1])
        else:
            answer = data + MORE
        self.transport.sendto(answer, address)
        self.truth.write("voice", direction="receive", size=len(answer))


class Voice:
    def __init__(self, gateway, truth, options):
        self.gateway = gateway
        self.truth = truth
        self.deflate = options.voice_deflate

    async def open(self):
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: Port(self.truth), local_addr=("127.0.0.1", PORT))

    async def state(self, session, d):
        """A bot joins a voice channel, or leaves."""
        guild, channel = d["guild_id"], d["channel_id"]
        state = {
            "guild_id": str(guild),
            "channel_id": channel and str(channel),
            "user_id": objects.BOT["id"],
            "session_id": session.name,
            "member": objects.member(objects.BOT),
            **{name: False for name in ("deaf", "mute", "self_deaf", "self_mute", "self_video", "suppress")},
            "request_to_speak_timestamp": None,
        }
        await self.gateway.emit(session, "VOICE_STATE_UPDATE", state)
        if channel:
            server = {"token": "0123456789abcdef", "guild_id": str(guild), "endpoint": f"{HOST}:443"}
            await self.gateway.emit(session, "VOICE_SERVER_UPDATE", server)

    async def serve(self, request):
        socket = web.WebSocketResponse(compress=self.deflate, autoclose=True, autoping=True)
        await socket.prepare(request)
        await socket.send_str(payload(HELLO, {"v": 8, "heartbeat_interval": 500}))
        async for message in socket:
            if message.type is not WSMsgType.TEXT:
                continue
            value = json.loads(message.data)
            if value["op"] == IDENTIFY:
                ready = {"ssrc": SSRC, "ip": "127.0.0.1", "port": PORT, "modes": [MODE], "experiments": []}
                await socket.send_str(payload(READY, ready))
            elif value["op"] == SELECT:
                description = {"mode": MODE, "secret_key": list(range(32)), "dave_protocol_version": 0}
                await socket.send_str(payload(DESCRIPTION, description))
            elif value["op"] == HEARTBEAT:
                await socket.send_str(payload(ACK, {"t": value["d"]["t"]}))
        return socket
