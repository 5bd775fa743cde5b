"""The questions of a stage asked by the workers of a Dask cluster; the machine of the run grants every call."""
