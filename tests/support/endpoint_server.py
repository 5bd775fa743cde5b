"""The server of the fake endpoint: HTTP/1.1 on a bare asyncio protocol, the ledger, and the control paths.

A web framework takes half a millisecond a request and hides the connection; the faults need the connection, and
benchmarks need the half millisecond.
"""

import asyncio
import os
import re
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable
from copy import deepcopy
from functools import cached_property
from hashlib import sha256
from random import Random
from typing import Any

import orjson
from endpoint_answers import load_json, read_question, schema_ok
from endpoint_batches import BATCH_FAULTS, BatchDesk
from endpoint_decisions import is_decision, read_decision, refused_because
from endpoint_faults import FAULTS, Case, NotApplicable, Reply, as_reply, make_trigger, streamed

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
SECRET_HEADERS = {"authorization", "proxy-authorization", "api-key", "x-api-key", "cookie"}
# Entries of the ledger kept; the counts go on beyond it.
HISTORY = 50_000
DEFAULTS: dict[str, Any] = {
    "latency": 0.0,
    "faults": [],
    "rules": [],
    "rates": {},
    "seed": 0,
    "api_key": None,
    "limits": {},
    "keep_bodies": True,
    "fixed_answer_bytes": None,
    "batch_polls": 0,
    "batch_api": True,
    "streams": True,
    "decisions": True,
    "slots": None,
}


class Request:
    """One HTTP request as received."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.head = head
        self.body = body
        self.method, self.path, *_ = [*head.split(b"\r\n", 1)[0].decode("latin-1").split(" "), "", ""]

    @cached_property
    def headers(self) -> dict[str, str]:
        """Names in lower case; the last of a repeated one."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def key(self) -> str:
        """The key of the caller, or an empty text."""
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ").strip()
        return bearer or self.headers.get("api-key", "")


class Server:
    """What the endpoint is told to do and what it was asked: configuration, triggers, ledger, counts."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.start_options: dict[str, Any] = {}
        self.open: set[int] = set()
        self.working: set[Connection] = set()
        self.waiting: deque[tuple[Connection, Reply]] = deque()
        self.reset()

    def reset(self, configuration: bool = True) -> None:
        """Forget the history, and unless told otherwise go back to the options of the start."""
        self.ledger: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self.bodies: deque[bytes] = deque(maxlen=HISTORY)
        self.counts: Counter[str | None] = Counter()
        self.seen: Counter[str] = Counter()
        self.admitted: deque[float] = deque()
        self.desk = BatchDesk(self.answer_in_batch)
        self.total = 0
        self.peak = len(self.open)
        if configuration:
            self.options = {}
            self.configure(**DEFAULTS | self.start_options)

    def configure(self, **options: Any) -> None:
        """Change the options given and no others; `faults` and `rules` replace what was queued or ruled."""
        unknown = sorted(options.keys() - DEFAULTS.keys())
        if unknown:
            raise ValueError(f"unknown options {unknown}; there are {sorted(DEFAULTS)}")
        self.options |= options
        # Triggers count down as they are used; the options must not, or a second reset would find them spent.
        if "faults" in options:
            self.queue = deque(deepcopy(options["faults"]))
        if "rules" in options:
            self.rules = deepcopy(options["rules"])
        self.random = Random(self.options["seed"])
        self.desk.polls, self.desk.is_there = self.options["batch_polls"], self.options["batch_api"]
        size = self.options["fixed_answer_bytes"]
        self.fixed = fixed_reply(size) if size else None

    def handle(self, request: Request) -> tuple[dict[str, Any], Reply]:
        """Enter a request into the ledger and decide what it gets; what is about files and batches asks nothing."""
        key = self.options["api_key"]
        if self.desk.knows(request.path) and (key is None or request.key == key):
            return {"monotonic": time.monotonic()}, self.desk.handle(
                request.method, request.path, request.headers, request.body
            )
        entry = self.entered(request)
        self.open.add(id(entry))
        self.peak = max(self.peak, len(self.open))
        return entry, self.fixed or self.judge(request, entry)

    def entered(self, request: Request) -> dict[str, Any]:
        """Begin an entry of the ledger."""
        self.total += 1
        entry: dict[str, Any] = {
            "n": self.total,
            "monotonic": time.monotonic(),
            "wall": time.time(),
            "method": request.method,
            "path": request.path,
            "status": None,
            "finished": False,
            "batch": None,
        }
        self.ledger.append(entry)
        return entry

    def answer_in_batch(self, body: bytes, batch: str) -> Reply:
        """Answer one request of a batch, with its entry in the ledger."""
        request = Request(b"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer batch", body)
        entry = self.entered(request)
        reply = self.judge(request, entry)
        entry.update(batch=batch, status=reply.status, finished=True, seconds=0.0)
        return reply

    def settle(self, entry: dict[str, Any], finished: bool) -> None:
        """Note that a request has its whole reply, or never will."""
        entry["finished"] = finished
        entry["seconds"] = time.monotonic() - entry["monotonic"]
        self.open.discard(id(entry))

    def judge(self, request: Request, entry: dict[str, Any]) -> Reply:
        """Read the question and find the reply: refused, over the limit, faulty, or right."""
        body = parsed(request.body)
        question = read_decision(body) if is_decision(body) else read_question(body)
        case = Case(question, entry["n"], self.port, key=request.key, request=body)
        self.describe(request, case, entry)
        if not entry["authorized"] and self.options["api_key"] is not None:
            return self.spoil(case, make_trigger("401"), entry)
        if request.method != "POST" or not self.is_served(request.path, body):
            return other_path(request)
        if why := refused_because(body) if is_decision(body) else "":
            return FAULTS["400"](case, message=why)
        if not body or (body.get("stream") and not self.options["streams"]):
            return FAULTS["400"](case, message="The fake endpoint wants a JSON object without 'stream'.")
        over = self.over_limit(entry["monotonic"])
        trigger = over or self.next_trigger(case.question.text, case.question.stage, entry["sha256"])
        return self.spoil(case, trigger or make_trigger("ok"), entry)

    def is_served(self, path: str, body: dict[str, Any]) -> bool:
        """Whether a path takes a body: chat completions, or decisions where there are any."""
        if is_decision(body):
            return path.endswith("/decisions") and self.options["decisions"]
        return path.endswith("/chat/completions")

    def describe(self, request: Request, case: Case, entry: dict[str, Any]) -> None:
        """Write what is known of a request into its entry; the key of the caller never is."""
        question, key = case.question, self.options["api_key"]
        entry["model"], entry["stage"] = question.model, question.stage
        entry["ids"], entry["asked"] = list(question.lines), question.ids
        entry["sha256"] = sha256(request.body).hexdigest()
        entry["headers"] = {name: value for name, value in request.headers.items() if name not in SECRET_HEADERS}
        entry["authorized"] = bool(request.key) if key is None else request.key == key
        entry["schema_ok"] = schema_ok(question)
        entry["fault"] = entry["skipped"] = None
        self.counts[question.stage] += 1
        self.bodies.append(request.body if self.options["keep_bodies"] else b"null")

    def spoil(self, case: Case, trigger: dict[str, Any], entry: dict[str, Any]) -> Reply:
        """Apply a trigger; where it has no meaning for the question the right answer goes out."""
        name, case.contains = trigger["name"], trigger["contains"]
        try:
            reply = FAULTS[name](case, **trigger["params"])
            entry["fault"] = trigger.get("label") or (None if name == "ok" else name)
        except NotApplicable:
            reply = FAULTS["ok"](case)
            entry["skipped"] = name
        entry["tokens"] = tokens_of(reply)
        if case.request.get("stream") and reply.delivery != "events":
            reply = streamed(reply, case.request)
        reply.headers = {"x-request-id": f"req_fake_{case.n}", **reply.headers, **trigger["headers"]}
        reply.delay += trigger["delay"]
        return reply

    def next_trigger(self, text: str, stage: str | None, digest: str) -> dict[str, Any] | None:
        """The first of the queue that fits, then the first rule, then chance."""
        for triggers in (self.queue, self.rules):
            for trigger in triggers:
                if fits(trigger, text, stage):
                    use(trigger, triggers)
                    return trigger
        return self.by_chance(text, stage, digest)

    def by_chance(self, text: str, stage: str | None, digest: str) -> dict[str, Any] | None:
        """Draw from the rates; the draw hangs on the body and how often it came, so order never matters."""
        if not self.options["rates"]:
            return None
        self.seen[digest] += 1
        drawn = sha256(f"{self.options['seed']} {digest} {self.seen[digest]}".encode()).digest()
        left = int.from_bytes(drawn[:6]) / 2**48
        for trigger in self.options["rates"]:
            left -= trigger["rate"]
            if left < 0:
                return trigger if fits(trigger, text, stage) else None
        return None

    def over_limit(self, now: float) -> dict[str, Any] | None:
        """A 429 beyond so many admitted requests in any sliding minute (or `seconds`)."""
        limits = self.options["limits"]
        if not limits:
            return None
        seconds = limits.get("seconds", 60.0)
        while self.admitted and self.admitted[0] <= now - seconds:
            self.admitted.popleft()
        if len(self.admitted) < limits["requests_per_minute"]:
            self.admitted.append(now)
            return None
        wait = self.admitted[0] + seconds - now
        return {**make_trigger("429", retry_after_ms=str(int(wait * 1000) + 1)), "label": "limit"}

    def admit(self, connection: "Connection", reply: Reply) -> None:
        """Let a connection be answered, as soon as one of the slots is free; those who wait are served in turn."""
        self.waiting.append((connection, reply))
        self.next_turn()

    def leave(self, connection: "Connection") -> None:
        """Free the slot of a connection, or its place in the queue."""
        self.working.discard(connection)
        self.waiting = deque(each for each in self.waiting if each[0] is not connection)
        self.next_turn()

    def next_turn(self) -> None:
        """Begin with those who wait, while there are slots."""
        slots = self.options["slots"]
        while self.waiting and (slots is None or len(self.working) < slots):
            connection, reply = self.waiting.popleft()
            self.working.add(connection)
            connection.answer(reply)

    def latency(self) -> float:
        """Seconds before a reply: a number, or any between two."""
        latency = self.options["latency"]
        return self.random.uniform(*latency) if isinstance(latency, list) else latency


def fits(trigger: dict[str, Any], text: str, stage: str | None) -> bool:
    """Whether a trigger is meant for a request."""
    if trigger["stage"] not in (None, stage):
        return False
    return trigger["contains"] is None or trigger["contains"].casefold() in text.casefold()


def use(trigger: dict[str, Any], triggers: Any) -> None:
    """Count one use of a trigger, and take it away after the last."""
    if trigger["times"] is None:
        return
    trigger["times"] -= 1
    if trigger["times"] <= 0:
        triggers.remove(trigger)


def parsed(body: bytes) -> dict[str, Any]:
    """The JSON object of a body, or an empty one."""
    try:
        loaded = load_json(body)
    except (ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def tokens_of(reply: Reply) -> list[int] | None:
    """The tokens of prompt and completion that a reply is paid for."""
    usage = parsed(reply.body).get("usage") if reply.status == 200 else None
    if not isinstance(usage, dict):
        return None
    names = ("input_tokens", "output_tokens") if "input_tokens" in usage else ("prompt_tokens", "completion_tokens")
    return [usage.get(name) for name in names]


def other_path(request: Request) -> Reply:
    """The list of models, or 404."""
    if request.path.endswith("/models"):
        return as_reply({"object": "list", "data": [{"id": "gpt-4o", "object": "model", "owned_by": "fake"}]})
    return as_reply({"error": {"message": f"Unknown path {request.path}", "type": "not_found"}}, 404)


def fixed_reply(size: int) -> Reply:
    """A constant completion of so many bytes; its content, an empty refine answer and blanks, is valid for refine."""

    def padded(blanks: int) -> bytes:
        said = {"role": "assistant", "content": '{"reassignments":[]}' + " " * blanks, "refusal": None}
        choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
        head = {"id": "chatcmpl-fixed", "object": "chat.completion", "created": 0, "model": "fixed"}
        return orjson.dumps({**head, "choices": [choice], "usage": usage})

    return Reply(200, padded(max(0, size - len(padded(0)))))


class Connection(asyncio.Protocol):
    """One connection: takes requests one after another, answers each before it looks at the next."""

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self.server = server
        self.loop = asyncio.get_running_loop()
        self.buffer = bytearray()
        self.wanted = 0
        self.entry: dict[str, Any] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.blocked = False
        self.draining = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be told as soon as bytes wait for the client, to know when the last one has left."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        """Collect bytes; requests sent ahead wait in the buffer."""
        self.buffer += data
        self.advance()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the reply under way: the client gave up, or we closed."""
        if self.timer:
            self.timer.cancel()
        self.settle(False)

    def pause_writing(self) -> None:
        """Bytes wait for the client."""
        self.blocked = True

    def resume_writing(self) -> None:
        """All bytes have left."""
        self.blocked = False
        if self.draining:
            self.settle(True)
            self.advance()

    def advance(self) -> None:
        """Begin with the next request, if none is under way and a whole one is here."""
        while self.entry is None and (request := self.take()):
            self.begin(request)

    def take(self) -> Request | None:
        """Cut a whole request off the buffer."""
        if len(self.buffer) < self.wanted or self.transport.is_closing():
            return None
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self.buffer[:end])
        length = CONTENT_LENGTH.search(head)
        if CHUNKED.search(head):
            self.transport.write(as_reply({"error": {"message": "send a content-length"}}, 411).wire)
            self.transport.close()
            return None
        self.wanted = end + 4 + (int(length[1]) if length else 0)
        if len(self.buffer) < self.wanted:
            return None
        body = bytes(self.buffer[end + 4 : self.wanted])
        del self.buffer[: self.wanted]
        self.wanted = 0
        return Request(head, body)

    def begin(self, request: Request) -> None:
        """Answer a control path at once, anything else after its latency."""
        if request.path.startswith("/_control/"):
            self.transport.write(control(self.server, request).wire)
            return
        self.entry, reply = self.server.handle(request)
        self.server.admit(self, reply)

    def answer(self, reply: Reply) -> None:
        """Answer after the latency."""
        delay = self.server.latency() + reply.delay
        if delay > 0:
            self.timer = self.loop.call_later(delay, self.deliver_late, reply)
        else:
            self.deliver(reply)

    def deliver_late(self, reply: Reply) -> None:
        """Send a reply that had to wait, then look at what came meanwhile."""
        self.deliver(reply)
        self.advance()

    def deliver(self, reply: Reply) -> None:
        """Send a reply in its way."""
        DELIVERIES[reply.delivery](self, reply)

    def settle(self, finished: bool) -> None:
        """End the request under way."""
        self.draining = False
        if self.entry is not None:
            self.server.settle(self.entry, finished)
            self.entry = None
            self.server.leave(self)

    def write_whole(self, reply: Reply) -> None:
        """Send everything."""
        self.send(reply, reply.wire)
        self.end()

    def end(self) -> None:
        """The last byte is written: settle now, or when it has left."""
        if self.blocked:
            self.draining = True
        else:
            self.settle(True)

    def send(self, reply: Reply, data: bytes) -> None:
        """Write first bytes, and the status with them into the ledger."""
        assert self.entry is not None
        self.entry["status"] = reply.status
        self.transport.write(data)

    def write_part(self, reply: Reply) -> None:
        """Promise the whole body, send a part of it, and go."""
        part = reply.body[: int(len(reply.body) * reply.options["fraction"])]
        self.send(reply, reply.head + part)
        if reply.options["reset"]:
            # A reset right behind the bytes would overtake them in the client's buffer.
            self.timer = self.loop.call_later(0.05, self.reset, reply)
        else:
            self.transport.close()

    def drip(self, reply: Reply) -> None:
        """Send the head, then a few bytes at each interval."""
        self.send(reply, reply.head)
        self.drip_from(reply, 0)

    def drip_from(self, reply: Reply, start: int) -> None:
        """Send the next few bytes and set the clock for those after them."""
        end = start + reply.options["step"]
        self.transport.write(reply.body[start:end])
        if end < len(reply.body):
            self.timer = self.loop.call_later(reply.options["interval"], self.drip_from, reply, end)
            return
        self.end()
        self.loop.call_soon(self.advance)

    def send_events(self, reply: Reply) -> None:
        """Send the head, then event after event, and where the reply says so nothing after the last one."""
        self.send(reply, reply.open_head if reply.options["hangs"] else reply.head)
        self.send_event(reply, 0)

    def send_event(self, reply: Reply, number: int) -> None:
        """Send the next event and set the clock for those after it."""
        events, interval = reply.options["events"], reply.options["interval"]
        if not interval:
            self.transport.write(b"".join(events))
            number = len(events)
        else:
            self.transport.write(events[number])
        if number + 1 < len(events):
            self.timer = self.loop.call_later(interval, self.send_event, reply, number + 1)
        elif not reply.options["hangs"]:
            self.end()
            self.loop.call_soon(self.advance)

    def reset(self, reply: Reply) -> None:
        """Close with RST instead of FIN: what a crashed server or a firewall looks like."""
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def hang(self, reply: Reply) -> None:
        """Say nothing until the client gives up."""

    def close(self, reply: Reply) -> None:
        """Close without an answer."""
        self.transport.close()


DELIVERIES: dict[str, Callable[[Connection, Reply], None]] = {
    "whole": Connection.write_whole,
    "cut": Connection.write_part,
    "drip": Connection.drip,
    "events": Connection.send_events,
    "reset": Connection.reset,
    "hang": Connection.hang,
    "close": Connection.close,
}

# The control paths: what each does to the server with the JSON it was sent.
CONTROLS: dict[str, Callable[[Server, Any], Any]] = {
    "ledger": lambda server, _: list(server.ledger),
    "bodies": lambda server, _: [body.decode("utf-8", "replace") for body in server.bodies],
    "state": lambda server, _: {
        "total": server.total,
        "stages": {str(stage): count for stage, count in server.counts.items()},
        "in_flight": len(server.open),
        "in_flight_peak": server.peak,
        "queued": len(server.queue),
    },
    "queue": lambda server, trigger: server.queue.append(trigger),
    "rule": lambda server, trigger: server.rules.append(trigger),
    "configure": lambda server, options: server.configure(**options),
    "batch_fault": lambda server, fault: server.desk.faults.append(checked(fault)),
    "finish_batches": lambda server, _: server.desk.finish_all(),
    "forge_batch": lambda server, metadata: server.desk.forge(metadata),
    "batches": lambda server, _: list(server.desk.batches.values()),
    "batch_calls": lambda server, _: server.desk.calls,
    "start_with": lambda server, options: (server.start_options.update(options), server.reset()),
    "reset": lambda server, options: server.reset(**options),
}


def checked(fault: dict[str, Any]) -> dict[str, Any]:
    """A fault of batches that there is."""
    if fault["name"] not in BATCH_FAULTS:
        raise ValueError(f"no fault of batches is named {fault['name']!r}; there are {', '.join(BATCH_FAULTS)}")
    return fault


def control(server: Server, request: Request) -> Reply:
    """Do what a control path asks; an error of the test comes back as 400 with its words."""
    try:
        done = CONTROLS[request.path.removeprefix("/_control/")](server, orjson.loads(request.body or b"null"))
        return as_reply(done)
    except (KeyError, TypeError, ValueError) as error:
        return as_reply({"error": repr(error)}, 400)


async def serve(port: int, parent: int | None) -> None:
    """Listen on 127.0.0.1, print the port, and end with the parent process."""
    loop = asyncio.get_running_loop()
    server = Server()
    listener = await loop.create_server(lambda: Connection(server), "127.0.0.1", port, backlog=4096)
    server.port = listener.sockets[0].getsockname()[1]
    print(server.port, flush=True)
    # Asking for the parent works after kill -9 too; a death signal would follow the thread that started us.
    while parent is None or os.getppid() == parent:
        await asyncio.sleep(0.2)
