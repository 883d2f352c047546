# One image for the API, the workers and housekeeping; the command selects one (docker-compose.yml).
# On Linux, the torch of the lock is the CUDA build. For an image with the smaller CPU build, give pip an index that has it:
#   docker build --build-arg PIP_ARGS="--extra-index-url <index of CPU builds>" .

# The full image has a compiler, for platforms for which a dependency has no wheel.
FROM python:3.11 AS build
ARG PIP_ARGS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/windrow
ENV PATH=/opt/windrow/bin:$PATH
WORKDIR /src
COPY requirements/lock.txt requirements/lock.txt
RUN pip install ${PIP_ARGS} -r requirements/lock.txt
COPY pyproject.toml README.md LICENSE ./
COPY scheduler scheduler
COPY worker worker
COPY api api
COPY windrow windrow
RUN pip install --no-deps --no-build-isolation .

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home windrow && install --directory --owner windrow --group windrow /models
COPY --from=build /opt/windrow /opt/windrow
# Clients connect from outside the container, so the API listens on every address; docker-compose.yml publishes the port.
ENV PATH=/opt/windrow/bin:$PATH PYTHONUNBUFFERED=1 WINDROW_HOST=0.0.0.0 PORT=8000 HF_HOME=/models
# Mount a windrow.toml here; it is read at the start.
WORKDIR /app
USER windrow
EXPOSE 8000
CMD ["gunicorn", "-c", "python:windrow.api.gunicorn_conf", "windrow.api:create_app()"]
