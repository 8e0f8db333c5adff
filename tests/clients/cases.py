"""What the Python clients share: how a case is reported, what the nodes hold, and how they are made to fail."""

import json
import os
import time
import urllib.request

ON_BOTH = "llama3.2"
ON_SECOND = "qwen3:8b"
EMBEDDING = "nomic-embed-text"
NOWHERE = "no-such-model"


def case(name):
    """Runs the function below it at once, and prints what came of it."""

    def run(check):
        try:
            check()
            print(name, "ok", "", sep="\t", flush=True)
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            print(name, "FAIL", text, sep="\t", flush=True)

    return run


def break_next_stream():
    """The next stream of the second node is cut after some chunks."""
    fault = json.dumps({"kind": "reset_mid_stream", "count": 1}).encode()
    url = os.environ["NODE_B"] + "/mock/fault"
    with urllib.request.urlopen(urllib.request.Request(url, fault), timeout=5) as answer:
        assert answer.status < 300, answer.status


def wait_until_idle():
    """Fails unless the proxy soon has no request in flight: a client that left must not keep a node at work."""
    deadline = time.monotonic() + 5
    while True:
        with urllib.request.urlopen(os.environ["LLAMERO_ADMIN"] + "/api/v1/status", timeout=5) as answer:
            busy = {b["name"]: b["in_flight"] for b in json.load(answer)["backends"] if b["in_flight"]}
        if not busy:
            return
        assert time.monotonic() < deadline, f"still in flight: {busy}"
        time.sleep(0.02)
