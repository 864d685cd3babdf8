"""The rules of KSM, as pure functions over the tables of a snapshot."""
