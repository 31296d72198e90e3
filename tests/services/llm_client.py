"""A client of language models, which times what it gets by its own clock. It knows nothing of being watched.

It opens its connections, prints `ready`, waits for a line on its standard input, makes its calls, prints one JSON line for each,
then `done` with their number, and waits for the end of its input with its connections open. Times are nanoseconds of
CLOCK_MONOTONIC: just before the request goes out (`start`), when the answer's head was there (`head`), when something with tokens
was read, each with how many events with content it brought (`tokens`), and when all was read (`end`). Beside them stand the
server's own counts and timings, as it told them.

A call of a model whose name ends in `:abort` is given up in its midst. With --library openai the calls go through OpenAI's own
client.
"""

import argparse
import asyncio
import collections
import contextvars
import json
import ssl
import sys
import time

import loopback

QUESTION = "sing a song"


def openai_chat(options, question):
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": options.tokens}
    if options.usage:
        body["stream_options"] = {"include_usage": True}
    return "/v1/chat/completions", body


def vllm_chat(options, question):
    path, body = openai_chat(options, question)
    return f"/vllm{path}", body


def openai_completion(options, question):
    return "/v1/completions", {"prompt": question, "max_tokens": options.tokens}


def openai_responses(options, question):
    return "/v1/responses", {"input": question, "max_output_tokens": options.tokens}


def openai_embeddings(options, question):
    return "/v1/embeddings", {"input": question}


def llamacpp(options, question):
    return "/completion", {"prompt": question, "n_predict": options.tokens}


def ollama_chat(options, question):
    return "/api/chat", {"messages": [{"role": "user", "content": question}]}


def ollama_generate(options, question):
    return "/api/generate", {"prompt": question}


def anthropic(options, question):
    return "/v1/messages", {"messages": [{"role": "user", "content": question}], "max_tokens": options.tokens}


DIALECTS = {
    "chat": openai_chat,
    "vllm": vllm_chat,
    "completion": openai_completion,
    "responses": openai_responses,
    "embeddings": openai_embeddings,
    "llamacpp": llamacpp,
    "ollama-chat": ollama_chat,
    "ollama-generate": ollama_generate,
    "anthropic": anthropic,
}


def content(event):
    """Whether an event of any dialect of OpenAI's kind brings a piece of the answer."""
    choices = event.get("choices") or [{}]
    delta = choices[0].get("delta") or {}
    return bool(delta.get("content") or choices[0].get("text") or event.get("content"))


def parsed(text):
    """An object; an empty one of anything else, such as what a server says that means ill."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


class Call:
    """What was seen of one call."""

    def __init__(self, number, streaming):
        self.told = {"number": number, "streaming": streaming, "status": None}
        self.told.update(start=None, head=None, tokens=[], end=None, usage=None, timings=None, error=None)
        self.reads = []

    def headers(self, options):
        """What it asks for beside the body."""
        return {"Connection": "close"} if options.close_streams and self.told["streaming"] else {}

    def takes(self, event):
        """Takes the server's own figures from an event or a whole answer."""
        for name in ("usage", "timings"):
            self.told[name] = event.get(name) or self.told[name]

    def settle(self):
        """Reads what was kept, once all is over: it would take its time while others are timed."""
        rest = b""
        for at, data in self.reads:
            *lines, rest = (rest + data).split(b"\n")
            events = [event for event in (parsed(line.removeprefix(b"data: ")) for line in lines) if event]
            for event in events:
                self.takes(event)
            count = sum(map(content, events)) if self.told["streaming"] else 0
            if count:
                self.told["tokens"].append([at, count])
        if not self.told["streaming"]:
            self.takes(parsed(rest))
        return self.told


async def with_aiohttp(options, plan):
    import aiohttp
    import aiohttp.http_writer

    # When the first bytes of a call go out: what a library does before that is not the server's.
    asking = contextvars.ContextVar("asking", default=None)

    def timed_write(write):
        def timed(self, data):
            call = asking.get()
            if call is not None and call.told["start"] is None:
                call.told["start"] = time.monotonic_ns()
            return write(self, data)

        return timed

    writer = aiohttp.http_writer.StreamWriter
    writer._write, writer._writelines = timed_write(writer._write), timed_write(writer._writelines)
    # What came and when, by body: a task that reads it runs only when its turn comes.
    arrived = collections.defaultdict(list)
    feed = aiohttp.StreamReader.feed_data

    def timed(self, data, *rest):
        arrived[id(self)].append((time.monotonic_ns(), bytes(data)))
        return feed(self, data, *rest)

    aiohttp.StreamReader.feed_data = timed
    connector = aiohttp.TCPConnector(resolver=loopback.resolver(), limit=0, **({"ssl": options.tls} if options.tls else {}))
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def connect():
            async with session.get(options.base + "/v1/models") as response:
                await response.read()
                arrived.pop(id(response.content), None)

        async def ask(call, path, body):
            try:
                asking.set(call)
                more = {"headers": call.headers(options), "auto_decompress": not options.raw}
                request = session.post(options.base + path, json=body, **more)
                async with request as response:
                    call.told["head"] = time.monotonic_ns()
                    call.told["status"] = response.status
                    reads = 0
                    try:
                        async for _ in response.content.iter_any():
                            reads += 1
                            if call.told["model"].endswith(":abort") and reads > 5:
                                # As a bot does that has enough.
                                response.close()
                                break
                    finally:
                        call.reads = [(at, data) for at, data in arrived.pop(id(response.content), []) if data]
            except aiohttp.ClientError as error:
                call.told |= {"error": type(error).__name__, "status": None}
            call.told["end"] = time.monotonic_ns()

        await plan(connect, ask)


async def with_openai(options, plan):
    import httpx2
    import openai

    loopback.resolve_everything()
    http = httpx2.AsyncClient(verify=options.tls or True, timeout=None)
    client = openai.AsyncOpenAI(base_url=options.base + "/v1", api_key="sk-none", http_client=http, max_retries=0)

    async def connect():
        await client.models.list()

    async def ask(call, path, body):
        call.told["start"] = time.monotonic_ns()
        if call.told["streaming"]:
            stream = await client.chat.completions.create(**body, extra_headers=call.headers(options))
            call.told["head"] = time.monotonic_ns()
            async for chunk in stream:
                call.reads.append((time.monotonic_ns(), chunk))
        else:
            answer = await client.chat.completions.create(**body)
            call.reads.append((time.monotonic_ns(), answer))
        call.told["end"] = time.monotonic_ns()
        call.told["status"] = 200
        lines = [(at, f"data: {chunk.model_dump_json()}\n".encode()) for at, chunk in call.reads]
        call.reads = lines

    await plan(connect, ask)
    await client.close()


LIBRARIES = {"aiohttp": with_aiohttp, "openai": with_openai}


async def run(options):
    calls = []

    async def plan(connect, ask):
        await asyncio.gather(*(connect() for _ in range(options.concurrency)))
        print("ready", flush=True)
        line = await asyncio.to_thread(sys.stdin.readline)
        question = line.strip() if options.question_on_input else QUESTION
        # A dialect has four calls, so that of mixed ones one is not streamed; a model has one call in turn.
        dialects = list(DIALECTS) if options.dialects == "all" else options.dialects.split(",")
        models = options.models.split(",")
        numbers = iter(range(options.calls))

        async def in_turn():
            for number in numbers:
                streaming = options.stream == "yes" or (options.stream == "mixed" and number % 4 != 3)
                dialect = dialects[number // 4 % len(dialects)]
                path, body = DIALECTS[dialect](options, f"{question} #{number}")
                streaming = streaming and dialect != "embeddings"
                if not streaming:
                    body.pop("stream_options", None)
                call = Call(number, streaming)
                calls.append(call)
                names = {"number": number, "dialect": dialect, "streaming": "streamed" if streaming else "whole"}
                call.told["model"] = models[number % len(models)].format(**names)
                await ask(call, path, {"model": call.told["model"], **body, "stream": streaming})
                await asyncio.sleep(options.pause_ms / 1000)

        await asyncio.gather(*(in_turn() for _ in range(options.concurrency)))
        calls.sort(key=lambda call: call.told["number"])
        for call in calls:
            print(json.dumps(call.settle()))
        print("done", len(calls), flush=True)
        await asyncio.to_thread(sys.stdin.read)

    await LIBRARIES[options.library](options, plan)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", choices=LIBRARIES, default="aiohttp")
    parser.add_argument("--dialects", default="chat", help="those to take turns, or `all`")
    parser.add_argument("--host", default=loopback.LOOPBACK)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--models", default="miku-tiny", help="those to take turns, with {number}, {dialect}, {streaming}")
    parser.add_argument("--question-on-input", action="store_true", help="the line that it waits for is the question")
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--stream", choices=["yes", "no", "mixed"], default="yes")
    parser.add_argument("--usage", action="store_true", help="ask for the usage at the end of a stream")
    parser.add_argument("--pause-ms", type=float, default=0, help="between two calls")
    parser.add_argument("--raw", action="store_true", help="leave answers compressed")
    closing = "ask the server to close the connection behind a streamed answer, as llama.cpp does without a word"
    parser.add_argument("--close-streams", action="store_true", help=closing)
    parser.add_argument("--ca")
    options = parser.parse_args()
    options.tls = ssl.create_default_context(cafile=options.ca) if options.ca else None
    options.base = f"{'https' if options.ca else 'http'}://{options.host}:{options.port}"
    asyncio.run(run(options))


if __name__ == "__main__":
    main()
