"""An ordinary HTTP client, with whichever library is named. It knows nothing of being watched.

It prints `ready` once its libraries are loaded, waits for a line on standard input, makes its requests in turn, and
prints one JSON line for each: method, route, status, and seconds by its own clock, body included. Then it prints
`done` and waits for the end of its input, with its connections still open.
"""

import argparse
import asyncio
import json
import sys
import time


def tell(method, path, status, start):
    seconds = time.perf_counter() - start
    print(json.dumps({"method": method, "route": path, "status": status, "seconds": seconds}))


def plan(options):
    """What to ask, in turn: method, path and body."""
    kinds = [("GET", f"/slow?ms={options.ms}", b""), ("GET", "/items/7", b""), ("POST", "/echo", b"x" * 5000)]
    for number in range(options.requests):
        yield kinds[number % len(kinds)]


def wait_for_go():
    print("ready", flush=True)
    sys.stdin.readline()


def wait_for_end():
    print("done", flush=True)
    sys.stdin.read()


def with_http_client(options):
    import http.client

    connection = http.client.HTTPConnection(options.host, options.port)
    wait_for_go()
    for method, path, body in plan(options):
        start = time.perf_counter()
        connection.request(method, path, body=body or None)
        response = connection.getresponse()
        response.read()
        tell(method, path, response.status, start)
    wait_for_end()


def with_requests(options):
    import requests

    with requests.Session() as session:
        session.trust_env = False
        wait_for_go()
        for method, path, body in plan(options):
            start = time.perf_counter()
            response = session.request(method, options.base + path, data=body or None)
            tell(method, path, response.status_code, start)
        wait_for_end()


def with_httpx(options):
    import httpx

    with httpx.Client(trust_env=False) as client:
        wait_for_go()
        for method, path, body in plan(options):
            start = time.perf_counter()
            response = client.request(method, options.base + path, content=body or None)
            tell(method, path, response.status_code, start)
        wait_for_end()


async def in_turns(options, ask):
    """Runs `ask` over the plan in as many tasks as asked for."""
    await asyncio.to_thread(wait_for_go)
    todo = plan(options)

    async def task():
        for method, path, body in todo:
            start = time.perf_counter()
            tell(method, path, await ask(method, options.base + path, body or None), start)

    await asyncio.gather(*(task() for _ in range(options.concurrency)))
    await asyncio.to_thread(wait_for_end)


def with_httpx_async(options):
    import httpx

    async def main():
        async with httpx.AsyncClient(trust_env=False) as client:

            async def ask(method, url, body):
                return (await client.request(method, url, content=body)).status_code

            await in_turns(options, ask)

    asyncio.run(main())


def with_aiohttp(options):
    import aiohttp

    async def main():
        async with aiohttp.ClientSession() as session:

            async def ask(method, url, body):
                async with session.request(method, url, data=body) as response:
                    await response.read()
                    return response.status

            await in_turns(options, ask)

    asyncio.run(main())


LIBRARIES = {
    "http.client": with_http_client,
    "requests": with_requests,
    "httpx": with_httpx,
    "httpx-async": with_httpx_async,
    "aiohttp": with_aiohttp,
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--ms", type=int, default=30)
    options = parser.parse_args()
    options.base = f"http://{options.host}:{options.port}"
    LIBRARIES[options.library](options)


if __name__ == "__main__":
    main()
