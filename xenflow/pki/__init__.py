"""A certificate authority in a directory: what `xenflow pki` does, as functions for the lab and for tests.

certificates   builds certificates and CRLs: pure, the time is an argument
index          the list of what was issued, as text
authority      the directory: create, open, issue, renew, revoke
check          what is wrong with a certificate
bundle         one file to carry a process's certificate, key and settings to its machine
templates      the settings in it, with comments
"""

from xenflow.pki.authority import Authority, Issued
from xenflow.pki.bundle import write_bundle
from xenflow.pki.certificates import Lifetimes
from xenflow.pki.index import Entry, Status

__all__ = ["Authority", "Entry", "Issued", "Lifetimes", "Status", "write_bundle"]
