"""Resolves names by itself, without the C library, on words from standard input; it answers each with one line of JSON.

`cares NAME` by c-ares, which asks for both kinds of addresses over a connected socket; `dnspython NAME` by a library in Python,
which asks for IPv4 addresses over a socket that is not connected. `connect ADDRESS` connects to port 8000 there, and hangs up.
"""

import asyncio
import json
import sys
import time

import aiodns
import dns.resolver

SERVER = "127.0.0.1"
PATIENCE = 1

by_python = dns.resolver.Resolver(configure=False)
by_python.nameservers = [SERVER]
by_python.lifetime = by_python.timeout = PATIENCE


async def cares(name):
    resolver = aiodns.DNSResolver(nameservers=[SERVER], timeout=PATIENCE, tries=1)
    try:
        found = await resolver.getaddrinfo(f"{name}.")
        return [node.addr[0].decode() for node in found.nodes]
    except aiodns.error.DNSError as error:
        return error.args[1]
    finally:
        # A socket that waits for nobody is closed with what it belongs to.
        await resolver.close()


async def dnspython(name):
    try:
        return [record.address for record in by_python.resolve(f"{name}.", "A", search=False)]
    except dns.exception.DNSException as error:
        return type(error).__name__


async def connect(address):
    _, writer = await asyncio.open_connection(address, 8000)
    writer.close()
    await writer.wait_closed()


WORDS = {word.__name__: word for word in (cares, dnspython, connect)}


async def work():
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    for number in range(1, 1 << 30):
        line = await loop.run_in_executor(None, sys.stdin.readline)
        if not line:
            return
        word, name = line.split()
        started = time.monotonic()
        found = await WORDS[word](name)
        answer = {"seconds": time.monotonic() - started, "found": found}
        print(number, json.dumps(answer), flush=True)


asyncio.run(work())
