"""Whole machines with a kernel and systemd of their own, emulated by QEMU: Debian images, a driver, an agent inside.

recipe -> image (debootstrap, apt, mkfs.ext4; cached) -> machine (QEMU, overlay) -> agent (commands, files)
"""
