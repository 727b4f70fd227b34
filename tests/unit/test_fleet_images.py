"""Images are what the OCI layout says, and the same bytes each time."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile

from scripts.fleet.images import image


def members(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive.getmembers()}


def test_every_digest_leads_to_its_bytes_and_the_layer_holds_the_program():
    files = {"program": (b"#!", 0o755), "cache/code": (b"x", 0o644)}
    made = image("localhost/opendt-worker:wasm", files, "amd64")
    assert made == image("localhost/opendt-worker:wasm", files, "amd64")
    parts = members(made)
    for name, blob in parts.items():
        if name.startswith("blobs/"):
            assert hashlib.sha256(blob).hexdigest() == name.rpartition("/")[2]

    def blob(described: dict[str, str]) -> bytes:
        return parts["blobs/sha256/" + described["digest"].removeprefix("sha256:")]

    (entry,) = json.loads(parts["index.json"])["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == "localhost/opendt-worker:wasm"
    manifest = json.loads(blob(entry))
    config = json.loads(blob(manifest["config"]))
    (layer,) = manifest["layers"]
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    assert (config["architecture"], config["config"]["Entrypoint"]) == ("amd64", ["/program"])
    assert members(blob(layer)) == {"program": b"#!", "cache/code": b"x"}
