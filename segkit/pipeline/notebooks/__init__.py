"""The notebooks of a run: papermill executes each into the run folder, in a kernel that was started in advance."""
