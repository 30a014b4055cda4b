"""One measurement in one process: `python -m nexus.bench CONTESTANT EVENTS FOLDER` prints its figures as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nexus.bench import MISSING
from nexus.bench import on_kafka as on_kafka
from nexus.bench import on_nats as on_nats
from nexus.bench import on_rabbitmq as on_rabbitmq
from nexus.bench.contestants import CONTESTANTS


def main() -> int:
    name, events, folder = sys.argv[1:]
    try:
        figures = CONTESTANTS[name](int(events), Path(folder))
    except ModuleNotFoundError as error:
        print(f"{error}; pip install 'nexus-bus[bench]'", file=sys.stderr)
        return MISSING
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
