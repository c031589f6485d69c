# One image for server, workers, Dask and bootstrap, so that all of them hold the same versions.
#   docker build -t scale-pipeline .                        CPU
#   docker build -t scale-pipeline --build-arg TORCH_INDEX=<index of CUDA wheels> .
FROM python:3.11.13-slim-bookworm

ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 \
    SCALE_HOME=/app SCALE_STORE=/store SCALE_DATA=/data SCALE_WEIGHTS=/weights

# gcc: torch.compile builds kernels at run time.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 scale \
    && mkdir -p /app /store /data /weights && chown scale:scale /app /store /data /weights
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY pipeline pipeline
COPY extract extract
COPY aggregate aggregate
COPY probe probe
COPY flows flows
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt -e ".[scaled]"
USER scale
CMD ["scale", "--help"]
