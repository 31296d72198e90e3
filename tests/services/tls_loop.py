"""A client and a server of HTTPS in one process that does nothing else, for what a call into TLS costs.

Both have their TLS in memory, so that no system call is between them. It prints `ready` once they understand each
other. At each line `run COUNT` on standard input it makes so many exchanges of a request and an answer, two writes and
two reads of a TLS library each, and prints the line's number, from 1 on, and the nanoseconds of processor time that an
exchange took. It ends with its input.
"""

import argparse
import ssl
import sys
import time

HEADERS = b"Host: %b\r\nUser-Agent: DiscordBot (https://example.invalid, 1.0)\r\nAccept: */*\r\n"
REQUEST = b"GET /api/v10/channels/81384788765712384/messages?limit=1 HTTP/1.1\r\n" + HEADERS
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]"
REQUEST_LENGTH = 200


def request(name):
    """One of just that length."""
    start = REQUEST % name.encode() + b"X-Filler: "
    end = b"\r\n\r\n"
    return start + b"x" * (REQUEST_LENGTH - len(start) - len(end)) + end


def connect(options):
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(options.certificate, options.key)
    server = serving.wrap_bio(there, back, server_side=True)
    asking = ssl.create_default_context(cafile=options.ca)
    client = asking.wrap_bio(back, there, server_hostname=options.name)
    pending = [client, server]
    while pending:
        side = pending.pop(0)
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pending.append(side)
    return client, server


def run(client, server, asked, count):
    start = time.process_time_ns()
    for _ in range(count):
        client.write(asked)
        server.read(65536)
        server.write(ANSWER)
        client.read(65536)
    return (time.process_time_ns() - start) / count


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    for name in ("--certificate", "--key", "--ca"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    client, server = connect(options)
    asked = request(options.name)
    print("ready", flush=True)
    for number, line in enumerate(sys.stdin, 1):
        print(number, run(client, server, asked, int(line.removeprefix("run "))), flush=True)


if __name__ == "__main__":
    main()
