"""In and out: HDF5, Parquet, CSV, NPZ, Dask, the memory maps of the original SCALE."""
