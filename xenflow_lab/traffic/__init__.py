"""Small programs that make and measure traffic inside network namespaces; they need the standard library alone.

    send -> (the network under test) -> receive      numbered, timestamped UDP: loss, duplicates, order, gaps, delay
    inject -> (the network under test) -> capture    raw frames that must not pass, and who saw which frame
    ask <-> whoever answers                          ARP requests and neighbor solicitations: answers to each
    rtt <-> an echoing host                          round trips of the 1st, 2nd, ... packet of a flow

Each is ``python -m xenflow_lab.traffic.NAME``, prints one JSON object on standard output when it ends, and the line
``ready`` on standard error as soon as it listens; `launch.start` runs one in a namespace and waits for that line. Times
are CLOCK_MONOTONIC in nanoseconds, which all namespaces of a machine share.
"""
