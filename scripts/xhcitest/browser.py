# SPDX-License-Identifier: GPL-2.0-or-later
"""A browser without a window: Chromium, driven by the WebDriver protocol.

https://www.w3.org/TR/webdriver2/
"""

import base64
import json
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, List, Optional, Type

from xhciseries.ui import die

#: It is to ask nobody for anything, a container has no sandbox for it, and a test may go
#: from place to place faster than a person
ARGUMENTS = (
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
    '--disable-dev-shm-usage', '--disable-ipc-flooding-protection',
    '--host-resolver-rules=MAP * ~NOTFOUND')


class Browser:
    """Use it with `with`; it ends with the block."""

    def __init__(self) -> None:
        for tool, package in (('chromium', 'chromium'), ('chromedriver', 'chromium-driver')):
            if not shutil.which(tool):
                die(f'{tool} (package {package}) is not installed: run scripts/setup --long')
        # The driver is on this machine: no proxy
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._profile = tempfile.TemporaryDirectory(prefix='browser.')
        self._driver = subprocess.Popen(
            ['chromedriver', '--port=0'], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)
        self._url = ''

    def __enter__(self) -> 'Browser':
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        try:
            self._ask('DELETE', '')
        finally:
            self._end()

    def _start(self) -> None:
        assert self._driver.stdout
        said: List[str] = []
        for line in self._driver.stdout:
            said.append(line.strip())
            found = re.search(r'started successfully on port (\d+)', line)
            if found:
                break
        else:
            die(f'chromedriver does not start: {" ".join(said)}')
        self._url = f'http://127.0.0.1:{found[1]}/session'
        options = {'args': [*ARGUMENTS, f'--user-data-dir={self._profile.name}']}
        session = self._ask('POST', '', {'capabilities': {'alwaysMatch': {
            'goog:chromeOptions': options, 'goog:loggingPrefs': {'browser': 'ALL'}}}})
        self._url += f'/{session["sessionId"]}'

    def _end(self) -> None:
        self._driver.terminate()
        self._driver.wait()
        assert self._driver.stdout
        self._driver.stdout.close()
        self._profile.cleanup()

    def _ask(self, method: str, command: str, body: Optional[Any] = None) -> Any:
        data = None if method != 'POST' else json.dumps(body or {}).encode()
        request = urllib.request.Request(self._url + command, data, method=method,
                                         headers={'Content-Type': 'application/json'})
        try:
            with self._opener.open(request, timeout=120) as answer:
                return json.load(answer)['value']
        except urllib.error.HTTPError as error:
            with error:
                told = json.load(error)['value']
            die(f'the browser refuses {command}: {told["error"]}: '
                + told['message'].partition('\n')[0])

    def open(self, url: str) -> None:
        """Load a page."""
        self._ask('POST', '/url', {'url': url})

    def run(self, script: str, *args: object) -> Any:
        """What the body of an asynchronous function in JavaScript returns."""
        wrapped = f'return (async function () {{ {script} }}).apply(null, arguments)'
        return self._ask('POST', '/execute/sync', {'script': wrapped, 'args': args})

    def resize(self, width: int, height: int) -> None:
        """Show pages as a screen of this size does, a phone's included."""
        self._command('Emulation.setDeviceMetricsOverride', width=width, height=height,
                      deviceScaleFactor=1, mobile=width < 600)

    def dark(self, on: bool) -> None:
        """Does the reader want a dark theme?"""
        self._command('Emulation.setEmulatedMedia', features=[
            {'name': 'prefers-color-scheme', 'value': 'dark' if on else 'light'}])

    def _command(self, name: str, **params: object) -> None:
        self._ask('POST', '/goog/cdp/execute', {'cmd': name, 'params': params})

    def log(self) -> List[str]:
        """What pages complained about since the last call."""
        return [entry['message'] for entry in self._ask('POST', '/se/log', {'type': 'browser'})]

    def picture(self, path: Path) -> None:
        """What the screen shows, as a PNG file."""
        path.write_bytes(base64.b64decode(self._ask('GET', '/screenshot')))
