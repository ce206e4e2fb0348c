"""`python -m flows` is `gptmill`."""

import sys

from flows.command_line import main

sys.exit(main())
