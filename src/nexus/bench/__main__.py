"""One measurement in one process: `python -m nexus.bench CONTESTANT EVENTS FOLDER` prints its figures as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nexus.bench.contestants import CONTESTANTS


def main() -> int:
    name, events, folder = sys.argv[1:]
    try:
        figures = CONTESTANTS[name](int(events), Path(folder))
    except ModuleNotFoundError as error:
        print(error, file=sys.stderr)
        return 3
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
