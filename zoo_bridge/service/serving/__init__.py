"""``zoo-bridge serve``: the schedule, its runs, the watchdog and the web port, in one process."""
