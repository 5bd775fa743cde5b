"""Run the tests of this checkout folder by folder: `python -m segkit.test_runner`."""

import sys

if __name__ == "__main__":
    import pytest

    folders = ("core", "storage", "runs", "analysis", "database", "llm", "pipeline", "service", "cli")
    sys.exit(max(pytest.main(["-q", "-m", "not long", f"tests/{folder}"]) for folder in folders))
