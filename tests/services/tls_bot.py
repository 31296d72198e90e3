"""An HTTPS client of nothing but the standard library, which does as it is told. It knows nothing of being watched.

It prints `ready` once its connections are open, then takes commands on standard input, one a line, and prints `done`
and its number after each, from 1 on:

    ask PATH COUNT   make so many requests, over all connections
    busy PATH        until the next command, go on making requests
    again            close the connections and open new ones
    forbidden        make a system call that no bot makes

It ends with its input.
"""

import argparse
import asyncio
import ssl
import sys


def request(options, path):
    lines = [f"GET {path} HTTP/1.1", f"Host: {options.name}:{options.port}", "User-Agent: bot", "", ""]
    return "\r\n".join(lines).encode()


def content_length(head):
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    raise ValueError("an answer without a length")


def forbidden():
    import ctypes

    # acct(2), which every architecture has under its own number, so by the C library's name.
    ctypes.CDLL(None).acct(None)


def say(word):
    print(word, flush=True)


class Bot:
    def __init__(self, options):
        self.options = options
        self.connections = []

    async def open(self):
        context = ssl.create_default_context(cafile=self.options.ca)
        for _ in range(self.options.connections):
            self.connections.append(
                await asyncio.open_connection(
                    "127.0.0.1", self.options.port, ssl=context, server_hostname=self.options.name
                )
            )

    async def close(self):
        for _, writer in self.connections:
            writer.close()
            await writer.wait_closed()
        self.connections = []

    async def exchange(self, connection, path):
        reader, writer = connection
        writer.write(request(self.options, path))
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(content_length(head))

    async def ask(self, path, count):
        left = iter(range(count))

        async def take_turns(connection):
            for _ in left:
                await self.exchange(connection, path)

        await asyncio.gather(*map(take_turns, self.connections))

    async def stay_busy(self, path, until):
        async def go_on(connection):
            while not until.is_set():
                await self.exchange(connection, path)

        await asyncio.gather(*map(go_on, self.connections))

    async def run(self):
        loop = asyncio.get_running_loop()
        commands = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        await self.open()
        say("ready")
        busy, enough, number = None, asyncio.Event(), 0
        async for line in commands:
            words = line.decode().split()
            if busy:
                enough.set()
                await busy
                busy = None
                enough.clear()
            if words[0] == "ask":
                await self.ask(words[1], int(words[2]))
            elif words[0] == "busy":
                busy = asyncio.create_task(self.stay_busy(words[1], enough))
            elif words[0] == "again":
                await self.close()
                await self.open()
            elif words[0] == "forbidden":
                forbidden()
            number += 1
            say(f"done {number}")
        await self.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--connections", type=int, default=2)
    asyncio.run(Bot(parser.parse_args()).run())


if __name__ == "__main__":
    main()
