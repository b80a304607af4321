# The robot's own machine: its arms and grippers, for a policy's machine that drives them over the network.
# From the repository's root:
#
#   docker build -f docker/robot.Dockerfile -t rdt2-robot .
#   docker run --network host --ulimit rtprio=50 --ulimit nice=35 --device /dev/ttyUSB0 \
#     -e RDT2_HOST=192.168.0.5 -v ./my_robot.yaml:/robot/robot.yaml:ro -v ./key:/run/secrets/rdt2_key:ro rdt2-robot
#
# RDT2_HOST: the address of this machine in the robots' own network; without it, only programs of this machine may come.
# --device names the grippers' serial port; --ulimit lets the arms' threads have their turn in time, and an FR3 needs a
# real-time kernel of the host as well. Nothing here replaces the emergency stop.

FROM python:3.11-slim-bookworm AS built
RUN pip install --no-cache-dir "uv>=0.8"
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY src src
# No policy runs here: torch, which the package needs, without CUDA.
RUN uv venv /opt/rdt2 && \
    uv pip install --no-cache --python /opt/rdt2/bin/python --constraint requirements/constraints.txt \
      --torch-backend cpu ".[serve,ur,fr3,zhixing]"

FROM python:3.11-slim-bookworm
RUN useradd --uid 1000 --create-home --groups dialout rdt2
COPY --from=built /opt/rdt2 /opt/rdt2
ENV PATH=/opt/rdt2/bin:$PATH PYTHONUNBUFFERED=1 RDT2_HOST=127.0.0.1
USER rdt2
WORKDIR /robot
EXPOSE 8790
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s --timeout=4s --start-period=1m \
    CMD ["python", "-c", "import os, socket; socket.create_connection((os.environ['RDT2_HOST'], 8790), 3)"]
ENTRYPOINT ["sh", "-c", "exec rdt2 robot serve --host $RDT2_HOST --port 8790 \"$@\"", "rdt2"]
CMD ["--robot", "/robot/robot.yaml", "--api-key-file", "/run/secrets/rdt2_key"]
