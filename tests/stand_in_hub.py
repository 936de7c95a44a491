"""A stand-in for the Hub on this machine: enough of its HTTP interface to push, look, download and delete models.

In: a port of 127.0.0.1. Out: repositories in memory, with commits and large files as git-lfs has them. It knows two
users, keeps private repositories from strangers, checks hashes and cards, and can die in the middle of an upload. Not
here: Xet, branches, pull requests, gated repositories, datasets, Spaces.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

USERS = {"hf_ada": "ada", "hf_bob": "bob"}  # token -> name
LARGE = (".safetensors", ".bin", ".pkl", ".mp4", ".png")
LICENSES = ("apache-2.0", "mit", "cc-by-4.0", "other")
TASKS = ("image-to-video", "audio-to-audio", "text-to-video")


@dataclass
class File:
    data: bytes
    large: bool
    claimed_size: int | None = None  # what the listing says, for a file too large for a test

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def size(self) -> int:
        return len(self.data) if self.claimed_size is None else self.claimed_size

    @property
    def oid(self) -> str:
        body = self.data
        if self.large:
            text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n"
            body = text.encode()
        return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()

    @property
    def known_as(self) -> str:
        """What an upload compares its own file with."""
        return self.sha256 if self.large else self.oid


@dataclass
class Repo:
    owner: str
    private: bool
    commits: list[tuple[str, dict[str, File]]] = field(default_factory=lambda: [("0" * 40, {})])

    def at(self, revision: str) -> tuple[str, dict[str, File]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


class StandInHub:
    """`with StandInHub() as hub:` serves at `hub.url`; `hub.repos`, `hub.requests` are there to look at."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.dies_at: str | None = None  # "upload", "commit" or "all": the connection breaks there
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> StandInHub:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.server.shutdown()
        self.server.server_close()

    def files(self, repo_id: str) -> dict[str, bytes]:
        return {name: file.data for name, file in self.repos[repo_id].commits[-1][1].items()}

    def put(self, repo_id: str, files: dict[str, bytes], private: bool = False, **claimed_sizes: int) -> None:
        """A repository as somebody else may have made it, with any tool."""
        repo = self.repos.setdefault(repo_id, Repo(repo_id.split("/")[0], private))
        there = {n: File(data, n.endswith(LARGE), claimed_sizes.get(n.split(".")[0])) for n, data in files.items()}
        repo.commits.append((hashlib.sha1(repr(sorted(files)).encode()).hexdigest(), repo.commits[-1][1] | there))


class _Stop(Exception):
    """An answer that ends the request: status, body, headers."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StandInHub

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.path_, self.query = unquote(url.path), parse_qs(url.query)
        self.hub.requests.append((self.command, self.path_))
        self.user = USERS.get(self.headers.get("authorization", "").removeprefix("Bearer "))
        try:
            if self.hub.dies_at == "all":
                raise ConnectionAbortedError
            for pattern, answer in _ROUTES:
                if found := re.fullmatch(pattern, f"{self.command} {self.path_}"):
                    answer(self, *found.groups())
            raise _Stop(404, {"error": "nothing is there"})
        except _Stop as stop:
            self._send(*stop.args)
        except ConnectionAbortedError:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _send(self, status: int, body=None, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (
            {"Content-Type": "application/json", "Content-Length": str(len(data))} | (headers or {})
        ).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        whole = b""
        while count := int(self.rfile.readline(), 16):
            whole += self.rfile.read(count)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _fail(self, status: int, code: str, message: str) -> None:
        raise _Stop(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def _writer(self) -> str:
        if self.user is None:
            self._body()
            self._fail(401, "", "Invalid username or password.")
        return self.user

    def _repo(self, repo_id: str, to_write: bool = False) -> Repo:
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and self.user != repo.owner):
            self._body()
            self._fail(404 if self.user else 401, "RepoNotFound", "Repository not found")
        if to_write and self._writer() != repo.owner:
            self._body()
            self._fail(403, "", "Forbidden: you must use a write token to upload to a repository.")
        return repo

    def _at(self, repo_id: str, revision: str) -> tuple[str, dict[str, File]]:
        found = self._repo(repo_id).at(revision)
        return found if found is not None else self._fail(404, "RevisionNotFound", "Invalid rev id")

    def whoami(self) -> None:
        raise _Stop(200, {"type": "user", "name": self._writer(), "orgs": [], "auth": {"type": "access_token"}})

    def validate_card(self) -> None:
        errors = card_errors(json.loads(self._body())["content"])
        answer = {"errors": [{"message": text} for text in errors], "warnings": []}
        raise _Stop(400 if errors else 200, answer)

    def create(self) -> None:
        user, wish = self._writer(), json.loads(self._body())
        owner = wish.get("organization") or user
        repo_id = f"{owner}/{wish['name']}"
        if owner != user:
            self._fail(403, "", f"You don't have the rights to create a model under the namespace {owner!r}.")
        url = f"{self.hub.url}/{repo_id}"
        if repo_id in self.hub.repos:
            raise _Stop(409, {"error": "You already created this model repo", "url": url})
        private = wish.get("private") or wish.get("visibility") == "private"
        self.hub.repos[repo_id] = Repo(owner, bool(private))
        raise _Stop(200, {"url": url, "name": repo_id, "id": "1"})

    def delete(self) -> None:
        wish = json.loads(self._body())
        repo_id = f"{wish.get('organization') or self.user}/{wish['name']}"
        self._repo(repo_id, to_write=True)
        del self.hub.repos[repo_id]
        raise _Stop(200, {})

    def info(self, repo_id: str, revision: str | None = None) -> None:
        sha, files = self._at(repo_id, revision or "main")
        siblings = []
        for name, file in sorted(files.items()):
            facts = {"rfilename": name, "blobId": file.oid, "size": file.size}
            if file.large:
                facts["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": 130}
            siblings.append(facts if self.query.get("blobs") else {"rfilename": name})
        about = {"id": repo_id, "modelId": repo_id, "sha": sha, "siblings": siblings, "tags": []}
        raise _Stop(200, about | {"private": self.hub.repos[repo_id].private, "gated": False, "disabled": False})

    def tree(self, repo_id: str, revision: str) -> None:
        _, files = self._at(repo_id, revision)
        raise _Stop(200, [self._entry(name, file) for name, file in sorted(files.items())])

    @staticmethod
    def _entry(name: str, file: File) -> dict:
        entry = {"type": "file", "path": name, "oid": file.oid, "size": file.size}
        return entry | ({"lfs": {"oid": file.sha256, "size": file.size, "pointerSize": 130}} if file.large else {})

    def preupload(self, repo_id: str) -> None:
        there = self._repo(repo_id, to_write=True).commits[-1][1]
        wanted = json.loads(self._body())["files"]
        modes = [
            {
                "path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False, "oid": there[file["path"]].known_as if file["path"] in there else None,
            }
            for file in wanted
        ]  # fmt: skip
        raise _Stop(200, {"files": modes})

    def batch(self, repo_id: str) -> None:
        self._repo(repo_id, to_write=True)
        objects = []
        for wish in json.loads(self._body())["objects"]:
            one = {"oid": wish["oid"], "size": wish["size"]}
            if wish["oid"] not in self.hub.large:
                one["actions"] = {"upload": {"href": f"{self.hub.url}/large/{wish['oid']}", "header": {}}}
            objects.append(one)
        answer = {"transfer": "basic", "objects": objects}
        raise _Stop(200, answer, {"Content-Type": "application/vnd.git-lfs+json"})

    def upload(self, oid: str) -> None:
        if self.hub.dies_at == "upload":
            self.rfile.read1(1000)
            raise ConnectionAbortedError
        data = self._body()
        if hashlib.sha256(data).hexdigest() != oid:
            self._fail(400, "", "the content has another hash")
        self.hub.large[oid] = data
        raise _Stop(200, {})

    def commit(self, repo_id: str) -> None:
        repo, body = self._repo(repo_id, to_write=True), self._body()
        if self.hub.dies_at == "commit":
            raise ConnectionAbortedError
        files = dict(repo.commits[-1][1])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                data = self.hub.large.get(value["oid"])
                if data is None or len(data) != value["size"]:
                    self._fail(400, "", f"{value['path']} was not uploaded")
                files[value["path"]] = File(data, True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = hashlib.sha1(body + repo.commits[-1][0].encode()).hexdigest()
        repo.commits.append((sha, files))
        raise _Stop(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{sha}"})

    def resolve(self, repo_id: str, revision: str, name: str) -> None:
        sha, files = self._at(repo_id, revision)
        file = files.get(name)
        if file is None:
            answer = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": sha}
            raise _Stop(404, {"error": "Entry not found"}, answer)
        headers = {"X-Repo-Commit": sha, "ETag": f'"{file.sha256 if file.large else file.oid}"'}
        if file.large:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        raise _Stop(200, file.data, headers | {"Content-Type": "application/octet-stream"})


_REPO = r"([\w.-]+/[\w.-]+)"
_ROUTES = (
    ("GET /api/whoami-v2", _Handler.whoami),
    ("POST /api/validate-yaml", _Handler.validate_card),
    ("POST /api/repos/create", _Handler.create),
    ("DELETE /api/repos/delete", _Handler.delete),
    (f"GET /api/models/{_REPO}", _Handler.info),
    (f"GET /api/models/{_REPO}/revision/([^/]+)", _Handler.info),
    (f"GET /api/models/{_REPO}/tree/([^/]+)", _Handler.tree),
    (f"POST /api/models/{_REPO}/preupload/main", _Handler.preupload),
    (f"POST /api/models/{_REPO}/commit/main", _Handler.commit),
    (rf"POST /{_REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT /large/([0-9a-f]{64})", _Handler.upload),
    (f"(?:GET|HEAD) /{_REPO}/resolve/([^/]+)/(.+)", _Handler.resolve),
)


def card_errors(text: str) -> list[str]:
    """What the Hub would say against a card's header, as far as its documentation tells."""
    found = re.match(r"---\n(.*?)\n---\n", text, re.S)
    try:
        data = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError as error:
        return [f"the header is no YAML: {error}"]
    if not isinstance(data, dict):
        return ["there is no header"]
    errors = []
    if data.get("license") not in LICENSES:
        errors.append(f'"license" must be one of {LICENSES}')
    if data.get("license") == "other" and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", data.get("license_name", "")):
        errors.append('"license_name" must be there, in small letters')
    if not re.fullmatch(r"LICENSE(\.md)?|https://\S+", data.get("license_link", "LICENSE")):
        errors.append('"license_link" must be LICENSE, LICENSE.md or an address')
    if data.get("pipeline_tag", TASKS[0]) not in TASKS:
        errors.append('"pipeline_tag" is no task')
    if not all(isinstance(tag, str) for tag in data.get("tags", [])):
        errors.append('"tags" must be texts')
    for model in data.get("model-index", []):
        for result in model["results"]:
            good = all(isinstance(metric.get("value"), (int, float)) for metric in result["metrics"])
            if not good or not {"type", "name"} <= result["dataset"].keys() or "type" not in result["task"]:
                errors.append('"model-index" has a result without task, dataset or value')
    return errors
