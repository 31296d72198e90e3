"""Runs the stand-in for Discord. What happened it writes down in the file that is named: see standin/truth.py.

It prints `listening`, then takes commands, one JSON object a line, from standard input or from a file; after each it
prints `done` and the command's number, from 1 on. With `"aside": true` the next command does not wait for it.

    {"do": "ready"}                  wait until a bot has identified on all its shards
    {"do": "messages", "count": 10, "rate": 5, "channels": 3, "text": "!reply hello"}
                                     people write; more options: "dm", "length" of the text, "random" times
    {"do": "interactions", "kind": "command", "count": 1, "name": "ask"}
                                     people use a `command`, a `component`, a `modal`, or are at an `autocomplete`;
                                     "rate" and "channels" as above, with "hostile": true each name is new and evil
    {"do": "event", "t": "TYPING_START", "d": {...}, "count": 1}
                                     any event, on every shard; with "hostile": true each name is new
    {"do": "guild", "bytes": 102400} a guild of that size comes
    {"do": "raw", "text": "..."}     a message that is none, or, with its name as "t", an odd event
    {"do": "bytes", "hex": "..."}    bytes that are no frames, or no good ones
    {"do": "rename", "name": "..."}  all people have another name
    {"do": "hold"}, {"do": "release"}
                                     say nothing on new gateway connections until they are released
    {"do": "acks", "after": 0.2}     acknowledge heartbeats so many seconds late; null for never
    {"do": "reconnect"}, {"do": "invalid", "resumable": true}, {"do": "close", "code": 4000}, {"do": "drop"}
                                     end the gateway connections
    {"do": "refuse", "method": "POST", "route": "/channels/{channel_id}/messages", "scope": "user", "seconds": 0.4}
                                     refuse the next request of a route with 429; "times", and "skip" some before
    {"do": "pause", "seconds": 1}

It ends with its input.
"""

import argparse
import asyncio
import json
import random
import signal
import ssl
import sys

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from standin.gateway import Gateway
from standin.objects import World
from standin.rest import Rest
from standin.truth import Truth, now
from standin.voice import HOST, Voice

INTERACTIONS = {"command": 2, "component": 3, "autocomplete": 4, "modal": 5}


class TimedHandler(RequestHandler):
    """Notes when bytes came: the first ones since the last answer, and the last ones."""

    first = None
    last = None

    def data_received(self, data):
        self.last = now()
        self.first = self.first or self.last
        super().data_received(data)


class TimedServer(web.Server):
    def __call__(self):
        return TimedHandler(self, loop=self._loop, **self._kwargs)


class People:
    """What people do, as commands have it."""

    def __init__(self, world, gateway, rest):
        self.world = world
        self.gateway = gateway
        self.rest = rest
        self.numbers = 0

    async def paced(self, act, count, rate, at_random=False):
        """Acts so many times at a rate, by a schedule that being late does not shift; with no rate, at once."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        for number in range(count):
            await asyncio.sleep(max(due - loop.time(), 0))
            await act(number)
            if rate:
                due += random.expovariate(rate) if at_random else 1 / rate

    async def messages(
        self, count=1, rate=0, channels=1, text="!reply hello", dm=False, length=0, random=False
    ):
        places = list(self.world.direct if dm else self.world.channels)[:channels]
        assert len(places) == channels, f"there are only {len(places)} channels"

        async def write(number):
            self.numbers += 1
            channel = places[number % channels]
            content = f"{text} #{self.numbers}".ljust(length, "x" if length else " ")
            author = self.world.direct[channel] if dm else self.world.people[number % len(self.world.people)]
            event = self.world.message(channel, author, content)
            self.rest.keep(event)
            self.rest.numbered[str(self.numbers)] = event["id"]
            shard = self.gateway.shard_of(event.get("guild_id"))
            facts = {"message": event["id"], "channel": channel, "person": True}
            await self.gateway.dispatch("MESSAGE_CREATE", event, shard, **facts)

        await self.paced(write, count, rate, random)

    async def interactions(self, kind, count=1, rate=0, channels=1, name="ask", hostile=False):
        places = list(self.world.channels)[:channels]

        async def use(number):
            channel = places[number % channels]
            called = f'{name}-{number}-"\\\n\u202e{{}}\x00{"long" * 10}' if hostile else name
            data = {
                "command": {"type": 1, "name": called, "id": self.world.new_id()},
                "component": {"custom_id": called, "component_type": 2, "id": 1},
                "modal": {"custom_id": called, "components": []},
                "autocomplete": {
                    "type": 1,
                    "options": [{"value": "mi", "type": 3, "name": "song", "focused": True}],
                    "name": called,
                    "id": self.world.new_id(),
                },
            }[kind]
            author = self.world.people[number % len(self.world.people)]
            event = self.world.interaction(channel, author, INTERACTIONS[kind], data)
            self.rest.keep(event)
            self.rest.interactions[event["token"]] = event["id"]
            facts = {"interaction": event["id"], "channel": channel, "token": event["token"], "person": True}
            facts |= {"kind": kind, "name": called}
            await self.gateway.dispatch("INTERACTION_CREATE", event, self.gateway.shard_of(event["guild_id"]), **facts)

        await self.paced(use, count, rate)


def in_letters(number):
    """A number as the names of events may have it."""
    return "_" + "".join(chr(ord("A") + int(digit)) for digit in str(number))


class Commands:
    def __init__(self, people, gateway, rest):
        self.people = people
        self.gateway = gateway
        self.rest = rest
        self.number = 0
        self.aside = set()

    async def run(self, line):
        command = json.loads(line)
        aside, do = command.pop("aside", False), command.pop("do")
        work = self.work(do, command)
        if aside:
            task = asyncio.create_task(work)
            self.aside.add(task)
            task.add_done_callback(self.aside.discard)
        else:
            await work
        self.number += 1
        print("done", self.number, flush=True)

    async def work(self, do, options):
        match do:
            case "ready":
                await self.gateway.ready.wait()
            case "messages":
                await self.people.messages(**options)
            case "interactions":
                await self.people.interactions(**options)
            case "event":
                for number in range(options.get("count", 1)):
                    name = options["t"] + (in_letters(number) if options.get("hostile") else "")
                    for shard in list(self.gateway.current):
                        await self.gateway.dispatch(name, options["d"], shard)
            case "guild":
                guild = self.people.world.guild(self.people.world.guilds[0], options["bytes"])
                await self.gateway.dispatch("GUILD_CREATE", guild, self.gateway.shard_of(guild["id"]))
            case "raw":
                await self.gateway.raw(**options)
            case "bytes":
                self.gateway.unframed(bytes.fromhex(options["hex"]))
            case "rename":
                self.people.world.rename(options["name"])
            case "hold":
                self.gateway.released.clear()
            case "release":
                self.gateway.released.set()
            case "acks":
                self.gateway.acks = options["after"]
            case "reconnect" | "invalid" | "close" | "drop":
                await self.gateway.end(do, **options)
            case "refuse":
                self.rest.refuse(**options)
            case "pause":
                await asyncio.sleep(options["seconds"])
            case _:
                raise ValueError(f"no command {do}")


async def lines(path):
    """The commands of a file, or of standard input."""
    if path:
        with open(path) as file:
            for line in file:
                yield line
        return
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield line.decode()


async def obey(commands, path):
    async for line in lines(path):
        await commands.run(line)


async def main(options):
    truth = Truth(options.truth)
    world = World(options.guilds, options.channels, options.people)
    gateway = Gateway(world, truth, options)
    rest = Rest(world, gateway, truth, options)
    gateway.voice = voice = Voice(gateway, truth, options)
    await voice.open()

    async def handle(request):
        if request.headers.get("Upgrade", "").lower() == "websocket":
            if request.headers.get("Host", "").startswith(HOST):
                return await voice.serve(request)
            return await gateway.serve(request)
        return await rest.serve(request)

    runner = web.ServerRunner(TimedServer(handle, access_log=None))
    await runner.setup()
    tls = None
    if options.ssl_certfile:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.ssl_certfile, options.ssl_keyfile)
    await web.TCPSite(runner, "127.0.0.1", options.port, ssl_context=tls).start()
    if options.plain_port:
        await web.TCPSite(runner, "127.0.0.1", options.plain_port).start()
    print("listening", flush=True)

    commands = asyncio.create_task(obey(Commands(People(world, gateway, rest), gateway, rest), options.commands))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, commands.cancel)
    try:
        await commands
    except asyncio.CancelledError:
        pass


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=443)
    parser.add_argument("--plain-port", type=int, help="speak without TLS here, too")
    parser.add_argument("--truth", required=True)
    parser.add_argument("--ssl-certfile")
    parser.add_argument("--ssl-keyfile")
    parser.add_argument("--commands", help="take commands from this file")
    parser.add_argument("--guilds", type=int, default=1)
    parser.add_argument("--channels", type=int, default=50)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--shards", type=int, default=1, help="how many are recommended")
    parser.add_argument("--delay-ms", type=float, default=0, help="how long the REST API takes, more or less")
    parser.add_argument("--heartbeat-ms", type=int, default=41250)
    parser.add_argument("--guild-bytes", type=int, default=0, help="how large the first GUILD_CREATE is")
    parser.add_argument("--gateway-url", default="wss://gateway.discord.gg")
    parser.add_argument("--resume-url", default="wss://gateway-us-east1-b.discord.gg")
    parser.add_argument("--voice-deflate", action="store_true", help="compress the voice server's websocket if asked to")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(parse()))
