"""An HTTPS client that loads the TLS library only when it is told to, and then blocks on one socket.

It prints `ready` before that, then takes commands on standard input, one a line, and prints `done` and its
number after each, from 1 on:

    load             import `ssl`
    ask PATH COUNT   make so many requests; the first one connects

It ends with its input.
"""

import argparse
import socket
import sys


def connect(options):
    import ssl

    context = ssl.create_default_context(cafile=options.ca)
    plain = socket.create_connection(("127.0.0.1", options.port))
    return context.wrap_socket(plain, server_hostname=options.name)


def exchange(options, connection, path):
    lines = [f"GET {path} HTTP/1.1", f"Host: {options.name}:{options.port}", "", ""]
    connection.sendall("\r\n".join(lines).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    lengths = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while len(body) < int(lengths[0]):
        body += connection.recv(65536)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--ca", required=True)
    options = parser.parse_args()
    connection = None
    print("ready", flush=True)
    for number, line in enumerate(sys.stdin, 1):
        words = line.split()
        if words[0] == "load":
            import ssl  # noqa: F401
        else:
            connection = connection or connect(options)
            for _ in range(int(words[2])):
                exchange(options, connection, words[1])
        print("done", number, flush=True)


if __name__ == "__main__":
    main()
