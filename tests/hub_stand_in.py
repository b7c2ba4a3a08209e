"""A Hugging Face Hub on this machine, for tests without a network: it serves and receives files of model repositories.

It speaks the part of the Hub's HTTP interface that ``hf_hub_download`` and ``HfApi.upload_folder`` use with
``HF_HUB_DISABLE_XET=1``: resolve, repos/create, validate-yaml, preupload, Git LFS batch, and commit.
"""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """Repositories are folders ``root/OWNER/NAME``; uploaded LFS objects wait in ``root/lfs`` for their commit."""

    root: Path
    without: tuple[str, ...]  # headers that are not sent, as by some mirrors
    requests: list[str]
    private: set[str]  # names of private repositories
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def send_header(self, keyword: str, value: str) -> None:
        if keyword not in self.without:
            super().send_header(keyword, value)

    def do_HEAD(self) -> None:
        self.send_file(with_body=False)

    def do_GET(self) -> None:
        if (match := re.fullmatch(r"/api/models/([^/]+/[^/]+)", self.path)) and (self.root / match[1]).is_dir():
            return self.answer(200, {"id": match[1], "private": match[1] in self.private, "siblings": []})
        return self.send_file(with_body=True)

    def do_PUT(self) -> None:
        self.requests.append(f"PUT {self.path}")
        body = self.read_body()
        oid = self.path.rsplit("/", 1)[1]
        if hashlib.sha256(body).hexdigest() != oid:
            return self.answer(400, {"error": "the object is not the one that was announced"})
        (self.root / "lfs").mkdir(exist_ok=True)
        (self.root / "lfs" / oid).write_bytes(body)
        return self.answer(200, {})

    def do_POST(self) -> None:
        self.requests.append(f"POST {self.path}")
        body = self.read_body()
        if self.path == "/api/repos/create":
            fields = json.loads(body)
            name = "/".join(filter(None, (fields.get("organization") or "me", fields["name"])))
            if (self.root / name).exists():
                error = "You already created this model repo"
                return self.answer(409, {"error": error, "url": f"{self.base}/{name}"})
            (self.root / name).mkdir(parents=True)
            if fields.get("private") or fields.get("visibility") == "private":
                self.private.add(name)
            return self.answer(200, {"url": f"{self.base}/{name}"})
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if match := re.fullmatch(r"/api/models/(.+)/preupload/\w+", self.path):
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith("safetensors") else "regular"}
                for f in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": [file | {"shouldIgnore": False, "oid": None} for file in files]})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.base}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        if match := re.fullmatch(r"/api/models/(.+)/commit/\w+", self.path):
            self.commit(self.root / match[1], [json.loads(line) for line in body.splitlines()])
            return self.answer(200, {"commitUrl": f"{self.base}/{match[1]}/commit/{COMMIT}", "commitOid": COMMIT})
        return self.answer(404, {"error": f"the stand-in does not know {self.path}"})

    def commit(self, repository: Path, entries: list[dict]) -> None:
        for entry in entries:
            value = entry["value"]
            if entry["key"] == "file":
                self.store(repository / value["path"], base64.b64decode(value["content"]))
            elif entry["key"] == "lfsFile":
                self.store(repository / value["path"], (self.root / "lfs" / value["oid"]).read_bytes())

    @staticmethod
    def store(path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    @property
    def base(self) -> str:
        return f"http://{self.headers['Host']}"

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send_file(self, with_body: bool) -> None:
        self.requests.append(" ".join(filter(None, (self.command, self.path, self.headers.get("Range")))))
        match = re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", unquote(self.path))
        file = self.root / match[1] / match[3] if match else None
        if file is None or not file.is_file():
            self.send_response(404)
            known = match and (self.root / match[1]).is_dir()
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = file.read_bytes()
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(start[1]) if start else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - begin))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(content[begin:])

    def answer(self, status: int, value: dict) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def local_hub(root: Path, without: tuple[str, ...] = ()):
    """Serve the repositories under ``root`` and yield the address and the list of requests so far.

    Args:
        without: names of headers that are not sent.
    """
    handler = type("LocalHandler", (Handler,), {"root": root, "without": without, "requests": [], "private": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def environment(address: str, cache: Path) -> dict[str, str]:
    """Return the variables that make ``huggingface_hub`` in a new process use the stand-in, and nothing else."""
    return {
        "HF_ENDPOINT": address,
        "HF_HOME": str(cache),
        "HF_TOKEN": "hf_local",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
