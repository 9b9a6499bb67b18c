"""Says that it ran: main.py OUTPUT"""

import sys

with open(sys.argv[1], "w") as f:
    f.write("done\n")
