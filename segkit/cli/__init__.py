"""The command line: one file for each family of commands, their options, and what they print."""
