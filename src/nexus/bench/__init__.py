"""Speed, measured the only way that means something on a shared machine: contestants in turn, in one run, as ratios.

Each contestant runs alone in a process of its own, round after round, so that all meet the same machine. The event is
half a kilobyte, as CloudEvents from services are. Peers are measured when they are installed (extra ``bench``).
"""

MISSING = 3
"""How the process of a contestant ends that is not installed."""
