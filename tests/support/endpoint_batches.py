"""The Batch API of the fake endpoint: `/v1/files` and `/v1/batches`, with the faults that its clients must survive.

A request in a batch goes the way of any request: it stands in the ledger (with the id of its `batch`), and meets the
faults of the queue. What can go wrong around it is told by `Endpoint.batch_fault`, at the next step that it fits.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
from endpoint_faults import Reply, as_reply

PATH = re.compile(r"/v1/(files|batches)(?:/([\w-]+))?(?:/(content|cancel))?")
BOUNDARY = re.compile(r'boundary="?([^";]+)"?')
FILENAME = re.compile(rb'filename="([^"]*)"')
MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000
#: Each fault, and the step at which it happens.
BATCH_FAULTS = {
    "upload_cut": "upload",  # the connection closes, and nothing is stored
    "upload_lost": "upload",  # the file is stored, and the connection closes
    "upload_500": "upload",
    "create_500": "create",  # nothing is created
    "create_429": "create",
    "create_refused": "create",
    "create_lost": "create",  # the batch is created, and the connection closes
    "create_late": "create",  # the batch is created at once, and the answer comes after `seconds`
    "create_slow": "create",  # the batch is created after `seconds`, and there is no answer
    "failed": "end",  # the provider refuses the file
    "expired": "end",  # only the first `after` requests are answered
    "poll_500": "poll",
    "poll_cut": "poll",
    "no_output": "output",  # the batch has ended, and names no file yet
    "content_404": "content",
    "content_cut": "content",
    "content_500": "content",
    "list_500": "list",
    "shuffled": "lines",
    "doubled": "lines",
    "missing": "lines",  # the first `count` lines
    "unreadable": "lines",  # a line that is no JSON, one without an id, one with the id of another batch
    "surrogates": "lines",  # the JSON of the file is escaped, as Python's own writer does it
}


class BatchDesk:
    """The files and batches of the endpoint, and the faults that wait for them.

    A batch is at work until it was polled `polls` times (None: until `finish_batches`); `answer` answers one request.
    """

    def __init__(self, answer: Callable[[bytes, str], Reply]) -> None:
        self.answer = answer
        self.files: dict[str, dict[str, Any]] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.faults: deque[dict[str, Any]] = deque()
        self.calls: list[str] = []
        self.polls: int | None = 0
        self.is_there = True

    def forge(self, metadata: dict[str, str]) -> None:
        """Add a batch with any metadata."""
        self.created({"input_file_id": "file-0001", "endpoint": "", "completion_window": "24h", "metadata": metadata})

    def knows(self, path: str) -> bool:
        """Whether a path is one of the Batch API."""
        return bool(PATH.fullmatch(urlsplit(path).path))

    def handle(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        """Answer a request for files or batches."""
        url = urlsplit(path)
        kind, name, action = PATH.fullmatch(url.path).groups()
        self.calls.append(f"{method} {url.path}")
        if not self.is_there:
            return refusal(404, f"Unknown path {url.path}")
        match method, kind, name, action:
            case "POST", "files", None, None:
                return self.upload(headers, body)
            case "GET", "files", _, "content":
                return self.content(name)
            case "POST", "batches", None, None:
                return self.create(orjson.loads(body))
            case "GET", "batches", None, None:
                return self.listed({key: values[0] for key, values in parse_qs(url.query).items()})
            case "GET", "batches", _, None:
                return self.poll(name)
            case "POST", "batches", _, "cancel":
                return self.cancel(name)
        return refusal(404, f"Unknown path {url.path}")

    def fault(self, step: str) -> dict[str, Any]:
        """The next fault for a step, or one without a name."""
        for fault in self.faults:
            if BATCH_FAULTS[fault["name"]] == step:
                fault["times"] -= 1
                if fault["times"] <= 0:
                    self.faults.remove(fault)
                return fault
        return {"name": ""}

    def upload(self, headers: dict[str, str], body: bytes) -> Reply:
        """Store a file."""
        fault = self.fault("upload")["name"]
        if fault == "upload_500":
            return refusal(500, "The server had an error.")
        name, content = parsed_form(headers.get("content-type", ""), body)
        if len(content) > MOST_BYTES:
            return refusal(400, "The file is too large.")
        stored = as_reply(self.stored(name, content, "batch")) if fault != "upload_cut" else Reply()
        return replace(stored, delivery="close") if fault in ("upload_cut", "upload_lost") else stored

    def stored(self, name: str, content: bytes, purpose: str) -> dict[str, Any]:
        """Keep a file, and say what is said of it."""
        facts = {"id": f"file-{len(self.files) + 1:04}", "object": "file", "bytes": len(content)}
        facts |= {"created_at": int(time.time()), "filename": name, "purpose": purpose, "status": "processed"}
        self.files[facts["id"]] = {**facts, "content": content}
        return facts

    def create(self, asked: dict[str, Any]) -> Reply:
        """Create a batch, as a fault wants it."""
        fault = self.fault("create")
        match fault["name"]:
            case "create_500":
                return refusal(500, "The server had an error.")
            case "create_429":
                return refusal(429, "Too many batches.")
            case "create_refused":
                return refusal(400, "Billing hard limit has been reached.")
            case "create_slow":
                asyncio.get_running_loop().call_later(fault["seconds"], partial(self.created, asked))
                return Reply(delivery="hang")
        if asked["input_file_id"] not in self.files:
            return refusal(400, f"No such file {asked['input_file_id']}.")
        reply = as_reply(shown(self.created(asked)))
        if fault["name"] == "create_lost":
            return replace(reply, delivery="close")
        return replace(reply, delay=fault["seconds"]) if fault["name"] == "create_late" else reply

    def created(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Make a batch; its file is read when it ends."""
        lines = self.files[asked["input_file_id"]]["content"].splitlines()
        batch = {
            "id": f"batch_{len(self.batches) + 1:04}",
            "object": "batch",
            "endpoint": asked["endpoint"],
            "errors": None,
            "input_file_id": asked["input_file_id"],
            "completion_window": asked["completion_window"],
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": int(time.time()),
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
            "metadata": asked.get("metadata"),
            "left": self.polls,
            "hidden": 0,
        }
        self.batches[batch["id"]] = batch
        return batch

    def listed(self, query: dict[str, str]) -> Reply:
        """A page of batches, the newest first."""
        if self.fault("list")["name"]:
            return refusal(500, "The server had an error.")
        found = [shown(batch) for batch in reversed(self.batches.values())]
        if after := query.get("after"):
            found = found[[batch["id"] for batch in found].index(after) + 1 :]
        page = found[: int(query.get("limit", 20))]
        return as_reply({"object": "list", "data": page, "has_more": len(page) < len(found)})

    def poll(self, name: str) -> Reply:
        """Say how far a batch is."""
        fault = self.fault("poll")["name"]
        if fault:
            return Reply(delivery="close") if fault == "poll_cut" else refusal(500, "The server had an error.")
        batch = self.batches.get(name)
        if batch is None:
            return refusal(404, f"No batch {name}.")
        if batch["status"] in ("validating", "in_progress") and batch["left"] is not None:
            batch["left"] -= 1
            batch["status"] = "in_progress"
            if batch["left"] < 0:
                self.finish(batch)
        elif batch["status"] == "cancelling":
            self.end(batch, "cancelled", len(self.lines(batch)) // 2, "batch_cancelled")
        elif batch["hidden"] > 0:
            batch["hidden"] -= 1
        return as_reply(shown(batch))

    def cancel(self, name: str) -> Reply:
        """Stop a batch: half of it is answered by then."""
        batch = self.batches[name]
        if batch["status"] in ("validating", "in_progress"):
            batch["status"] = "cancelling"
        return as_reply(shown(batch))

    def finish_all(self) -> None:
        """End all batches that are at work."""
        for batch in self.batches.values():
            if batch["status"] in ("validating", "in_progress"):
                self.finish(batch)

    def finish(self, batch: dict[str, Any]) -> None:
        """End a batch by itself."""
        fault = self.fault("end")
        if fault["name"] == "failed":
            batch["status"] = "failed"
            said = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached for gpt-4o."}
            batch["errors"] = {"object": "list", "data": [said]}
        elif fault["name"] == "expired":
            self.end(batch, "expired", fault["after"], "batch_expired")
        else:
            self.end(batch, "completed", len(self.lines(batch)), "")

    def lines(self, batch: dict[str, Any]) -> list[bytes]:
        """The requests of a batch."""
        return self.files[batch["input_file_id"]]["content"].splitlines()

    def end(self, batch: dict[str, Any], status: str, answered: int, code: str) -> None:
        """Answer so many requests of a batch, and write its files."""
        output, errors = [], []
        for number, line in enumerate(self.lines(batch)):
            request = orjson.loads(line)
            written = {"id": f"batch_req_{number:06}", "custom_id": request["custom_id"], "response": None}
            if number >= answered:
                words = "This request could not be executed before the completion window expired."
                errors.append({**written, "error": {"code": code, "message": words}})
                continue
            reply = self.answer(orjson.dumps(request["body"]), batch["id"])
            if reply.delivery == "whole":
                facts = {"status_code": reply.status, "request_id": f"req_{number}", "body": as_json(reply.body)}
                (output if reply.status == 200 else errors).append({**written, "response": facts, "error": None})
        batch |= {"status": status, "hidden": 0}
        batch["request_counts"] |= {"completed": len(output), "failed": len(errors)}
        if self.fault("output")["name"]:
            batch["hidden"] = 2
        for name, lines in (("output", output), ("error", errors)):
            if lines:
                content = self.written(lines, batch) if name == "output" else as_lines(lines)
                batch[f"{name}_file_id"] = self.stored(f"{batch['id']}_{name}.jsonl", content, "batch_output")["id"]

    def written(self, lines: list[dict[str, Any]], batch: dict[str, Any]) -> bytes:
        """The output file, with every fault of lines that waits."""
        after, escaped = b"", False
        while fault := self.fault("lines")["name"]:
            if fault == "shuffled":
                lines = lines[::-1]
            elif fault == "doubled":
                lines = [*lines, *lines[:2]]
            elif fault == "missing":
                lines = lines[2:]
            elif fault == "surrogates":
                escaped = True
            else:
                strange = {**lines[0], "custom_id": "another"}
                after += b'{"cut": \n' + as_lines([strange, {"id": "batch_req_x"}])
        return (as_lines(lines) if not escaped else as_escaped(lines)) + after

    def content(self, name: str) -> Reply:
        """The content of a file."""
        fault = self.fault("content")["name"]
        if fault == "content_404" or name not in self.files:
            return refusal(404, f"No such File object: {name}")
        if fault == "content_500":
            return refusal(500, "The server had an error.")
        reply = Reply(200, self.files[name]["content"], "application/octet-stream")
        if fault == "content_cut":
            return replace(reply, delivery="cut", options={"fraction": 0.5, "reset": False})
        return reply


def shown(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch as a client sees it."""
    facts = {key: value for key, value in batch.items() if key not in ("left", "hidden")}
    return {**facts, "output_file_id": None, "error_file_id": None} if batch["hidden"] else facts


def refusal(status: int, message: str) -> Reply:
    """An error as OpenAI words it."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return as_reply({"error": {"message": message, "type": kind, "param": None, "code": None}}, status)


def parsed_form(content_type: str, body: bytes) -> tuple[str, bytes]:
    """The name and the content of the file in a form."""
    boundary = b"--" + BOUNDARY.search(content_type)[1].encode()
    for part in body.split(boundary):
        head, _, content = part.partition(b"\r\n\r\n")
        if found := FILENAME.search(head):
            return found[1].decode(), content.removesuffix(b"\r\n")
    raise ValueError("the form has no file")


def as_json(body: bytes) -> Any:
    """A body as a value, or as a text where it is none."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace")


def as_lines(lines: list[dict[str, Any]]) -> bytes:
    """One JSON document a line."""
    return b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)


def as_escaped(lines: list[dict[str, Any]]) -> bytes:
    """The same with a lone surrogate in each answer, as only an escape can write it."""
    return as_lines(lines).replace(b'"role":"assistant"', b'"role":"assistant","name":"\\ud800"')
