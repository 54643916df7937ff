"""A local server that speaks the Hub's endpoints which an upload uses, with faults on demand.

whoami, create, model info, preupload, LFS batch (basic and multipart transfer) with verification, validate-yaml,
commit. Files that end in .gguf or .png go through LFS, in parts of PART_BYTES where they are larger. Only stored
objects whose sha256 and size are right can be committed.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PART_BYTES = 1 << 18
POLL_SECONDS = 0.01  # until a shutdown is seen: every test waits for one
TOKEN = "hf_" + "s3cret" * 5


class Hub(ThreadingHTTPServer):
    """The server's state: repositories, LFS objects, commits, requests; and the faults."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, dict]] = {}
        self.cards: dict[str, dict] = {}  # front matter of models' cards
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.commits: list[dict] = []
        self.requests: list[str] = []
        self.received: dict[str, int] = {}  # bytes of bodies by LFS object
        self.read_only: set[str] = set()  # repositories that answer 403
        self.breaks = 0  # uploads to break in their middle
        # LFS object that is read to its middle and no further, or "commit": made, not answered.
        self.stall: str | None = None
        self.stalled, self.go_on = threading.Event(), threading.Event()
        threading.Thread(target=self.serve_forever, args=(POLL_SECONDS,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def bytes_of(self, repo: str) -> dict[str, bytes]:
        """Return the content of every file of a repository."""
        return {path: file["content"] for path, file in self.repositories[repo].items()}

    def handle_error(self, request, client_address) -> None:
        """Print nothing: a killed uploader leaves broken connections."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement of its head
    server: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def answer(self, value: object, status: int = 200, **headers: str) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def allowed(self, repo: str | None = None) -> bool:
        """Answer 401 without the token (in words that repeat it), 403 where the repository is not the user's."""
        given = self.headers.get("Authorization", "")
        if given != f"Bearer {TOKEN}":
            self.answer({"error": f"Invalid credentials in Authorization header: {given}"}, 401)
        elif repo in self.server.read_only:
            self.answer({"error": f"Forbidden for {given}"}, 403)
        else:
            return True
        return False

    def do_GET(self) -> None:
        self.server.requests.append(f"GET {self.path}")
        path = self.path.split("?")[0]
        if path == "/api/whoami-v2":
            if self.allowed():
                self.answer({"type": "user", "name": "me", "auth": {"type": "access_token"}})
        elif (match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/main)?", path)) and match[
            1
        ] in self.server.repositories:
            siblings = []
            for name, file in self.server.repositories[match[1]].items():
                entry = {"rfilename": name, "size": len(file["content"]), "blobId": file["blob"]}
                if file["lfs"]:
                    entry["lfs"] = {"sha256": file["lfs"], "size": len(file["content"]), "pointerSize": 130}
                siblings.append(entry)
            card = self.server.cards.get(match[1])
            self.answer({"id": match[1], "sha": "0" * 40, "siblings": siblings, "cardData": card})
        else:
            self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    def do_POST(self) -> None:
        self.server.requests.append(f"POST {self.path}")
        path, body = self.path.split("?")[0], self.body()
        if path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted['organization'] or 'me'}/{wanted['name']}"
            if self.allowed(repo):
                known = repo in self.server.repositories
                self.server.repositories.setdefault(repo, {})
                self.answer({"url": f"{self.server.url}/{repo}"}, 409 if known else 200)
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            if self.allowed(match[1]):
                self.answer({"files": [self.mode(match[1], file) for file in json.loads(body)["files"]]})
        elif match := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            if self.allowed(match[1]):
                self.answer(
                    {
                        "transfer": "multipart",
                        "objects": [self.action(wanted) for wanted in json.loads(body)["objects"]],
                    }
                )
        elif match := re.fullmatch(r"/lfs/([0-9a-f]{64})/(complete|verify)", path):
            self.finish(match[1], match[2], json.loads(body))
        elif match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            if self.allowed(match[1]):
                self.commit(match[1], [json.loads(line) for line in body.splitlines()])
        else:
            self.answer({"error": "no such address"}, 404)

    def mode(self, repo: str, file: dict) -> dict:
        there = self.server.repositories[repo].get(file["path"])
        large = file["path"].endswith((".gguf", ".png"))
        oid = there and (there["lfs"] if large else there["blob"])
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

    def action(self, wanted: dict) -> dict:
        oid, size = wanted["oid"], wanted["size"]
        known = {"oid": oid, "size": size}
        if oid in self.server.objects:
            return known
        place = f"{self.server.url}/lfs/{oid}"
        verify = {"href": f"{place}/verify"}
        if size <= PART_BYTES:
            return {**known, "actions": {"upload": {"href": f"{place}/1"}, "verify": verify}}
        self.server.parts[oid] = {}
        header = {f"{n + 1:05d}": f"{place}/{n + 1}" for n in range(-(-size // PART_BYTES))}
        upload = {"href": f"{place}/complete", "header": {"chunk_size": str(PART_BYTES), **header}}
        return {**known, "actions": {"upload": upload, "verify": verify}}

    def do_PUT(self) -> None:
        self.server.requests.append(f"PUT {self.path}")
        _, _, oid, part = self.path.split("/")
        length = int(self.headers["Content-Length"])
        content = self.rfile.read(length // 2)
        if self.server.breaks:
            self.server.breaks -= 1
            self.close_connection = True
            self.connection.close()
            return
        if self.server.stall == oid and part == "2":
            self.server.stalled.set()
            self.server.go_on.wait(60)
        content += self.rfile.read(length - length // 2)
        if len(content) != length:
            self.close_connection = True
            return
        self.server.received[oid] = self.server.received.get(oid, 0) + length
        self.server.parts.setdefault(oid, {})[int(part)] = content
        if length <= PART_BYTES and hashlib.sha256(content).hexdigest() == oid:
            self.server.objects[oid] = content
        self.answer({}, ETag=f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"')

    def finish(self, oid: str, step: str, wanted: dict) -> None:
        if step == "complete":
            content = b"".join(self.server.parts[oid][part["partNumber"]] for part in wanted["parts"])
            if hashlib.sha256(content).hexdigest() == oid:
                self.server.objects[oid] = content
        right = oid in self.server.objects and (step == "complete" or len(self.server.objects[oid]) == wanted["size"])
        self.answer({} if right else {"error": "not the object"}, 200 if right else 422)

    def commit(self, repo: str, lines: list[dict]) -> None:
        files = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                content = self.server.objects.get(value["oid"])
                if content is None or len(content) != value["size"]:
                    return self.answer({"error": f"no object {value['oid']}"}, 422)
            else:
                content = base64.b64decode(value["content"])
            blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
            files[value["path"]] = {"content": content, "blob": blob, "lfs": value.get("oid")}
        self.server.repositories[repo].update(files)
        self.server.commits.append({"repo": repo, "files": sorted(files), **lines[0]["value"]})
        if self.server.stall == "commit":
            self.server.stalled.set()
            self.server.go_on.wait(60)
        number = f"{len(self.server.commits):040d}"
        self.answer({"commitUrl": f"{self.server.url}/{repo}/commit/{number}", "commitOid": number})
        return None


class Downloads(Handler):
    """The Hub that hands out the files of its repositories, as huggingface_hub and llama.cpp's -hf ask for them."""

    def do_HEAD(self) -> None:
        self.hand_out(with_body=False)

    def do_GET(self) -> None:
        repository, _, rest = self.path.removeprefix("/api/models/").partition("/tree/")
        if "/resolve/" in self.path:
            self.hand_out(with_body=True)
        elif self.path.endswith("/refs"):
            self.server.requests.append(f"GET {self.path}")
            self.answer({"branches": [{"name": "main", "targetCommit": "0" * 40}]})
        elif rest:
            self.server.requests.append(f"GET {self.path}")
            self.answer([listed(name, file["content"]) for name, file in self.server.repositories[repository].items()])
        elif self.path.removeprefix("/api/models/").split("/revision/")[0] in self.server.repositories:
            self.answer({"id": "any", "sha": "0" * 40, "siblings": []})
        else:
            super().do_GET()

    def hand_out(self, with_body: bool) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        content = self.server.repositories[repository][rest.partition("/")[2]]["content"]
        self.send_response(200)
        tag = hashlib.sha256(content).hexdigest()
        head = {"ETag": f'"{tag}"', "X-Repo-Commit": "0" * 40, "Content-Length": str(len(content))}
        for name, text in head.items():
            self.send_header(name, text)
        self.end_headers()
        if with_body:
            self.wfile.write(content)


def listed(name: str, content: bytes) -> dict:
    """Return a file as the Hub lists it."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return {"type": "file", "path": name, "oid": blob, "size": len(content)}
