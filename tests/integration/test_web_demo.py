"""`groupconv demo --web` as a person starts it: a page with two workers, in the browser of the system."""

import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest


@pytest.mark.slow
def test_demo_web_opens_a_page_with_two_workers(tmp_path):
    opened = tmp_path / "opened"
    os.mkfifo(opened)
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "groupconv_server", "demo", "--web"]
    with subprocess.Popen(command, env=os.environ | {"BROWSER": f"{browser} %s"}) as served:
        try:
            url = opened.read_text().strip()  # blocks until the browser is called
            with urllib.request.urlopen(url, timeout=60) as page:
                assert b"see a convolution" in page.read()
            call = urllib.request.Request(
                f"{url}groupconv.v1.ClusterService/GetCluster", b"{}", {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(call, timeout=60) as answer:
                assert len(json.load(answer)["workers"]) == 2
        finally:
            served.send_signal(signal.SIGTERM)
            assert served.wait(60) == 0
