"""The routes of the service: runs, what came of them, and what operators need."""
