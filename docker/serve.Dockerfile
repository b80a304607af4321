# A policy as a service, on a GPU (NVIDIA's container toolkit has to be on the host). From the repository's root:
#
#   docker build -f docker/serve.Dockerfile -t rdt2-serve .
#   docker run --gpus all -p 8000:8000 -v ~/models:/models -v ./key:/run/secrets/rdt2_key:ro rdt2-serve
#
# `key` is a file with a key that you made; robots have the same one. What stands behind the image's name replaces the
# options of CMD: --policy robotics-diffusion-transformer/RDT2-FM --vlm ... --device cuda --api-key-file ...
# Downloads go to /models, which user 1000 must be able to write.

FROM python:3.11-slim-bookworm AS built
RUN pip install --no-cache-dir "uv>=0.8"
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY src src
# From the package index, torch comes with the CUDA it needs.
RUN uv venv /opt/rdt2 && \
    uv pip install --no-cache --python /opt/rdt2/bin/python --constraint requirements/constraints.txt ".[serve,quant]"

FROM python:3.11-slim-bookworm
# --compile makes kernels when it starts, with a compiler.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 1000 --create-home rdt2 && install --directory --owner rdt2 /models
COPY --from=built /opt/rdt2 /opt/rdt2
ENV PATH=/opt/rdt2/bin:$PATH HF_HOME=/models PYTHONUNBUFFERED=1
USER rdt2
WORKDIR /home/rdt2
VOLUME /models
EXPOSE 8000
STOPSIGNAL SIGTERM
# With a model to download and kernels to make, the first answer may take its time.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m \
    CMD ["python", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["rdt2", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--policy", "demo-fm", "--device", "cuda", "--api-key-file", "/run/secrets/rdt2_key"]
