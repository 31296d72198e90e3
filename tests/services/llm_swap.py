"""A proxy in front of servers of language models that keeps one of them loaded, as llama-swap does.

The model that a request names tells the server: `--upstream MODEL=PORT`, repeatable. A request for another model than the last one
waits until that is loaded, which takes `--load-ms`. What the server answers goes on as it comes.

For each call it writes a line: the model, and whether that had to be loaded.
"""

import argparse
import asyncio
import json

from aiohttp import ClientSession, ClientTimeout, web

HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


class Swap:
    def __init__(self, options, log):
        self.ports = dict(upstream.split("=") for upstream in options.upstream)
        self.load = options.load_ms / 1000
        self.log = log
        self.loaded = None
        self.loading = asyncio.Lock()
        self.session = None

    async def start(self, app):
        self.session = ClientSession(timeout=ClientTimeout(total=None), auto_decompress=False)
        yield
        await self.session.close()

    async def ready(self, model):
        async with self.loading:
            loads = model != self.loaded
            if loads:
                await asyncio.sleep(self.load)
                self.loaded = model
            self.log.write(json.dumps({"model": model, "loads": loads}) + "\n")

    async def forward(self, request):
        body = await request.read()
        model = json.loads(body)["model"]
        await self.ready(model)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        url = f"http://127.0.0.1:{self.ports[model]}{request.path_qs}"
        async with self.session.post(url, data=body, headers=headers) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--truth", required=True)
    parser.add_argument("--upstream", action="append", required=True)
    parser.add_argument("--load-ms", type=float, default=400)
    options = parser.parse_args()
    with open(options.truth, "w", buffering=1) as log:
        swap = Swap(options, log)
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/{path:.*}", swap.forward)
        app.cleanup_ctx.append(swap.start)
        web.run_app(app, host="127.0.0.1", port=options.port, access_log=None, print=None)


if __name__ == "__main__":
    main()
