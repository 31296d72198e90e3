"""A bot on nothing but aiohttp, which nothing that the gateway sends can fell: what it cannot read it passes over, and
when a connection ends it makes another. It replies to `!` messages with what they say, and knows nothing of being
watched. It prints `started`, waits for a line on standard input, connects, and prints `ready` with each session.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import zlib

import aiohttp
import zstandard

TOKEN = os.environ.get("DISCORD_TOKEN", "OTk5OTk5OTk5NTc0MDE2MDAx.a.token")
GATEWAY = "wss://gateway.discord.gg/?v=10&encoding=json"
API = "https://discord.com/api/v10"
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


def plain():
    return lambda data: data


def zlib_stream():
    return zlib.decompressobj().decompress


def zstd_stream():
    return zstandard.ZstdDecompressor().decompressobj().decompress


DECOMPRESSIONS = {"": plain, "zlib-stream": zlib_stream, "zstd-stream": zstd_stream}


class Bot:
    def __init__(self, session, compress):
        self.session = session
        self.compress = compress
        self.sequence = None
        self.tasks = set()

    def aside(self, work):
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def run(self):
        address = f"{GATEWAY}&compress={self.compress}" if self.compress else GATEWAY
        while True:
            async with self.session.ws_connect(address, max_msg_size=0) as socket:
                self.beating = None
                try:
                    await self.listen(socket)
                finally:
                    if self.beating:
                        self.beating.cancel()
                await socket.close(code=4000)

    async def listen(self, socket):
        decompress = DECOMPRESSIONS[self.compress]()
        async for message in socket:
            if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
                return
            try:
                text = decompress(message.data)
            except Exception as error:
                # Whichever the library's own is: no more will come out of that stream.
                print("lost its place:", type(error).__name__, flush=True)
                return
            try:
                await self.take(socket, json.loads(text))
            except UNREADABLE:
                pass

    async def take(self, socket, payload):
        if payload["s"] is not None:
            self.sequence = payload["s"]
        if payload["op"] == 10:
            # What the last connection held stands in cycles. That it is freed is what shows its end for certain.
            gc.collect()
            self.beating = self.aside(self.beat(socket, payload["d"]["heartbeat_interval"] / 1000))
            who = {"token": TOKEN, "intents": 33280, "properties": {"os": "", "browser": "", "device": ""}}
            await socket.send_json({"op": 2, "d": who})
        elif payload["t"] == "READY":
            print("ready", flush=True)
        elif payload["t"] == "MESSAGE_CREATE" and payload["d"]["content"].startswith("!"):
            self.aside(self.reply(payload["d"]))

    async def beat(self, socket, interval):
        while True:
            await socket.send_json({"op": 1, "d": self.sequence})
            await asyncio.sleep(interval)

    async def reply(self, message):
        answer = {"content": message["content"][1:], "message_reference": {"message_id": message["id"]}}
        headers = {"Authorization": f"Bot {TOKEN}"}
        address = f"{API}/channels/{message['channel_id']}/messages"
        async with self.session.post(address, json=answer, headers=headers) as response:
            await response.read()


async def main(options):
    async with aiohttp.ClientSession() as session:
        await Bot(session, options.compress).run()


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--compress", choices=list(DECOMPRESSIONS), default="")
    return parser.parse_args()


if __name__ == "__main__":
    print("started", flush=True)
    sys.stdin.readline()
    asyncio.run(main(parse()))
