# A service with TensorRT on NVIDIA GPUs, x86-64, or Arm with JetPack 7 (Jetson Thor):
#
#     docker build -f deploy/docker/tensorrt.Dockerfile -t vit-edge:tensorrt .
#     docker run --rm --gpus all -v vit-edge-cache:/cache -v "$PWD/build/vit_digits:/bundle:ro" \
#         vit-edge:tensorrt vit-edge build /bundle --target tensorrt
#     docker run --rm --gpus all -p 8000:8000 -v vit-edge-cache:/cache \
#         -v "$PWD/build/vit_digits:/bundle:ro" vit-edge:tensorrt
#
# On a Jetson write --runtime nvidia for --gpus all. An engine that was built with one version of the
# image is built again with the next: its TensorRT is another.

ARG TENSORRT=25.08-py3
FROM nvcr.io/nvidia/tensorrt:${TENSORRT}
WORKDIR /src
COPY . .
# The image's own tensorrt module; its CUDA is 13.
RUN python3 -m pip install --no-cache-dir --break-system-packages \
    -c requirements/constraints.txt "cuda-bindings>=13,<14" ".[images,verification,service]" \
 && rm -rf /src \
 && useradd --uid 10001 --user-group --no-create-home vit-edge \
 && install -d -o vit-edge -g vit-edge /cache
COPY deploy/service.py /opt/service/service.py
WORKDIR /opt/service
ENV PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/cache \
    XDG_STATE_HOME=/cache \
    VIT_EDGE_BUNDLE=/bundle
# Engines that were built here, and measurements.
VOLUME /cache
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10m --timeout=2m --start-period=5m CMD ["vit-edge", "check", "-q", "/bundle"]
CMD ["uvicorn", "--app-dir", "/opt/service", "service:app", "--host", "0.0.0.0", "--port", "8000"]
