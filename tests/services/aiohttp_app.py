"""An ordinary aiohttp server. It knows nothing of being watched."""

import argparse
import asyncio
import ssl

from aiohttp import web

routes = web.RouteTableDef()


@routes.get("/fast")
async def fast(request):
    return web.json_response({"ok": True})


@routes.get("/slow")
async def slow(request):
    await asyncio.sleep(int(request.query.get("ms", 10)) / 1000)
    return web.json_response({"ok": True})


@routes.get("/items/{item_id}")
async def item(request):
    return web.json_response({"id": request.match_info["item_id"]})


@routes.get("/status/{code}")
async def status(request):
    return web.Response(status=int(request.match_info["code"]))


@routes.post("/echo")
async def echo(request):
    return web.Response(body=await request.read())


@routes.get("/sse")
async def sse(request):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for number in range(int(request.query.get("n", 5))):
        await asyncio.sleep(int(request.query.get("ms", 10)) / 1000)
        await response.write(f"data: {number}\n\n".encode())
    return response


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ssl-certfile")
    parser.add_argument("--ssl-keyfile")
    options = parser.parse_args()
    tls = None
    if options.ssl_certfile:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.ssl_certfile, options.ssl_keyfile)
    app = web.Application()
    app.add_routes(routes)
    web.run_app(app, host="127.0.0.1", port=options.port, ssl_context=tls, access_log=None, print=None)


if __name__ == "__main__":
    main()
