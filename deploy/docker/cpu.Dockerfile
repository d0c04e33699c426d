# A service on CPUs, x86-64 or Arm, with ONNX Runtime and OpenVINO:
#
#     docker build -f deploy/docker/cpu.Dockerfile -t vit-edge:cpu .
#     docker run --rm -p 8000:8000 -v "$PWD/build/vit_digits:/bundle:ro" vit-edge:cpu

FROM debian:bookworm-slim AS build
# Debian replaces versions as it mends them: pinned ones would soon be gone.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN python3 -m venv /opt/vit-edge \
 && /opt/vit-edge/bin/pip install --no-cache-dir -c requirements/constraints.txt \
    ".[onnxruntime,openvino,images,verification,service]" \
 && /opt/vit-edge/bin/pip uninstall -y pip

FROM debian:bookworm-slim
# Debian replaces versions as it mends them: pinned ones would soon be gone.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --no-create-home vit-edge \
 && install -d -o vit-edge -g vit-edge /cache
COPY --from=build /opt/vit-edge /opt/vit-edge
COPY deploy/service.py /opt/service/service.py
ENV PATH=/opt/vit-edge/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/cache \
    XDG_STATE_HOME=/cache \
    VIT_EDGE_BUNDLE=/bundle
# Measurements and checks of this device, kept from one start to the next.
VOLUME /cache
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10m --timeout=2m --start-period=1m CMD ["vit-edge", "check", "-q", "/bundle"]
CMD ["uvicorn", "--app-dir", "/opt/service", "service:app", "--host", "0.0.0.0", "--port", "8000"]
