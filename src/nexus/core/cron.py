"""When a recurring schedule fires: a cron expression in a time zone, and what becomes of firings that were missed.

The expressions, and what happens when the clocks change, are those of Debian's cron, by the package cronsim: a job at
a time that is left out fires right after; one at a time that comes twice fires once, but for ``*`` in minute or hour.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from nexus.core.control import Missed
from nexus.errors import SettingsError

GRACE_S = 60.0
"""A firing is missed when nobody was there for so long after its time. ``skip`` forgets those, ``once`` makes up for
all of them by the last, ``all`` by each, at most `MISSED_LIMIT` of them."""
MISSED_LIMIT = 1_000
_FIRST_WINDOW_S = 3_600.0


def check(cron: str, zone: str) -> None:
    """Raise `SettingsError` for what is no cron expression or no time zone."""
    if len(cron.split()) > 5:  # cronsim takes six for one with seconds, and has other rules for it
        raise SettingsError(f"{cron!r} has more than five fields", hint="minute hour day month weekday")
    next(firings(cron, zone, 0.0))


def firings(cron: str, zone: str, after: float) -> Iterator[float]:
    """Yield the times, in seconds since 1970, at which a schedule fires after a time, each later than the one before.

    Raises `SettingsError`.
    """
    try:
        start = datetime.fromtimestamp(after, UTC).astimezone(ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise SettingsError(f"{zone!r} is no time zone", hint="name one as Europe/Berlin, or UTC") from error
    try:
        times = CronSim(cron, start)
    except CronSimError as error:
        raise SettingsError(f"{cron!r} is no cron expression: {error}", hint="minute hour day month weekday") from error
    last = after
    for time in times:
        # Begun in the second of two equal hours, cronsim also tells a job's time in the first, which is over.
        if (fires_at := time.timestamp()) > last:
            last = fires_at
            yield fires_at
    raise SettingsError(f"{cron!r} does not fire within fifty years")


def due(cron: str, zone: str, last: float, now: float, missed: Missed) -> tuple[list[float], float, float]:
    """Return the firings to make up for now, the time up to which all is done then, and that of the next firing."""
    wanted = MISSED_LIMIT if missed == "all" else 1
    window_s = 2 * GRACE_S if missed == "skip" else _FIRST_WINDOW_S
    while True:  # from now backwards: nobody walks through each minute of a year for the last of them
        begin = max(last, now - window_s)
        past, following = _past(cron, zone, begin, now)
        if begin == last or len(past) >= wanted or missed == "skip":
            return _made_up_for(past, now, missed), past[-1] if past else last, following
        window_s *= 4


def _past(cron: str, zone: str, begin: float, now: float) -> tuple[list[float], float]:
    """Return the last firings up to now, and the next."""
    past: deque[float] = deque(maxlen=MISSED_LIMIT)
    times = firings(cron, zone, begin)  # without end: the calendar repeats itself
    while (time := next(times)) <= now:
        past.append(time)
    return list(past), time


def _made_up_for(past: list[float], now: float, missed: Missed) -> list[float]:
    if missed == "all":
        return past
    if missed == "once":
        return past[-1:]
    return [time for time in past[-1:] if now - time <= GRACE_S]
