"""A client that only shakes hands over TLS, with whom and how it is told. It knows nothing of being watched.

It prints `ready` once its libraries are loaded, then takes commands on standard input, one a line:

    WAY NAME PORT COUNT PATIENCE

WAY is `blocking`, `asyncio` or, with a TLS library of its own and endless patience, `pyopenssl`; NAME is whom it asks for, COUNT how often, PATIENCE the seconds until it gives up. When all
of the command's connections are closed and freed it prints the command's number, from 1 on, and what became of them as
JSON: how many ended in which way, by the word of Python's `SSLError.reason`, else by the name of the exception, or `ok`. It
ends with its input.
"""

import argparse
import asyncio
import collections
import gc
import json
import socket
import ssl
import sys

HOST = "127.0.0.1"


def outcome(error):
    return getattr(error, "reason", None) or type(error).__name__


def blocking(context, name, port, patience):
    try:
        with socket.create_connection((HOST, port), timeout=patience) as plain:
            with context.wrap_socket(plain, server_hostname=name):
                return "ok"
    except OSError as error:
        return outcome(error)


def pyopenssl(ca, name, port):
    from OpenSSL import SSL

    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_PEER)
    context.load_verify_locations(ca)
    with socket.create_connection((HOST, port)) as plain:
        connection = SSL.Connection(context, plain)
        connection.set_tlsext_host_name(name.encode())
        connection.set_connect_state()
        try:
            connection.do_handshake()
            return "ok"
        except SSL.SysCallError:
            return "SysCallError"
        except SSL.Error as error:
            # Library, function and reason of each error.
            errors = error.args[0] if error.args else []
            return errors[0][2].upper().replace(" ", "_") if errors else type(error).__name__


async def one(context, name, port, patience):
    try:
        opening = asyncio.open_connection(HOST, port, ssl=context, server_hostname=name)
        _, writer = await asyncio.wait_for(opening, patience)
        writer.close()
        await writer.wait_closed()
        return "ok"
    except (OSError, asyncio.TimeoutError) as error:
        return outcome(error)


async def side_by_side(count, *how):
    return await asyncio.gather(*(one(*how) for _ in range(count)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ca", help="whom to trust; without it, nobody")
    parser.add_argument("--pyopenssl", action="store_true", help="load that library at the start")
    options = parser.parse_args()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if options.ca:
        context.load_verify_locations(options.ca)
    if options.pyopenssl:
        import OpenSSL  # noqa: F401
    print("ready", flush=True)
    for number, line in enumerate(sys.stdin, 1):
        way, name, port, count, patience = line.split()
        how = (context, name, int(port), float(patience))
        if way == "asyncio":
            became = asyncio.run(side_by_side(int(count), *how))
        elif way == "pyopenssl":
            became = [pyopenssl(options.ca, name, int(port)) for _ in range(int(count))]
        else:
            became = [blocking(*how) for _ in range(int(count))]
        gc.collect()
        print(number, json.dumps(collections.Counter(became)), flush=True)


if __name__ == "__main__":
    main()
