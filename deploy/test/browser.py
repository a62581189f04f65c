"""A headless Chromium, told what to do over its pipe (the DevTools protocol, a JSON object and a NUL byte a
message): nothing but Python's own library is needed."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time

NAMES = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"]
INSTALL = "apt-get install --no-install-recommends chromium-headless-shell fonts-dejavu-core"
PATIENCE_S = 180


def program():
    """The browser that is installed, or None."""
    return next((found for found in map(shutil.which, NAMES) if found), None)


class Browser:
    """One page. `problems` are what its console and its scripts complained of so far."""

    def __init__(self, width, height):
        self.problems = []
        self._next, self._answers = 0, {}
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        read_by_it, self._to = os.pipe()
        self._from, written_by_it = os.pipe()
        command = [
            program(), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
            "--no-first-run", "--disable-background-networking", "--hide-scrollbars",
            f"--user-data-dir={self._profile.name}", f"--window-size={width},{height}",
        ]

        def take_pipes():
            # It reads from 3 and writes to 4.
            ends = [os.dup(read_by_it), os.dup(written_by_it)]
            for number, end in zip((3, 4), ends):
                os.dup2(end, number)

        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            close_fds=False, preexec_fn=take_pipes)
        os.close(read_by_it)
        os.close(written_by_it)
        self._rest = b""
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.call(f"{domain}.enable")
        self.size(width, height)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def call(self, method, **parameters):
        """The result of a method of the protocol."""
        self._next += 1
        number = self._next
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while number not in self._answers:
            self._receive()
        answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _receive(self):
        while b"\0" not in self._rest:
            part = os.read(self._from, 1 << 16)
            if not part:
                raise RuntimeError("the browser has gone")
            self._rest += part
        text, self._rest = self._rest.split(b"\0", 1)
        message = json.loads(text)
        if "id" in message:
            self._answers[message["id"]] = message
            return
        parameters = message.get("params", {})
        match message["method"]:
            case "Runtime.exceptionThrown":
                self.problems.append(json.dumps(parameters["exceptionDetails"])[:500])
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning", "assert"):
                self.problems.append(json.dumps(parameters["args"])[:500])
            case "Log.entryAdded" if parameters["entry"]["level"] in ("error", "warning"):
                self.problems.append(json.dumps(parameters["entry"])[:500])

    def open(self, url):
        self.call("Page.navigate", url=url)

    def size(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def scheme(self, name):
        """`light` or `dark`."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def value(self, expression):
        """What an expression of JavaScript comes to, as JSON."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression, what):
        """Waits until an expression is true, and answers its value."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            found = self.value(expression)
            if found:
                return found
            time.sleep(0.2)
        raise RuntimeError(f"{what} within {PATIENCE_S} s: not so; the page says: {self.value('document.body.innerText')[:2000]}")

    def picture(self, path, whole=False):
        """A PNG of what is seen, or of the whole page."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))
