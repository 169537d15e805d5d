"""A headless Chromium that is told what to do through a pipe, without any package for it."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One window.

    Args:
        profile: an empty folder.
        *flags: of Chromium.

    Attributes:
        console: errors and warnings that the page wrote, and exceptions that it did not catch.
    """

    def __init__(self, profile, *flags: str):
        theirs, self._to = os.pipe()
        self._from, back = os.pipe()
        # Chromium talks on descriptors 3 and 4
        command = f'exec {CHROMIUM} "$@" 3<&{theirs} 4>&{back}'
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
        words += ["--disable-dev-shm-usage", f"--user-data-dir={profile}", *flags, "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", command, "chromium", *words],
            pass_fds=(theirs, back), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        os.close(back)
        self._buffer, self._number, self._session, self.console = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict:
        """Return the result of one of the protocol's methods."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + 60
        while True:
            said = self._read(until)
            if said.get("id") == self._number:
                assert "error" not in said, (method, said["error"])
                return said["result"]

    def _read(self, until: float) -> dict:
        while b"\0" not in self._buffer:
            assert select.select([self._from], [], [], max(0.0, until - time.monotonic()))[0], "Chromium is silent"
            came = os.read(self._from, 1 << 20)
            assert came, "Chromium ended"
            self._buffer += came
        first, _, self._buffer = self._buffer.partition(b"\0")
        said = json.loads(first)
        self._note(said)
        return said

    def _note(self, said: dict) -> None:
        about = said.get("params", {})
        if said.get("method") == "Runtime.exceptionThrown":
            self.console.append(about["exceptionDetails"])
        elif said.get("method") == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning"):
            self.console.append([each.get("value") for each in about["args"]])
        elif said.get("method") == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.console.append(about["entry"]["text"])

    def open(self, url: str, width: int = 1400, dark: bool = False) -> None:
        """Open a page in a window of that width."""
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def value(self, expression: str):
        """Return what a piece of script is."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 30) -> None:
        """Wait until a piece of script is true."""
        until = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < until, f"never: {expression}; {self.console}"
            time.sleep(0.05)

    def choose(self, selector: str, path) -> None:
        """Choose a file in an input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def picture(self, path) -> None:
        """Write what the whole page looks like."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(shot))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
