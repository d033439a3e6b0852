"""`python -m everlearn.conformance [MODULE:ADAPTER] [--checks CHECK ...]`: needs no more than torch and numpy."""

import sys

from everlearn.conformance.report import main

main(sys.argv[1:])
