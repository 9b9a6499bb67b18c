"""Writes, and never ends: main.py OUTPUT"""

import sys
import time

with open(sys.argv[1], "w") as f:
    while True:
        f.write("half of a result\n")
        f.flush()
        time.sleep(0.1)
