"""Emulated Xen hosts as the nodes of a lab: QEMU, Xen, a Debian Dom0 with our packages, PVH guests as routers."""
