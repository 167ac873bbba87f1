"""`python -m proteinlm`: the command line from a fresh clone, and what a Ray job's entrypoint calls."""

from proteinlm.cli import main

main()
