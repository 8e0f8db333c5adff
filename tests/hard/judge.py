"""Sends a proxy requests that are broken in every way, and judges with h11 what it makes of them.

h11 is a strict parser that nobody here wrote. It stands behind the proxy as its backend: not one byte may come through
that it refuses. It also reads every answer. The requests are good ones with a few bytes changed, always the same ones.

    judge.py LLAMERO        the program to judge
"""

import json
import random
import re
import socket
import sys
import tempfile
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import h11
import program

ROUNDS = 3000
SEED = 20
AT_ONCE = 16
PATIENCE = 10.0  # seconds that one request may take, which is far more than the proxy allows
CONFIG = """
listen = "127.0.0.1:0"
admin.listen = "127.0.0.1:0"
[[backend]]
name = "h11"
url = "{url}"
[timeouts]
request_head = "100ms"
request_body = "100ms"
keep_alive = "100ms"
"""

CHAT = b'{"model":"m","messages":[]}'


class Judge:
    """A backend that takes nothing but HTTP by the letter."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.passed = 0
        self.cut = 0
        self.faults = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            stream, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(stream,), daemon=True).start()

    def serve(self, stream):
        connection = h11.Connection(h11.SERVER)
        raw = b""
        try:
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    read = stream.recv(65536)
                    raw += read
                    if not read and connection.their_state is h11.SEND_BODY:
                        with self.lock:  # the client's own upload broke off, and so does the proxy's
                            self.cut += 1
                        return
                    connection.receive_data(read)
                elif isinstance(event, h11.Request):
                    self.check(event, raw)
                    target = event.target.decode()
                    with self.lock:
                        self.passed += target not in ("/api/version", "/api/tags", "/api/ps")
                elif isinstance(event, h11.EndOfMessage):
                    self.answer(connection, stream, target)
                    if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                        return
                    connection.start_next_cycle()
                    raw = connection.trailing_data[0]
                elif isinstance(event, h11.ConnectionClosed):
                    return
        except h11.RemoteProtocolError as error:
            with self.lock:
                self.faults.append(f"{error}: {raw[:400]!r}")
        except OSError:
            pass
        finally:
            stream.close()

    def check(self, request, raw):
        """What h11 lets pass and a proxy must not."""
        names = [name for name, _ in request.headers]
        framing = names.count(b"content-length") + names.count(b"transfer-encoding")
        odd = [name for name in names if b"_" in name or name in (b"te", b"upgrade", b"expect", b"connection")]
        if framing > 1 or names.count(b"host") != 1 or odd or not request.target.startswith(b"/"):
            with self.lock:
                self.faults.append(f"passed on: {raw[:400]!r}")

    @staticmethod
    def answer(connection, stream, target):
        body = {
            "/api/version": b'{"version":"0.33.0"}',
            "/api/tags": b'{"models":[{"name":"m"}]}',
            "/api/ps": b'{"models":[]}',
        }.get(target, b"{}")
        headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
        stream.sendall(connection.send(h11.Response(status_code=200, headers=headers)))
        stream.sendall(connection.send(h11.Data(data=body)))
        stream.sendall(connection.send(h11.EndOfMessage()))


def whole():
    """Good requests."""
    length = b"content-length: %d\r\n" % len(CHAT)
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CHAT), CHAT)
    fields = b"host: lb\r\naccept: */*\r\nuser-agent: judge\r\nconnection: close\r\n"
    return [
        b"POST /api/chat HTTP/1.1\r\n" + fields + length + b"\r\n" + CHAT,
        b"POST /api/chat HTTP/1.1\r\n" + fields + b"transfer-encoding: chunked\r\n\r\n" + chunks,
        b"POST /api/of-tomorrow HTTP/1.1\r\n" + fields + length + b"\r\n" + CHAT,
        b"POST /api/of-tomorrow HTTP/1.1\r\n" + fields + b"transfer-encoding: chunked\r\n\r\n" + chunks,
        b"GET /x?y=%20z HTTP/1.1\r\n" + fields + b"\r\n",
        b"GET http://lb/x HTTP/1.1\r\n" + fields + b"\r\n",
        b"DELETE /api/delete HTTP/1.1\r\n" + fields + length + b"\r\n" + CHAT,
        b"POST /v1/chat/completions HTTP/1.0\r\nconnection: keep-alive, x\r\nx: 1\r\n" + length + b"\r\n" + CHAT,
        b"POST /api/chat HTTP/1.1\r\n" + fields + b"expect: 100-continue\r\n" + length + b"\r\n" + CHAT,
        b"POST /api/chat HTTP/1.1\r\n" + fields + length + b"\r\n" + CHAT + b"GET /x HTTP/1.1\r\n" + fields + b"\r\n",
    ]


LINES = [
    b"content-length: 5",
    b"content-length: 0",
    b"Content-Length : 27",
    b"transfer-encoding: chunked",
    b"transfer-encoding: gzip, chunked",
    b"Transfer_Encoding: chunked",
    b"host: other",
    b"connection: host, content-length",
    b"connection: upgrade",
    b"upgrade: h2c",
    b"te: trailers",
    b"x-forwarded-for: 1.2.3.4",
    b"via: 1.1 x",
    b" folded",
    b"expect: 100-continue",
]
BYTES = b"\0\r\n\t :;,#%/\\?@\"\x0b\x0c\x1b\x7f\x80\xa0\xe90129afxAZ_-+"


def broken(chance, request):
    """The request with one to three things changed."""
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(request) + 1)
        byte = bytes([chance.choice(BYTES)])
        change = chance.randrange(7)
        if change == 0:
            request = request[:at] + byte + request[at:]
        elif change == 1:
            request = request[:at] + byte + request[at + 1 :]
        elif change == 2:
            request = request[:at] + request[at + 1 :]
        elif change == 3:
            request = request[:at]
        elif change == 4:
            ends = [match.end() for match in re.finditer(b"\r\n", request)] or [len(request)]
            end = chance.choice(ends)
            request = request[:end] + chance.choice(LINES) + b"\r\n" + request[end:]
        elif change == 5:
            request = request.replace(b"\r\n", chance.choice([b"\n", b"\r", b"\r\r\n", b"\n\r\n"]), chance.randint(1, 4))
        else:
            request = request + request[at:]
        if not request:
            return b"\r\n"
    return request


def ask(port, request):
    """All that comes back; `None` if the proxy neither answers nor closes."""
    came = b""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as stream:
        try:
            stream.sendall(request)
            while read := stream.recv(65536):
                came += read
        except TimeoutError:
            return None
        except OSError:
            pass  # a reset, after what was read
    return came


def read_answers(came):
    """What is wrong with the answers, judged by their syntax."""
    while came:
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method="GET", target="/", headers=[("host", "lb")]))
        connection.send(h11.EndOfMessage())
        connection.receive_data(came)
        connection.receive_data(b"")
        try:
            while True:
                event = connection.next_event()
                if isinstance(event, h11.EndOfMessage):
                    break
        except h11.RemoteProtocolError as error:
            return f"{error} in {came[:300]!r}"
        came = connection.trailing_data[0]
    return None


def main(path):
    chance = random.Random(SEED)
    judge = Judge()
    with tempfile.TemporaryDirectory() as folder:
        config = CONFIG.format(url=f"http://127.0.0.1:{judge.port}")
        proxy, port, admin = program.serve(path, config, folder)
        try:
            faults = []
            for request in whole():
                came = ask(port, request)
                if came is None or not re.search(rb"HTTP/1.[01] 200 ", came):
                    faults.append(f"a good request was not answered: {request!r}: {came!r}")
            requests = [broken(chance, chance.choice(whole())) for _ in range(ROUNDS)]
            with ThreadPoolExecutor(AT_ONCE) as pool:
                answers = list(pool.map(lambda request: ask(port, request), requests))
            statuses = {}
            for request, came in zip(requests, answers):
                fault = "neither answered nor closed" if came is None else read_answers(came)
                if fault:
                    faults.append(f"{fault}: {request!r}")
                for status in re.findall(rb"HTTP/1.[01] (\d+) ", came or b"") or [b"none"]:
                    statuses[status.decode()] = statuses.get(status.decode(), 0) + 1
            status = json.load(urllib.request.urlopen(f"http://127.0.0.1:{admin}/api/v1/status", timeout=PATIENCE))
            backend = status["backends"][0]
            if backend["failures"] or backend["state"] != "up":
                faults.append(f"the backend is blamed for what clients did: {backend}")
        finally:
            proxy.kill()
            proxy.wait()
    faults += [f"h11 refuses what was passed on: {fault}" for fault in judge.faults]
    print("answers:", dict(sorted(statuses.items())))
    print(f"passed on: {judge.passed} whole, {judge.cut} cut with their client's upload")
    for fault in faults[:20]:
        print("FAULT", fault)
    print(f"{ROUNDS} broken requests, {len(faults)} faults")
    return 1 if faults or not judge.passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
