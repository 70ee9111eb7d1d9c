"""The initial RAM disk: archive as cpio(1) reads it, modules after what they need."""

from __future__ import annotations

import stat

import pytest

from xenflow_lab.machines.initrd import Entry, archive, dependencies, load_order

NEEDS = dependencies(
    "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko kernel/fs/mbcache.ko\n"
    "kernel/fs/jbd2/jbd2.ko:\nkernel/lib/crc16.ko:\nkernel/fs/mbcache.ko:\nkernel/crypto/crc32c_generic.ko:\n"
    "kernel/drivers/virtio/virtio-pci.ko: kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio/virtio.ko:\n"
)


def test_modules_come_after_what_they_need() -> None:
    order = [file.rpartition("/")[2] for file in load_order(["virtio_pci", "ext4"], NEEDS)]
    first = ["virtio.ko", "virtio-pci.ko", "crc32c_generic.ko"]
    assert order == [*first, "jbd2.ko", "crc16.ko", "mbcache.ko", "ext4.ko"]


def test_what_is_in_the_kernel_is_not_loaded() -> None:
    builtin = ["kernel/fs/ext4/ext4.ko", "kernel/crypto/crc32c-generic.ko"]
    assert load_order(["ext4"], NEEDS, builtin) == []


def test_a_module_that_there_is_not() -> None:
    with pytest.raises(KeyError):
        load_order(["nonesuch"], NEEDS)


def test_an_archive_has_headers_and_padding_of_four() -> None:
    data = archive(
        [Entry("init", stat.S_IFREG | 0o755, b"hello"), Entry("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1))]
    )
    assert len(data) % 4 == 0
    assert data.startswith(b"070701" + b"00000001" + b"000081ED")
    assert data[110:115] == b"init\0"
    assert data[116:121] == b"hello"
    assert b"TRAILER!!!\0" in data
    second = data[124:]
    assert second.startswith(b"070701")
    assert second[6 + 8 * 9 : 6 + 8 * 11] == b"0000000500000001"
