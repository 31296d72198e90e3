"""An ordinary FastAPI service under uvicorn. It knows nothing of being watched.

With --truth it times its own requests in a middleware, as many services do, and appends one JSON line for each:
that log is what outside measurements are held against.
"""

import argparse
import asyncio
import json
import os
import time

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

TRUTH = "SERVICE_TRUTH"


class Timing:
    """A plain ASGI middleware that writes down how long each request took."""

    def __init__(self, app, path):
        self.app = app
        self.file = open(path, "a", buffering=1)

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start = time.perf_counter()
        status = None

        async def watched(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            seconds = time.perf_counter() - start
            entry = {"method": scope["method"], "route": scope["path"], "status": status, "seconds": seconds}
            self.file.write(json.dumps({**entry, "pid": os.getpid()}) + "\n")


app = FastAPI()


@app.get("/fast")
async def fast():
    return {"ok": True}


@app.get("/slow")
async def slow(ms: int = 10):
    await asyncio.sleep(ms / 1000)
    return {"slept": ms}


@app.get("/items/{item_id}")
async def item(item_id: int):
    return {"id": item_id}


@app.post("/echo")
async def echo(request: Request):
    return PlainTextResponse(await request.body())


@app.get("/status/{code}")
async def status(code: int):
    return Response(status_code=code)


@app.get("/sse")
async def sse(n: int = 5, ms: int = 10):
    async def events():
        for number in range(n):
            await asyncio.sleep(ms / 1000)
            yield f"data: {number}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


if os.environ.get(TRUTH):
    app.add_middleware(Timing, path=os.environ[TRUTH])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--uds")
    parser.add_argument("--http", default="h11")
    parser.add_argument("--loop", default="asyncio")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--truth")
    parser.add_argument("--ssl-certfile")
    parser.add_argument("--ssl-keyfile")
    options = parser.parse_args()
    where = {"uds": options.uds} if options.uds else {"host": "127.0.0.1", "port": options.port}
    # Workers are processes of their own, which learn it from the environment.
    if options.truth:
        os.environ[TRUTH] = options.truth
    uvicorn.run(
        "fastapi_app:app",
        app_dir=os.path.dirname(os.path.abspath(__file__)),
        http=options.http,
        loop=options.loop,
        workers=options.workers,
        access_log=False,
        log_level="warning",
        backlog=4096,
        ssl_certfile=options.ssl_certfile,
        ssl_keyfile=options.ssl_keyfile,
        **where,
    )


if __name__ == "__main__":
    main()
