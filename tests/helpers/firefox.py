"""Stands between Playwright and Firefox, which speak WebDriver BiDi: hands on all commands but one that Firefox lacks.

`python firefox.py PATH …` starts the Firefox at PATH with the further arguments and takes its place. Whenever it opens
a page, Playwright asks for a colour scheme by `emulation.setMediaFeaturesOverride`, which Firefox 153 does not know;
here it becomes a setting of that Firefox, for all pages.
"""

import asyncio
import contextlib
import itertools
import json
import re
import sys
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

LACKING = "emulation.setMediaFeaturesOverride"
SCHEMES = {"dark": 0, "light": 1, None: 2}  # 2: as the system has it
OPEN: dict[str, Any] = {"max_size": None, "ping_interval": None, "compression": None}  # a page can be megabytes


class Session:
    """A session of Playwright with Firefox.

    playwright: the connection that Playwright opened.
    firefox: the connection to Firefox.
    """

    def __init__(self, playwright: ServerConnection, firefox: ClientConnection) -> None:
        self.playwright, self.firefox = playwright, firefox
        self.ids = itertools.count(10**9)  # beyond those of Playwright
        self.answers: dict[int, asyncio.Future[Any]] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    async def ask(self, method: str, **params: Any) -> Any:
        """The result of a command of our own."""
        number = next(self.ids)
        self.answers[number] = asyncio.get_running_loop().create_future()
        await self.firefox.send(json.dumps({"id": number, "method": method, "params": params}))
        return await self.answers[number]

    async def commands(self) -> None:
        async for message in self.playwright:
            command = json.loads(message)
            if command["method"] == LACKING:
                self.tasks.add(asyncio.create_task(self.scheme(command)))
            else:
                await self.firefox.send(message)

    async def scheme(self, command: Any) -> None:
        value = SCHEMES[command["params"]["features"].get("prefers-color-scheme")]
        tree = await self.ask("browsingContext.getTree", **{"moz:scope": "chrome"})
        await self.ask(
            "script.evaluate",
            expression=f"Services.prefs.setIntPref('layout.css.prefers-color-scheme.content-override', {value})",
            target={"context": tree["contexts"][0]["context"]},
            awaitPromise=False,
        )
        await self.playwright.send(json.dumps({"type": "success", "id": command["id"], "result": {}}))

    async def events(self) -> None:
        async for message in self.firefox:
            event = json.loads(message)
            if answer := self.answers.pop(event.get("id"), None):
                answer.set_result(event["result"])
            else:
                await self.playwright.send(message)


async def main(path: str, *args: str) -> None:
    firefox = await asyncio.create_subprocess_exec(
        path, "--remote-allow-system-access", *args, stderr=asyncio.subprocess.PIPE
    )
    assert firefox.stderr
    async for line in firefox.stderr:
        if found := re.search(rb"WebDriver BiDi listening on (ws://\S+)", line):
            break
    else:
        raise SystemExit(f"{path} ended before it listened")

    async def relay(playwright: ServerConnection) -> None:
        async with connect(f"{found[1].decode()}/session", **OPEN) as connection:
            session = Session(playwright, connection)
            both = [asyncio.create_task(session.commands()), asyncio.create_task(session.events())]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)

    async with serve(relay, "127.0.0.1", 0, **OPEN) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(f"WebDriver BiDi listening on ws://127.0.0.1:{port}", file=sys.stderr, flush=True)
        while await firefox.stderr.read(1 << 16):  # so that Firefox never waits for who reads it
            pass
    await firefox.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
