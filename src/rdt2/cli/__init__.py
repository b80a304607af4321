"""The `rdt2` command: one file a verb group, heavy imports inside the commands."""
