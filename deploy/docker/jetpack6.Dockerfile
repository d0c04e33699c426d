# A service with TensorRT 10.3 on a Jetson with JetPack 6 (Orin); build it on the Jetson:
#
#     docker build -f deploy/docker/jetpack6.Dockerfile -t vit-edge:jetpack6 .
#     docker run --rm --runtime nvidia -v vit-edge-cache:/cache \
#         -v "$PWD/build/vit_digits:/bundle:ro" vit-edge:jetpack6 \
#         vit-edge build /bundle --target tensorrt
#     docker run --rm --runtime nvidia -p 8000:8000 -v vit-edge-cache:/cache \
#         -v "$PWD/build/vit_digits:/bundle:ro" vit-edge:jetpack6

FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0
# Ubuntu replaces versions as it mends them: pinned ones would soon be gone.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-pip python3-venv \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# JetPack's own tensorrt module, Python 3.10 and CUDA 12, where the bindings' pin is of CUDA 13.
RUN sed -i '/^cuda-/d' requirements/constraints.txt \
 && python3 -m venv --system-site-packages /opt/vit-edge \
 && /opt/vit-edge/bin/pip install --no-cache-dir -c requirements/constraints.txt \
    "cuda-bindings>=12.8,<13" ".[images,verification,service]" \
 && rm -rf /src \
 && useradd --uid 10001 --user-group --no-create-home --groups video vit-edge \
 && install -d -o vit-edge -g vit-edge /cache
COPY deploy/service.py /opt/service/service.py
WORKDIR /opt/service
ENV PATH=/opt/vit-edge/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/cache \
    XDG_STATE_HOME=/cache \
    VIT_EDGE_BUNDLE=/bundle
# Engines that were built here, and measurements.
VOLUME /cache
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10m --timeout=2m --start-period=5m CMD ["vit-edge", "check", "-q", "/bundle"]
CMD ["uvicorn", "--app-dir", "/opt/service", "service:app", "--host", "0.0.0.0", "--port", "8000"]
