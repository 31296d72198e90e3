"""An ordinary HTTP client, with whichever library is named. It knows nothing of being watched.

It prints `ready` once its libraries are loaded, waits for a line on standard input, makes its requests in turn, and
prints one JSON line for each: method, route, status, and seconds by its own clock, body included. Then it prints
`done` and waits for the end of its input, with its connections still open.

With --clock it prints, before `done`, one more JSON line: the seconds of each exchange by a clock at its calls into TLS.

With --ca it speaks TLS, and trusts that authority alone. Whatever name the host is given, it is the loopback.
"""

import argparse
import asyncio
import json
import ssl
import sys
import threading
import time

import loopback
import tls_clock


def tell(method, path, status, start):
    seconds = time.perf_counter() - start
    line = json.dumps({"method": method, "route": path, "status": status, "seconds": seconds})
    # In one piece, as there may be more threads than one.
    sys.stdout.write(line + "\n")


def plan(options):
    """What to ask, in turn: method, path and body."""
    kinds = [("GET", f"/slow?ms={options.ms}", b""), ("GET", "/items/7", b""), ("POST", "/echo", b"x" * 5000)]
    for number in range(options.requests):
        yield kinds[number % len(kinds)]


def wait_for_go():
    print("ready", flush=True)
    sys.stdin.readline()


def wait_for_end():
    times = tls_clock.seconds()
    if times:
        print(json.dumps({"tls_seconds": times}))
    print("done", flush=True)
    sys.stdin.read()


def with_http_client(options):
    import http.client

    if options.tls:
        connection = http.client.HTTPSConnection(options.host, options.port, context=options.tls)
    else:
        connection = http.client.HTTPConnection(options.host, options.port)
    wait_for_go()
    for method, path, body in plan(options):
        start = time.perf_counter()
        connection.request(method, path, body=body or None)
        response = connection.getresponse()
        response.read()
        tell(method, path, response.status, start)
    wait_for_end()


def with_urllib3(options):
    import urllib3

    with urllib3.PoolManager(ca_certs=options.ca) as pool:
        wait_for_go()
        for method, path, body in plan(options):
            start = time.perf_counter()
            response = pool.request(method, options.base + path, body=body or None)
            tell(method, path, response.status, start)
        wait_for_end()


def with_pyopenssl(options):
    """The OpenSSL that is inside the `cryptography` package."""
    import urllib3.contrib.pyopenssl

    urllib3.contrib.pyopenssl.inject_into_urllib3()
    with_urllib3(options)


def with_pycurl(options):
    """The OpenSSL that comes in the package's own folder of libraries."""
    import pycurl

    curl = pycurl.Curl()
    curl.setopt(pycurl.PROXY, "")
    curl.setopt(pycurl.RESOLVE, [f"{options.host}:{options.port}:{loopback.LOOPBACK}"])
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    curl.setopt(pycurl.CAINFO, options.ca)
    wait_for_go()
    for method, path, body in plan(options):
        curl.setopt(pycurl.URL, options.base + path)
        curl.setopt(pycurl.CUSTOMREQUEST, method)
        curl.setopt(pycurl.POSTFIELDS, body)
        start = time.perf_counter()
        curl.perform_rb()
        tell(method, path, curl.getinfo(pycurl.RESPONSE_CODE), start)
    wait_for_end()


def with_requests(options):
    """In one thread, and in many: a session each, as the library asks for."""
    import requests

    todo, turn = plan(options), threading.Lock()
    served = threading.Barrier(options.threads + 1)

    def work():
        with requests.Session() as session:
            session.trust_env = False
            session.verify = options.ca
            while True:
                with turn:
                    method, path, body = next(todo, (None, None, None))
                if method is None:
                    break
                start = time.perf_counter()
                response = session.request(method, options.base + path, data=body or None)
                tell(method, path, response.status_code, start)
            served.wait()
            ended.wait()

    ended = threading.Event()
    workers = [threading.Thread(target=work, daemon=True) for _ in range(options.threads)]
    wait_for_go()
    for worker in workers:
        worker.start()
    served.wait()
    wait_for_end()
    ended.set()
    for worker in workers:
        worker.join()


def with_httpx(options):
    import httpx

    with httpx.Client(trust_env=False, verify=options.tls or False) as client:
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
        async with httpx.AsyncClient(trust_env=False, verify=options.tls or False) as client:

            async def ask(method, url, body):
                return (await client.request(method, url, content=body)).status_code

            await in_turns(options, ask)

    asyncio.run(main())


def with_aiohttp(options):
    import aiohttp

    async def main():
        connector = aiohttp.TCPConnector(resolver=loopback.resolver(), **({"ssl": options.tls} if options.tls else {}))
        async with aiohttp.ClientSession(connector=connector) as session:

            async def ask(method, url, body):
                async with session.request(method, url, data=body) as response:
                    await response.read()
                    return response.status

            await in_turns(options, ask)

    asyncio.run(main())


def with_uvloop(options):
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    with_aiohttp(options)


LIBRARIES = {
    "http.client": with_http_client,
    "urllib3": with_urllib3,
    "pyopenssl": with_pyopenssl,
    "pycurl": with_pycurl,
    "requests": with_requests,
    "httpx": with_httpx,
    "httpx-async": with_httpx_async,
    "aiohttp": with_aiohttp,
    "uvloop": with_uvloop,
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("--host", default=loopback.LOOPBACK)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ms", type=int, default=30)
    parser.add_argument("--ca")
    parser.add_argument("--clock", action="store_true")
    options = parser.parse_args()
    if options.clock:
        tls_clock.start()
    options.tls = ssl.create_default_context(cafile=options.ca) if options.ca else None
    options.base = f"{'https' if options.ca else 'http'}://{options.host}:{options.port}"
    if options.host != loopback.LOOPBACK:
        loopback.resolve_everything()
    LIBRARIES[options.library](options)


if __name__ == "__main__":
    main()
