# headcount in a container.
#
#   docker build -t headcount .                                             the CPU build of PyTorch, where one is on offer
#   docker build -t headcount --build-arg TORCH_INDEX=<wheel index> .       another build (CUDA, ROCm)
#   docker run -p 8000:8000 -e HEADCOUNT_API_KEY=<key> -v models:/var/cache/headcount headcount
#
# A container listens beyond loopback, so it asks for a key; HEADCOUNT_INSECURE=true lets everybody in.

ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS build
ARG TORCH_INDEX=""
WORKDIR /src
RUN python -m venv /opt/headcount
# Dependencies first: they stay cached while only the source changes.
COPY pyproject.toml constraints.txt README.md LICENSE headcount.py ./
COPY deploy/install.sh deploy/
RUN PIP_NO_CACHE_DIR=1 TORCH_INDEX="${TORCH_INDEX}" deploy/install.sh /opt/headcount/bin/python .
COPY configs configs
COPY kvcache kvcache
COPY checkpoints checkpoints
COPY engine engine
COPY heads heads
COPY server server
RUN /opt/headcount/bin/python -m pip install --no-cache-dir --no-deps --no-build-isolation --force-reinstall .

FROM python:${PYTHON_VERSION}-slim
# The CPU kernels are compiled for the machine they run on, at the first start.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --system --uid 10001 --create-home headcount \
    && install --directory --owner headcount /var/cache/headcount
COPY --from=build /opt/headcount /opt/headcount
ENV PATH=/opt/headcount/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HEADCOUNT_CACHE_DIR=/var/cache/headcount \
    HEADCOUNT_HOST=0.0.0.0 \
    HEADCOUNT_PORT=8000
USER 10001
WORKDIR /home/headcount
VOLUME /var/cache/headcount
EXPOSE 8000
# The first start fetches and loads a model, which takes a while.
HEALTHCHECK --interval=15s --timeout=5s --start-period=300s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['HEADCOUNT_PORT']}/health\", timeout=4)"]
ENTRYPOINT ["headcount"]
CMD ["serve"]
