"""The proof on this machine: real programs, opted in before they start, and its own ksmd."""
