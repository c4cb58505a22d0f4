"""A hub of our own on the loopback interface: the few requests that downloads make.

It serves folders as repositories, each with one commit, so the real client of the hub
is tested without a network.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _handler(
    repositories: dict[tuple[str, str], Path], seen: list[str], faults: dict[str, Any]
) -> type:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def _reply(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _json(self, content, status: int = 200, **headers: str) -> None:
            body = json.dumps(content).encode()
            self._reply(status, body, Content_Type="application/json", **headers)

        def _unknown(self, code: str) -> None:
            self._json({"error": code}, 404, X_Error_Code=code, X_Error_Message=code)

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length).decode()
            path = unquote(urlsplit(self.path).path).strip("/")
            seen.append(f"{self.command} {path}")
            if faults.get("failing", 0) > 0:
                faults["failing"] -= 1
                self._reply(503, b"not now")
                return
            parts = path.split("/")
            if "resolve" in parts and faults.get("failing_files", 0) > 0:
                faults["failing_files"] -= 1
                self._reply(503, b"not now")
                return
            if parts[0] == "api" and parts[1] in ("models", "datasets"):
                self._api(parts[1].rstrip("s"), parts[2:], body)
            elif "resolve" in parts:
                kind = "dataset" if parts[0] == "datasets" else "model"
                self._file(kind, parts[1:] if kind == "dataset" else parts)
            else:
                self._unknown("EntryNotFound")

        def _api(self, kind: str, parts: list[str], body: str) -> None:
            folder = repositories.get((kind, "/".join(parts[:2])))
            if folder is None:
                self._unknown("RepoNotFound")
                return
            verb = parts[2] if len(parts) > 2 else "revision"
            revision = parts[3] if len(parts) > 3 else "main"
            if revision not in ("main", COMMIT):
                self._unknown("RevisionNotFound")
                return
            files = sorted(f for f in folder.rglob("*") if f.is_file())
            names = [f.relative_to(folder).as_posix() for f in files]
            entries = [_entry(n, f) for n, f in zip(names, files, strict=True)]
            if verb == "revision":
                siblings = [{"rfilename": name} for name in names]
                name = "/".join(parts[:2])
                self._json(
                    {"id": name, "sha": COMMIT, "siblings": siblings, "private": False}
                    | {"gated": False, "disabled": False, "tags": [], "downloads": 0, "likes": 0}
                )
            elif verb == "tree":
                under = "/".join(parts[4:])
                chosen = [e for e in entries if e["path"].startswith(f"{under}/" if under else "")]
                if under and not chosen:
                    self._unknown("EntryNotFound")
                    return
                self._json(chosen)
            elif verb == "paths-info":
                wanted = parse_qs(body).get("paths") or json.loads(body)["paths"]
                self._json([e for e in entries if e["path"] in wanted])
            else:
                self._unknown("EntryNotFound")

        def _file(self, kind: str, parts: list[str]) -> None:
            folder = repositories.get((kind, "/".join(parts[:2])))
            if folder is None:
                self._unknown("RepoNotFound")
                return
            file = folder.joinpath(*parts[4:])
            if parts[3] not in ("main", COMMIT):
                self._unknown("RevisionNotFound")
            elif not file.is_file():
                self._json(
                    {}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT, ETag='"none"'
                )
            else:
                headers = {"ETag": f'"{_digest(file)}"', "X_Repo_Commit": COMMIT}
                content = file.read_bytes()
                if self.command == "GET" and file.name in faults.get("damaged", ()):
                    faults["damaged"].remove(file.name)
                    content = content[:-1] + bytes([content[-1] ^ 1])
                self._reply(200, content, **headers)

        do_GET = do_HEAD = do_POST = _answer

    return Handler


def _digest(file: Path) -> str:
    """Return git's name of a file's content."""
    content = file.read_bytes()
    blob = b"blob %d\0" % len(content) + content
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest()


def _entry(name: str, file: Path) -> dict[str, Any]:
    """Return what the hub says of a file; weights are kept outside of git (LFS)."""
    size = file.stat().st_size
    entry = {"type": "file", "path": name, "size": size, "oid": _digest(file)}
    if file.suffix == ".safetensors":
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        entry["lfs"] = {"oid": digest, "size": size, "pointerSize": 130}
    return entry


@contextlib.contextmanager
def loopback_hub(
    repositories: dict[tuple[str, str], Path], faults: dict[str, Any] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Serve folders as repositories; yield the endpoint and the requests seen so far.

    Parameters
    ----------
    repositories
        Folder by kind (model, dataset) and ``owner/name``.
    faults
        ``failing``: so many requests are answered by 503; ``failing_files``: so many requests for
        files. ``damaged``: names of files of which the next copy has its last bit flipped. All are
        used up.
    """
    seen: list[str] = []
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), _handler(repositories, seen, {} if faults is None else faults)
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
