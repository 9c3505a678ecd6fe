"""A headless Chromium, spoken to over its DevTools protocol, for tests of pages."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 60.0


class Page:
    """One page in a browser of its own, with all that its console said and all that it asked for.

    Attributes
    ----------
    said : list of str
        Errors and warnings of the console, exceptions, and what was refused.
    asked : list of str
        Addresses of all requests.
    """

    def __init__(self, address: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self._number = 0
        self._loop = asyncio.new_event_loop()
        self._profile = tempfile.mkdtemp()
        assert BINARY is not None
        command = [BINARY, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        command += [f"--user-data-dir={self._profile}", "--no-first-run", "--disable-background-networking"]
        command += [f"--window-size={width},{height}", "about:blank"]
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, **quiet)
        try:
            self._socket = self._loop.run_until_complete(self._connect())
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
            self.call("Emulation.setDeviceMetricsOverride", **size)
            wanted = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
            self.call("Emulation.setEmulatedMedia", features=wanted)
            self.call("Page.navigate", url=address)
            self.until("document.readyState === 'complete'")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, script: str) -> Any:
        """Evaluate an expression in the page."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + SECONDS
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)

    def press(self, key: str, code: str = "") -> None:
        """Press and release a key."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        numbers = {"Tab": 9, "Enter": 13, "Escape": 27}
        more = {"windowsVirtualKeyCode": numbers[key]} if key in numbers else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=code or key, **text, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=code or key, **more)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        self._number += 1
        return self._loop.run_until_complete(
            asyncio.wait_for(self._call(self._number, method, parameters), timeout=SECONDS)
        )

    def close(self) -> None:
        """End the browser."""
        if hasattr(self, "_socket"):
            self._socket.close()
            self._loop.run_until_complete(asyncio.sleep(0.05))
        self._process.terminate()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=60)
        self._loop.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    async def _connect(self) -> Any:
        from tornado.websocket import websocket_connect

        port_file = Path(self._profile, "DevToolsActivePort")
        end = time.monotonic() + SECONDS
        while not (port_file.is_file() and len(port_file.read_text().splitlines()) == 2):
            assert time.monotonic() < end and self._process.poll() is None, "the browser did not start"
            await asyncio.sleep(0.05)
        port = int(port_file.read_text().splitlines()[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=SECONDS) as answer:
            targets = json.load(answer)
        page = next(target for target in targets if target["type"] == "page")
        return await websocket_connect(page["webSocketDebuggerUrl"], max_message_size=2**28)

    async def _call(self, number: int, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        await self._socket.write_message(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = await self._socket.read_message()
            assert message is not None, "the browser went away"
            told = json.loads(message)
            if told.get("id") == number:
                assert "error" not in told, f"{method}: {told['error']}"
                result: dict[str, Any] = told["result"]
                return result
            self._note(told.get("method", ""), told.get("params", {}))

    def _note(self, event: str, about: dict[str, Any]) -> None:
        if event == "Runtime.consoleAPICalled" and about["type"] in {"error", "warning", "assert"}:
            self.said.append(" ".join(str(one.get("value", one.get("description"))) for one in about["args"]))
        elif event == "Runtime.exceptionThrown":
            self.said.append(str(about["exceptionDetails"].get("text")))
        elif event == "Log.entryAdded" and about["entry"]["level"] in {"error", "warning"}:
            self.said.append(about["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.asked.append(about["request"]["url"][:200])
        elif event == "Network.loadingFailed":
            self.said.append(f"failed: {about.get('errorText')}")
