"""Where work runs: this process, or a Dask cluster's workers."""
