# One image for server, workers, Dask and bootstrap, so that all of them hold the same versions.
#   docker build -t scale-pipeline .                              CPU: torch's wheels without CUDA
#   docker build -t scale-pipeline --build-arg TORCH_INDEX= .     whatever the default index has: CUDA, about 5 GB more
#   docker build -t scale-pipeline --build-arg TORCH_INDEX=<index> .   another index of torch wheels
# What weighs what, as built with the CPU wheels (2.28 GB): the base 230 MB, gcc and g++ 190, Python packages 1,770. Of these:
# torch 670 MB, pyarrow 170, scipy 140, FFmpeg with av 105, sympy 80, DuckDB 66, FAISS 66, NumPy 73, Prefect 38.
FROM python:3.11.13-slim-bookworm

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 \
    SCALE_HOME=/app SCALE_STORE=/store SCALE_DATA=/data SCALE_WEIGHTS=/weights

# gcc: torch.compile builds kernels at run time.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev && apt-get clean && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 scale \
    && mkdir -p /app /store /data /weights && chown scale:scale /app /store /data /weights
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY pipeline pipeline
COPY extract extract
COPY aggregate aggregate
COPY probe probe
COPY flows flows
# torch first and from its index alone: an extra index would still let pip take the CUDA build of the same version.
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c constraints.txt torch \
    && pip install -c constraints.txt -e ".[scaled]" \
    && rm -rf "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch/test"
USER scale
CMD ["scale", "--help"]
