"""The `xenflow` command: one group, whose commands are imported when they are used."""
