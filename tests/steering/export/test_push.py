"""What `push` asks of the hub, which here is a server in this process that keeps what it is sent."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest

from lab.records.errors import StorageError
from steering.export.publish import METADATA, HubRepository, hub_repository, push, pushed_files

REPOSITORY = HubRepository("me/opening", "hf_invented")


class Hub(ThreadingHTTPServer):
    """A hub that takes small files."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.created: list[dict[str, object]] = []
        self.tokens: set[str | None] = set()
        self.files: dict[str, bytes] = {}
        self.refuses = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Asked(BaseHTTPRequestHandler):
    """The requests of a push."""

    server: Hub

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.tokens.add(self.headers["Authorization"])
        if self.server.refuses:
            self.answer(403, {"error": "You may not write to me."})
        elif self.path == "/api/repos/create":
            self.server.created.append(json.loads(text))
            self.answer(200, {"url": f"{self.server.address}/me/opening"})
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif self.path.startswith("/api/models/me/opening/preupload/main"):
            paths = [file["path"] for file in json.loads(text)["files"]]
            files = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            self.answer(200, {"files": files})
        elif self.path.startswith("/api/models/me/opening/commit/main"):
            for line in map(json.loads, text.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            address = f"{self.server.address}/me/opening/commit/{40 * 'a'}"
            self.answer(200, {"commitUrl": address, "commitOid": 40 * "a", "success": True})
        else:
            self.answer(404, {"error": f"no {self.path}"})

    def answer(self, status: int, told: dict[str, object]) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *told: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        # Clients that were made offline stay so.
        huggingface_hub.close_session()
        yield server
        huggingface_hub.close_session()
        server.shutdown()
        thread.join()


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / "baked"
    (path / "inner").mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "inner" / "weights.safetensors").write_bytes(bytes(range(256)))
    (path / "README.md").write_text("another card")
    return path


def test_a_directory_goes_up_file_by_file_with_its_card_into_a_private_repository(hub, checkpoint):
    address = push(checkpoint, "# the card\n", REPOSITORY)
    assert address.startswith(f"{hub.address}/me/opening/commit/")
    assert hub.files == {
        "config.json": b"{}",
        "inner/weights.safetensors": bytes(range(256)),
        "README.md": METADATA.encode() + b"# the card\n",
    }
    [created] = hub.created
    assert (created["organization"], created["name"], created["visibility"]) == ("me", "opening", "private")
    assert hub.tokens == {"Bearer hf_invented"}


def test_a_file_goes_up_by_its_own_name(hub, tmp_path):
    (tmp_path / "v.gguf").write_bytes(b"GGUF")
    assert list(pushed_files(tmp_path / "v.gguf")) == ["v.gguf"]
    push(tmp_path / "v.gguf", "card", REPOSITORY)
    assert hub.files == {"v.gguf": b"GGUF", "README.md": METADATA.encode() + b"card"}


def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(hub, checkpoint):
    hub.refuses = True
    with pytest.raises(StorageError, match=r"baked is written, but not pushed to me/opening: .*403") as refused:
        push(checkpoint, "card", REPOSITORY)
    assert "\n" not in str(refused.value)
    assert "delete it and give the same command again" in str(refused.value)
    assert hub.files == {}


def test_without_a_network_the_export_stays_and_the_error_says_so(checkpoint):
    # The tests run with HF_HUB_OFFLINE set.
    with pytest.raises(StorageError, match=r"baked is written, but not pushed to me/opening: .*offline mode"):
        push(checkpoint, "card", REPOSITORY)
    assert (checkpoint / "config.json").exists()


def test_the_token_is_the_one_that_the_client_knows(monkeypatch):
    monkeypatch.setattr("steering.export.publish.get_token", lambda: "hf_invented")
    assert hub_repository("me/opening") == REPOSITORY


def test_without_a_token_it_is_refused_and_says_what_would_go_where(monkeypatch):
    monkeypatch.setattr("steering.export.publish.get_token", lambda: None)
    with pytest.raises(StorageError, match=r"no token .*`hf auth login`.* card, as README\.md, would go to me/opening"):
        hub_repository("me/opening")


@pytest.mark.parametrize("name", ["opening", "me/", "/opening", "a/b/c", "me/open ing", "me/a..b", ""])
def test_what_is_no_owner_and_name_is_refused(name, monkeypatch):
    monkeypatch.setattr("steering.export.publish.get_token", lambda: "hf_invented")
    with pytest.raises(StorageError, match=r"^--push .*: want OWNER/NAME"):
        hub_repository(name)
