"""One client of many servers: each has a name of its own, and all are asked at the same time.

It prints `ready` once its libraries are loaded, waits for a line on standard input, asks the first name once, the
second twice and so on, a connection each, prints `done` and waits for the end of its input.
"""

import argparse
import asyncio
import ssl
import sys
import threading

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


LIBRARIES = {"aiohttp": with_aiohttp, "requests": with_requests}


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
