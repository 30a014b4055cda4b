"""Make the demo's extract of GitHub's webhooks from two packages of the npm registry.

    npm pack @octokit/webhooks-examples@7.6.1 @octokit/webhooks-schemas@7.6.1
    python tools/make_github_extract.py octokit-webhooks-examples-7.6.1.tgz octokit-webhooks-schemas-7.6.1.tgz

Both are MIT licensed (octokit/webhooks). All payloads of api.github.com are taken, in the order of the package, and the
whole schema; nothing is changed but the white space. The result is the same byte for byte at every run.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "src" / "nexus" / "demo" / "data"


def main(examples: Path, schemas: Path) -> None:
    hooks = _member(examples, "package/api.github.com/index.json")
    lines = [_compact([hook["name"], payload]) for hook in hooks for payload in hook["examples"]]
    _write("github.jsonl.gz", "".join(f"{line}\n" for line in lines))
    _write("github-schema.json.gz", _compact(_member(schemas, "package/schema.json")))
    print(f"{len(lines)} payloads of {len(hooks)} hooks")


def _member(archive: Path, name: str) -> Any:
    with tarfile.open(archive) as files:
        content = files.extractfile(name)
        assert content is not None
        return json.load(content)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _write(name: str, text: str) -> None:
    data = text.encode()
    # Level 9 and no time of day in the header: the same rows are the same file.
    packed = gzip.compress(data, 9, mtime=0)
    (FOLDER / name).write_bytes(packed)
    print(f"{name:22} {len(packed):7} bytes {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
