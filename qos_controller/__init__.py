"""The Dom0 daemon that shares links: measured usage becomes queues (paper, sections II-D to II-F)."""
