# The gateway alone: no torch, no ray. Build: docker build -t tollway .
# Run with a configuration that has keys, since it listens on all of the container's addresses:
#   docker run -p 8080:8080 -v ./tollway.yaml:/etc/tollway/tollway.yaml:ro tollway
ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY requirements/tools.txt requirements/gateway.txt requirements/
RUN python -m venv /opt/tollway && \
    /opt/tollway/bin/pip install --no-cache-dir --require-hashes -r requirements/gateway.txt && \
    python -m pip install --no-cache-dir --require-hashes -r requirements/tools.txt
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY workers workers
RUN python -m pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist . && \
    /opt/tollway/bin/pip install --no-cache-dir --no-deps /dist/*.whl

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/tollway tollway
COPY --from=build /opt/tollway /opt/tollway
ENV PATH=/opt/tollway/bin:$PATH \
    PYTHONUNBUFFERED=1
USER 10001
WORKDIR /var/lib/tollway
EXPOSE 8080
# The health route needs no key; urllib is there without a further package.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["tollway"]
CMD ["serve", "--config", "/etc/tollway/tollway.yaml", "--host", "0.0.0.0", "--port", "8080"]
