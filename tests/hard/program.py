"""Starts the program that is attacked, and looks at it from outside."""

import os
import re
import subprocess
import sys
import time

PATIENCE = 10.0  # seconds that a start may take


def await_line(process, log, pattern):
    """Waits for a line of the log, and returns what it matches."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with open(log, encoding="utf-8") as lines:
            text = lines.read()
        if found := re.search(pattern, text):
            return found
        if time.monotonic() > deadline or process.poll() is not None:
            sys.exit(f"{process.args} did not start:\n{text}")
        time.sleep(0.02)


def start(arguments, log):
    with open(log, "w", encoding="utf-8") as output:
        return subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT)


def mock(path, folder, name="mock", arguments=("--port", "0")):
    """A simulated node, and its port."""
    log = f"{folder}/{name}.log"
    node = start([path, "mock", *arguments], log)
    return node, int(await_line(node, log, r"http://127\.0\.0\.1:(\d+)")[1])


def serve(path, config, folder, within=()):
    """A proxy, its port for clients and its port for operators. Its command is put behind what is `within`."""
    file, log = f"{folder}/llamero.toml", f"{folder}/proxy.log"
    with open(file, "w", encoding="utf-8") as text:
        text.write(config)
    proxy = start([*within, path, "serve", "--config", file, "--log-format", "json"], log)
    ports = []
    for who in ["clients", "operators"]:
        line = await_line(proxy, log, rf".*listening for {who}.*")[0]
        ports.append(int(re.search(r'"address":"[^"]*:(\d+)"', line)[1]))
    return proxy, *ports


def resident(process):
    """Bytes of memory."""
    with open(f"/proc/{process.pid}/status", encoding="utf-8") as status:
        line = next(line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) << 10


def descriptors(process):
    """Files and sockets that it has open."""
    return len(os.listdir(f"/proc/{process.pid}/fd"))
