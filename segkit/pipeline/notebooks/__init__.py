"""The notebooks of a run: papermill executes them in turn into the run folder, in one kernel."""
