"""What servers of language models answer, each in its own dialect, as recorded from them: an answer is a run of events.

The name of the model that a request asks for may say, behind a colon, how the answer is to go wrong.
"""

import asyncio
import json
import sys
import time
import zlib

from aiohttp import web


def sse(value, name=None):
    line = f"data: {json.dumps(value)}\n\n"
    return (f"event: {name}\n{line}" if name else line).encode()


def ndjson(value):
    return (json.dumps(value) + "\n").encode()


class OpenAi:
    """vLLM: the role comes alone and at once, the usage in a chunk of its own, and there are no timings."""

    type = "text/event-stream; charset=utf-8"
    kind = "chat.completion"

    def __init__(self, model, prompt):
        self.prompt = prompt
        self.base = {"id": "chatcmpl-7f3a", "object": f"{self.kind}.chunk", "created": 1_760_000_000, "model": model}

    def chunk(self, delta, finish=None):
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self.base, "choices": [choice]}

    def usage(self, count):
        return {"prompt_tokens": self.prompt, "total_tokens": self.prompt + count, "completion_tokens": count}

    def opening(self):
        return sse(self.chunk({"role": "assistant", "content": ""}))

    def piece(self, token):
        return sse(self.chunk({"content": token}))

    def closing(self, count):
        last = {**self.base, "choices": [], "usage": self.usage(count)}
        return sse(self.chunk({"content": ""}, "stop")) + sse(last) + b"data: [DONE]\n\n"

    def error(self):
        return sse({"error": {"message": "out of memory", "type": "server_error", "code": 500}})

    def whole(self, tokens):
        message = {"role": "assistant", "content": "".join(tokens)}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return {**self.base, "object": self.kind, "choices": [choice], "usage": self.usage(len(tokens))}


class Completion(OpenAi):
    """The continuation of a text, as OpenAI had it first."""

    kind = "text_completion"

    def chunk(self, delta, finish=None):
        choice = {"index": 0, "text": delta.get("content", ""), "logprobs": None, "finish_reason": finish}
        return {**self.base, "choices": [choice]}

    def opening(self):
        return b""

    def whole(self, tokens):
        return {**self.chunk({"content": "".join(tokens)}, "stop"), "usage": self.usage(len(tokens))}


class LlamaCpp(OpenAi):
    """The same in llama.cpp's own way."""

    def event(self, text, **more):
        return {"index": 0, "content": text, "tokens": [], "stop": False, "id_slot": 0, **more}

    def figures(self, count):
        timings = {"cache_n": 0, "prompt_n": self.prompt, "prompt_ms": 30, "predicted_n": count, "predicted_ms": 50}
        counts = {"tokens_predicted": count, "tokens_evaluated": self.prompt}
        return {"model": self.base["model"], "stop": True, "stop_type": "eos", **counts, "timings": timings}

    def opening(self):
        return b""

    def piece(self, token):
        return sse(self.event(token))

    def closing(self, count):
        return sse(self.event("", **self.figures(count)))

    def whole(self, tokens):
        return self.event("".join(tokens), **self.figures(len(tokens)))


class Embeddings(OpenAi):
    """Vectors, which are never streamed."""

    def whole(self, tokens):
        vectors = [{"object": "embedding", "index": 0, "embedding": [0.25] * 64}]
        usage = {"prompt_tokens": self.prompt, "total_tokens": self.prompt}
        return {"object": "list", "data": vectors, "model": self.base["model"], "usage": usage}


class Responses(OpenAi):
    """OpenAI's Responses API: events with names, and the usage in the last one."""

    def event(self, kind, **more):
        return sse({"type": kind, **more}, kind)

    def response(self, status, count=None):
        usage = None
        if count is not None:
            total = self.prompt + count
            usage = {"input_tokens": self.prompt, "output_tokens": count, "total_tokens": total}
        return {"id": "resp_7f3a", "object": "response", "status": status, "model": self.base["model"], "usage": usage}

    def opening(self):
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        return (
            self.event("response.created", response=self.response("in_progress"))
            + self.event("response.output_item.added", output_index=0, item=item)
        )

    def piece(self, token):
        return self.event("response.output_text.delta", item_id="msg_1", output_index=0, content_index=0, delta=token)

    def closing(self, count):
        done = self.event("response.output_text.done", item_id="msg_1", output_index=0, content_index=0, text="la " * count)
        return done + self.event("response.completed", response=self.response("completed", count))

    def error(self):
        return self.event("error", code="server_error", message="out of memory", param=None)

    def whole(self, tokens):
        content = [{"type": "output_text", "text": "".join(tokens)}]
        output = [{"type": "message", "role": "assistant", "status": "completed", "content": content}]
        return {**self.response("completed", len(tokens)), "output": output}


class Anthropic(OpenAi):
    """Anthropic's Messages API: the input's tokens come first, the output's last, and pings at any time."""

    def opening(self):
        message = {"id": "msg_7f3a", "type": "message", "role": "assistant", "model": self.base["model"], "content": []}
        message |= {"stop_reason": None, "usage": {"input_tokens": self.prompt, "output_tokens": 1}}
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        return (
            sse({"type": "message_start", "message": message}, "message_start")
            + sse(block, "content_block_start")
            + sse({"type": "ping"}, "ping")
        )

    def piece(self, token):
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": token}}
        return sse(delta, "content_block_delta")

    def closing(self, count):
        delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": count}}
        return (
            sse({"type": "content_block_stop", "index": 0}, "content_block_stop")
            + sse(delta, "message_delta")
            + sse({"type": "message_stop"}, "message_stop")
        )

    def error(self):
        return sse({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "error")

    def whole(self, tokens):
        usage = {"input_tokens": self.prompt, "output_tokens": len(tokens)}
        content = [{"type": "text", "text": "".join(tokens)}]
        message = {"id": "msg_7f3a", "type": "message", "role": "assistant", "model": self.base["model"]}
        return {**message, "content": content, "stop_reason": "end_turn", "usage": usage}


class OllamaChat(OpenAi):
    """Ollama's chat: a JSON object a line, and all figures in the last one."""

    type = "application/x-ndjson"

    def line(self, text, **more):
        start = {"model": self.base["model"], "created_at": "2026-01-01T00:00:00.123456789Z"}
        return {**start, **self.said(text), "done": False, **more}

    def said(self, text):
        return {"message": {"role": "assistant", "content": text}}

    def figures(self, count):
        times = {"total_duration": 2_000_000_000, "load_duration": 40_000_000, "prompt_eval_duration": 50_000_000}
        counts = {"prompt_eval_count": self.prompt, "eval_count": count, "eval_duration": count * 5_000_000}
        return {"done": True, "done_reason": "stop", **times, **counts}

    def opening(self):
        return b""

    def piece(self, token):
        return ndjson(self.line(token))

    def closing(self, count):
        return ndjson(self.line("", **self.figures(count)))

    def error(self):
        return ndjson({"error": "an error was encountered while running the model: out of memory"})

    def whole(self, tokens):
        return self.line("".join(tokens), **self.figures(len(tokens)))


class OllamaGenerate(OllamaChat):
    """Ollama's other way to ask."""

    def said(self, text):
        return {"response": text}


ROUTES = {
    "/v1/completions": Completion,
    "/completion": LlamaCpp,
    "/v1/embeddings": Embeddings,
    "/v1/responses": Responses,
    "/v1/messages": Anthropic,
    "/api/chat": OllamaChat,
    "/api/generate": OllamaGenerate,
    "/vllm/v1/chat/completions": OpenAi,
}

MEBIBYTE = 1 << 20

# What an answer may hold before its first token, by the name behind the model's colon.
HOSTILE = {
    "endless-line": lambda: b"data: " + b"x" * (24 * MEBIBYTE),
    "huge-event": lambda: sse({"choices": [{"delta": {"content": "x" * (10 * MEBIBYTE)}}]}),
    "invalid-utf8": lambda: b'data: {"choices":[{"delta":{"content":"\xff\xfe\xc3\x28"}}]}\n\n',
    "json-bomb": lambda: b'data: {"choices":' + b"[" * 200_000 + b"]" * 200_000 + b"}\n\n",
    "many-keys": lambda: sse({f"key{number}": {"usage": {"completion_tokens": 9}} for number in range(50_000)}),
    "wrong-numbers": lambda: sse({"choices": [], "usage": {"completion_tokens": 1e300, "prompt_tokens": -5}}),
    "wrong-type": lambda: b"",
}


class Answers:
    """Answers in all dialects, and tells when it wrote what."""

    def __init__(self, options, log):
        self.options = options
        self.log = log
        self.said = None

    async def answer(self, request):
        told = {"path": request.path, "received": time.monotonic_ns(), "tokens": [], "output": None, "last": None}
        body = await request.json()
        model = body.get("model", "miku")
        told |= {"model": model, "mood": model.partition(":")[2], "prompt": len(json.dumps(body)) // 4}
        # Ollama streams unless it is told not to.
        told["stream"] = body.get("stream", request.path.startswith("/api/"))
        dialect = ROUTES[request.path](model, told["prompt"])
        try:
            return await (self.stream if told["stream"] else self.whole)(request, dialect, told)
        except ConnectionError:
            return web.Response()
        finally:
            self.log.write(json.dumps(told) + "\n")

    def words(self):
        said = sys.stdin.readline().strip() if self.options.said_on_input and self.said is None else self.said
        self.said = said or "la"
        return [f"{self.said} "] * self.options.tokens

    async def whole(self, request, dialect, told):
        await asyncio.sleep((self.options.prompt_ms + self.options.token_ms * self.options.tokens) / 1000)
        response = web.json_response(dialect.whole(self.words()))
        if told["mood"] == "busy":
            response = web.json_response({"error": {"code": 503, "message": "Loading model"}}, status=503)
        else:
            told["output"] = self.options.tokens
        await response.prepare(request)
        await response.write_eof()
        told["last"] = time.monotonic_ns()
        return response

    async def stream(self, request, dialect, told):
        mood = told["mood"]
        if mood == "busy":
            return await self.whole(request, dialect, told)
        response = web.StreamResponse(headers={"Content-Type": "image/png" if mood == "wrong-type" else dialect.type})
        response.enable_chunked_encoding()
        deflate = None
        if mood == "gzip":
            response.headers["Content-Encoding"] = "gzip"
            deflate = zlib.compressobj(wbits=31)
        await response.prepare(request)

        async def write(data):
            if deflate:
                data = deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH)
            if mood == "bytes":
                for place in range(len(data)):
                    await response.write(data[place : place + 1])
            elif data:
                await response.write(data)

        await write(dialect.opening())
        if mood in HOSTILE:
            await write(HOSTILE[mood]())
        await asyncio.sleep(self.options.prompt_ms / 1000)
        words = self.words()
        for place, token in enumerate(words):
            if place:
                await asyncio.sleep(self.options.token_ms / 1000)
            if mood == "keep-alive" and place % 3 == 0:
                await write(b": keep-alive\n\n")
                await asyncio.sleep(self.options.token_ms / 1000)
            if mood == "error" and place == len(words) // 2:
                await write(dialect.error())
                break
            if mood == "shared" and place % 2:
                # Two events of one write: the second goes out with the first.
                continue
            pieces = 2 if mood == "shared" and place + 1 < len(words) else 1
            before = time.monotonic_ns()
            await write(dialect.piece(token) * pieces)
            told["tokens"].append([time.monotonic_ns(), pieces, before])
        else:
            await write(dialect.closing(len(words)))
            told["output"] = len(words)
        if deflate:
            await response.write(deflate.flush())
        await response.write_eof()
        told["last"] = time.monotonic_ns()
        return response
