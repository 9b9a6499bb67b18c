"""Copies an enclave image with one byte changed.

    python3 change.py IMAGE.eif CHANGED.eif

The byte is a bit of a text that nothing reads, in the middle of the last ramdisk: what boots does the same, and is
measured differently. The checksum, which protects from accidents alone, is made to fit.
"""

import argparse
import struct
import sys
import zlib

HEADER, SECTION, CRC_AT = 548, 12, 544
RAMDISK = 3


def last_ramdisk(image):
    """Where the data of the last ramdisk begins and ends."""
    found, at = None, HEADER
    while at < len(image):
        kind, _, size = struct.unpack_from(">HHQ", image, at)
        if kind == RAMDISK:
            found = at + SECTION, at + SECTION + size
        at += SECTION + size
    if found is None:
        sys.exit("error: no ramdisk: is this an enclave image?")
    return found


def change(image):
    """Changes a letter of a comment, a line of its own in a module of Python, or else a byte in the middle."""
    begin, end = last_ramdisk(image)
    at = image.find(b"\n# ", (begin + end) // 2, end)
    at = (begin + end) // 2 if at < 0 else at + 3
    image[at] ^= 0x01
    struct.pack_into(">I", image, CRC_AT, zlib.crc32(image[CRC_AT + 4:], zlib.crc32(image[:CRC_AT])))
    return at


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("changed")
    args = parser.parse_args()
    with open(args.image, "rb") as f:
        image = bytearray(f.read())
    at = change(image)
    with open(args.changed, "wb") as f:
        f.write(image)
    print(f"byte {at} changed")


if __name__ == "__main__":
    main()
