"""What every test finds around it."""

import os

os.environ.pop("COLUMNS", None)  # output is that of a pipe, whoever's shell exports its width
