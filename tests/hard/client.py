"""A client that knows just enough of HTTP to send many requests at once, and to leave in the middle of any."""

import asyncio
import json


class Broken(Exception):
    """An answer that ended before its end."""


class Answer:
    """What came back, as far as it came."""

    def __init__(self):
        self.status, self.headers, self.body, self.is_whole = None, {}, b"", False


class Connection:
    """One connection, for one request after the other."""

    def __init__(self, port):
        self.port, self.reader, self.writer = port, None, None

    async def ask(self, method, path, body=b"", name="", answer=None, leave=None):
        """Sends a request and reads its answer into `answer`; leaves as soon as `leave` says so of it.

        A `name` is the request's id. A body of which only a part can be sent is a pair: the part, and the whole length.
        """
        answer = answer or Answer()
        body, length = body if isinstance(body, tuple) else (body, len(body))
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            head = f"{method} {path} HTTP/1.1\r\nhost: lb\r\ncontent-length: {length}\r\n"
            head += f"x-request-id: {name}\r\n\r\n" if name else "\r\n"
            self.writer.write(head.encode() + body)
            await self.writer.drain()
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            answer.status = int(lines[0].split()[1])
            pairs = (line.split(":", 1) for line in lines[1:] if line)
            answer.headers = {name.lower(): value.strip() for name, value in pairs}
            async for piece in self.pieces(method, answer):
                answer.body += piece
                if leave and leave(answer):
                    self.close()
                    return answer
            answer.is_whole = True
        except (asyncio.IncompleteReadError, ValueError) as error:
            self.close()
            raise Broken(f"the connection ended: {error}") from error
        except BaseException:
            self.close()
            raise
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    async def pieces(self, method, answer):
        if method == "HEAD" or answer.status == 204:
            return
        if answer.headers.get("transfer-encoding") != "chunked":
            yield await self.reader.readexactly(int(answer.headers["content-length"]))
            return
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)

    def close(self):
        if self.writer is not None:
            self.writer.transport.abort()
        self.reader = self.writer = None


def text_of(answer):
    """What a streamed chat says; `None` if it is not whole."""
    if not answer.is_whole or answer.status != 200:
        return None
    records = [json.loads(line) for line in answer.body.split(b"\n") if line]
    is_done = records and records[-1].get("done")
    return "".join(record["message"]["content"] for record in records) if is_done else None


async def status(admin):
    """What a proxy says to operators."""
    connection = Connection(admin)
    answer = await connection.ask("GET", "/api/v1/status")
    connection.close()
    return json.loads(answer.body)
