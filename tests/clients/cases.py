"""What the Python clients share: how a case is reported, what the nodes hold, and how they are made to fail."""

import json
import os
import time
import urllib.request

ON_BOTH = "llama3.2"
ON_FIRST = "deepseek-r1"
ON_SECOND = "qwen3:8b"
EMBEDDING = "nomic-embed-text"
NOWHERE = "no-such-model"
EVERY_MODEL = ["deepseek-r1:latest", "llama3.2:latest", "nomic-embed-text:latest", "qwen3:8b"]
TEXTS = ["llama", "alpaca", "guanaco"]
# One more than a node answers at once, so streams that are cancelled must give their places back.
MORE_THAN_SLOTS = 5


def case(name):
    """Runs the function below it at once, and prints what came of it."""

    def run(check):
        try:
            check()
            print(name, "ok", "", sep="\t", flush=True)
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            print(name, "FAIL", text[:1000], sep="\t", flush=True)

    return run


def break_next_stream(node="NODE_B"):
    """The next stream of a node is cut after some chunks."""
    _set_fault(node, "reset_mid_stream")


def stall_next_stream(node="NODE_B"):
    """The next stream of a node falls silent after some chunks, and lasts until whoever reads it leaves."""
    _set_fault(node, "stall_mid_stream")


def _set_fault(node, kind):
    fault = json.dumps({"kind": kind, "count": 1}).encode()
    url = os.environ[node] + "/mock/fault"
    with urllib.request.urlopen(urllib.request.Request(url, fault), timeout=5) as answer:
        assert answer.status < 300, answer.status


def breaks(stream):
    """Fails unless reading a stream raises an error after its first part."""
    parts = 0
    try:
        for _ in stream:
            parts += 1
    except Exception:
        assert parts > 0, "it broke before it began"
    else:
        raise AssertionError(f"{parts} parts and no error")


def refuses(call, kind):
    """The error of a kind that a call raises; fails if it raises none, or another."""
    try:
        answer = call()
    except kind as error:
        return error
    raise AssertionError(f"no error but {answer!r}")


def check_vectors(one, several):
    """Three vectors of the length of the one, which is the first of them."""
    assert [len(vector) for vector in several] == [len(one)] * len(TEXTS), "vectors of the same length"
    assert list(several[0]) == list(one), "equal texts have equal vectors"


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
