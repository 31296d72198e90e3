"""One client of many servers: each has a name of its own, and all are asked at the same time.

It prints `ready` once its libraries are loaded, waits for a line on standard input, asks the first name once, the
second twice and so on, a connection each, prints `done` and waits for the end of its input.
"""

import argparse
import asyncio
import socket
import ssl
import sys
import threading
import time

import loopback

DOMAIN = "miku.test"


def name(number):
    return f"n{number}.{DOMAIN}"


def say_and_wait(word):
    print(word, flush=True)
    return sys.stdin.readline()


def with_aiohttp(options):
    import aiohttp

    async def main():
        context = ssl.create_default_context(cafile=options.ca)
        connector = aiohttp.TCPConnector(resolver=loopback.resolver(), ssl=context, limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def ask(number):
                for _ in range(number):
                    url = f"https://{name(number)}:{options.port}/items/{number}"
                    async with session.get(url) as response:
                        await response.read()

            await asyncio.to_thread(say_and_wait, "ready")
            await asyncio.gather(*(ask(number) for number in range(1, options.names + 1)))
            await asyncio.to_thread(say_and_wait, "done")

    asyncio.run(main())


def with_requests(options):
    import requests

    loopback.resolve_everything()
    sessions = []

    def ask(number):
        session = requests.Session()
        session.trust_env = False
        session.verify = options.ca
        # So that its connection stays open when the thread has ended.
        sessions.append(session)
        for _ in range(number):
            session.get(f"https://{name(number)}:{options.port}/items/{number}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, options.names + 1)]
    say_and_wait("ready")
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say_and_wait("done")


def with_httpx(options):
    """Decrypts not where it receives, but a turn of the event loop later."""
    import httpx

    loopback.resolve_everything()

    async def main():
        async with httpx.AsyncClient(trust_env=False, verify=ssl.create_default_context(cafile=options.ca)) as client:

            async def ask(number):
                for _ in range(number):
                    url = f"https://{name(number)}:{options.port}/items/{number}"
                    async with client.stream("GET", url) as response:
                        async for _chunk in response.aiter_raw(16):
                            await asyncio.sleep(0)

            await asyncio.to_thread(say_and_wait, "ready")
            await asyncio.gather(*(ask(number) for number in range(1, options.names + 1)))
            await asyncio.to_thread(say_and_wait, "done")

    asyncio.run(main())


class Stream:
    """A connection that is received from and decrypted apart."""

    def __init__(self, number, options, context):
        self.number, self.left, self.answer, self.asking = number, number, b"", False
        self.socket = socket.create_connection((loopback.LOOPBACK, options.port))
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name(number))
        self.ready, self.request = False, f"GET /items/{number} HTTP/1.1\r\nHost: {name(number)}:{options.port}\r\n\r\n"

    def work(self):
        try:
            if not self.ready:
                self.tls.do_handshake()
                self.ready = True
            if self.left and not self.asking:
                self.tls.write(self.request.encode())
                self.asking = True
            while True:
                self.answer += self.tls.read(7)
                head, ended, body = self.answer.partition(b"\r\n\r\n")
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                if ended and len(body) >= int(length[0].split(b":")[1]):
                    self.answer, self.asking, self.left = b"", False, self.left - 1
                    if self.left:
                        self.tls.write(self.request.encode())
                        self.asking = True
        except ssl.SSLWantReadError:
            pass
        self.socket.sendall(self.outgoing.read())


def batched(options):
    """Receives from all connections before it decrypts of any. The first to be decrypted is not the last received from,
    and both are the same ones in nearly every round: whoever takes the order for a sign is wrong each time."""
    context = ssl.create_default_context(cafile=options.ca)
    say_and_wait("ready")
    streams = [Stream(number, options, context) for number in range(1, options.names + 1)]
    for stream in streams:
        stream.work()
    everything = streams
    while streams := [stream for stream in everything if stream.left]:
        if len(streams) == 1:
            # What a probe counts once a second it shall count before the order is right.
            time.sleep(1.5)
        received = [(stream, stream.socket.recv(1 << 16)) for stream in streams]
        *others, last = received
        for stream, data in [*reversed(others), last]:
            stream.incoming.write(data)
            stream.work()
    say_and_wait("done")


LIBRARIES = {"aiohttp": with_aiohttp, "requests": with_requests, "httpx": with_httpx, "batched": batched}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--names", type=int, default=50)
    options = parser.parse_args()
    LIBRARIES[options.library](options)


if __name__ == "__main__":
    main()
