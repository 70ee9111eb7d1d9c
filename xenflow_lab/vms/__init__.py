"""Virtual routers as virtual machines: QEMU, a libvirtd on each node, Debian with FRR and XenFlow's own package."""
