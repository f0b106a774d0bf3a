"""`python -m protomer` is the `protomer` command."""

from protomer.command_line import main

main()
