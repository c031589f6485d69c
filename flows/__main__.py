"""``python -m flows`` is the command `scale`: for launchers such as torchrun, which start modules."""

from flows.entry import main

main()
