"""What you type: one file a command family, the options, what they print."""
