# syntax=docker/dockerfile:1.7
# The demo's traffic, for the profile `demo` of docker-compose.yml: customers and captains, and the ledger at their end.
# For a laptop alone; no service's image holds any of this.
ARG PLATFORM=linux/amd64
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm

# hadolint ignore=DL3029
FROM --platform=${PLATFORM} ${PYTHON_IMAGE}
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1
WORKDIR /opt/demo
COPY requirements.lock deploy/service_lock.py ./
RUN --mount=type=secret,id=pip_config,target=/etc/pip.conf,required=false \
    python service_lock.py demo < requirements.lock > demo.lock \
    && pip install --require-hashes --no-deps --only-binary=:all: -r demo.lock
COPY libs/common/src/weelo_common /opt/demo/weelo_common
COPY tools/weelo_cli/src/weelo_cli /opt/demo/weelo_cli
COPY tools/__init__.py /opt/demo/tools/
COPY tools/demo /opt/demo/tools/demo
COPY tools/weelo_client /opt/demo/tools/weelo_client
COPY deploy/compose/servers.json /opt/demo/deploy/compose/servers.json
USER 10001:10001
ENTRYPOINT ["python", "-m", "tools.demo", "--report", "/tmp/demo-report.json"]
