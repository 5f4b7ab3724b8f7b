"""Independent pieces of work, one after the other, on the cores of this machine, or on a Dask cluster."""
