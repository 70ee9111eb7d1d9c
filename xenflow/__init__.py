"""What the processes of XenFlow share: facts, wire messages, sessions, TLS, settings and the `xenflow` command."""

__version__ = "0.1.0"
