"""A chat server that answers when it feels like it: real HTTP on 127.0.0.1, in a thread or as a process of its own.

As a process: python hostile.py LOG [MOODS]; prints its port, and writes one JSON line to LOG for every request that
came in ("asked") and every one that it answered to the last byte ("answered").
"""

import hashlib
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MOODS = ("429", "429 at once", "500", "503", "hang", "truncated", "not json", "wrong json", "drip", "reset", "close")
"""The ways not to answer."""

Answer = Callable[[dict[str, Any]], dict[str, Any]]


def ranking_answer(body: dict[str, Any]) -> dict[str, Any]:
    """A verdict that depends on the messages alone; one in fifty cannot be parsed."""
    first = digest(body)[0] % 2
    names = ("m", "M") if first else ("M", "m")
    ordered = [{"model": name, "rank": rank} for rank, name in enumerate(names, start=1)]
    return completion("I would rather not say." if is_malformed(body) else repr(ordered))


def is_malformed(body: dict[str, Any]) -> bool:
    """Whether `ranking_answer` gives no verdict."""
    return digest(body)[1] < 5


def digest(body: dict[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(body["messages"]).encode()).digest()


def completion(text: str, top: dict[str, float] | None = None, **usage: int) -> dict[str, Any]:
    """A chat completion as OpenAI's servers write it."""
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    if top is not None:
        likeliest = [{"token": token, "logprob": value} for token, value in top.items()]
        choice["logprobs"] = {"content": [{**likeliest[0], "top_logprobs": likeliest}]}
    return {
        "object": "chat.completion",
        "model": "hostile-1",
        "choices": [choice],
        "usage": {"prompt_tokens": 10, "completion_tokens": 3} | usage,
    }


class HostileServer:
    """Serves until closed.

    Args:
        mood: (request body, how often it came before) -> "answer", one of MOODS, or (status, body, headers).
        answer: From a request's body to the answer's.
        log: File that gets a line for every request; None keeps them in `asked` and `answered` alone.
    """

    def __init__(
        self,
        mood: Callable[[dict[str, Any], int], Any] = lambda body, before: "answer",
        answer: Answer = ranking_answer,
        log: Path | None = None,
    ) -> None:
        self.mood, self.answer, self.log = mood, answer, log
        self.asked: list[dict[str, Any]] = []
        self.answered: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.seen: Counter[bytes] = Counter()
        self.lock = threading.Lock()
        self.at_once = self.most_at_once = 0
        self.closing = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else every answer takes 40 ms

            def do_POST(self) -> None:
                owner.handle(self)

            def log_message(self, format: str, *args: object) -> None:
                return

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: Any, client_address: Any) -> None:
                return

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> "HostileServer":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
        for _ in range(500):  # until every handler has noted what it did
            if not self.at_once:
                break
            time.sleep(0.01)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            before = self.seen[digest(body)]
            self.seen[digest(body)] += 1
            self.asked.append(body)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self._note("asked", body)
        try:
            mood = self.mood(body, before)
            if mood == "answer":
                reply(handler, 200, self.answer(body))
                with self.lock:
                    self.answered.append(body)
                    self._note("answered", body)
            else:
                self.misbehave(handler, mood)
        finally:
            with self.lock:
                self.at_once -= 1

    def misbehave(self, handler: BaseHTTPRequestHandler, mood: Any) -> None:
        whole = json.dumps(completion("[{'model': 'm', 'rank': 1}, {'model': 'M', 'rank': 2}]")).encode()
        if not isinstance(mood, str):
            reply(handler, *mood)
        elif mood in ("429", "429 at once", "500", "503"):
            wait = {"429": {"Retry-After": "0.05"}, "429 at once": {"Retry-After": "0"}}.get(mood, {})
            reply(handler, int(mood[:3]), {"error": {"message": "not now"}}, wait)
        elif mood == "not json":
            reply(handler, 200, b"<html>Bad gateway</html>")
        elif mood == "wrong json":
            reply(handler, 200, {"choices": []})
        elif mood == "hang":
            self.closing.wait(30)
            handler.close_connection = True
        elif mood == "drip":
            self.drip(handler, whole)
        elif mood == "truncated":
            start(handler, 200, len(whole))
            handler.wfile.write(whole[: len(whole) // 2])
            handler.wfile.flush()
            handler.close_connection = True
        else:
            if mood == "reset":
                handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-")
            handler.close_connection = True
            handler.connection.close()

    def drip(self, handler: BaseHTTPRequestHandler, whole: bytes) -> None:
        start(handler, 200, len(whole))
        for letter in whole:
            if self.closing.wait(0.05):
                return
            handler.wfile.write(bytes([letter]))
            handler.wfile.flush()

    def _note(self, what: str, body: dict[str, Any]) -> None:
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(json.dumps({"what": what, "request": digest(body).hex()}) + "\n")


def start(handler: BaseHTTPRequestHandler, status: int, length: int, headers: dict[str, str] | None = None) -> None:
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", "Content-Length": str(length), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()


def reply(handler: BaseHTTPRequestHandler, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    start(handler, status, len(content), headers)
    handler.wfile.write(content)
    handler.wfile.flush()


def moody(moods: tuple[str, ...], share: float, seed: int = 0) -> Callable[[dict[str, Any], int], str]:
    """Any of the moods at first in ``share`` of the requests, and sometimes again; never more than thrice."""

    def mood(body: dict[str, Any], before: int) -> str:
        rng = random.Random(f"{seed} {digest(body).hex()} {before}")
        return rng.choice(moods) if before < 3 and rng.random() < share else "answer"

    return mood


def main() -> None:
    log, share = Path(sys.argv[1]), float(sys.argv[2])
    mood = moody(tuple(one for one in MOODS if one not in ("hang", "drip")), share)

    def slowly(body: dict[str, Any], before: int) -> str:
        time.sleep(0.002)
        return mood(body, before)

    with HostileServer(slowly, log=log) as server:
        print(server.url, flush=True)  # noqa: T201
        while os.getppid() != 1 and sys.stdin.read(1):
            pass


if __name__ == "__main__":
    main()
