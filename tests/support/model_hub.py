"""A hub of models over HTTP on this machine: the endpoints that an upload of huggingface_hub uses.

Repositories are kept in memory. Files above `LARGE` go the way of Git LFS: announced, sent by PUT,
then named in the commit by their hash.
"""

import base64
import hashlib
import json
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

LARGE = 100_000


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


class ModelHub:
    """Serves from `with` to its end. `token` is the only one it takes; `writable` may be false."""

    def __init__(self, token: str = "hf_right", *, writable: bool = True) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.token, self.writable = token, writable
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "ModelHub":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, body: bytes, token: str) -> tuple[int, Any]:
        """Return status and JSON of a request."""
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if method == "PUT":
            self.objects[path.rpartition("/")[2]] = body
            return 200, {}
        if token != f"Bearer {self.token}":
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        name = "/".join(path.removeprefix("/api/models").split("/")[1:3]).removesuffix(".git")
        repository = self.repositories.get(name)
        if repository is None:
            return 404, {"error": "Repository not found", "code": "RepoNotFound"}
        return self._of_repository(name, repository, path, body)

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        if not self.writable:
            return 403, {"error": "You don't have the rights to create a model here"}
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.repositories:
            return 409, {"error": "You already created this repo", "url": f"{self.url}/{name}"}
        is_private = asked.get("private", False) or asked.get("visibility") == "private"
        self.repositories[name] = Repository(is_private)
        return 200, {"url": f"{self.url}/{name}"}

    def _of_repository(
        self, name: str, repository: Repository, path: str, body: bytes
    ) -> tuple[int, Any]:
        if path.endswith("/preupload/main"):
            return 200, {"files": [_mode(file) for file in json.loads(body)["files"]]}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [*map(self._place, _objects(body))]}
        if path.endswith("/commit/main"):
            self._commit(repository, [json.loads(line) for line in body.splitlines()])
            oid = f"{len(repository.commits):040x}"
            url = f"{self.url}/{name}/commit/{oid}"
            return 200, {"success": True, "commitOid": oid, "commitUrl": url}
        if "/tree/" in path:
            return 200, [_entry(*item) for item in repository.files.items()]
        siblings = [{"rfilename": file} for file in repository.files]
        return 200, {"id": name, "private": repository.private, "siblings": siblings}

    def _place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        upload = {"href": f"{self.url}/objects/{wanted['oid']}"}
        return wanted | {"actions": {"upload": upload}}

    def _commit(self, repository: Repository, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "header":
                repository.commits.append(value["summary"])
            elif key == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                content = self.objects[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"]
                repository.files[value["path"]] = content
            elif key == "deletedFile":
                del repository.files[value["path"]]

    def _handler(hub) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                path = urlsplit(self.path).path
                token = self.headers.get("authorization", "")
                status, value = hub.answer(self.command, path, body, token)
                sent = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(sent)))
                if isinstance(value, dict) and "error" in value:
                    self.send_header("x-error-message", value["error"])
                    self.send_header("x-error-code", value.get("code", ""))
                self.end_headers()
                with suppress(BrokenPipeError):
                    self.wfile.write(sent)

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *_: object) -> None:
                """Stay silent."""

        return Handler


def _objects(body: bytes) -> list[dict[str, Any]]:
    objects: list[dict[str, Any]] = json.loads(body)["objects"]
    return objects


def _mode(file: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if file["size"] > LARGE else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}


def _entry(path: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(content).hexdigest()
    return {"type": "file", "path": path, "size": len(content), "oid": oid}
