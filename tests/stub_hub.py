"""A hub on loopback, with repositories in memory: as much of its protocol as sending and fetching a folder takes."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "a" * 40


@contextmanager
def stub_hub() -> Iterator[tuple[str, dict[str, dict[str, bytes]]]]:
    """Address, and files by name of each repository."""
    repositories: dict[str, dict[str, bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def answer(self, content: bytes | dict, code: int = 200, **headers: str) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def repository(self) -> str:
            return "/".join(self.path.removeprefix("/api/models/").strip("/").split("/")[:2])

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            files = repositories.get(self.repository())
            if files is None:
                return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            if self.path.startswith("/api/models/"):
                listed = [{"rfilename": name} for name in files]
                entries = [{"type": "file", "path": n, "size": len(v), "oid": "0"} for n, v in files.items()]
                known = {"id": self.repository(), "sha": COMMIT, "siblings": listed, "private": False, "tags": []}
                return self.answer(json.dumps(entries).encode() if "/tree/" in self.path else known)
            content = files.get(self.path.split(f"/resolve/{COMMIT}/")[-1].split("/resolve/main/")[-1])
            if content is None:
                return self.answer({"error": "not found"}, 404, X_Error_Code="EntryNotFound")
            return self.answer(content, X_Repo_Commit=COMMIT, ETag=f'"{hashlib.sha1(content).hexdigest()}"')

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path == "/api/repos/create":
                told = json.loads(body)
                name = f"{told['organization']}/{told['name']}" if told.get("organization") else told["name"]
                repositories.setdefault(name, {})
                return self.answer({"url": f"{address}/{name}", "id": name})
            if self.path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            if "/preupload/" in self.path:
                asked = json.loads(body)["files"]
                plain = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]
                return self.answer({"files": plain})
            if "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        content = base64.b64decode(line["value"]["content"])
                        repositories[self.repository()][line["value"]["path"]] = content
                where = f"{address}/{self.repository()}/commit/{COMMIT}"
                return self.answer({"commitUrl": where, "commitOid": COMMIT, "pullRequestUrl": None})
            return self.answer({"error": self.path}, 404)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield address, repositories
    finally:
        server.shutdown()
        server.server_close()
