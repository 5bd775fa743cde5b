"""`python -m segkit.storage.migrate_to_s3 …` is `segkit migrate-to-s3 …`."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv[1:1] = ["migrate-to-s3"]
    runpy.run_module("segkit", run_name="__main__")
