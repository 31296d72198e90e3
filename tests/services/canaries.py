"""Secrets on their way, from a client to a server, in every place where a bot has some.

Both ends print `ready` and read one line of JSON on standard input: the secrets, by name. Nothing else holds them: no
argument, no environment, no file.

The server then prints `listening PORT`. The client makes one request after another, one of which it breaks off in the
middle of a secret, prints `done` with the number of the others, and waits for the end of its input with its connection
open.
"""

import argparse
import asyncio
import functools
import json
import ssl
import sys

PADDING = "x" * 3000


def requests(secrets):
    """Method, target, header lines and body of every request."""
    bearer, cookie, key = secrets["authorization"], secrets["cookie"], secrets["api-key"]
    yield "GET", "/secrets/authorization", [f"Authorization: Bot {bearer}"], b""
    yield "GET", "/secrets/basic", [f"Proxy-Authorization: Basic {secrets['basic']}"], b""
    yield "GET", "/secrets/cookie", [f"Cookie: session={cookie}; theme=dark"], b""
    yield "GET", "/secrets/key", [f"X-Api-Key: {key}"], b""
    yield "GET", "/secrets/late", [f"X-Padding: {PADDING}", f"Authorization: Bearer {secrets['late-header']}"], b""
    yield "GET", f"/secrets/query?token={secrets['query']}&page=2", [], b""
    yield "POST", f"/api/v10/webhooks/{secrets['webhook-id']}/{secrets['webhook']}?wait=true", [], b"{}"
    path = f"/api/v10/webhooks/{secrets['webhook-id']}/{secrets['webhook-message']}/messages/@original"
    yield "PATCH", path, [], b"{}"
    path = f"/api/v10/interactions/{secrets['interaction-id']}/{secrets['interaction']}/callback"
    yield "POST", path, [], b"{}"
    yield "GET", f"/api/v10/channels/{secrets['channel-id']}/messages/{secrets['message-id']}", [], b""
    body = json.dumps({"content": secrets["body"]}).encode()
    yield "POST", "/secrets/body", ["Content-Type: application/json"], body
    body = f"{PADDING * 4}{secrets['long-body']}{PADDING * 4}".encode()
    yield "POST", "/secrets/long", [], body


def answer(secrets):
    """The answer's header lines and body."""
    lines = [
        f"Set-Cookie: session={secrets['set-cookie']}; HttpOnly",
        f"Location: /callback?code={secrets['location']}",
        f"X-Session-Token: {secrets['answer-header']}",
    ]
    return lines, json.dumps({"access_token": secrets["answer-body"]}).encode()


def cut(secret):
    """Its first half and what follows; a half is looked for as much as the whole."""
    return secret[: len(secret) // 2], secret[len(secret) // 2 :]


async def read_message(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line.partition(b":")[2]))


async def serve(options, secrets):
    lines, body = answer(secrets)
    head = ["HTTP/1.1 200 OK", *lines, f"Content-Length: {len(body)}", "", ""]

    async def connection(reader, writer):
        try:
            while True:
                await read_message(reader)
                writer.write("\r\n".join(head).encode())
                await writer.drain()
                writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    tls = None
    if options.certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.certificate, options.key)
    server = await asyncio.start_server(connection, "127.0.0.1", 0, ssl=tls)
    print("listening", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def ask(options, secrets):
    tls = {}
    if options.ca:
        tls = {"ssl": ssl.create_default_context(cafile=options.ca), "server_hostname": "discord.com"}
    connect = functools.partial(asyncio.open_connection, "127.0.0.1", options.port, **tls)
    reader, writer = await connect()
    count = 0
    for method, target, lines, body in requests(secrets):
        head = [f"{method} {target} HTTP/1.1", "Host: discord.com", *lines, f"Content-Length: {len(body)}", "", ""]
        writer.write("\r\n".join(head).encode() + body)
        await read_message(reader)
        count += 1

    front, _ = cut(secrets["broken-off"])
    _, other = await connect()
    other.write(f"GET /secrets/broken HTTP/1.1\r\nHost: discord.com\r\nAuthorization: Bot {front}".encode())
    await other.drain()
    other.close()

    # In two pieces, of which the first ends within the secret.
    front, back = cut(secrets["split-header"])
    writer.write(f"GET /secrets/split HTTP/1.1\r\nHost: discord.com\r\nAuthorization: Bot {front}".encode())
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.write(f"{back}\r\n\r\n".encode())
    await read_message(reader)

    print("done", count + 1, flush=True)
    await asyncio.to_thread(sys.stdin.read)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--ca")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("role", choices=["server", "client"])
    options = parser.parse_args()
    print("ready", flush=True)
    secrets = json.loads(sys.stdin.readline())
    await (serve if options.role == "server" else ask)(options, secrets)


if __name__ == "__main__":
    asyncio.run(main())
