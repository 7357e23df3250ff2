# The workbook for someone without Python: docs/own_video.md shows the commands. TORCH is the build of torch, such as cu130 for
# a GPU. decord has no wheel for ARM, hence the platform.
FROM --platform=linux/amd64 python:3.12-slim
ARG TORCH=cpu

# make runs everything; git tells the reports which commit they are of; Triton compiles with gcc where there is a GPU.
RUN apt-get update \
    && apt-get install -y --no-install-recommends make git $([ "$TORCH" = cpu ] || echo gcc libc6-dev) \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /kvlib
ENV PIP_NO_CACHE_DIR=1 PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/$TORCH
COPY . .
RUN make setup

# In a container JupyterLab must listen on all addresses, to be reached from outside. It asks for the token that it prints.
ENV LAB="--ip=0.0.0.0 --no-browser"
EXPOSE 8888
CMD ["make", "workbook"]
