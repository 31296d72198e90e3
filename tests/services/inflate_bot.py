"""Decompresses what is told, as a client of Discord's gateway does: one stream, flushed after each message.

It prints `ready`, then takes commands on standard input, one a line, and prints `done` and its number after each,
from 1 on:

    send KIND EVENT SIZE…   decompress a message of each size, of an event or of none (`-`), of the stream of that KIND,
                            `zlib` or `zstd`; before `done`, `calls` and the bytes that each call of the library put out,
                            for each message
    end KIND                drop that stream
    noise KIND FOLDER       decompress what is no gateway: bodies, files, imports and other streams

It loads no library before it must, and ends with its input.
"""

import sys

# Where pieces of output end in CPython: `BUFFER_BLOCK_SIZE` of `pycore_blocks_output_buffer.h`, and before that
# `DEF_BUF_SIZE` of `zlibmodule.c`, which doubles. In zstandard: `ZSTD_DStreamOutSize`, always.
ZLIB = [32, 64, 256, 1024] if sys.version_info >= (3, 10) else [16, 16, 32, 64, 128, 256, 512]
ZSTD = [128] * 8


def payload(event, size):
    if event == "-":
        return b'{"op":11,"d":null'.ljust(size - 1) + b"}"
    start = b'{"t":"%s","s":7,"op":0,"d":{"content":"' % event.encode()
    return start + letters(size - len(start) - 3) + b'"}}'


def letters(count):
    """Letters that do not compress well, the same each time."""
    return LETTERS[:count]


def make_letters(count):
    state, made = 1, bytearray()
    for _ in range(count):
        state = (state * 1103515245 + 12345) % (1 << 31)
        made.append(97 + (state >> 16) % 26)
    return bytes(made)


LETTERS = make_letters(300_000)


class Zlib:
    def __init__(self):
        import zlib

        self.flush = zlib.Z_SYNC_FLUSH
        self.compressor, self.decompressor = zlib.compressobj(), zlib.decompressobj()

    def compress(self, message):
        return self.compressor.compress(message) + self.compressor.flush(self.flush)

    def decompress(self, data):
        return self.decompressor.decompress(data)

    @staticmethod
    def calls(size):
        return calls(size, ZLIB)


class Zstd:
    def __init__(self):
        import zstandard

        self.flush = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        self.compressor = zstandard.ZstdCompressor().compressobj()
        self.decompressor = zstandard.ZstdDecompressor().decompressobj()

    def compress(self, message):
        return self.compressor.compress(message) + self.compressor.flush(self.flush)

    def decompress(self, data):
        return self.decompressor.decompress(data)

    @staticmethod
    def calls(size):
        return calls(size, ZSTD)


def calls(size, pieces):
    """What each call puts out; the last one leaves room, and may put out nothing."""
    made = []
    for piece in pieces:
        made.append(min(size, piece << 10))
        size -= made[-1]
        if made[-1] < piece << 10:
            return made
    raise ValueError(size)


def bodies():
    yield b'{"id":"1","content":"' + letters(300) + b'"}'
    yield b'{"id":"1","content":"' + letters(300_000) + b'"}'
    # Which begin as payloads do, but end.
    yield b'{"op":11}'
    yield payload("MESSAGE_CREATE", 100)
    yield payload("MESSAGE_CREATE", 300_000)
    yield b'{"d":{"results":[' + b"1," * 100_000 + b"1]}}"


def noise_zlib(folder):
    import gzip
    import io
    import os
    import zipfile
    import zlib

    for body in bodies():
        for wbits in (31, 15, -15):
            compressor = zlib.compressobj(wbits=wbits)
            data = compressor.compress(body) + compressor.flush()
            assert zlib.decompress(data, wbits) == body
            assert zlib.decompressobj(wbits).decompress(data) == body
            # As it comes from the network.
            decompressor = zlib.decompressobj(wbits)
            parts = [decompressor.decompress(data[at : at + 1400]) for at in range(0, len(data), 1400)]
            assert b"".join(parts) == body
        assert gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(body))).read() == body
    # A stream that is flushed too, of something else.
    stream = Zlib()
    for body in (b'{"id":"1"}', b"<html>" + letters(100_000), b'[{"op":11}]', b' {"op":11}', b'{"operation":1}'):
        assert stream.decompress(stream.compress(body)) == body
    path = os.path.join(folder, "modules.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("noisy_module.py", "NOISE = %r\n" % letters(50_000))
    sys.path.insert(0, path)
    import noisy_module

    assert len(noisy_module.NOISE) == 50_000


def noise_zstd(_folder):
    import io

    import zstandard

    for body in bodies():
        data = zstandard.ZstdCompressor().compress(body)
        assert zstandard.ZstdDecompressor().decompress(data) == body
        assert zstandard.ZstdDecompressor().decompressobj().decompress(data) == body
        # Of a long body in parts zstd does not tell that it is none of messages.
        if len(data) < 100_000 or not body.startswith(b'{"t":'):
            assert zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read() == body
    stream = Zstd()
    for body in (b'{"id":"1"}', b"<html>" + letters(300_000), b'[{"op":11}]', b' {"op":11}', b'{"operation":1}'):
        assert stream.decompress(stream.compress(body)) == body


def main():
    kinds = {"zlib": Zlib, "zstd": Zstd}
    streams = {}
    print("ready", flush=True)
    for number, line in enumerate(sys.stdin, 1):
        command, kind, *rest = line.split()
        if command == "send":
            if kind not in streams:
                streams[kind] = kinds[kind]()
            for size in map(int, rest[1:]):
                message = payload(rest[0], size)
                assert len(message) == size, (len(message), size)
                stream = streams[kind]
                assert stream.decompress(stream.compress(message)) == message
                print("calls", *stream.calls(size), flush=True)
        elif command == "end":
            del streams[kind]
            stream = None
        elif command == "noise":
            {"zlib": noise_zlib, "zstd": noise_zstd}[kind](rest[0])
        print("done", number, flush=True)


if __name__ == "__main__":
    main()
