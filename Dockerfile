# docker build --target cpu -t radar .      docker run --rm -v "$PWD/runs:/study/runs" radar ablate ordering
# docker build --target cuda -t radar .     docker run --rm --gpus all -v "$PWD/runs:/study/runs" radar doctor
FROM python:3.12-slim AS base
# Our kernels for the CPU, and Triton's launchers, are compiled at first use.
RUN apt-get update && apt-get install -y --no-install-recommends g++ git && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY radar radar
COPY experiments experiments
COPY ablations ablations

FROM base AS cpu
# Where pip finds PyTorch's builds for CPUs, as its site says it; without, a CUDA build is installed, which works here too.
ARG TORCH_INDEX=
RUN pip install --no-cache-dir "torch>=2.9,<2.14" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
 && pip install --no-cache-dir ".[features,postgres]"
WORKDIR /study
ENTRYPOINT ["radar"]
CMD ["--help"]

FROM base AS cuda
RUN pip install --no-cache-dir ".[features,postgres,encoders]"
WORKDIR /study
ENTRYPOINT ["radar"]
CMD ["--help"]
