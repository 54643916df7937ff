"""An HTTP server that answers each chat completion after so many seconds, one at a time; it prints its address."""

import asyncio
import sys

from aiohttp import web

ANSWER = {"choices": [{"message": {"content": "The answer is (A)."}, "finish_reason": "stop"}], "usage": {}}


def application(seconds: float) -> web.Application:
    """Return the server's application."""
    slot = asyncio.Lock()

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        async with slot:
            await asyncio.sleep(seconds)
        return web.json_response(ANSWER)

    async def health(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_get("/health", health)
    return app


async def serve(seconds: float) -> None:
    """Serve until the process is ended."""
    runner = web.AppRunner(application(seconds), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
