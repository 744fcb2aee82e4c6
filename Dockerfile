# One file for every image; the build argument EXTRA says which (docs/deployment.md):
#   server   coordinator and CPU workers (default)        cuda12, cuda13   the same with CuPy and CUDA's libraries
#   load     the load generator
# PYTHON_IMAGE may name a digest, as python:3.11-slim-bookworm@sha256:…; Python's packages are pinned by constraints.txt.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS dependencies
# The constraints hold for the build backend too.
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python3 -m venv /opt/groupconv
ENV PATH=/opt/groupconv/bin:$PATH
# What every image has, as a layer that all share, for packages that are still empty: a change of the source keeps it.
# With the web port, and no demo extra: the photograph and the drawing stay with the client, outside.
# pip compiles one module at a time, compileall on every processor; what neither can compile nobody imports.
COPY pyproject.toml constraints.txt ./
RUN for package in client/groupconv worker/groupconv_worker server/groupconv_server; do \
        mkdir -p "$package" && touch "$package/__init__.py"; \
    done \
    && touch README.md LICENSE \
    && pip install --no-compile ".[server,web]" \
    && pip uninstall --yes groupconv \
    && { python3 -m compileall -q -j 0 /opt/groupconv/lib > /dev/null || true; }

# The kernels of the catalogue, for the instructions that the builder has and, on x86, for AVX2: every machine of a level
# uses them. A kernel that does not compile fails the build.
FROM dependencies AS kernels
COPY README.md LICENSE ./
COPY client client
COPY worker worker
COPY server server
RUN pip install --no-deps .
RUN case "$(uname -m)" in x86_64) levels="best avx2" ;; *) levels=best ;; esac \
    && for level in $levels; do \
        NUMBA_CACHE_DIR=/opt/groupconv/share GROUPCONV_SIMD=${level#best} groupconv warmup --no-tune & \
        running="$running $!"; \
    done \
    && for one in $running; do wait "$one" || exit 1; done \
    && chmod --recursive a+rX /opt/groupconv/share

FROM dependencies AS build
ARG EXTRA=server
RUN case "$EXTRA" in \
        server) exit 0 ;; \
        cuda12) libraries='cupy-cuda12x[ctk] nvidia-cudnn-frontend nvidia-cudnn-cu12' ;; \
        cuda13) libraries='cupy-cuda13x[ctk] nvidia-cudnn-frontend nvidia-cudnn-cu13' ;; \
        *) libraries= ;; \
    esac \
    && pip install ".[$EXTRA,web]" $libraries \
    && pip uninstall --yes groupconv
COPY README.md LICENSE ./
COPY client client
COPY worker worker
COPY server server
RUN pip install --no-deps .
COPY --from=kernels /opt/groupconv/share/groupconv-kernels /opt/groupconv/share/groupconv-kernels

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --create-home groupconv \
    && install --directory --owner groupconv --group groupconv /var/lib/groupconv/layers
COPY --from=build /opt/groupconv /opt/groupconv
COPY --chmod=755 deploy/coordinator /usr/local/bin/groupconv-coordinator
# Unbuffered, so a log line is seen when it is written.
ENV PATH=/opt/groupconv/bin:$PATH PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
USER groupconv
WORKDIR /home/groupconv
EXPOSE 50051 9464
# By gRPC's health service. Right for the coordinator and for clients of GROUPCONV_TARGET; a worker and the load
# generator have their own in docker-compose.yml.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --start-interval=2s --retries=3 CMD ["groupconv", "health"]
ENTRYPOINT ["groupconv"]
CMD ["serve", "--host", "0.0.0.0"]
