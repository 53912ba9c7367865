"""A server that stands where W&B should: it takes runs, refuses artifacts, and can be lost."""

import json
from collections.abc import Callable
from typing import Any

from tests.support.false_server import Answer, FalseServer, of_json, raw


class FalseWandb(FalseServer):
    """Once `lost` is set, it is the answer to everything."""

    lost: Answer | None = None

    def __init__(self) -> None:
        super().__init__({})

    def answer(self, path: str, body: bytes) -> Answer:
        """Answer what W&B's process asks so that it goes on."""
        if self.lost is not None:
            return self.lost
        if path != "graphql":
            return of_json({})
        if b"Artifact" in body:
            return of_json({"errors": [{"message": "no artifacts here"}]})
        return of_json({"data": self._data(json.loads(body))})

    def _data(self, asked: Any) -> Any:
        given = asked.get("variables") or {}
        project = {"name": "p", "entity": {"name": "e"}}
        bucket = {"id": "1", "name": given.get("name"), "displayName": "r", "project": project}
        files = [{"name": n, "uploadUrl": f"{self.url}/{n}"} for n in given.get("files") or []]
        return {
            "viewer": {"id": "1", "entity": "e", "username": "u", "teams": {"edges": []}},
            "serverInfo": {"features": []},
            "model": {"bucket": None},
            "upsertBucket": {"bucket": bucket | {"historyLineCount": 0}, "inserted": True},
            "createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files},
        }


LOSSES: dict[str, Callable[[FalseWandb], object]] = {
    "never answers": lambda server: setattr(server, "lost", server.silent),
    "refuses": FalseServer.close,
    "answers 500": lambda server: setattr(server, "lost", raw(b"", "500 Internal Server Error")),
}
"""How it is lost."""
