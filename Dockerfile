# Two images; BuildKit builds them (every `docker build` since Docker 23; before, with DOCKER_BUILDKIT=1):
#
#   docker build -t agegender .                        the service; stage `serve`, the last one
#   docker build -t agegender-train --target train .   the training job, with TensorFlow
#
# Private package index: --secret id=pip.conf,src=FILE. If it needs certificates, that file names them as
# /run/secrets/ca: --secret id=ca,src=FILE. Neither gets into a layer.
# Bill of materials (SBOM): docker buildx build --sbom=true, or any scanner, since every package keeps its metadata in
# /opt/agegender.
# No `# syntax=` line: the built-in Dockerfile language is enough, and it would need one more image from the registry.

# Debian 12 with Python 3.11. The digest after the tag fixes the image, since tags move; `docker buildx imagetools inspect
# python:3.11-slim-bookworm` prints the newest one.
ARG BASE_IMAGE=python:3.11.15-slim-bookworm@sha256:d29f48a31a8b408ed19272ca1e7b10ebae13b240a27e862d3d4217c528e2e0c3


# The build stages only: pip lives apart from the environment that is copied into the images.
FROM ${BASE_IMAGE} AS builder
ENV PIP_CACHE_DIR=/var/cache/pip \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/agegender


# --no-compile here and below: byte code is made at the end, for the modules that are used. What is deleted in the same
# layer is never used: a second copy of ONNX Runtime for C programs and its tools for other models, NumPy's tests, all
# cascades but that for frontal faces, and ReDoc, which comes with Swagger UI.
FROM builder AS serve-dependencies
COPY requirements/serve.txt docker/init.txt /requirements/
RUN --mount=type=cache,target=/var/cache/pip \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca \
    /opt/pip/bin/pip --python /opt/agegender/bin/python install --no-compile \
      --require-hashes -r /requirements/serve.txt -r /requirements/init.txt \
 && find /opt/agegender/lib -depth \( -path '*/onnxruntime/capi/libonnxruntime.so*' \
      -o -regex '.*/onnxruntime/\(transformers\|quantization\|tools\).*' -o -path '*/numpy/*tests*' \
      -o -path '*/fastapi_offline/static/redoc*' \
      -o -path '*/cv2/data/*.xml' -not -name haarcascade_frontalface_alt2.xml \) -delete


FROM builder AS train-dependencies
COPY requirements/train.txt docker/init.txt /requirements/
RUN --mount=type=cache,target=/var/cache/pip \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca \
    /opt/pip/bin/pip --python /opt/agegender/bin/python install --no-compile \
      --require-hashes -r /requirements/train.txt -r /requirements/init.txt


# The project alone, laid out to be copied over either environment. Without models/: the image has them in /models,
# where a folder can be mounted over them.
FROM builder AS project
COPY requirements/build.txt /requirements/
RUN --mount=type=cache,target=/var/cache/pip \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca \
    /opt/pip/bin/pip install --require-hashes -r /requirements/build.txt
COPY pyproject.toml hatch_build.py README.md LICENSE /source/
COPY app /source/app
RUN /opt/pip/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheel /source \
 && /opt/pip/bin/pip --python /opt/agegender/bin/python install --no-compile --no-index --no-deps --prefix /project \
      /wheel/*.whl


# The models that are served: all of models/, or those that MODELS names, as in MODELS=age_gender_A,age_gender_C. A
# pattern, so that a tree without models builds too: the service then needs a folder mounted over /models.
FROM ${BASE_IMAGE} AS models
ARG MODELS=
COPY model[s] /all/
RUN mkdir -p /all /models; \
    if [ -z "$MODELS" ]; then cp -r /all/. /models; else \
      for model in $(echo "$MODELS" | tr , ' '); do cp "/all/$model.onnx" "/all/$model.json" /models || exit 1; done; \
    fi


# The face detector: downloaded and checked against its digest (YUNET=fetch), the file of --secret id=yunet,src=FILE
# (YUNET=file), or none, in which case Haar is used (YUNET=none).
FROM serve-dependencies AS yunet
ARG YUNET=fetch
WORKDIR /source
COPY app/agegender/inference/detector_file.py agegender/inference/
ENV XDG_CACHE_HOME=/cache
RUN --mount=type=secret,id=yunet \
    mkdir /cache; \
    case "$YUNET" in \
      fetch) source= ;; \
      file) source="pathlib.Path('/run/secrets/yunet')" ;; \
      none) exit 0 ;; \
      *) echo "YUNET is fetch, file or none, not '$YUNET'." >&2; exit 2 ;; \
    esac; \
    /opt/agegender/bin/python -c "import pathlib; from agegender.inference.detector_file import fetch; fetch($source)" \
    || { echo 'To build without that download: --build-arg YUNET=file --secret id=yunet,src=FILE, or YUNET=none.' >&2; \
         exit 1; }


# The base of both images, without pip, which Python images keep in several places: nothing is ever installed here.
FROM ${BASE_IMAGE} AS runtime
RUN find / -xdev -depth \( -path '*-packages/pip*' -o -path '*-packages/setuptools*' -o -path '*-packages/wheel*' \
      -o -path '*/python3*/ensurepip*' -o -path '*/share/python-wheels*' -o -path '*/bin/pip*' \) -delete
# The cache is where the service looks for YuNet.
ENV PATH=/opt/agegender/bin:$PATH \
    XDG_CACHE_HOME=/opt/agegender/cache \
    PYTHONUNBUFFERED=1


# Works in /job, where data/, runs/ and models/ are mounted.
FROM runtime AS train
COPY --from=train-dependencies /opt/agegender /opt/agegender
COPY --from=yunet /cache /opt/agegender/cache
COPY --from=project /project /opt/agegender
COPY training /opt/agegender/training
# Byte code, as for the service below; TensorFlow alone has thousands of modules.
RUN HOME=/tmp/build PYTHONPATH=/opt/agegender python3 -c 'import training.cli, training.export, training.train, training.card' && rm -rf /tmp/*
# Keras and Matplotlib write to a home directory.
ENV HOME=/tmp \
    PYTHONPATH=/opt/agegender \
    MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /job
USER 10001:10001
ENTRYPOINT ["dumb-init", "--", "python3", "-m", "training"]
CMD ["--help"]
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="agegender-train" \
      org.opencontainers.image.description="Makes the models of agegender from UTKFace and FairFace" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"


FROM runtime AS serve
COPY --from=serve-dependencies /opt/agegender /opt/agegender
COPY --from=yunet /cache /opt/agegender/cache
COPY --from=project /project /opt/agegender
# Make the byte code now: on a read-only root file system every start would compile it again.
RUN python3 -c 'import agegender.cli.audit, agegender.cli.commands, agegender.cli.doctor, agegender.cli.files, agegender.cli.output, agegender.server, uvicorn.loops.uvloop'
COPY --from=models /models /models/
COPY docker/healthcheck.py /opt/agegender/
ENV AGEGENDER_HOST=0.0.0.0 \
    AGEGENDER_MODELS=/models
EXPOSE 8000
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["python3", "-I", "/opt/agegender/healthcheck.py"]
# The server handles SIGTERM itself; dumb-init does the rest of PID 1's duties: it reaps orphans and handles signals that
# arrive before Python has installed its handlers.
ENTRYPOINT ["dumb-init", "--", "agegender"]
CMD ["serve"]
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="agegender" \
      org.opencontainers.image.description="Age and gender of the faces in a photograph, over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-4.0 AND LicenseRef-weights-for-non-commercial-research" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
