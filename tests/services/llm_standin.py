"""A stand-in for an LLM server, with OpenAI's API as llama.cpp's server speaks it.

Streaming, the head of the answer goes out before the prompt is evaluated, the role and the first token come in one
write, the chunk with the `finish_reason` carries `timings`, and `data: [DONE]` comes with the last event. The answer
repeats the last thing that was asked. Other dialects are in `llm_dialects.py`, on their servers' paths.

For each call it writes one JSON line: the number (`#7`) in what was asked, and in nanoseconds of CLOCK_MONOTONIC when
the request was `received` and when head, first token and last byte were written, as far as they were. Without a stream
these are one time.
"""

import argparse
import asyncio
import itertools
import json
import random
import re
import ssl
import time

from aiohttp import web

import llm_dialects


class Model:
    def __init__(self, options, log):
        self.options = options
        self.log = log
        self.numbers = itertools.count(1)

    def seconds(self, ms):
        """How long something takes: always the same, or spread about that like things in life."""
        return ms / 1000 * (random.lognormvariate(0, self.options.spread) if self.options.spread else 1)

    def tokens(self, asked):
        words = f"You said: {asked}".split(" ")
        filler = ("la" for _ in itertools.count())
        yield from itertools.islice((f"{word} " for word in itertools.chain(words, filler)), self.options.tokens)

    def timings(self, prompt, count, predicted):
        return {
            "cache_n": 0,
            "prompt_n": prompt,
            "prompt_ms": self.options.prompt_ms,
            "predicted_n": count,
            "predicted_ms": predicted * 1000,
        }

    async def chat(self, request):
        times = {"received": time.monotonic_ns()}
        body = await request.json()
        asked = body["messages"][-1]["content"]
        number = re.search(r"#(\d+)\b", asked)
        answer = self.stream if body.get("stream") else self.whole
        try:
            response = await answer(request, body, asked, times)
        except ConnectionError:
            # Bots may have enough before the end.
            response = web.Response()
        line = {"asked": int(number[1]) if number else None, "stream": bool(body.get("stream")), **times}
        self.log.write(json.dumps(line) + "\n")
        return response

    def base(self, body, kind):
        name = f"chatcmpl-{next(self.numbers)}"
        return {"id": name, "object": kind, "created": int(time.time()), "model": body.get("model") or "miku"}

    async def whole(self, request, body, asked, times):
        await asyncio.sleep(self.seconds(self.options.prompt_ms))
        tokens = list(self.tokens(asked))
        predicted = self.seconds(self.options.token_ms * len(tokens))
        await asyncio.sleep(predicted)
        prompt = len(asked) // 4 + 1
        choice = {
            "finish_reason": "stop",
            "index": 0,
            "message": {"role": "assistant", "content": "".join(tokens).strip()},
        }
        value = {
            "choices": [choice],
            **self.base(body, "chat.completion"),
            "usage": {
                "completion_tokens": len(tokens),
                "prompt_tokens": prompt,
                "total_tokens": prompt + len(tokens),
            },
            "timings": self.timings(prompt, len(tokens), predicted),
        }
        response = web.json_response(value, headers={"Keep-Alive": "timeout=5, max=100"})
        await response.prepare(request)
        await response.write_eof()
        times["head"] = times["first"] = times["last"] = time.monotonic_ns()
        return response

    async def stream(self, request, body, asked, times):
        headers = {"Content-Type": "text/event-stream", "Keep-Alive": "timeout=5, max=100"}
        response = web.StreamResponse(headers=headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        times["head"] = time.monotonic_ns()
        base = self.base(body, "chat.completion.chunk")

        def event(delta, finish=None, **more):
            value = {"choices": [{"finish_reason": finish, "index": 0, "delta": delta}], **base, **more}
            return f"data: {json.dumps(value)}\n\n".encode()

        await asyncio.sleep(self.seconds(self.options.prompt_ms))
        start, count = time.monotonic(), 0
        for count, token in enumerate(self.tokens(asked), 1):
            if count == 1:
                role = event({"role": "assistant", "content": None})
                await response.write(role + event({"content": token}))
                times["first"] = time.monotonic_ns()
            else:
                await asyncio.sleep(self.seconds(self.options.token_ms))
                await response.write(event({"content": token}))
        prompt = len(asked) // 4 + 1
        end = [event({}, "stop", timings=self.timings(prompt, count, time.monotonic() - start))]
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = {"completion_tokens": count, "prompt_tokens": prompt, "total_tokens": prompt + count}
            end.append(f"data: {json.dumps({'choices': [], **base, 'usage': usage})}\n\n".encode())
        await response.write(b"".join(end) + b"data: [DONE]\n\n")
        await response.write_eof()
        times["last"] = time.monotonic_ns()
        return response

    async def models(self, request):
        return web.json_response({"object": "list", "data": [{"id": "miku", "object": "model", "owned_by": "llamacpp"}]})


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--truth", required=True)
    parser.add_argument("--prompt-ms", type=float, default=50)
    parser.add_argument("--token-ms", type=float, default=5)
    parser.add_argument("--tokens", type=int, default=10)
    parser.add_argument("--spread", type=float, default=0, help="of times, as the sigma of a log-normal distribution")
    parser.add_argument("--said-on-input", action="store_true", help="in other dialects: a line on standard input")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    options = parser.parse_args()
    with open(options.truth, "w", buffering=1) as log:
        model = Model(options, log)
        answers = llm_dialects.Answers(options, log)
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/chat/completions", model.chat)
        for path in llm_dialects.ROUTES:
            app.router.add_post(path, answers.answer)
        app.router.add_get("/v1/models", model.models)
        print("listening", flush=True)
        tls = None
        if options.certificate:
            tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            tls.load_cert_chain(options.certificate, options.key)
        web.run_app(app, host="127.0.0.1", port=options.port, access_log=None, print=None, ssl_context=tls)


if __name__ == "__main__":
    main()
