"""Holds a proxy's connections with slow clients, while good ones come and go.

    slow.py LLAMERO         the program to attack; slowhttptest must be installed
"""

import http.client
import resource
import subprocess
import sys
import tempfile
import threading
import time

import program

CONNECTIONS = 1000
LIMIT = 3  # seconds that the proxy allows, short of the ten and thirty of its defaults
GROWTH = CONNECTIONS * (64 << 10)  # bytes that the proxy may need for all of them together
SLOWEST = 0.2  # seconds that 99 of 100 good requests may take; far more than they do, far less than a held connection
CONFIG = """
listen = "127.0.0.1:0"
admin.listen = "127.0.0.1:0"
[[backend]]
name = "node"
url = "127.0.0.1:{port}"
[timeouts]
request_head = "{limit}s"
request_body = "{limit}s"
"""
# How each is attacked, and the seconds after which the last must be gone. A body may go on a while after its first pause,
# and slowhttptest, which notices the end of a connection when it next writes, needs some seconds of its own.
# A connection that nobody closes is held for twice as long.
ATTACKS = {"heads": (["-H"], "/", LIMIT + 10), "bodies": (["-B", "-s", "8192"], "/api/chat", 2 * LIMIT + 10)}


class Good:
    """Clients that do nothing wrong, and how long they are made to wait."""

    def __init__(self, port):
        self.port, self.times, self.faults, self.over = port, [], [], threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        body = '{"model":"llama3.2","stream":false,"prompt":"a","options":{"num_predict":1}}'
        while not self.over.is_set():
            for method, path, sent in [("GET", "/api/tags", None), ("POST", "/api/show", body)]:
                began = time.monotonic()
                try:
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
                    connection.request(method, path, sent)
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status != 200:
                        self.faults.append(f"{path} got {answer.status}")
                    connection.close()
                except OSError as error:
                    self.faults.append(f"{path}: {error}")
                self.times.append(time.monotonic() - began)
            time.sleep(0.005)

    def end(self):
        self.over.set()
        self.thread.join()
        return sorted(self.times)[len(self.times) * 99 // 100]


def attack(name, port, proxy):
    flags, path, end = ATTACKS[name]
    before = program.resident(proxy)
    good = Good(port)
    began = time.monotonic()
    size = ["-c", str(CONNECTIONS), "-r", str(CONNECTIONS), "-i", "1", "-l", str(2 * end), "-p", "3"]
    run = subprocess.Popen(
        ["slowhttptest", *flags, *size, "-u", f"http://127.0.0.1:{port}{path}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    peak = before
    while run.poll() is None:
        peak = max(peak, program.resident(proxy))
        try:
            run.wait(0.1)
        except subprocess.TimeoutExpired:
            pass
    took = time.monotonic() - began
    p99 = good.end()
    said = run.stdout.read()
    faults = good.faults[:5]
    if "No open connections left" not in said:
        faults.append("it held connections to the end: " + said[-300:])
    if took > end:
        faults.append(f"its last connection was closed after {took:.1f} s, not within {end} s")
    if p99 > SLOWEST:
        faults.append(f"good requests took {p99:.3f} s")
    if peak - before > GROWTH:
        faults.append(f"the proxy grew by {peak - before} bytes")
    print(
        f"slow {name}: {CONNECTIONS} connections gone after {took:.1f} s, "
        f"{len(good.times)} good requests, 99 of 100 within {p99 * 1000:.1f} ms, {(peak - before) >> 10} KiB more memory"
    )
    return faults


def main(path):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    children = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            node, port = program.mock(path, folder)
            children.append(node)
            proxy, clients, _ = program.serve(path, CONFIG.format(port=port, limit=LIMIT), folder)
            children.append(proxy)
            faults = [fault for name in ATTACKS for fault in attack(name, clients, proxy)]
        finally:
            for child in children:
                child.kill()
                child.wait()
    for fault in faults:
        print("FAULT", fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
